"""``nnunet-dino look``."""

from __future__ import annotations

from typing import Any

import click

from nnunet_dino._errors import UserError
from nnunet_dino.cli._options import BACKBONE, DEVICE, PIXELS, TILING, statistics, tiling


@click.command("look")
@click.argument("image")
@click.option("-o", "output", required=True, metavar="FILE", help="A .png, or an .html page to click on.")
@click.option("--at", metavar="X,Y", help="Pixel whose token all others are compared with; of a slide at full resolution.")
@click.option(
    "--slice", "slices", type=int, multiple=True, metavar="N", help="Of a volume, from 0; may repeat; default: middle."
)
@BACKBONE
@click.option("--size", "size_px", type=int, metavar="PX", help="Edge of the square; default: 48 to 64 tokens; of tiles 224.")
@PIXELS
@TILING
@click.option("--tiles-only", is_flag=True, help="Of a slide: tissue and tiles, not encoded; as .png, or .geojson for QuPath.")
@click.option("--kind", default="auto", show_default=True, metavar="WHAT", help="images, volumes or slides.")
@DEVICE
def look(at: str | None, output: str, **options: Any) -> None:
    """Show what patch tokens see in IMAGE: principal components as colours, and cosine similarity to one token.

    \b
    nnunet-dino look chest.png -o look.html
    nnunet-dino look ct.nii.gz --slice 40 --slice 60 --window lung --at 120,80 -o look.png
    nnunet-dino look slide.svs --tissue biopsy --tiles-only -o tiles.png
    """
    from nnunet_dino.features import look as look_at

    shown = statistics(options.pop("mean"), options.pop("std"))
    cut = tiling(options)
    notes = look_at(output=output, at=_point(at), statistics=shown, tiling=cut, show_progress=True, **options)
    click.echo(f"written: {output}")
    for note in notes:
        click.echo(f"Note: {note}")


def _point(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--at: required X,Y in pixels, for example 120,80 · got {text!r}") from None
    return x, y
