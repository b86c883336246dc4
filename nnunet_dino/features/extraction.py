"""Features of many inputs, from any number of processes, into one store; interrupted work is continued."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import torch

from nnunet_dino._errors import UserError, nearest
from nnunet_dino.backbones.image_encoder import FoundBackbone, find_backbone
from nnunet_dino.backbones.rgb import IMAGENET
from nnunet_dino.features.encode import FREE_THE_MACHINE, Reading, encode_units
from nnunet_dino.features.encoder import FrozenEncoder, default_batch, pick_device
from nnunet_dino.features.inputs import IMAGES, SLIDES, VOLUMES, find_items
from nnunet_dino.features.items import NOTE, Item, Source, is_of_the_machine
from nnunet_dino.features.memory import check_memory
from nnunet_dino.features.picture import open_image
from nnunet_dino.features.pixels import Preprocessing
from nnunet_dino.features.prefetch import prefetch
from nnunet_dino.features.progress import Meter
from nnunet_dino.features.slide import open_slide, require_openslide
from nnunet_dino.features.store.index import missing_units, write_index
from nnunet_dino.features.store.layout import DTYPES, StoreFacts, begin, unit_file
from nnunet_dino.features.store.reader import TOKENS_OF
from nnunet_dino.features.store.units import ItemFeatures, read_records, write_unit
from nnunet_dino.features.tiling import Tiling
from nnunet_dino.features.volume import Slicing, open_volume

ITEMS_PER_FILE = {IMAGES: 128, VOLUMES: 1, SLIDES: 1}
DEFAULT_FEATURES = {IMAGES: "both", VOLUMES: "both", SLIDES: "mean"}


@dataclass(frozen=True)
class Outcome:
    """What one process did, and how the store stands.

    Attributes:
        facts: What the store holds.
        failed: Id and reason of every unreadable input of this process.
        noted: Id and note of every input of this process on which something had to be decided.
        num_missing_units: Files that are yet to be written, by other processes; 0 for a complete store.
    """

    facts: StoreFacts
    failed: list[tuple[str, str]]
    noted: list[tuple[str, str]]
    num_missing_units: int


def extract(
    inputs: Sequence[str],
    store: str | Path,
    backbone: str | FoundBackbone = "dinov3_vits16",
    *,
    features: str | None = None,
    kind: str = "auto",
    column: str | None = None,
    root: str | None = None,
    preprocessing: Preprocessing | None = None,
    slicing: Slicing | None = None,
    tiling: Tiling | None = None,
    per_slice: bool = False,
    dtype: str = "float32",
    batch: int | None = None,
    num_workers: int | None = None,
    items_per_file: int | None = None,
    shard: tuple[int, int] = (0, 1),
    device: str = "auto",
    required_weights: str | None = None,
    update: bool = False,
    show_progress: bool = False,
) -> Outcome:
    """Writes frozen features of images, volumes or slides into a store, or continues one.

    Args:
        inputs: See :func:`nnunet_dino.features.inputs.find_items`, also for ``kind``, ``column`` and ``root``.
        store: The folder.
        backbone: See :func:`nnunet_dino.backbones.image_encoder.find_backbone`.
        features: A name of :data:`~nnunet_dino.features.store.reader.TOKENS_OF`; by default both, of slides and without a class
            token the mean.
        preprocessing: How images are shown to the backbone; by default in squares of its own size.
        slicing: Which slices of volumes are shown.
        tiling: How slides are cut.
        per_slice: Keep the features of every slice beside their mean.
        dtype: ``float32`` or ``float16``, in the store.
        batch: Images encoded at once; by default as many as have 16,384 tokens.
        num_workers: Threads that read; by default one per processor, at most 8.
        items_per_file: Inputs per file; by default 128 images, or one volume or slide.
        shard: Which part of the work is this process's, from 0, and how many parts there are.
        device: Where to compute; ``auto`` is CUDA if there is any.
        required_weights: Digest of the weights without which nothing is to be encoded; by default any.
        update: Whether the store may go on with other inputs: new ones are encoded, those not named are left out.
        show_progress: Draw a bar on standard error, or print a line a minute where that is no terminal.

    Raises:
        UserError: An option is wrong, there are no weights, the store is of something else or cannot be written to, or the
            machine has no threads or memory left, or too little for the images.
    """
    found, slicing, tiling = find_backbone(backbone), slicing or Slicing(), tiling or Tiling()
    size = (preprocessing.size_px, preprocessing.fit, preprocessing.window, preprocessing.statistics) if preprocessing else ()
    preprocessing = Preprocessing.of(found.spec, *size)
    _check(str(store), features, dtype, {"--batch": batch, "--per-file": items_per_file, "--workers": num_workers})
    kind, items = find_items(inputs, kind, column, root)
    _refuse_without_effect(kind, SLIDES, tiling, Tiling())
    _refuse_without_effect(kind, VOLUMES, slicing, Slicing())
    if per_slice and kind != VOLUMES:
        raise UserError(f"--per-slice: required volumes · got {kind} · leave it out, or say with --kind what they are")
    open_source = opener(kind, preprocessing, slicing, tiling)
    encoder = FrozenEncoder(found, pick_device(device), preprocessing.statistics)
    tokens = TOKENS_OF[features or (DEFAULT_FEATURES[kind] if encoder.has_class_token else "mean")]
    if {"class_token", "class_tokens"} & {*tokens} and not encoder.has_class_token:
        raise UserError(f"--features: required mean or map of {encoder.name}, which has no class token · got {features}")
    if required_weights not in (None, encoder.digest):
        raise UserError(
            f"{encoder.name}: required the weights with digest {required_weights} · got {encoder.digest} · name them with "
            "nnUNet_dino_weights"
        )
    mean, std = encoder.statistics
    is_usual = encoder.statistics == IMAGENET
    pixels = preprocessing.record() | {"norm": "imagenet" if is_usual else {"mean": list(mean), "std": list(std)}}
    if kind == VOLUMES:
        pixels |= asdict(slicing)
    if kind == SLIDES:
        pixels |= tiling.record()
    facts = StoreFacts(
        kind=kind,
        backbone=encoder.name,
        licence=encoder.licence,
        weights=encoder.digest,
        weights_are_random=encoder.weights_are_random,
        precision=str(encoder.dtype).removeprefix("torch."),
        tokens=tokens,
        per_slice=per_slice and kind == VOLUMES,
        dtype=dtype,
        preprocessing=pixels,
        num_items=len(items),
        items_per_file=items_per_file or ITEMS_PER_FILE[kind],
    )
    num_at_once = batch or default_batch(preprocessing.size_px, preprocessing.patch_px)
    check_memory(num_at_once, preprocessing.size_px, preprocessing.patch_px, encoder.embed_dim, encoder.device)
    reading = Reading(open_source, num_at_once, num_workers or min(8, os.cpu_count() or 1))
    units = begin(Path(store), facts, items, update)
    mine = _of_shard(units, shard)
    with Meter(sum(map(len, mine.values())), kind[:-1], show_progress) as meter:
        failed = fill(Path(store), facts, items, units, encoder, reading, shard, _shown_by(meter))
    return Outcome(facts, failed, _noted(Path(store), mine), len(missing_units(Path(store), facts)))


def _refuse_without_effect(kind: str, of: str, given: Tiling | Slicing, usual: Tiling | Slicing) -> None:
    """Refuses what is asked of slides or volumes where there are none."""
    odd = [field.name for field in fields(given) if getattr(given, field.name) != getattr(usual, field.name)]
    if kind != of and odd:
        option = f"--{odd[0].replace('_', '-')}"
        raise UserError(f"{option}: required {of} · got {kind} · leave it out, or say with --kind what they are")


def _of_shard(units: dict[int, list[Item]], shard: tuple[int, int]) -> dict[int, list[Item]]:
    return {unit: members for place, (unit, members) in enumerate(units.items()) if place % shard[1] == shard[0]}


def _noted(store: Path, mine: dict[int, list[Item]]) -> list[tuple[str, str]]:
    ids = {item.id for members in mine.values() for item in members}
    files = (unit_file(store, unit) for unit in mine)
    records = [record for file in files for record in read_records(file) if not record["error"] and record["id"] in ids]
    return [(record["id"], record["facts"][NOTE]) for record in records if record["facts"].get(NOTE)]


def opener(kind: str, preprocessing: Preprocessing, slicing: Slicing, tiling: Tiling) -> Callable[[Item], Source]:
    """Returns the function that opens inputs of a kind.

    Raises:
        UserError: OpenSlide is needed and missing.
    """
    if kind == IMAGES:
        return partial(open_image, preprocessing=preprocessing)
    if kind == VOLUMES:
        return partial(open_volume, preprocessing=preprocessing, slicing=slicing)
    require_openslide()
    return partial(open_slide, preprocessing=preprocessing, tiling=tiling)


def _check(store: str, features: str | None, dtype: str, counts: dict[str, int | None]) -> None:
    if not store.strip():
        raise UserError(f"-o: required a folder for the features · got {store!r} · name one")
    if features is not None and features not in TOKENS_OF:
        raise UserError(f"--features: required one of {', '.join(TOKENS_OF)} · got {features!r}{nearest(features, TOKENS_OF)}")
    if dtype not in DTYPES:
        raise UserError(f"--dtype: required {' or '.join(DTYPES)} · got {dtype!r}")
    for option, number in counts.items():
        if number is not None and number < 1:
            raise UserError(f"{option}: required a number from 1 · got {number}")


def _shown_by(meter: Meter) -> Callable[[int, int], None]:
    num_images = num_items = 0

    def done(items: int, images: int) -> None:
        nonlocal num_images, num_items
        if items and num_images == num_items == 0:
            meter.begin_at(items)
        else:
            num_images += images
            speed = f"{num_images:,} images, {num_images / max(meter.elapsed_s, 1e-3):.1f} images/s" if num_images else ""
            meter.update(items, speed)
        num_items += items

    return done


def fill(
    store: Path,
    facts: StoreFacts,
    items: Sequence[Item],
    units: dict[int, list[Item]],
    encoder: FrozenEncoder,
    reading: Reading,
    shard: tuple[int, int] = (0, 1),
    done: Callable[[int, int], object] = lambda num_items, num_images: None,
) -> list[tuple[str, str]]:
    """Encodes the inputs of one shard and writes every unit when it is done; units that are there are left alone.

    Units with unreadable inputs are done again, as the reason may be gone.

    Args:
        store: Folder of the store.
        facts: What it holds.
        items: All inputs, also those of other shards.
        units: The same by the number of their unit, as :func:`~nnunet_dino.features.store.layout.begin` returns them.
        encoder: The backbone.
        reading: How to read the inputs.
        shard: As for :func:`extract`.
        done: Called with numbers of further inputs and images.

    Returns:
        Id and reason of every unreadable input.

    Raises:
        UserError: As for :func:`extract`.
    """
    members = _of_shard(units, shard)
    todo = [unit for unit, own in members.items() if not _is_done(unit_file(store, unit), own)]
    done(sum(len(members[unit]) for unit in set(members) - set(todo)), 0)
    failed: list[tuple[str, str]] = []

    def write(encoded: tuple[int, list[ItemFeatures]]) -> list[ItemFeatures]:
        unit, results = encoded
        write_unit(unit_file(store, unit), results)
        return results

    with ThreadPoolExecutor(reading.num_workers) as readers, ThreadPoolExecutor(1) as writer:
        try:
            left = ((unit, members[unit]) for unit in todo)
            encoded = encode_units(left, facts, encoder, reading, readers, done)
            for results in prefetch(writer, write, encoded, 1):
                failed += [(result.id, result.error) for result in results if result.error]
        except BaseException as error:
            readers.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, torch.OutOfMemoryError):
                raise UserError(f"--batch: required images that fit into memory · got {reading.batch} · give fewer") from error
            if isinstance(error, RuntimeError) and is_of_the_machine(error):
                raise UserError(f"required {reading.num_workers} threads · got {error} · {FREE_THE_MACHINE}") from error
            raise
    if not missing_units(store, facts):
        write_index(store, facts, items)
    return failed


def _is_done(file: Path, members: Sequence[Item]) -> bool:
    """Whether a unit holds the features of all its inputs; it may hold others that were removed."""
    if not file.exists():
        return False
    good = {record["id"] for record in read_records(file) if not record["error"]}
    return all(item.id in good for item in members)
