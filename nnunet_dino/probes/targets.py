"""Targets from the cells of a table: 0 and 1, two words, classes, several labels in one cell."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from nnunet_dino._errors import UserError
from nnunet_dino.probes.options import DROP, NO_FINDING, POSITIVE, LabelColumns
from nnunet_dino.probes.spelling import in_two_spellings

BINARY = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0}
BINARY |= {word: value for text, value in (("false", 0.0), ("true", 1.0)) for word in (text, text.title(), text.upper())}
MISSING = {"nan", "na", "n/a", "<na>", "#n/a", "null", "nat"}  # as programs write that there is nothing, in any case
NOBODY = {"none", "-", "--", "?"}  # the same, where no word can mean that nothing was found
MISSING_CODES = {float(sign * code) for sign in (1, -1) for code in (9, 99, 999, 9999)}  # as statisticians write it
UNCERTAIN = {"-1", "-1.0"}  # as CheXpert and MIMIC-CXR write it
# Of two words, those that mean that something is not there.
NEGATIVE_WORDS = {"absent", "benign", "control", "false", "healthy", "neg", "negative", "no", "none", "normal"}
MAX_CLASSES = 200


def without_uncertain(found: pd.DataFrame, columns: LabelColumns, id_column: str) -> tuple[pd.DataFrame, list[str]]:
    """Returns the rows with -1 beside two values treated as asked for, and what a reader must know of it.

    A column with other numbers beside -1, as grades have them, stays as it is.
    """
    found, notes, is_dropped = found.copy(), [], np.zeros(len(found), bool)
    for name in columns.targets if not columns.separator else ():
        texts = found[name].str.strip()
        is_uncertain = texts.isin(UNCERTAIN).to_numpy()
        known = sorted(set(texts) - UNCERTAIN - {""})
        if not is_uncertain.any() or not (set(known) <= BINARY.keys() or (len(known) == 2 and not any(map(_is_number, known)))):
            continue
        count = int(is_uncertain.sum())
        if not columns.uncertain:
            raise UserError(
                f"--target {name}: required two values · got also -1, which is uncertain, in {count} "
                f"{'row' if count == 1 else 'rows'}, first {found[id_column].iloc[int(is_uncertain.argmax())]} "
                "· choose --uncertain drop, positive or negative"
            )
        if columns.uncertain == DROP:
            is_dropped |= is_uncertain
        else:
            negative, positive = ("0", "1") if set(known) <= BINARY.keys() else _in_order(known, columns)
            found[name] = texts.mask(is_uncertain, positive if columns.uncertain == POSITIVE else negative)
        done = "left out" if columns.uncertain == DROP else f"counted as {columns.uncertain}"
        notes.append(f"{name}: {count} uncertain {'row is' if count == 1 else 'rows are'} {done} (-1).")
    if is_dropped.all():
        raise UserError(f"--uncertain drop: required rows without -1 · got -1 in all {len(found)}")
    return found[~is_dropped], notes


def read_targets(
    found: pd.DataFrame, columns: LabelColumns, id_column: str
) -> tuple[tuple[str, ...], np.ndarray, bool, list[str]]:
    """Returns names, targets, whether classes are exclusive, and what a reader must know of it."""
    cells = {name: found[name].str.strip() for name in columns.targets}
    for name, texts in cells.items():
        if (texts == "").any():
            where = found[id_column].iloc[int((texts == "").argmax())]
            raise UserError(f"--target {name}: required a label in every row · got none for {where} · fill it in or remove it")
        refuse_missing(texts, f"--target {name}", found[id_column])
    if columns.separator:
        return *_separated(cells, columns), False, []
    notes = [
        f"{name}: true and false count as 1 and 0, which other rows have."
        for name, texts in cells.items()
        if set(texts) <= BINARY.keys() and len({text[0].isdigit() for text in texts}) > 1
    ]
    first = next(iter(cells.values()))
    if len(cells) == 1 and not set(first) <= BINARY.keys():
        classes = tuple(sorted(set(first), key=_in_number_order))
        _refuse_odd_classes(classes, columns.targets[0])
        if len(classes) == 2:  # as 0 and 1, so that words give the same numbers
            negative, positive = _in_order(classes, columns)
            note = f"{columns.targets[0]}: {positive!r} counts as 1 and {negative!r} as 0; --negative WORD says which is 0."
            return columns.targets, (first == positive).to_numpy(np.float32)[:, None], False, [note]
        return classes, np.stack([(first == name).to_numpy(np.float32) for name in classes], axis=1), True, []
    for name, texts in cells.items():
        if odd := [text for text in texts if text not in BINARY]:
            raise UserError(f"--target {name}: required 0 or 1 in every row, as there are several targets · got {odd[0]!r}")
    targets = np.stack([texts.map(BINARY).to_numpy(np.float32) for texts in cells.values()], axis=1)
    return columns.targets, targets, False, notes


def refuse_missing(texts: pd.Series, option: str, ids: pd.Series, words: Collection[str] = MISSING) -> None:
    """Refuses words by which programs mean that there is nothing.

    Raises:
        UserError: One is there.
    """
    is_missing = texts.str.lower().isin(words).to_numpy()
    if is_missing.any():
        first = int(is_missing.argmax())
        raise UserError(
            f"{option}: required a value in every row · got {texts.iloc[first]!r}, which means missing, for {ids.iloc[first]} "
            f"({is_missing.sum()} such) · fill it in or remove the row"
        )


def _in_order(words: Sequence[str], columns: LabelColumns) -> tuple[str, str]:
    """Returns two words, first that which means that something is not there: as named, as known, or the first."""
    if columns.negative != NO_FINDING and columns.negative not in words:
        raise UserError(f"--negative: required one of {' and '.join(words)} · got {columns.negative!r}")
    named = (word for word in words if word == columns.negative)
    negative = next(named, next((word for word in words if word.lower() in NEGATIVE_WORDS), words[0]))
    return negative, words[1 - words.index(negative)]


def _separated(cells: dict[str, pd.Series], columns: LabelColumns) -> tuple[tuple[str, ...], np.ndarray]:
    if len(cells) > 1:
        raise UserError(f"--separator: required one --target · got {', '.join(cells)}")
    sets = [{word.strip() for word in text.split(columns.separator)} for text in next(iter(cells.values()))]
    names = tuple(sorted(set().union(*sets) - {columns.negative, ""}))
    if not names:
        raise UserError(f"--target {columns.targets[0]}: required labels · got only {columns.negative!r}")
    return names, np.array([[name in words for name in names] for words in sets], np.float32)


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[+-]?\d+(\.\d*)?", text))


def _in_number_order(text: str) -> tuple[float, str]:
    return float(text) if _is_number(text) else float("inf"), text


def _missing_code(classes: Sequence[str]) -> str:
    """Returns a number far from at least two others that usually stands for a missing one; nothing if there is none."""
    numbers = {float(name): name for name in classes if _is_number(name)}
    others = sorted(numbers.keys() - MISSING_CODES)
    if len(numbers) < len(classes) or len(others) < 2:
        return ""
    odd = [code for code in numbers.keys() & MISSING_CODES if code > 3 * others[-1] or code < min(0, others[0])]
    return numbers[odd[0]] if odd else ""


def _refuse_odd_classes(classes: Sequence[str], column: str) -> None:
    words = [name for name in classes if not _is_number(name)]
    if words and len(words) < len(classes) and {BINARY.get(name) for name in classes} >= {0.0, 1.0}:
        raise UserError(f"--target {column}: required 0 and 1, or words · got 0, 1 and {words[0]!r} · remove such rows")
    if twice := in_two_spellings(classes):
        raise UserError(
            f"--target {column}: required one spelling of every class · got {twice[0][0]!r} and {twice[0][1]!r}, which differ "
            "only by leading zeros, .0, spaces or case · write each in one way"
        )
    if code := _missing_code(classes):
        raise UserError(
            f"--target {column}: required a label in every row · got {code}, by which many mean a missing one · remove such "
            "rows, or write the class as a word"
        )
    if len(classes) > MAX_CLASSES:
        raise UserError(f"--target {column}: required labels, at most {MAX_CLASSES} · got {len(classes)} different values")
    if len(classes) < 2:
        raise UserError(f"--target {column}: required at least two classes · got only {classes[0]!r}")
