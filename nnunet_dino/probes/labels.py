"""Labels from a CSV file, joined with the inputs of a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from nnunet_dino._errors import UserError, nearest
from nnunet_dino.features.inputs import PATH_COLUMNS, read_csv
from nnunet_dino.probes.splits import checked_split, split_names

ID_COLUMNS = ("id", *PATH_COLUMNS)


@dataclass(frozen=True)
class LabelColumns:
    """Which columns of a CSV file mean what.

    Attributes:
        file: The CSV file.
        targets: One column of classes, or columns of 0 and 1.
        patient: Column that says whose an input is.
        id: Column that names the inputs; one of the usual names by default.
        split: Column with train, val and test.
        separator: Text between the labels of one cell, where an input has several of them in one column.
        negative: Word in such a cell that means no label.
    """

    file: Path
    targets: tuple[str, ...]
    patient: str
    id: str | None = None
    split: str | None = None
    separator: str | None = None
    negative: str = "No Finding"


@dataclass(frozen=True)
class Labelled:
    """Labels of ``n`` inputs.

    Attributes:
        ids: Of the inputs, as the store has them.
        patients: Whose they are.
        names: Of the ``c`` labels or classes.
        targets: ``n c``, 0 or 1.
        is_exclusive: Whether every input has exactly one of the classes.
        split: ``train``, ``val`` or ``test`` per input; None if the file does not say.
        num_without_features: Rows of the file that the store has nothing for.
        num_without_labels: Inputs of the store that the file has nothing for.
    """

    ids: list[str]
    patients: np.ndarray
    names: tuple[str, ...]
    targets: np.ndarray
    is_exclusive: bool
    split: np.ndarray | None
    num_without_features: int = 0
    num_without_labels: int = 0

    @property
    def classes(self) -> np.ndarray:
        """Number of the class of every input, for exclusive classes."""
        return self.targets.argmax(1)

    def with_split(self, split: np.ndarray) -> Labelled:
        """Returns the same labels with another split, after checking it.

        Raises:
            UserError: A patient is in two parts.
        """
        return replace(self, split=checked_split(split, self.patients))


def read_labels(columns: LabelColumns, store_ids: Sequence[str]) -> Labelled:
    """Reads labels and joins them with the inputs of a store, in the store's order.

    A row belongs to an input if its id is equal; if no row's is, if the file names are equal; if none is, if they are without
    their endings.

    Raises:
        UserError: A column is missing, a value is not a label, an input has two rows, a patient is in two parts of the split,
            or nothing fits together.
    """
    table = read_csv(columns.file)
    id_column = columns.id or next((name for name in ID_COLUMNS if name in table), None)
    if id_column is None:
        raise UserError(
            f"{columns.file}: required a column called one of {', '.join(ID_COLUMNS)} · got {', '.join(table)} "
            "· name it with --id"
        )
    wanted = {"--id": [id_column], "--target": columns.targets, "--patient": [columns.patient], "--split": [columns.split]}
    for option, names in wanted.items():
        for name in names:
            if name is not None and name not in table:
                raise UserError(f"{option}: required a column of {columns.file} · got {name!r}{nearest(name, table)}")
    rows = _joined(table, id_column, store_ids, columns.file)
    found = table.iloc[list(rows.values())]
    names, targets, is_exclusive = _targets(found, columns, id_column)
    patients = found[columns.patient].str.strip().to_numpy(str)
    if (patients == "").any():
        raise UserError(
            f"--patient: required one in every row · got none for {found[id_column].iloc[int((patients == '').argmax())]}"
        )
    split = None
    if columns.split:
        split = checked_split(split_names(found[columns.split].tolist(), columns.split), patients)
    return Labelled(
        ids=list(rows),
        patients=patients,
        names=names,
        targets=targets,
        is_exclusive=is_exclusive,
        split=split,
        num_without_features=len(table) - len(rows),
        num_without_labels=len(store_ids) - len(rows),
    )


def _joined(table: pd.DataFrame, column: str, store_ids: Sequence[str], file: Path) -> dict[str, int]:
    """Returns the row of every input that has one."""
    for shortened in (str, _name, _stem):
        rows: dict[str, int] = {}
        keys = [shortened(text.strip()) for text in table[column]]
        store_keys = {shortened(name): name for name in store_ids}
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
        f"{file}: required rows that name inputs of the store, for example {store_ids[0] if store_ids else 'none'} · got "
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


def _targets(found: pd.DataFrame, columns: LabelColumns, id_column: str) -> tuple[tuple[str, ...], np.ndarray, bool]:
    if len(set(columns.targets)) != len(columns.targets) or not columns.targets:
        raise UserError(f"--target: required every column once · got {', '.join(columns.targets) or 'none'}")
    cells = {name: found[name].str.strip() for name in columns.targets}
    for name, texts in cells.items():
        if (texts == "").any():
            where = found[id_column].iloc[int((texts == "").argmax())]
            raise UserError(f"--target {name}: required a label in every row · got none for {where}")
    if columns.separator:
        return _separated(cells, columns)
    first = next(iter(cells.values()))
    if len(cells) == 1 and not set(first) <= _BINARY.keys():
        classes = tuple(sorted(set(first), key=_in_number_order))
        _refuse_numbers_as_classes(classes, columns.targets[0])
        return classes, np.stack([(first == name).to_numpy(np.float32) for name in classes], axis=1), True
    for name, texts in cells.items():
        if odd := [text for text in texts if text not in _BINARY]:
            raise UserError(f"--target {name}: required 0 or 1 in every row, as there are several targets · got {odd[0]!r}")
    targets = np.stack([texts.map(_BINARY).to_numpy(np.float32) for texts in cells.values()], axis=1)
    return columns.targets, targets, False


_BINARY = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "False": 0.0, "True": 1.0, "false": 0.0, "true": 1.0}
MAX_CLASSES = 200


def _separated(cells: dict[str, pd.Series], columns: LabelColumns) -> tuple[tuple[str, ...], np.ndarray, bool]:
    if len(cells) > 1:
        raise UserError(f"--separator: required one --target · got {', '.join(cells)}")
    sets = [{word.strip() for word in text.split(columns.separator)} for text in next(iter(cells.values()))]
    names = tuple(sorted(set().union(*sets) - {columns.negative, ""}))
    if not names:
        raise UserError(f"--target {columns.targets[0]}: required labels · got only {columns.negative!r}")
    return names, np.array([[name in words for name in names] for words in sets], np.float32), False


def _in_number_order(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text


def _refuse_numbers_as_classes(classes: Sequence[str], column: str) -> None:
    if len(classes) > MAX_CLASSES:
        raise UserError(f"--target {column}: required labels, at most {MAX_CLASSES} · got {len(classes)} different values")
    if len(classes) < 2:
        raise UserError(f"--target {column}: required at least two classes · got only {classes[0]!r}")


def count_words(names: Sequence[str]) -> str:
    """Returns ``train 400, val 60, test 118`` for the parts that are there."""
    counts = Counter(names)
    return ", ".join(f"{part} {counts[part]}" for part in ("train", "val", "test") if counts[part])
