"""``nnunet-dino tiles``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("tiles")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("-o", "output", required=True, metavar="PATH", type=click.Path(path_type=Path), help="Folder for the files.")
@click.option("--as", "kinds", multiple=True, metavar="KIND", help="h5, pt, geojson or mask; may repeat; default: all.")
@click.option(
    "--attention", metavar="REPORT", type=click.Path(path_type=Path), help="Of probe mil: attention of tiles into geojson."
)
@click.option("--overwrite", is_flag=True, help="Replace files of the same names.")
def tiles(store: Path, output: Path, kinds: tuple[str, ...], attention: Path | None, overwrite: bool) -> int:
    """Write the tiles of slides in STORE for CLAM (h5, pt) and QuPath (geojson), and tissue masks.

    \b
    nnunet-dino tiles slide_features -o slide_files
    nnunet-dino tiles slide_features -o for_qupath --as geojson --attention slide_report

    Exit code 1 if a slide could not be read again, so that its tissue is missing.
    """
    from nnunet_dino.features.tile_files import write_tiles

    num_unreadable = write_tiles(store, output, kinds, attention, overwrite, click.echo)
    click.echo(f"written: {output}")
    return int(num_unreadable > 0)
