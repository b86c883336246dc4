"""How a store of features lies on disk, and what it says of itself.

::

    STORE/
      store.json                   what was done: backbone, digest of its weights, preprocessing, kind, tokens
      items.csv                    every input in order: id, path, series
      features/000000.safetensors  a unit: `items_per_file` consecutive inputs
      index.csv                    one row per input; written when every unit is there

Every unit is made by one process from fixed inputs in fixed batches, so that a store does not depend on how many processes made
it, nor on how often it was interrupted.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from nnunet_dino._errors import UserError
from nnunet_dino._files import LOCK, UNFINISHED, exclusive, remove_unfinished, write_atomically
from nnunet_dino.features.items import Item

VERSION = 1
FACTS, ITEMS, INDEX, FEATURES = "store.json", "items.csv", "index.csv", "features"
AFTER_A_FAILED_WRITE = "free disk space or make the folder writable, then run the same command again; it continues"
ANOTHER = "give another folder with -o"
WAIT_S = 60  # for another process to write two small files
TOKENS = ("class_token", "patch_mean", "patch_map")
DTYPES = ("float32", "float16")


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
    def num_units(self) -> int:
        return -(-self.num_items // self.items_per_file)

    @property
    def keeps_instances(self) -> bool:
        """Whether slices or tiles are kept one by one."""
        return self.kind == "slides" or (self.kind == "volumes" and (self.per_slice or "patch_map" in self.tokens))


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


def begin(store: Path, facts: StoreFacts, items: Sequence[Item]) -> None:
    """Makes a store, or finds that the one that is there is of the same inputs and settings.

    Of several processes that begin at once one makes the store and the others compare with it. What killed processes left is
    removed.

    Args:
        store: The folder.
        facts: What is to be done.
        items: The inputs.

    Raises:
        UserError: The store that is there is of other weights, settings or inputs; or the folder holds something else.
    """
    _refuse_other_files(store)
    with exclusive(store / LOCK, WAIT_S):
        if (store / FACTS).exists():
            _check_same(store, facts, items)
        else:
            write_text(store / ITEMS, _as_text(items))
            write_text(store / FACTS, json.dumps(asdict(facts), indent=1) + "\n")
    try:
        (store / FEATURES).mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{store / FEATURES}: required a folder · got {error.strerror} · remove what is there, or {ANOTHER}"
        ) from error
    for folder in (store, store / FEATURES):
        remove_unfinished(folder)


def _as_text(items: Sequence[Item]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "path", "series"])
    writer.writerows((item.id, item.path, item.series) for item in items)
    return text.getvalue()


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


def _check_same(store: Path, facts: StoreFacts, items: Sequence[Item]) -> None:
    there = read_facts(store)
    for name in ("kind", "backbone", "weights", "precision", "tokens", "per_slice", "dtype", "items_per_file"):
        old, new = getattr(there, name), getattr(facts, name)
        if old != new:
            hint = " (nnUNet_dino_precision sets it)" if name == "precision" else ""
            raise UserError(f"{store}: required the {name} it was begun with, {old}{hint} · got {new} · {ANOTHER}")
    for name in {**there.preprocessing, **facts.preprocessing}:
        old, new = there.preprocessing.get(name), facts.preprocessing.get(name)
        if old != new:
            raise UserError(f"{store}: required the {name} it was begun with, {old} · got {new} · {ANOTHER}")
    old_ids, new_ids = _read_ids(store / ITEMS), [item.id for item in items]
    if old_ids != new_ids:
        odd = next(iter(set(old_ids) ^ set(new_ids)), "another order")
        raise UserError(
            f"{store}: required the {len(old_ids)} inputs it was begun with · got {len(new_ids)}; first difference: {odd} "
            f"· {ANOTHER}"
        )


def _read_ids(file: Path) -> list[str]:
    try:
        with open(file, encoding="utf-8", newline="") as opened:
            return [row["id"] for row in csv.DictReader(opened)]
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise UserError(
            f"{file}: required the list of inputs that `nnunet-dino extract` wrote · got {type(error).__name__}: {error} "
            f"· {ANOTHER}"
        ) from error


def write_text(file: Path, text: str) -> None:
    """Writes a text file so that it is there in full or not at all."""
    write_atomically(file, text, AFTER_A_FAILED_WRITE)
