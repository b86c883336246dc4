"""From opened inputs to their features: read ahead in threads, encoded in fixed batches, unit by unit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from nnunet_dino._errors import UserError
from nnunet_dino.features.encoder import Features, FrozenEncoder
from nnunet_dino.features.inputs import IMAGES, SLIDES, VOLUMES
from nnunet_dino.features.items import Item, Source, Unreadable, is_of_the_machine
from nnunet_dino.features.prefetch import prefetch
from nnunet_dino.features.store.layout import StoreFacts
from nnunet_dino.features.store.units import ItemFeatures

Unit = tuple[int, Sequence[Item]]
FREE_THE_MACHINE = "free memory and processes or give fewer --workers, then run the same command again; it continues"
NUM_OPENED_AHEAD = {VOLUMES: 2, SLIDES: 1}


@dataclass(frozen=True)
class Reading:
    """How inputs are read and put together.

    Attributes:
        open_source: Opens an input; runs in other threads.
        batch: Images encoded at once.
        num_workers: Threads that read and decode.
    """

    open_source: Callable[[Item], Source]
    batch: int
    num_workers: int = 4


@dataclass(frozen=True)
class _Piece:
    """Some images of one input, or the reason why there are none."""

    unit: int
    item: Item
    source: Source | None = None
    start: int = 0
    stop: int = 0
    images: Tensor | None = None
    error: str = ""


class _Images(NamedTuple):
    """Readable images of one input, ``n c s s``, and which of their tokens show it, ``gh gw``."""

    id: str
    images: Tensor
    shows_image: Tensor


@dataclass
class _Collected:
    """The features of one input as they come in."""

    id: str
    source: Source | None
    error: str = ""
    parts: list[dict[str, Tensor]] = field(default_factory=list)


def encode_units(
    units: Iterable[Unit],
    facts: StoreFacts,
    encoder: FrozenEncoder,
    reading: Reading,
    readers: Executor,
    done: Callable[[int, int], object],
) -> Iterator[tuple[int, list[ItemFeatures]]]:
    """Yields every unit with the features of its inputs.

    Batches are formed within a unit, in order, whatever was done before: the same inputs give the same bits.

    Args:
        units: Numbers and members.
        facts: What is kept.
        encoder: The backbone.
        reading: How to read.
        readers: Threads for it.
        done: Called with numbers of further inputs and images.
    """
    flat = ((unit, item) for unit, items in units for item in items)
    num_opened = NUM_OPENED_AHEAD.get(facts.kind, 2 * reading.batch)
    opened = prefetch(readers, lambda pair: _open(*pair, reading.open_source), flat, num_opened)
    wanted = (piece for whole in opened for piece in _cut(whole, reading.batch))
    num_prepared = 2 * reading.batch if facts.kind == IMAGES else reading.num_workers
    prepared = prefetch(readers, _prepare, wanted, num_prepared)
    for unit, pieces in groupby(prepared, key=lambda piece: piece.unit):
        yield unit, _encode_unit(pieces, facts, encoder, reading.batch, done)


def _open(unit: int, item: Item, open_source: Callable[[Item], Source]) -> _Piece:
    piece = _Piece(unit, item)
    return _guarded(piece, lambda: replace(piece, source=open_source(item)))


def _cut(whole: _Piece, batch: int) -> Iterator[_Piece]:
    if whole.source is None:
        yield whole
        return
    count = whole.source.num_images
    for start in range(0, count, batch):
        yield _Piece(whole.unit, whole.item, whole.source, start, min(start + batch, count))


def _prepare(piece: _Piece) -> _Piece:
    source = piece.source
    if source is None:
        return piece
    return _guarded(piece, lambda: replace(piece, images=source.images(piece.start, piece.stop)))


def _guarded(piece: _Piece, read: Callable[[], _Piece]) -> _Piece:
    """Notes why an input cannot be read, so that the rest goes on.

    Raises:
        UserError: The machine is to blame and not the input.
    """
    try:
        return read()
    except Unreadable as error:
        return replace(piece, error=str(error))
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        if is_of_the_machine(error):
            raise UserError(f"could not read {piece.item.path} · got {text} · {FREE_THE_MACHINE}") from error
        return replace(piece, error=f"{type(error).__name__}: {text}")


def _encode_unit(
    pieces: Iterable[_Piece], facts: StoreFacts, encoder: FrozenEncoder, batch: int, done: Callable[[int, int], object]
) -> list[ItemFeatures]:
    """A batch is begun before the one before it is fetched, so that a GPU does not wait."""
    collected: dict[str, _Collected] = {}
    before: tuple[list[_Images], Features] | None = None
    for images in _batches(pieces, batch, collected):
        features = encoder(*_stacked(images))
        if before:
            _fetch(*before, facts, collected)
        before = images, features
        done(0, sum(len(part.images) for part in images))
    if before:
        _fetch(*before, facts, collected)
    done(len(collected), 0)
    return [_finish(state, facts) for state in collected.values()]


def _batches(pieces: Iterable[_Piece], batch: int, collected: dict[str, _Collected]) -> Iterator[list[_Images]]:
    """Puts pieces together until there are ``batch`` images, and notes the inputs and what is wrong with them."""
    waiting: list[_Images] = []
    for piece in pieces:
        state = collected.setdefault(piece.item.id, _Collected(piece.item.id, piece.source))
        state.error = state.error or piece.error
        if piece.source is not None:
            if piece.images is not None and not state.error:
                waiting.append(_Images(piece.item.id, piece.images, piece.source.shows_image))
            if piece.stop == piece.source.num_images:
                piece.source.close()
        if sum(len(part.images) for part in waiting) >= batch:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _stacked(parts: list[_Images]) -> tuple[Tensor, Tensor]:
    images = [part.images for part in parts]
    if len({part.shape[1] for part in images}) > 1:  # grey and colour in one batch
        images = [part.expand(-1, 3, -1, -1) for part in images]
    return torch.cat(images), torch.cat([part.shows_image.expand(len(part.images), -1, -1) for part in parts])


def _fetch(parts: list[_Images], features: Features, facts: StoreFacts, collected: dict[str, _Collected]) -> None:
    counts = [len(part.images) for part in parts]
    splits = {name: getattr(features, name).cpu().split(counts) for name in facts.tokens}
    for position, part in enumerate(parts):
        collected[part.id].parts.append({name: split[position] for name, split in splits.items()})


def _finish(state: _Collected, facts: StoreFacts) -> ItemFeatures:
    """Puts the parts of one input together."""
    if state.error or state.source is None:
        return ItemFeatures(state.id, state.error)
    whole = {name: torch.cat([part[name] for part in state.parts]) for name in facts.tokens}
    if any(not torch.isfinite(values).all() for values in whole.values()):
        return ItemFeatures(state.id, "the backbone's features are not finite")
    dtype = getattr(torch, facts.dtype)
    item: dict[str, Tensor] = {}
    if facts.kind == IMAGES:
        item = {name: values[0].to(dtype) for name, values in whole.items()}
    elif facts.kind == VOLUMES:
        item = {name: values.double().mean(0).to(dtype) for name, values in whole.items() if name != "patch_map"}
    instances = {name: values.to(dtype) for name, values in whole.items()} if facts.keeps_instances else {}
    return ItemFeatures(state.id, "", dict(state.source.facts), item, instances, state.source.coordinates)
