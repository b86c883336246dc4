"""The index of a complete store: one row per input."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_dino._files import csv_text
from nnunet_dino.features.items import NOTE, Item
from nnunet_dino.features.store.layout import FEATURES, INDEX, StoreFacts, read_units, unit_file, write_text
from nnunet_dino.features.store.units import read_records

COLUMNS = ("id", "path", "error", "file", "row", "first_instance", "num_instances")


def missing_units(store: Path, facts: StoreFacts) -> list[int]:
    """Returns the units that no process has written yet."""
    units = sorted(set(read_units(store, facts.items_per_file).values()))
    return [unit for unit in units if not unit_file(store, unit).exists()]


def write_index(store: Path, facts: StoreFacts, items: Sequence[Item]) -> None:
    """Writes the index from what the units say; it is the same whichever process writes it."""
    unit_of = read_units(store, facts.items_per_file)
    if list(unit_of) != [item.id for item in items]:
        return  # another process has gone on with other inputs meanwhile, and will write the index
    found: dict[str, dict[str, Any]] = {}
    for unit in sorted(set(unit_of.values())):
        file = unit_file(store, unit)
        row = first = 0
        for record in read_records(file):
            failed, count = bool(record["error"]), record["num_instances"]
            place = {"file": f"{FEATURES}/{file.name}", "row": row, "first_instance": first, "num_instances": count}
            found[record["id"]] = {"error": record["error"], **({} if failed else place), **record["facts"]}
            row, first = row + (not failed), first + count
    rows = [{"id": item.id, "path": item.path, **found[item.id]} for item in items]
    extra = list(dict.fromkeys(name for row in rows for name in row if name not in (*COLUMNS, NOTE)))
    common = {
        "backbone": facts.backbone,
        "weights": facts.weights,
        "preprocessing": json.dumps(facts.preprocessing, sort_keys=True),
    }
    header = [*COLUMNS, NOTE, *extra, *common]
    write_text(store / INDEX, csv_text([header, *([{**row, **common}.get(name, "") for name in header] for row in rows)]))
