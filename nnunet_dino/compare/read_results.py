"""Reading what nnU-Net's training and validation left below ``$nnUNet_results``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from nnunet_dino._errors import UserError, nearest
from nnunet_dino._nnunet_folders import existing_folder
from nnunet_dino.compare.entries import Entry, with_short_names
from nnunet_dino.compare.facts import CHECKPOINTS, read_facts
from nnunet_dino.compare.paths import label_names, read_dataset_json
from nnunet_dino.compare.summary_json import read_summary

FOLD_ALL_NOTE = (
    "{name}: fold “all” trains on every case, so that these scores are of training cases. They say little about new cases."
)


def read_results(
    folder: Path,
    *,
    trainers: Sequence[str] = (),
    plans: Sequence[str] = (),
    configurations: Sequence[str] = (),
    folds: Sequence[str] = (),
) -> list[Entry]:
    """Reads the validation results of all ``TRAINER__PLANS__CONFIGURATION`` folders of a data set.

    Args:
        folder: ``$nnUNet_results/DatasetXXX_NAME``.
        trainers: Only these trainers; empty for all.
        plans: Only these plans.
        configurations: Only these configurations.
        folds: Only these folds (numbers, or ``all``); empty for all numbered folds, or ``all`` where it is the only one.

    Returns:
        Results sorted by name, with every part of the name that varies in it.

    Raises:
        UserError: A filter names nothing that exists, nothing was found, or a summary is broken.
    """
    models = [path for path in sorted(folder.glob("*__*__*")) if path.is_dir() and len(path.name.split("__")) == 3]
    filters = (("--trainer", trainers), ("--plans", plans), ("--configuration", configurations))
    for position, (option, wanted) in enumerate(filters):
        known = sorted({path.name.split("__")[position] for path in models})
        for name in wanted if models else ():
            if name not in known:
                raise _unknown(option, name, known, folder)
        models = [path for path in models if not wanted or path.name.split("__")[position] in wanted]
    _check_folds(folds, models)
    entries, unread = [], []
    for model in tqdm(models, desc="Reading results", unit="result", disable=None, leave=False):
        reader = _ModelReader(model, folds)
        entry = reader.read()
        entries += [entry] if entry else []
        unread += [] if entry else reader.missing
    if not entries:
        raise _nothing(folder, models, unread)
    return with_short_names(entries)


class _ModelReader:
    """Reads one ``TRAINER__PLANS__CONFIGURATION`` folder."""

    def __init__(self, model: Path, folds: Sequence[str]) -> None:
        self.model = model
        self.wanted = folds
        self.dataset_json = _dataset_json(model)
        self.file_ending = self.dataset_json.get("file_ending", ".nii.gz")
        self.tables: dict[str, pd.DataFrame] = {}
        self.missing: list[str] = []
        self.notes: list[str] = []

    def read(self) -> Entry | None:
        fold_folders = self._fold_folders()
        for fold, folder in fold_folders.items():
            summary = folder / "validation" / "summary.json"
            if summary.is_file():
                self.tables[fold] = read_summary(summary, self.file_ending)
            else:
                self.missing.append(_why_missing(self.model.name, fold, folder))
        self._check_overlap()
        table = pd.concat(self.tables.values()) if self.tables else None
        fold_of = {case: fold for fold, part in self.tables.items() for case in part.index}
        table, merged, folds = self._add_cross_validation(table, fold_folders)
        if table is None:
            return None
        self.notes += self.missing
        if folds == ["all"]:
            self.notes.append(FOLD_ALL_NOTE.format(name=self.model.name))
        trainer, plans, configuration = self.model.name.split("__")
        used = [folder for fold, folder in fold_folders.items() if fold in folds]
        facts = read_facts(used)
        names = label_names(self.dataset_json) if "labels" in self.dataset_json else {}
        return Entry(
            name=self.model.name,
            dice=_in_order(table, names),
            predictions=(*(folder / "validation" for folder in used), *merged),
            file_ending=self.file_ending,
            label_names={key: names.get(key, f"label {key}") for key in table.columns},
            source=self.model,
            trainer=trainer,
            plans=plans,
            configuration=configuration,
            folds=tuple(folds),
            fold_of=fold_of,
            facts=facts,
            notes=(*self.notes, *(f"{self.model.name}: {note}" for note in facts.notes)),
        )

    def _fold_folders(self) -> dict[str, Path]:
        found = {path.name.removeprefix("fold_"): path for path in self.model.glob("fold_*") if path.is_dir()}
        numbered = sorted((fold for fold in found if fold.isdigit()), key=int)
        if self.wanted:
            return {fold: found[fold] for fold in self.wanted if fold in found}
        return {fold: found[fold] for fold in (numbered or (["all"] if "all" in found else []))}

    def _check_overlap(self) -> None:
        seen: dict[str, str] = {}
        for fold, table in self.tables.items():
            for case in table.index:
                if case in seen:
                    raise UserError(
                        f"required every case in one fold only · got case {case} in fold {seen[case]} and fold {fold} of "
                        f"{self.model} · choose folds that share no case, for example --folds {seen[case]}"
                    )
                seen[case] = fold

    def _add_cross_validation(
        self, table: pd.DataFrame | None, fold_folders: dict[str, Path]
    ) -> tuple[pd.DataFrame | None, list[Path], list[str]]:
        """Takes cases of folds without a summary of their own from ``crossval_results_folds_*``; checks the others."""
        folds, used = list(self.tables), []
        for merged in sorted(self.model.glob("crossval_results_folds_*"), key=lambda path: -len(path.name)):
            covered = merged.name.removeprefix("crossval_results_folds_").split("_")
            if not (merged / "summary.json").is_file() or (self.wanted and not set(covered) <= set(self.wanted)):
                continue
            summary = read_summary(merged / "summary.json", self.file_ending)
            if table is not None:
                self._check_against(merged, summary, table)
            if set(covered) <= set(folds):
                continue
            new = summary if table is None else summary.loc[summary.index.difference(table.index)]
            table = pd.concat([part for part in (table, new) if part is not None])
            self.missing = [note for note in self.missing if not any(f" fold {fold} " in note for fold in covered)]
            folds = sorted({*folds, *covered}, key=lambda fold: (len(fold), fold))
            used.append(merged)
        return table, used, folds

    def _check_against(self, merged: Path, summary: pd.DataFrame, table: pd.DataFrame) -> None:
        shared = summary.index.intersection(table.index)
        same_labels = set(summary.columns) == set(table.columns)
        if same_labels and np.allclose(summary.loc[shared, table.columns], table.loc[shared], atol=1e-6, equal_nan=True):
            return
        self.notes.append(
            f"{self.model.name}: {merged.name}/summary.json does not agree with the folds' own summaries (it is older, or was "
            "postprocessed). The folds' own are used."
        )


def _in_order(table: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """Sorts the cases, and the labels as the data set lists them."""
    order = [key for key in names if key in table.columns]
    return table[order + [key for key in table.columns if key not in order]].sort_index()


def _dataset_json(model: Path) -> dict:
    """Returns the data set's description that nnU-Net stores beside the model, or the original one, or nothing."""
    roots = [root / model.parent.name for root in map(existing_folder, ("nnUNet_preprocessed", "nnUNet_raw")) if root]
    files = (folder / "dataset.json" for folder in (model, *roots))
    return next((read_dataset_json(file) for file in files if file.is_file()), {})


