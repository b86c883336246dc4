"""Features of many inputs, from any number of processes, into one store; interrupted work is continued."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from nnunet_dino.features.encode import Reading, encode_units
from nnunet_dino.features.encoder import FrozenEncoder
from nnunet_dino.features.items import Item
from nnunet_dino.features.store.index import missing_units, write_index
from nnunet_dino.features.store.layout import StoreFacts, begin, unfinished_suffix, unit_file
from nnunet_dino.features.store.units import read_records, write_unit


@dataclass(frozen=True)
class Outcome:
    """What one process did, and how the store stands.

    Attributes:
        failed: Id and reason of every unreadable input of this process.
        num_missing_units: Files that are yet to be written, by other processes; 0 for a complete store.
    """

    failed: list[tuple[str, str]]
    num_missing_units: int


def extract(
    store: Path,
    facts: StoreFacts,
    items: Sequence[Item],
    encoder: FrozenEncoder,
    reading: Reading,
    shard: tuple[int, int] = (0, 1),
    done: Callable[[int, int], object] = lambda num_items, num_images: None,
) -> Outcome:
    """Encodes the inputs of one shard and writes every unit when it is done; units that are there are left alone.

    Units with unreadable inputs are done again, as the reason may be gone.

    Args:
        store: Folder of the store.
        facts: What it holds.
        items: All inputs, also those of other shards.
        encoder: The backbone.
        reading: How to read the inputs.
        shard: Which part of the units is this process's, from 0, and how many parts there are.
        done: Called with numbers of further inputs and images.

    Raises:
        UserError: The store is of something else, or cannot be written to.
    """
    part = unfinished_suffix()
    begin(store, facts, list(items), part)
    mine = range(shard[0], facts.num_units, shard[1])
    members = {unit: items[unit * facts.items_per_file : (unit + 1) * facts.items_per_file] for unit in mine}
    todo = [unit for unit in mine if not _is_done(unit_file(store, unit))]
    done(sum(len(members[unit]) for unit in set(mine) - set(todo)), 0)
    failed: list[tuple[str, str]] = []
    with ThreadPoolExecutor(reading.num_workers) as readers, ThreadPoolExecutor(1) as writer:
        writing: Future[None] | None = None
        try:
            units = ((unit, members[unit]) for unit in todo)
            for unit, results in encode_units(units, facts, encoder, reading, readers, done):
                failed += [(result.id, result.error) for result in results if result.error]
                if writing is not None:
                    writing.result()
                writing = writer.submit(write_unit, unit_file(store, unit), results, part)
            if writing is not None:
                writing.result()
        except BaseException:
            readers.shutdown(wait=False, cancel_futures=True)
            raise
    missing = missing_units(store, facts)
    if not missing:
        write_index(store, facts, list(items), part)
    return Outcome(failed, len(missing))


def _is_done(file: Path) -> bool:
    return file.exists() and not any(record["error"] for record in read_records(file))
