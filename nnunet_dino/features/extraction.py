"""What ``nnunet-dino extract`` does."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tqdm import tqdm

from nnunet_dino._errors import UserError, nearest
from nnunet_dino.features.encode import Reading
from nnunet_dino.features.encoder import FrozenEncoder, default_batch, pick_device
from nnunet_dino.features.extract import Outcome, extract
from nnunet_dino.features.inputs import IMAGES, SLIDES, VOLUMES, find_items
from nnunet_dino.features.items import Item, Source
from nnunet_dino.features.picture import open_image
from nnunet_dino.features.pixels import Preprocessing
from nnunet_dino.features.slide import Tiling, open_slide, require_openslide
from nnunet_dino.features.store.layout import StoreFacts
from nnunet_dino.features.store.reader import TOKENS
from nnunet_dino.features.volume import Slicing, open_volume

ITEMS_PER_FILE = {IMAGES: 128, VOLUMES: 1, SLIDES: 1}
DEFAULT_FEATURES = {IMAGES: "both", VOLUMES: "both", SLIDES: "mean"}
NUM_SHOWN = 20


def run(
    echo: Callable[[str], object],
    *,
    inputs: Sequence[str],
    output: str,
    backbone: str,
    features: str | None,
    kind: str,
    column: str | None,
    root: str | None,
    size_px: int,
    fit: str,
    window: str,
    plane: str,
    every: int,
    per_slice: bool,
    tissue: str,
    mpp: float | None,
    dtype: str,
    batch: int | None,
    num_workers: int | None,
    items_per_file: int | None,
    shard: str | None,
    device: str,
) -> int:
    """Extracts features of what the options name and says how it went.

    Returns:
        The exit code: 1 if inputs could not be read.

    Raises:
        UserError: An option is wrong, there are no weights, or the store is of something else.
    """
    part = parse_shard(shard)
    preprocessing = Preprocessing(size_px, fit, window)
    slicing, tiling = Slicing(plane, every), Tiling(tissue, mpp)
    _check(features, dtype, batch, items_per_file)
    kind, items = find_items(inputs, kind, column, root)
    encoder = FrozenEncoder(backbone, pick_device(device))
    pixels = preprocessing.record()
    if kind == VOLUMES:
        pixels |= asdict(slicing)
    if kind == SLIDES:
        pixels |= asdict(tiling)
    facts = StoreFacts(
        kind=kind,
        backbone=backbone,
        weights=encoder.digest,
        weights_are_random=encoder.weights_are_random,
        precision=str(encoder.dtype).removeprefix("torch."),
        tokens=TOKENS[features or DEFAULT_FEATURES[kind]],
        per_slice=per_slice and kind == VOLUMES,
        dtype=dtype,
        preprocessing=pixels,
        num_items=len(items),
        items_per_file=items_per_file or ITEMS_PER_FILE[kind],
    )
    reading = Reading(
        opener(kind, preprocessing, slicing, tiling),
        batch or default_batch(size_px),
        num_workers or min(8, os.cpu_count() or 1),
    )
    mine = [i for i in range(len(items)) if (i // facts.items_per_file) % part[1] == part[0]]
    with tqdm(total=len(mine), unit=kind[:-1], disable=None, smoothing=0.05, file=sys.stderr) as bar:
        outcome = extract(Path(output), facts, items, encoder, reading, part, _shown_by(bar))
    return report(echo, Path(output), facts, outcome)


def opener(kind: str, preprocessing: Preprocessing, slicing: Slicing, tiling: Tiling) -> Callable[[Item], Source]:
    """Returns the function that opens inputs of a kind."""
    if kind == IMAGES:
        return partial(open_image, preprocessing=preprocessing)
    if kind == VOLUMES:
        return partial(open_volume, preprocessing=preprocessing, slicing=slicing)
    require_openslide()
    return partial(open_slide, preprocessing=preprocessing, tiling=tiling)


def parse_shard(text: str | None) -> tuple[int, int]:
    """Returns which part of the work is this process's, from 0, and how many parts there are.

    Without ``text`` it is what ``torchrun`` says in the environment, else everything.

    Raises:
        UserError: ``text`` is not ``I/N`` with I from 1 to N.
    """
    if text is None:
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--shard: required I/N with I from 1 to N, for example 1/4 · got {text!r}")
    return int(match[1]) - 1, int(match[2])


def _check(features: str | None, dtype: str, batch: int | None, items_per_file: int | None) -> None:
    if features is not None and features not in TOKENS:
        raise UserError(f"--features: required one of {', '.join(TOKENS)} · got {features!r}{nearest(features, TOKENS)}")
    if dtype not in ("float32", "float16"):
        raise UserError(f"--dtype: required float32 or float16 · got {dtype!r}")
    for option, number in (("--batch", batch), ("--per-file", items_per_file)):
        if number is not None and number < 1:
            raise UserError(f"{option}: required a number from 1 · got {number}")


def _shown_by(bar: tqdm) -> Callable[[int, int], None]:
    num_images = 0

    def done(items: int, images: int) -> None:
        nonlocal num_images
        num_images += images
        if images == 0 and bar.n == 0 and num_images == 0:
            bar.initial = items  # done by an earlier run: not counted as speed
        if bar.format_dict["elapsed"] and num_images:
            bar.set_postfix_str(f"{num_images / bar.format_dict['elapsed']:.1f} images/s", refresh=False)
        bar.update(items)

    return done


def report(echo: Callable[[str], object], store: Path, facts: StoreFacts, outcome: Outcome) -> int:
    """Says what was done and what could not be read; returns the exit code."""
    weights = (
        "random weights: the features say nothing about DINOv3" if facts.weights_are_random else f"digest {facts.weights[:12]}"
    )
    if outcome.num_missing_units:
        echo(f"this shard is done · {outcome.num_missing_units} of {facts.num_units} files of {store} are left to other shards")
    else:
        echo(f"{store}: {facts.num_items} {facts.kind} · {', '.join(facts.tokens)} · {facts.backbone} ({weights})")
    if not outcome.failed:
        return 0
    echo(f"{len(outcome.failed)} could not be read; everything else is done:")
    for name, reason in outcome.failed[:NUM_SHOWN]:
        echo(f"  {name}: {reason}")
    if len(outcome.failed) > NUM_SHOWN:
        echo(f"  … and {len(outcome.failed) - NUM_SHOWN} more, see the column `error` of {store / 'index.csv'}")
    return 1