def _why_missing(name: str, fold: str, folder: Path) -> str:
    trainer, plans, configuration = name.split("__")
    command = f"nnUNetv2_train {folder.parent.parent.name} {configuration} {fold} -tr {trainer} -p {plans}"
    if (folder / CHECKPOINTS[0]).is_file():
        state = f"is trained but not validated; `{command} --val` does it"
    elif any((folder / checkpoint).is_file() for checkpoint in CHECKPOINTS[1:]):
        state = f"is not trained to the end; `{command} --c` goes on"
    else:
        state = "holds no checkpoint and no validation"
    return f"{name}: fold {fold} {state}. It is left out."


def _check_folds(folds: Sequence[str], models: Iterable[Path]) -> None:
    for fold in folds:
        if not re.fullmatch(r"\d+|all", fold):
            raise UserError(f"--folds: required numbers or 'all' · got {fold!r} · for example --folds 0,1")
    known = {path.name.removeprefix("fold_") for model in models for path in model.glob("fold_*")}
    merged = {fold for model in models for path in model.glob("crossval_results_folds_*") for fold in path.name.split("_")[3:]}
    for fold in folds:
        if (known | merged) and fold not in known | merged:
            have = ", ".join(sorted(known | merged))
            raise UserError(f"--folds: required one that was trained · got {fold} · there are {have}")


def _unknown(option: str, name: str, known: list[str], folder: Path) -> UserError:
    return UserError(
        f"{option}: required a name that has results · got {name!r}{nearest(name, known)} · {folder} has {', '.join(known)}"
    )


def _nothing(folder: Path, models: list[Path], unread: list[str]) -> UserError:
    number = (re.match(r"Dataset0*(\d+)", folder.name) or [None, "ID"])[1]
    if unread:
        more = f" (and {len(unread) - 1} more)" if len(unread) > 1 else ""
        return UserError(f"required validated folds · got none below {folder}: {unread[0]}{more}")
    what = "no TRAINER__PLANS__CONFIGURATION folder with folds" if not models else "no fold that was asked for"
    return UserError(
        f"required results of nnU-Net · got {what} in {folder} · `nnUNetv2_train {number} 3d_fullres 0` and "
        f"`nnUNetv2_train {number} 3d_fullres 0 -tr nnUNetTrainerDINOv3S` make them (validation runs at the end)"
    )
