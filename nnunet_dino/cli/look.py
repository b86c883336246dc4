"""``nnunet-dino look``."""

from __future__ import annotations

from typing import Any

import click

from nnunet_dino.cli._options import BACKBONE, DEVICE, PIXELS


@click.command("look")
@click.argument("image")
@click.option("-o", "output", required=True, metavar="FILE", help="A .png, or an .html page to click on.")
@click.option("--at", metavar="X,Y", help="Pixel whose token all others are compared with; of a slide at full resolution.")
@click.option(
    "--slice", "slices", type=int, multiple=True, metavar="N", help="Of a volume, from 0; may repeat; default: middle."
)
@BACKBONE
@PIXELS
@click.option("--kind", default="auto", show_default=True, metavar="WHAT", help="images, volumes or slides.")
@DEVICE
def look(**options: Any) -> None:
    """Show what patch tokens see in IMAGE: principal components as colours, and cosine similarity to one token.

    \b
    nnunet-dino look chest.png -o look.html
    nnunet-dino look ct.nii.gz --slice 40 --slice 60 --window lung --at 120,80 -o look.png
    nnunet-dino look slide.svs --tissue biopsy -o tiles.png
    """
    from nnunet_dino.features.looking import run

    run(click.echo, **options)
