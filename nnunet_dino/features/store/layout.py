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

import contextlib
import csv
import io
import json
import os
import socket
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from nnunet_dino._errors import UserError
from nnunet_dino._files import write_atomically
from nnunet_dino.features.items import Item

VERSION = 1
DAY_S = 24 * 3600
UNFINISHED = ".part"
FACTS, ITEMS, INDEX, FEATURES = "store.json", "items.csv", "index.csv", "features"
AFTER_A_FAILED_WRITE = "free disk space or make the folder writable, then run the same command again; it continues"


@dataclass(frozen=True)
class StoreFacts:
    """What all features of a store have in common.

    Attributes:
        kind: ``images``, ``volumes`` or ``slides``.
        backbone: A row of the catalogue.
        weights: Content digest of the backbone's weights.
        weights_are_random: Whether they are random.
        precision: Type the backbone computed in.
        tokens: Which features are kept: ``class_token``, ``patch_mean``, ``patch_map``.
        per_slice: Whether the features of single slices are kept beside their mean.
        dtype: Type of the stored features.
        preprocessing: All that changes the pixels.
        num_items: Number of inputs.
        items_per_file: Number of inputs per unit.
        version: Of this layout.
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
        UserError: There is no store, or a newer version wrote it.
    """
    file = store / FACTS
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"required a store that `nnunet-dino extract` made · got {store}, which has no {FACTS}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"required a readable {file} · got {error}") from error
    known = {field.name for field in fields(StoreFacts)}
    if not isinstance(found, dict) or found.get("version") != VERSION or set(found) != known:
        version = found.get("version") if isinstance(found, dict) else None
        raise UserError(
            f"{file}: required a store of version {VERSION} · got version {version} · extract again into a new folder"
        )
    return StoreFacts(**{**found, "tokens": tuple(found["tokens"])})


def read_items(store: Path) -> list[Item]:
    """Reads the list of inputs."""
    with open(store / ITEMS, encoding="utf-8", newline="") as file:
        return [Item(**row) for row in csv.DictReader(file)]


def begin(store: Path, facts: StoreFacts, items: list[Item], part: str) -> None:
    """Makes a store, or finds that the one that is there is of the same inputs and settings.

    Args:
        store: The folder.
        facts: What is to be done.
        items: The inputs.
        part: Suffix for files while they are written; other processes have others.

    Raises:
        UserError: The store that is there is of other weights, settings or inputs; or the folder holds something else.
    """
    if not (store / FACTS).exists() and _holds_other_files(store) and not (store / FACTS).exists():
        raise UserError(f"-o: required a new or empty folder, or a store to continue · got {store}, which holds other files")
    if (store / FACTS).exists():
        _check_same(store, facts, items)
        return
    try:
        (store / FEATURES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"-o: required a folder that can be written to · got {store}: {error.strerror}") from error
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "path", "series"])
    writer.writerows((item.id, item.path, item.series) for item in items)
    write_text(store / ITEMS, text.getvalue(), part)
    write_text(store / FACTS, json.dumps(asdict(facts), indent=1) + "\n", part)


def _holds_other_files(store: Path) -> bool:
    """Returns whether a folder holds more than another process leaves there that is just beginning the same store."""
    if not store.is_dir():
        return store.exists()
    return any(not (path.name == ITEMS or UNFINISHED in path.name or _is_empty_folder(path)) for path in store.iterdir())


def _is_empty_folder(path: Path) -> bool:
    return path.name == FEATURES and path.is_dir() and not any(path.iterdir())


def unfinished_suffix() -> str:
    """Returns what is added to the names of files while this process writes them."""
    return f"{UNFINISHED}-{socket.gethostname()}-{os.getpid()}"


def remove_unfinished(store: Path) -> None:
    """Removes what interrupted processes left: those of this machine that no longer run, and anything a day old."""
    for folder in (store, store / FEATURES):
        for leftover in folder.glob(f"*{UNFINISHED}-*"):
            with contextlib.suppress(OSError):
                if _is_stale(leftover):
                    leftover.unlink()


def _is_stale(leftover: Path) -> bool:
    host, _, process = leftover.name.partition(f"{UNFINISHED}-")[2].rpartition("-")
    if host == socket.gethostname() and process.isdigit():
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
    return time.time() - leftover.stat().st_mtime > DAY_S


def _check_same(store: Path, facts: StoreFacts, items: list[Item]) -> None:
    there = read_facts(store)
    new_folder = "give another folder with -o"
    for name in ("kind", "backbone", "weights", "precision", "tokens", "per_slice", "dtype", "items_per_file"):
        old, new = getattr(there, name), getattr(facts, name)
        if old != new:
            hint = " (nnUNet_dino_precision sets it)" if name == "precision" else ""
            raise UserError(f"{store}: required the {name} it was begun with, {old}{hint} · got {new} · {new_folder}")
    for name in {**there.preprocessing, **facts.preprocessing}:
        old, new = there.preprocessing.get(name), facts.preprocessing.get(name)
        if old != new:
            raise UserError(f"{store}: required the {name} it was begun with, {old} · got {new} · {new_folder}")
    old_ids, new_ids = [item.id for item in read_items(store)], [item.id for item in items]
    if old_ids != new_ids:
        odd = next(iter(set(old_ids) ^ set(new_ids)), "another order")
        raise UserError(
            f"{store}: required the {len(old_ids)} inputs it was begun with · got {len(new_ids)}; first difference: {odd} "
            f"· {new_folder}"
        )


def write_text(file: Path, text: str, part: str) -> None:
    """Writes a text file so that it is there in full or not at all."""
    write_atomically(str(file), lambda path: Path(path).write_text(text, encoding="utf-8", newline=""), AFTER_A_FAILED_WRITE)
