"""The index of a complete store: one row per input."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_dino.features.items import NOTE, Item
from nnunet_dino.features.store.layout import FEATURES, INDEX, StoreFacts, unit_file, write_text
from nnunet_dino.features.store.units import read_records

COLUMNS = ("id", "path", "error", "file", "row", "first_instance", "num_instances")


def missing_units(store: Path, facts: StoreFacts) -> list[int]:
    """Returns the units that no process has written yet."""
    return [unit for unit in range(facts.num_units) if not unit_file(store, unit).exists()]


def write_index(store: Path, facts: StoreFacts, items: Sequence[Item]) -> None:
    """Writes the index from what the units say; it is the same whichever process writes it."""
    rows: list[dict[str, Any]] = []
    extra: list[str] = []
    for unit in range(facts.num_units):
        file = unit_file(store, unit)
        row = first = 0
        for position, record in enumerate(read_records(file)):
            item, failed = items[unit * facts.items_per_file + position], bool(record["error"])
            count = record["num_instances"]
            known = record["facts"]
            extra += [name for name in known if name not in (*extra, NOTE)]
            place = {"file": f"{FEATURES}/{file.name}", "row": row, "first_instance": first, "num_instances": count}
            rows.append({"id": item.id, "path": item.path, "error": record["error"], **({} if failed else place), **known})
            row, first = row + (not failed), first + count
    common = {
        "backbone": facts.backbone,
        "weights": facts.weights,
        "preprocessing": json.dumps(facts.preprocessing, sort_keys=True),
    }
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, NOTE, *extra, *common], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, **common} for row in rows)
    write_text(store / INDEX, text.getvalue())
