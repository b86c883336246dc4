"""From opened inputs to their features: read ahead in threads, encoded in fixed batches, unit by unit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from nnunet_dino.features.encoder import Features, FrozenEncoder
from nnunet_dino.features.inputs import IMAGES, SLIDES, VOLUMES
from nnunet_dino.features.items import Item, Source, Unreadable
from nnunet_dino.features.prefetch import ahead
from nnunet_dino.features.store.layout import StoreFacts
from nnunet_dino.features.store.units import ItemFeatures

Unit = tuple[int, Sequence[Item]]
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


@dataclass
class _Collected:
    """The features of one input as they come in."""

    item: Item
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
    opened = ahead(readers, lambda pair: _open(*pair, reading.open_source), flat, num_opened)
    wanted = (piece for whole in opened for piece in _cut(whole, reading.batch))
    num_prepared = 2 * reading.batch if facts.kind == IMAGES else reading.num_workers
    prepared = ahead(readers, _prepare, wanted, num_prepared)
    for unit, pieces in groupby(prepared, key=lambda piece: piece.unit):
        yield unit, _encode_unit(pieces, facts, encoder, reading.batch, done)


def _open(unit: int, item: Item, open_source: Callable[[Item], Source]) -> _Piece:
    try:
        return _Piece(unit, item, open_source(item))
    except Exception as error:  # readers raise whatever they like on damaged files; the rest has to go on
        return _Piece(unit, item, error=_reason(error))


def _cut(whole: _Piece, batch: int) -> Iterator[_Piece]:
    if whole.source is None:
        yield whole
        return
    count = whole.source.num_images
    for start in range(0, count, batch):
        yield _Piece(whole.unit, whole.item, whole.source, start, min(start + batch, count))


def _prepare(piece: _Piece) -> _Piece:
    if piece.source is None:
        return piece
    try:
        images = piece.source.images(piece.start, piece.stop)
        return _Piece(piece.unit, piece.item, piece.source, piece.start, piece.stop, images)
    except Exception as error:  # as above
        return _Piece(piece.unit, piece.item, piece.source, piece.start, piece.stop, error=_reason(error))


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, Unreadable) else f"{type(error).__name__}: {text}"


def _encode_unit(
    pieces: Iterable[_Piece], facts: StoreFacts, encoder: FrozenEncoder, batch: int, done: Callable[[int, int], object]
) -> list[ItemFeatures]:
    collected: dict[str, _Collected] = {}
    waiting: list[_Piece] = []
    running: tuple[list[_Piece], Features] | None = None
    for piece in pieces:
        state = collected.setdefault(piece.item.id, _Collected(piece.item, piece.source))
        state.error = state.error or piece.error
        if piece.images is not None and not state.error:
            waiting.append(piece)
        if piece.source is not None and piece.stop == piece.source.num_images:
            piece.source.close()
        if sum(len(p.images) for p in waiting) >= batch:
            waiting, running = [], _start(waiting, running, encoder, facts, collected)
            done(0, sum(len(p.images) for p in running[0]))
    if waiting:
        running = _start(waiting, running, encoder, facts, collected)
        done(0, sum(len(p.images) for p in running[0]))
    _collect(running, facts, collected)
    done(len(collected), 0)
    return [_finish(state, facts) for state in collected.values()]


def _start(
    pieces: list[_Piece],
    before: tuple[list[_Piece], Features] | None,
    encoder: FrozenEncoder,
    facts: StoreFacts,
    collected: dict[str, _Collected],
) -> tuple[list[_Piece], Features]:
    """Starts a batch and fetches the one before, so that a GPU does not wait for its results to be fetched."""
    parts = [piece.images for piece in pieces]
    if len({part.shape[1] for part in parts}) > 1:  # grey and colour in one batch
        parts = [part.expand(-1, 3, -1, -1) for part in parts]
    features = encoder(torch.cat(parts) if len(parts) > 1 else parts[0])
    _collect(before, facts, collected)
    return pieces, features


def _collect(batch: tuple[list[_Piece], Features] | None, facts: StoreFacts, collected: dict[str, _Collected]) -> None:
    if batch is None:
        return
    pieces, features = batch
    kept = {name: getattr(features, name).cpu() for name in facts.tokens}
    counts = [len(piece.images) for piece in pieces]
    splits = {name: values.split(counts) for name, values in kept.items()}
    for position, piece in enumerate(pieces):
        collected[piece.item.id].parts.append({name: parts[position] for name, parts in splits.items()})


def _finish(state: _Collected, facts: StoreFacts) -> ItemFeatures:
    """Puts the parts of one input together."""
    if state.error:
        return ItemFeatures(state.item.id, state.error)
    whole = {name: torch.cat([part[name] for part in state.parts]) for name in facts.tokens}
    if any(not torch.isfinite(values).all() for values in whole.values()):
        return ItemFeatures(state.item.id, "the backbone's features are not finite")
    dtype = getattr(torch, facts.dtype)
    item: dict[str, Tensor] = {}
    if facts.kind == IMAGES:
        item = {name: values[0].to(dtype) for name, values in whole.items()}
    elif facts.kind == VOLUMES:
        item = {name: values.double().mean(0).to(dtype) for name, values in whole.items() if name != "patch_map"}
    instances = {name: values.to(dtype) for name, values in whole.items()} if facts.keeps_instances else {}
    return ItemFeatures(state.item.id, "", dict(state.source.facts), item, instances, state.source.coordinates)
