"""How a store of features lies on disk, and what it says of itself.

::

    STORE/
      store.json                   what was done: backbone, digest of its weights, preprocessing, kind, tokens
      items.csv                    every input in order: id, path, series, unit
      features/000000.safetensors  a unit: at first `items_per_file` consecutive inputs
      index.csv                    one row per input; written when every unit is there

Every unit is made by one process from fixed inputs in fixed batches, so that a store does not depend on how many processes made
it, nor on how often it was interrupted. Where inputs are added or removed later, inputs whose unit is written stay in it, and
all others come into new units behind; what a unit holds of removed inputs is passed over.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

from nnunet_dino._errors import UserError
from nnunet_dino._files import LOCK, UNFINISHED, csv_text, exclusive, remove_unfinished, write_atomically
from nnunet_dino.features.items import Item

T = TypeVar("T")
VERSION = 1
FACTS, ITEMS, INDEX, FEATURES = "store.json", "items.csv", "index.csv", "features"
AFTER_A_FAILED_WRITE = "free disk space or make the folder writable, then run the same command again; it continues"
ANOTHER = "give another folder with -o"
WAIT_S = 60  # for another process to write two small files
TOKENS = ("class_token", "patch_mean", "class_tokens", "patch_map")
DTYPES = ("float32", "float16")
# What a user typed for a fact whose name is another, and facts that nobody types.
OPTION_OF = {
    "tokens": "--features",
    "items_per_file": "--per-file",
    "size_px": "--size",
    "norm": "--mean and --std",
    "own": "--fit",
}
NO_OPTION = ("weights", "precision", "window_low_high", "grey", "patch_mean", "edge", "patch_px", "interpolation")


@dataclass(frozen=True)
class StoreFacts:
    """What all features of a store have in common.

    Attributes:
        kind: ``images``, ``volumes`` or ``slides``.
        backbone: A row of the catalogue.
        weights: Content digest of the backbone's weights.
        weights_are_random: Whether they are random.
        precision: Type the backbone computed in.
        tokens: Which of :data:`TOKENS` are kept.
        per_slice: Whether the features of single slices are kept beside their mean.
        dtype: Type of the stored features, one of :data:`DTYPES`.
        preprocessing: All that changes the pixels.
        num_items: Number of inputs.
        items_per_file: Number of inputs per unit.
        version: Of this layout.
        licence: Of the weights; stores of earlier releases do not say.
    """

    kind: str
    backbone: str
    weights: str
    weights_are_random: bool
    precision: str
    tokens: tuple[str, ...]
    per_slice: bool
    dtype: str
    preprocessing: dict[str, Any]
    num_items: int
    items_per_file: int
    version: int = VERSION
    licence: str = ""

    @property
    def keeps_instances(self) -> bool:
        """Whether slices or tiles are kept one by one."""
        return self.kind == "slides" or (self.kind == "volumes" and (self.per_slice or "patch_map" in self.tokens))


def recorded(kind: type[T], preprocessing: dict[str, Any]) -> T:
    """Returns the options of a kind, a data class, that a store was made with; what it does not record is the default."""
    names = [field.name for field in fields(kind) if field.name in preprocessing]  # type: ignore[arg-type]
    return kind(**{name: preprocessing[name] for name in names})


def unit_file(store: Path, unit: int) -> Path:
    """Returns the file of a unit."""
    return store / FEATURES / f"{unit:06d}.safetensors"


def read_facts(store: Path) -> StoreFacts:
    """Reads what a store says of itself.

    Raises:
        UserError: There is no store, another version wrote it, or it is damaged.
    """
    file = store / FACTS
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"required a store that `nnunet-dino extract` made · got {store}, which has no {FACTS}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"required a readable {file} · got {error} · extract again into a new folder") from error
    if isinstance(found, dict) and isinstance(found.get("version"), int) and found["version"] != VERSION:
        raise UserError(
            f"{file}: required a store of version {VERSION} · got version {found['version']} · extract again into a new folder"
        )
    if odd := _oddity({"licence": ""} | found if isinstance(found, dict) else found):
        raise UserError(f"{file}: required what `nnunet-dino extract` wrote · got {odd} · extract again into a new folder")
    return StoreFacts(**{**found, "tokens": tuple(found["tokens"])})


def _oddity(found: Any) -> str:
    """Returns what is wrong with the content of a facts file; nothing is "" ."""
    if not isinstance(found, dict):
        return json.dumps(found)[:50]
    if differing := sorted(set(found) ^ {field.name for field in fields(StoreFacts)}):
        return f"{'an unknown' if differing[0] in found else 'no'} {differing[0]!r}"
    for name, hint in get_type_hints(StoreFacts).items():
        kind = get_origin(hint) or hint
        if type(found[name]) is not (list if kind is tuple else kind):
            return f"{name} = {json.dumps(found[name])[:50]}"
    if found["num_items"] < 1 or found["items_per_file"] < 1:
        return f"{found['num_items']} inputs, {found['items_per_file']} in a file"
    if found["dtype"] not in DTYPES or not found["tokens"] or not all(name in TOKENS for name in found["tokens"]):
        return f"features {json.dumps(found['tokens'])[:50]} of type {found['dtype']!r}"
    return ""


def begin(store: Path, facts: StoreFacts, items: Sequence[Item], update: bool = False) -> dict[int, list[Item]]:
    """Makes a store, or finds that the one that is there is of the same inputs and settings.

    Of several processes that begin at once one makes the store and the others compare with it. What killed processes left is
    removed. A store of which no input could be read is begun anew.

    Args:
        store: The folder.
        facts: What is to be done.
        items: The inputs.
        update: Whether inputs may be added to those of the store, or removed.

    Returns:
        The inputs by the number of their unit.

    Raises:
        UserError: The store that is there is of other weights, settings or inputs; or the folder holds something else.
    """
    _refuse_other_files(store)
    with exclusive(store / LOCK, WAIT_S):
        if (store / FACTS).exists() and not _holds_nothing(store):
            units = _go_on(store, facts, items, update)
        else:
            units = _new_units(items, facts.items_per_file)
            for file in (store / INDEX, *(store / FEATURES).glob("*")):
                file.unlink(missing_ok=True)
            write_text(store / ITEMS, _as_text(items, units))
            write_text(store / FACTS, json.dumps(asdict(facts), indent=1) + "\n")
    try:
        (store / FEATURES).mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{store / FEATURES}: required a folder · got {error.strerror} · remove what is there, or {ANOTHER}"
        ) from error
    for folder in (store, store / FEATURES):
        remove_unfinished(folder)
    return units


def _new_units(items: Sequence[Item], items_per_file: int, first: int = 0) -> dict[int, list[Item]]:
    starts = range(0, len(items), items_per_file)
    return {first + number: list(items[start : start + items_per_file]) for number, start in enumerate(starts)}


def _as_text(items: Sequence[Item], units: dict[int, list[Item]]) -> str:
    unit_of = {item.id: unit for unit, members in units.items() for item in members}
    rows = ((item.id, item.path, item.series, unit_of[item.id]) for item in items)
    return csv_text([("id", "path", "series", "unit"), *rows])


def _refuse_other_files(store: Path) -> None:
    """Refuses a folder with more in it than a process leaves there that is beginning a store."""
    try:
        if not store.exists():
            return
        names = [path.name for path in store.iterdir()]
    except NotADirectoryError:
        raise UserError(f"-o: required a folder · got {store}, which is a file · name another") from None
    except OSError as error:
        raise UserError(f"-o: required a folder that can be used · got {store}: {error.strerror} · name another") from error
    foreign = [name for name in names if name not in (ITEMS, LOCK) and not name.startswith(UNFINISHED)]
    if foreign and FACTS not in names and not (store / FACTS).exists():
        raise UserError(
            f"-o: required a new or empty folder, or a store to continue · got {store}, which holds other files, for example "
            f"{min(foreign)} · name another"
        )


def _holds_nothing(store: Path) -> bool:
    """Tells whether a store is complete, so that no process writes into it, and without any features."""
    try:
        with open(store / INDEX, encoding="utf-8", newline="") as opened:
            return all(row.get("error") for row in csv.DictReader(opened))
    except (OSError, ValueError, csv.Error):
        return False


def _go_on(store: Path, facts: StoreFacts, items: Sequence[Item], update: bool) -> dict[int, list[Item]]:
    """Returns the units of a store that is there, after making place for new inputs if that is wanted."""
    there = read_facts(store)
    _check_same(store, there, facts)
    unit_of = read_units(store, there.items_per_file)
    kept = {item.id: unit_of[item.id] for item in items if item.id in unit_of}
    if [item.id for item in items] != list(unit_of):
        if not update:
            odd = next(iter(unit_of.keys() ^ {item.id for item in items}), "another order")
            raise UserError(
                f"{store}: required the {len(unit_of)} inputs it was begun with · got {len(items)}; first difference: {odd} "
                f"· go on with these inputs by --update, or {ANOTHER}"
            )
        kept = {name: unit for name, unit in kept.items() if unit_file(store, unit).exists()}
        (store / INDEX).unlink(missing_ok=True)  # from now on the store is not complete
    units: dict[int, list[Item]] = {}
    for item in items:
        if item.id in kept:
            units.setdefault(kept[item.id], []).append(item)
    added = [item for item in items if item.id not in kept]
    units |= _new_units(added, facts.items_per_file, first=max(unit_of.values(), default=-1) + 1)
    if kept != unit_of or added or list(unit_of) != [item.id for item in items]:
        write_text(store / ITEMS, _as_text(items, units))
        for unit in {*unit_of.values()} - {*units}:
            unit_file(store, unit).unlink(missing_ok=True)
    if there.num_items != len(items):
        write_text(store / FACTS, json.dumps(asdict(facts), indent=1) + "\n")
    return dict(sorted(units.items()))


def _check_same(store: Path, there: StoreFacts, facts: StoreFacts) -> None:
    names = ("kind", "backbone", "weights", "precision", "tokens", "per_slice", "dtype", "items_per_file")
    pairs = [(name, getattr(there, name), getattr(facts, name)) for name in names]
    both = {**there.preprocessing, **facts.preprocessing}
    pairs += [(name, there.preprocessing.get(name), facts.preprocessing.get(name)) for name in both]
    for name, *values in pairs:
        if values[0] != values[1]:
            old, new = (", ".join(value) if isinstance(value, tuple) else value for value in values)
            hint = " (nnUNet_dino_precision sets it)" if name == "precision" else ""
            option = name if name in NO_OPTION else OPTION_OF.get(name, f"--{name.replace('_', '-')}")
            raise UserError(f"{store}: required the {option} it was begun with, {old}{hint} · got {new} · {ANOTHER}")


def read_units(store: Path, items_per_file: int) -> dict[str, int]:
    """Returns the ids of all inputs in order, each with the number of its unit.

    Raises:
        UserError: The list of inputs is damaged.
    """
    file = store / ITEMS
    try:
        with open(file, encoding="utf-8", newline="") as opened:
            rows = list(csv.DictReader(opened))
        # Stores of earlier releases do not name units.
        return {row["id"]: int(row.get("unit") or place // items_per_file) for place, row in enumerate(rows)}
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise UserError(
            f"{file}: required the list of inputs that `nnunet-dino extract` wrote · got {type(error).__name__}: {error} "
            f"· {ANOTHER}"
        ) from error


def write_text(file: Path, text: str) -> None:
    """Writes a text file so that it is there in full or not at all."""
    write_atomically(file, text, AFTER_A_FAILED_WRITE)
