"""``nnunet-dino extract``."""

from __future__ import annotations

from typing import Any

import click

from nnunet_dino.cli._options import BACKBONE, DEVICE, PIXELS


@click.command("extract")
@click.argument("inputs", nargs=-1, required=True)
@click.option("-o", "output", required=True, metavar="STORE", help="Folder for the features; an unfinished one is continued.")
@BACKBONE
@click.option("--features", metavar="WHICH", help="class, mean (of patch tokens), both or map; default: both, of slides mean.")
@PIXELS
@click.option("--kind", default="auto", show_default=True, metavar="WHAT", help="images, volumes or slides.")
@click.option("--column", metavar="NAME", help="Column of the CSV file with the paths.")
@click.option("--root", metavar="PATH", help="Folder that the paths in the CSV file start from; default: that of the file.")
@click.option("--every", default=1, show_default=True, metavar="N", help="Every n-th slice of volumes.")
@click.option("--per-slice", is_flag=True, help="Keep the features of every slice beside their mean.")
@click.option("--dtype", default="float32", show_default=True, metavar="TYPE", help="float32 or float16 in the store.")
@click.option("--batch", type=int, metavar="N", help="Images at once; default: 16,384 tokens.")
@click.option("--workers", "num_workers", type=int, metavar="N", help="Threads that read; default: processors, at most 8.")
@click.option("--per-file", "items_per_file", type=int, metavar="N", help="Inputs per file; default: 128 images, 1 of others.")
@click.option("--shard", metavar="I/N", help="Do only part I of N, into the same store; torchrun sets it by itself.")
@DEVICE
def extract(**options: Any) -> int:
    """Write frozen features of images, volumes or slides into a store.

    \b
    nnunet-dino extract images/ -o store
    nnunet-dino extract labels.csv --column file --root images -o store --size 512
    nnunet-dino extract volumes/ -o store --window lung --plane axial
    torchrun --nproc-per-node 4 --no-python nnunet-dino extract images/ -o store

    INPUTS: a folder, a pattern in quotes, a CSV file of paths, or files. The same command continues interrupted work.
    Exit code 1 if an input could not be read; the rest is done.
    """
    from nnunet_dino.features.extraction import run

    return run(click.echo, **options)
