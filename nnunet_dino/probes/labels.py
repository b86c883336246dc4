"""Labels from a CSV file, joined with the inputs of a store."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from nnunet_dino._errors import UserError, nearest
from nnunet_dino.features.inputs import CASE_CHANNEL, PATH_COLUMNS, read_csv
from nnunet_dino.features.store.reader import FeatureStore
from nnunet_dino.probes.given import GivenVectors
from nnunet_dino.probes.options import LabelColumns
from nnunet_dino.probes.splits import PARTS, checked_split, refuse_two_spellings, split_names
from nnunet_dino.probes.targets import MISSING, NOBODY, read_targets, refuse_missing, without_uncertain

ID_COLUMNS = ("id", *PATH_COLUMNS)


@dataclass(frozen=True)
class Labelled:
    """Labels of ``n`` inputs.

    Attributes:
        ids: Of the inputs, as the store has them.
        patients: Whose they are.
        names: Of the ``c`` labels or classes.
        targets: ``n c``, 0 or 1.
        is_exclusive: Whether every input has exactly one of the classes.
        split: ``train``, ``val`` or ``test`` per input; empty texts if the file does not say.
        how_split: How the parts came about, in words.
        num_without_features: Rows of the file that the store has nothing for.
        num_without_labels: Inputs of the store that the file has nothing for.
        notes: What a reader must know of how the file was understood.
    """

    ids: list[str]
    patients: np.ndarray
    names: tuple[str, ...]
    targets: np.ndarray
    is_exclusive: bool
    split: np.ndarray
    how_split: str = ""
    num_without_features: int = 0
    num_without_labels: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def classes(self) -> np.ndarray:
        """Number of the class of every input, for exclusive classes or a single label."""
        return self.targets.argmax(1) if self.is_exclusive else self.targets[:, 0].astype(int)

    def with_split(self, split: np.ndarray, how: str = "") -> Labelled:
        """Returns the same labels with another split."""
        return replace(self, split=split, how_split=how)

    def with_notes(self, notes: Sequence[str]) -> Labelled:
        """Returns the same labels with notes before their own."""
        return replace(self, notes=[*notes, *self.notes])


def no_split(count: int) -> np.ndarray:
    """Returns the split of inputs of which nothing is said."""
    return np.full(count, "", dtype="<U5")


def labelled_vectors(store: FeatureStore | GivenVectors, columns: LabelColumns, features: str) -> tuple[Labelled, np.ndarray]:
    """Returns labels and the vectors ``n e`` that belong to them.

    Raises:
        UserError: Labels or features are not usable.
    """
    if isinstance(store, GivenVectors):
        _refuse_labels_among_features(store, columns)
    ids, vectors = store.vectors(features)
    labelled = read_labels(columns, ids).with_notes(store.notes)
    place = {name: row for row, name in enumerate(ids)}
    chosen = vectors[[place[name] for name in labelled.ids]]
    return labelled.with_notes(copies_between_patients(chosen, labelled.ids, labelled.patients)), chosen


def _refuse_labels_among_features(store: GivenVectors, columns: LabelColumns) -> None:
    """Refuses a table whose numbers hold what is to be predicted, or whose the inputs are."""
    option_of = {columns.patient: "--patient", columns.split: "--split", **dict.fromkeys(columns.targets, "--target")}
    if found := [name for name in store.columns if name in option_of]:
        got = f"the column {found[0]!r} of {option_of[found[0]]}"
        raise UserError(f"{store.file}: required features only · got {got} among them · leave it out of the file")


def read_labels(columns: LabelColumns, store_ids: Sequence[str]) -> Labelled:
    """Reads labels and joins them with the inputs of a store, in the store's order.

    A row belongs to an input if its id is equal; if no row's is, if the file names are equal; if none is, if they are without
    their endings; if none is, if they are without nnU-Net's ``_0000`` too.

    Raises:
        UserError: A column is missing, a value is not a label, an input has two rows, a patient is in two parts of the split,
            or nothing fits together.
    """
    table = read_csv(columns.file)
    id_column = _id_column(table, columns)
    rows = _joined(table, id_column, store_ids, columns.file)
    found, notes = without_uncertain(table.iloc[list(rows.values())], columns, id_column)
    names, targets, is_exclusive, more = read_targets(found, columns, id_column)
    patients = found[columns.patient].str.strip().to_numpy(str)
    if (patients == "").any():
        raise UserError(
            f"--patient: required one in every row · got none for {found[id_column].iloc[int((patients == '').argmax())]}"
        )
    refuse_missing(found[columns.patient].str.strip(), "--patient", found[id_column], MISSING | NOBODY)
    refuse_two_spellings(patients)
    split = no_split(len(found))
    if columns.split:
        split = checked_split(split_names(found[columns.split].tolist(), columns.split), patients)
    name_of = {row: name for name, row in rows.items()}
    return Labelled(
        ids=[name_of[row] for row in found.index],
        patients=patients,
        names=names,
        targets=targets,
        is_exclusive=is_exclusive,
        split=split,
        num_without_features=len(table) - len(rows),
        num_without_labels=len(store_ids) - len(rows),
        notes=[*notes, *more],
    )


def _id_column(table: pd.DataFrame, columns: LabelColumns) -> str:
    """Returns the column that names the inputs, after finding all others."""
    id_column = columns.id or next((name for name in ID_COLUMNS if name in table), None)
    if id_column is None:
        raise UserError(
            f"{columns.file}: required a column called one of {', '.join(ID_COLUMNS)} · got {', '.join(table)} "
            "· name it with --id"
        )
    if len(set(columns.targets)) != len(columns.targets) or not columns.targets:
        raise UserError(f"--target: required every column once · got {', '.join(columns.targets) or 'none'}")
    wanted = {"--id": (id_column,), "--target": columns.targets, "--patient": (columns.patient,), "--split": (columns.split,)}
    for option, names in wanted.items():
        for name in names:
            if name is not None and name not in table:
                raise UserError(f"{option}: required a column of {columns.file} · got {name!r}{nearest(name, table)}")
    return id_column


def _joined(table: pd.DataFrame, column: str, store_ids: Sequence[str], file: Path) -> dict[str, int]:
    """Returns the row of every input that has one."""
    if not store_ids:
        raise UserError("required a store with at least one input that could be read · got none · see its index.csv")
    for shortened in (str, _name, _stem, _case):
        rows: dict[str, int] = {}
        store_keys = {shortened(name): name for name in store_ids}
        names = [text.strip() for text in table[column]]
        keys = [name if name in store_keys else shortened(name) for name in names]  # 1.2.840 has no ending
        if len(store_keys) < len(store_ids):
            continue
        for row, key in enumerate(keys):
            if key in store_keys:
                if store_keys[key] in rows:
                    raise UserError(f"{file}: required one row for every input · got two for {table[column].iloc[row]}")
                rows[store_keys[key]] = row
        if rows:
            return {name: rows[name] for name in store_ids if name in rows}
    example = table[column].iloc[0] if len(table) else "an empty file"
    raise UserError(
        f"{file}: required rows that name inputs of the store, for example {store_ids[0]} · got "
        f"{example} and others in column {column!r} · choose the column with --id"
    )


def _name(text: str) -> str:
    return PurePosixPath(text.replace("\\", "/")).name


def _stem(text: str) -> str:
    name = _name(text)
    for ending in (".nii.gz", ".tar.gz"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return PurePosixPath(name).stem


def _case(text: str) -> str:
    """Returns the name of a case for the file of its first channel, as nnU-Net calls them."""
    return _stem(text).removesuffix(CASE_CHANNEL)


def copies_between_patients(vectors: np.ndarray, ids: Sequence[str], patients: np.ndarray) -> list[str]:
    """Says which inputs of different patients have equal features, bit for bit: one picture under two names."""
    rows_of: dict[bytes, list[int]] = {}
    for row, vector in enumerate(vectors):
        rows_of.setdefault(hashlib.sha256(vector.tobytes()).digest(), []).append(row)
    torn = [rows for rows in rows_of.values() if len(set(patients[rows])) > 1]
    if not torn:
        return []
    shown = "; ".join(", ".join(f"{ids[row]} of {patients[row]}" for row in rows[:3]) for rows in torn[:3])
    return [
        f"Under several patients, with features equal bit for bit ({len(torn)} such), so that a split may part them: "
        f"{shown}{' …' if len(torn) > 3 else ''}. Drop the copies, or give them one patient."
    ]


def count_words(names: Sequence[str]) -> str:
    """Returns ``train 400, val 60, test 118`` for the parts that are there."""
    counts = Counter(names)
    return ", ".join(f"{part} {counts[part]}" for part in PARTS if counts[part])
