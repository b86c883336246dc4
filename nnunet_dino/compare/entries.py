"""One result to compare: where it comes from, its Dice per case and label, its predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from nnunet_dino.compare.facts import Facts


@dataclass(frozen=True, eq=False)
class Entry:
    """One result.

    Attributes:
        name: What the report calls it; unique.
        dice: One row per case (sorted), one column per label key; NaN where Dice is undefined.
        predictions: Folders that may hold the predicted segmentations, one file per case.
        file_ending: Ending of the segmentation files.
        label_names: Name of every label key.
        trainer: Trainer class; empty for a folder of predictions.
        plans: Plans name; empty for a folder.
        configuration: Configuration; empty for a folder.
        folds: Folds that were read, such as ``("0", "1")``; empty for a folder.
        fold_of: Fold of every case, where it is known.
        facts: What training cost.
        source: The folder it was read from.
        notes: What a reader of the report must know about this result.
    """

    name: str
    dice: pd.DataFrame
    predictions: tuple[Path, ...]
    file_ending: str
    label_names: Mapping[str, str]
    source: Path
    trainer: str = ""
    plans: str = ""
    configuration: str = ""
    folds: tuple[str, ...] = ()
    fold_of: Mapping[str, str] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    notes: tuple[str, ...] = ()

    @property
    def identifier(self) -> str:
        """``TRAINER__PLANS__CONFIGURATION``, or the name of a folder."""
        return "__".join((self.trainer, self.plans, self.configuration)) if self.trainer else self.name

    @property
    def cases(self) -> list[str]:
        return list(self.dice.index)

    @property
    def case_means(self) -> pd.Series:
        """Mean Dice of every case over its labels, without undefined ones; NaN for a case without any."""
        return self.dice.mean(axis=1)

    @property
    def foreground_mean(self) -> float:
        """nnU-Net's own summary number: the mean over labels of the mean over cases."""
        return float(self.dice.mean(axis=0).mean(skipna=False))

    def prediction(self, case: str) -> Path | None:
        """Returns the file of the predicted segmentation of ``case``, if there is one."""
        files = (folder / f"{case}{self.file_ending}" for folder in self.predictions)
        return next((file for file in files if file.is_file()), None)

    def restricted_to(self, cases: Sequence[str]) -> Entry:
        """Returns this result with only ``cases``."""
        return replace(self, dice=self.dice.loc[list(cases)])


def with_short_names(entries: Sequence[Entry]) -> list[Entry]:
    """Names results of nnU-Net by their trainer and by the other parts that are not the same for all of them."""
    parts = [(entry.trainer, entry.plans, entry.configuration) for entry in entries]
    varies = [len(set(column)) > 1 for column in zip(*parts, strict=True)]
    varies[0] = True
    shown = [" · ".join(part for part, use in zip(row, varies, strict=True) if use) for row in parts]
    return [replace(entry, name=name) for entry, name in zip(entries, shown, strict=True)]
