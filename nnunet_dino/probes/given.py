"""Features that others made: vectors in npy, npz or parquet files, and bags as CLAM and TRIDENT write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_string_dtype

from nnunet_dino._errors import UserError
from nnunet_dino._packages import require
from nnunet_dino.features.inputs import PATH_COLUMNS, read_csv
from nnunet_dino.features.store.layout import FACTS

ENDINGS = (".npy", ".npz", ".parquet")
ID_COLUMNS = ("id", "ids", *PATH_COLUMNS)
FEATURES = "features"


class GivenVectors:
    """One vector per input from a file, in place of a store.

    ::

        x.npy       n e; the ids are a column of x.csv beside it
        x.npz       features n e, ids n; or as x.npy
        x.parquet   a column of ids, or names as its index, and one column of vectors or numbers in all others

    Attributes:
        facts: What stands for those of a store.
        notes: None.
        file: Where they were read.
        columns: From which columns of a table, if it is one.

    Raises:
        UserError: The file cannot be read, or vectors and ids do not fit together.
    """

    def __init__(self, file: Path) -> None:
        self.facts, self.notes = SimpleNamespace(backbone=file.name), list[str]()
        self.file, self.columns = file, list[str]()
        try:
            ids, vectors, self.columns = _read(file)
            self._ids = [(name.decode() if isinstance(name, bytes) else str(name)).strip() for name in ids]
            self._vectors = as_features(vectors)
        except UserError:
            raise
        except Exception as error:  # damaged files reach several layers, each with errors of its own
            got = " ".join(str(error).split())[:150]
            got += " · save ids as text, as in ids.astype(str)" if got.startswith("Object arrays") else ""
            raise UserError(f"required vectors in a readable .npy, .npz or .parquet file · got {file}: {got}") from error
        if (
            self._vectors.ndim != 2
            or 0 in self._vectors.shape
            or not len(self._ids) == len(set(self._ids)) == len(self._vectors)
        ):
            got = f"{len(self._ids)} ids, {len(set(self._ids))} different, and an array of {self._vectors.shape}"
            raise UserError(f"{file}: required one id for every row of vectors, each once · got {got}")
        if not (finite := np.isfinite(self._vectors).all(1)).all():
            raise UserError(f"{file}: required finite features · got NaN or infinity for {self._ids[int(finite.argmin())]}")

    def vectors(self, features: str) -> tuple[list[str], np.ndarray]:
        """Returns ids and vectors ``n e``; which of a backbone's features they are is not known."""
        return self._ids, self._vectors


def as_features(values: Any) -> np.ndarray:
    """Returns numbers of any real type as float32, too large ones as infinity.

    Raises:
        TypeError: They are complex, or no numbers.
    """
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(np.float32, casting="same_kind")


def _read(file: Path) -> tuple[Sequence[Any], np.ndarray, list[str]]:
    if file.suffix == ".parquet":
        require("pyarrow", "features", str(file))
        table = pd.read_parquet(file)
        names = table.index
        if not {*ID_COLUMNS} & {*table} and names.nlevels == 1 and (names.name in ID_COLUMNS or is_string_dtype(names)):
            table = table.reset_index(names=ID_COLUMNS[0])
        ids = _ids_of(table, file)
        rest = table.drop(columns=ids.name)
        lists = [name for name in rest if len(rest) and isinstance(rest[name].iloc[0], (np.ndarray, list))]
        if len(lists) > 1:
            raise UserError(f"{file}: required one column of vectors · got {', '.join(lists)} · leave the others out")
        return ids.tolist(), np.stack(list(rest[lists[0]])) if lists else rest.to_numpy(np.float32), lists or list(rest)
    content, beside = np.load(file, allow_pickle=False), file.with_suffix(".csv")
    if file.suffix == ".npy":
        return _ids_of(read_csv(beside), beside).tolist(), content, []
    with content:
        if "ids" not in content:
            return _ids_of(read_csv(beside), beside).tolist(), content[FEATURES], []
        if (ids := content["ids"]).ndim != 1:
            raise UserError(f"{file}: required ids (n,) · got an array of {ids.shape} · save ids.ravel()")
        return ids.tolist(), content[FEATURES], []


def _ids_of(table: pd.DataFrame, file: Path) -> pd.Series:
    column = next((name for name in ID_COLUMNS if name in table), None)
    if column is None:
        raise UserError(f"{file}: required a column of ids called one of {', '.join(ID_COLUMNS)} · got {', '.join(table)}")
    return table[column]


def refuse_no_store(given: Path, kinds: str) -> None:
    """Names all that can be probed where there is no store.

    Raises:
        UserError: There is none.
    """
    if not (given / FACTS).exists():
        got = "which is neither" if given.exists() else "which does not exist"
        below = sorted(given.glob("*/*.h5")) if ".h5" in kinds else []  # TRIDENT keeps them in features_MODEL
        remedy = f"name {below[0].parent}" if below else "check the path"
        raise UserError(f"required a store that `nnunet-dino extract` made, or {kinds} · got {given}, {got} · {remedy}")


def bag_files(folder: Path) -> dict[str, Path]:
    """Returns the h5 files of slides by name: those in a folder, or in its ``h5_files``, where CLAM puts them.

    Raises:
        UserError: There are some in both.
    """
    inside = folder / "h5_files"
    found, others = sorted(folder.glob("*.h5")), sorted(inside.glob("*.h5"))
    if found and others:
        got = f"{len(found)} in {folder} and {len(others)} in {inside}"
        raise UserError(f"required .h5 files in one place · got {got} · name the latter, or move one of both away")
    return {file.stem: file for file in found or others}


def read_bag(file: Path) -> np.ndarray:
    """Returns the features ``n e`` of the tiles of a slide.

    Raises:
        UserError: The file is damaged, or holds no features of tiles.
    """
    h5py = require("h5py", "features", str(file))
    try:
        with h5py.File(file) as opened:
            values = as_features(opened[FEATURES])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: required features of tiles, as CLAM or TRIDENT write them · got {error}") from error
    values = values[0] if values.ndim == 3 and len(values) == 1 else values
    if values.ndim != 2 or 0 in values.shape:
        raise UserError(f"{file}: required features n x e of at least one tile · got an array of {values.shape}")
    if not np.isfinite(values).all():
        raise UserError(f"{file}: required finite features · got NaN or infinity")
    return values
