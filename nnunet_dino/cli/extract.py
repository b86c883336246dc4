"""``nnunet-dino extract``."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import click

from nnunet_dino._errors import UserError
from nnunet_dino.cli._options import BACKBONE, DEVICE, PIXELS, TILING, statistics, tiling

if TYPE_CHECKING:
    from nnunet_dino.features.extraction import Outcome

NUM_SHOWN = 20


@click.command("extract")
@click.argument("inputs", nargs=-1, required=True)
@click.option("-o", "store", required=True, metavar="STORE", help="Folder for the features; an unfinished one is continued.")
@BACKBONE
@click.option(
    "--features",
    metavar="WHICH",
    help="class, mean (of patch tokens), both, class4, both4, all or map; default: both, of slides mean.",
)
@click.option(
    "--size",
    "size_px",
    type=int,
    metavar="PX",
    help="Edge of the square, a multiple of the patch; default: the backbone's own, 224 of DINOv3.",
)
@PIXELS
@TILING
@click.option("--kind", default="auto", show_default=True, metavar="WHAT", help="images, volumes or slides.")
@click.option("--column", metavar="NAME", help="Column of the CSV file with the paths.")
@click.option("--root", metavar="PATH", help="Folder that the paths in the CSV file start from; default: that of the file.")
@click.option("--every", default=1, show_default=True, metavar="N", help="Every n-th slice of volumes.")
@click.option("--per-slice", is_flag=True, help="Keep the features of every slice beside their mean.")
@click.option("--dtype", default="float32", show_default=True, metavar="TYPE", help="float32 or float16 in the store.")
@click.option("--batch", type=int, metavar="N", help="Images at once; default: 16,384 tokens.")
@click.option("--workers", "num_workers", type=int, metavar="N", help="Threads that read; default: processors, at most 8.")
@click.option("--per-file", "items_per_file", type=int, metavar="N", help="Inputs per file; default: 128 images, 1 of others.")
@click.option("--update", is_flag=True, help="Go on with other inputs than those of the store: add new, leave out others.")
@click.option("--shard", metavar="I/N", help="Do only part I of N, into the same store; torchrun sets it by itself.")
@DEVICE
def extract(
    shard: str | None,
    size_px: int | None,
    fit: str,
    window: str,
    mean: tuple[float, float, float] | None,
    std: tuple[float, float, float] | None,
    plane: str,
    every: int,
    volume: int | None,
    store: str,
    **options: Any,
) -> int:
    """Write frozen features of images, volumes or slides into a store.

    \b
    nnunet-dino extract images/ -o store
    nnunet-dino extract labels.csv --column file --root images -o store --size 512
    nnunet-dino extract volumes/ -o store --window lung --plane axial
    torchrun --nproc-per-node 4 --no-python nnunet-dino extract images/ -o store

    INPUTS: a folder, a pattern in quotes, a CSV file of paths, or files. The same command continues interrupted work.
    Exit code 1 if an input could not be read; the rest is done.
    """
    from nnunet_dino.backbones.image_encoder import find_backbone
    from nnunet_dino.features import Preprocessing, Slicing
    from nnunet_dino.features import extract as extract_features

    found = find_backbone(options.pop("backbone"))
    outcome = extract_features(
        store=store,
        backbone=found,
        preprocessing=Preprocessing.of(found.spec, size_px, fit, window, statistics(mean, std)),
        slicing=Slicing(plane, every, volume),
        tiling=tiling(options),
        shard=parse_shard(shard),
        show_progress=True,
        **options,
    )
    return _report(store, outcome)


def parse_shard(text: str | None) -> tuple[int, int]:
    """Returns which part of the work is this process's, from 0, and how many parts there are.

    Without ``text`` it is what ``torchrun`` says in the environment, else everything.

    Raises:
        UserError: ``text`` is not ``I/N`` with I from 1 to N, or the environment says nonsense.
    """
    if text is not None:
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(f"--shard: required I/N with I from 1 to N, for example 1/4 · got {text!r}")
        return int(match[1]) - 1, int(match[2])
    rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise UserError(
            "RANK and WORLD_SIZE: required numbers as torchrun sets them, RANK below WORLD_SIZE · "
            f"got {rank!r} and {world!r} · unset both or give --shard"
        )
    return int(rank), int(world)


def _report(store: str, outcome: Outcome) -> int:
    """Says what was done and what could not be read; returns the exit code."""
    from nnunet_dino.features.items import counted
    from nnunet_dino.features.store.reader import about

    facts, failed = outcome.facts, outcome.failed
    if missing := outcome.num_missing_units:
        click.echo(f"this shard is done · {missing} files of {store} are left to other shards")
    else:
        is_random = facts.weights_are_random
        weights = "random weights: the features say nothing about DINOv3" if is_random else f"digest {facts.weights[:12]}"
        click.echo(
            f"{store}: {counted(facts.num_items, facts.kind)} · {', '.join(facts.tokens)} · {facts.backbone} ({weights})"
        )
        if not is_random:
            click.echo(f"Licence of the weights: {facts.licence}")
    ids_of: dict[str, list[str]] = {}
    for name, note in outcome.noted:
        ids_of.setdefault(note, []).append(name)
    for note, names in list(ids_of.items())[:NUM_SHOWN]:
        click.echo(f"Note: {about(note, names)}")
    if len(ids_of) > NUM_SHOWN:
        click.echo(f"Note: {len(ids_of) - NUM_SHOWN} more notes, see the column `note` of {store}/index.csv")
    if not failed:
        return 0
    click.echo(f"{len(failed)} of {facts.num_items} could not be read; everything else is done:")
    for name, reason in failed[:NUM_SHOWN]:
        click.echo(f"  {name}: {reason}")
    if len(failed) > NUM_SHOWN:
        click.echo(f"  … and {len(failed) - NUM_SHOWN} more, see the column `error` of {store}/index.csv")
    return 1
