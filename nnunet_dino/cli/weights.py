"""``nnunet-dino weights``."""

from __future__ import annotations

from pathlib import Path

import click

from nnunet_dino.cli._group import OneLineGroup


@click.group(cls=OneLineGroup)
def weights() -> None:
    """Find, fetch, import and check the weights of the backbones."""


@weights.command("list")
def weights_list() -> None:
    """Show every backbone and where its weights are on this machine."""
    from nnunet_dino.backbones.weights import listing

    click.echo(listing.table())


@weights.command("fetch")
@click.argument("name")
def weights_fetch(name: str) -> None:
    """Download the weights of the backbone NAME, unless this machine has them."""
    from nnunet_dino.backbones.weights import listing, store

    click.echo(listing.fetched(name, store.fetch(name)))


@weights.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--as", "name", metavar="NAME", help="The backbone; needed where FILE fits several.")
@click.option("--force", is_flag=True, help="Replace different weights of that backbone.")
def weights_import(file: Path, name: str | None, force: bool) -> None:
    """Convert FILE (or a folder) of any known format and keep it in the store."""
    from nnunet_dino.backbones.weights import listing, store

    click.echo(listing.imported(*store.import_file(file, name, force)))


@weights.command("verify")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--as", "name", metavar="NAME", help="The backbone that FILE must fit.")
def weights_verify(file: Path, name: str | None) -> None:
    """Say what FILE (or a folder) holds, and fail if it is not the good weights of a backbone."""
    from nnunet_dino.backbones.catalogue import get_spec
    from nnunet_dino.backbones.weights import listing, load_file

    click.echo(listing.verified(load_file(file, None if name is None else get_spec(name, "--as"))))
