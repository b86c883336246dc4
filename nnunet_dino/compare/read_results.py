"""Reading what nnU-Net's training and validation left below ``$nnUNet_results``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from nnunet_dino._errors import UserError, nearest
from nnunet_dino._nnunet_folders import existing_folder
from nnunet_dino.compare.dataset import in_order, read_dataset_json
from nnunet_dino.compare.facts import CHECKPOINTS, read_facts
from nnunet_dino.compare.records import Entry
from nnunet_dino.compare.summary_json import read_summary

MERGED = "crossval_results_folds_"


def read_results(
    folder: Path,
    *,
    trainers: Sequence[str] = (),
    plans: Sequence[str] = (),
    configurations: Sequence[str] = (),
    folds: Sequence[str] = (),
) -> list[Entry]:
    """Reads the validation results of all ``TRAINER__PLANS__CONFIGURATION`` folders of a data set's results.

    Empty filters take all; empty ``folds`` all numbered ones, or ``all`` where it is the only one.

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
                raise UserError(
                    f"{option}: required a name that has results · got {name!r}{nearest(name, known)} · {folder} has "
                    f"{', '.join(known)}"
                )
        models = [path for path in models if not wanted or path.name.split("__")[position] in wanted]
    _check_folds(folds, models)
    entries, unread = [], []
    for model in tqdm(models, desc="Reading results", unit="result", disable=None, leave=False):
        entry, missing = _read_model(model, folds)
        entries += [entry] if entry else []
        unread += [] if entry else missing
    if not entries:
        raise _nothing(folder, models, unread)
    return _with_short_names(entries)


def _read_model(model: Path, wanted: Sequence[str]) -> tuple[Entry | None, list[str]]:
    """Reads one ``TRAINER__PLANS__CONFIGURATION`` folder; returns also why folds are left out."""
    description = dataset_json_of(model)
    ending = description.get("file_ending", ".nii.gz")
    folders = _fold_folders(model, wanted)
    summaries = {fold: folder / "validation" / "summary.json" for fold, folder in folders.items()}
    tables = {fold: read_summary(file, ending) for fold, file in summaries.items() if file.is_file()}
    fold_of: dict[str, str] = {}
    for fold, table in tables.items():
        _check_overlap(model, fold, table, fold_of)
        fold_of |= dict.fromkeys(table.index, fold)
    table = pd.concat(tables.values()) if tables else None
    table, folds, merged, notes = _with_cross_validation(model, wanted, table, list(tables), ending)
    missing = [_why_missing(model.name, fold, folder) for fold, folder in folders.items() if fold not in folds]
    if table is None:
        return None, missing
    if folds == ["all"]:
        missing.append(
            f"{model.name}: fold “all” trains on every case, so that these scores are of training cases. They say little about "
            "new cases."
        )
    trainer, plans, configuration = model.name.split("__")
    used = [folder for fold, folder in folders.items() if fold in folds]
    facts = read_facts(used)
    dice, names = in_order(table.sort_index(), description)
    entry = Entry(
        name=model.name,
        dice=dice,
        predictions=(*(folder / "validation" for folder in used), *merged),
        file_ending=ending,
        label_names=names,
        source=model,
        trainer=trainer,
        plans=plans,
        configuration=configuration,
        folds=tuple(folds),
        fold_of=fold_of,
        facts=facts,
        notes=(*notes, *missing, *(f"{model.name}: {note}" for note in facts.notes)),
    )
    return entry, []


def dataset_json_of(model: Path) -> dict:
    """Returns the data set's description that nnU-Net stores beside the model, or the original one, or nothing."""
    roots = [root / model.parent.name for root in map(existing_folder, ("nnUNet_preprocessed", "nnUNet_raw")) if root]
    files = (folder / "dataset.json" for folder in (model, *roots))
    return next((read_dataset_json(file) for file in files if file.is_file()), {})


def _fold_folders(model: Path, wanted: Sequence[str]) -> dict[str, Path]:
    found = {path.name.removeprefix("fold_"): path for path in model.glob("fold_*") if path.is_dir()}
    numbered = sorted((fold for fold in found if fold.isdigit()), key=int)
    return {fold: found[fold] for fold in (wanted or numbered or ["all"]) if fold in found}


def _check_overlap(model: Path, fold: str, table: pd.DataFrame, fold_of: dict[str, str]) -> None:
    twice = next((case for case in table.index if case in fold_of), None)
    if twice is not None:
        raise UserError(
            f"required every case in one fold only · got case {twice} in fold {fold_of[twice]} and fold {fold} of {model} · "
            f"choose folds that share no case, for example --folds {fold_of[twice]}"
        )


def _with_cross_validation(
    model: Path, wanted: Sequence[str], table: pd.DataFrame | None, folds: list[str], ending: str
) -> tuple[pd.DataFrame | None, list[str], list[Path], list[str]]:
    """Takes cases of folds without a summary of their own from ``crossval_results_folds_*``; checks the others.

    Returns:
        All cases, the folds that they are of, the folders that cases were taken from, and what a reader must know of it.
    """
    used, notes = [], []
    for merged in sorted(model.glob(f"{MERGED}*"), key=lambda path: -len(path.name)):
        covered = merged.name.removeprefix(MERGED).split("_")
        if not (merged / "summary.json").is_file() or (wanted and not set(covered) <= set(wanted)):
            continue
        summary = read_summary(merged / "summary.json", ending)
        if table is not None and not _agree(summary, table):
            notes.append(
                f"{model.name}: {merged.name}/summary.json does not agree with the folds' own summaries (it is older, or was "
                "postprocessed). The folds' own are used."
            )
        if set(covered) <= set(folds):
            continue
        table = summary if table is None else pd.concat([table, summary.loc[summary.index.difference(table.index)]])
        folds = sorted({*folds, *covered}, key=lambda fold: (len(fold), fold))
        used.append(merged)
    return table, folds, used, notes


def _agree(summary: pd.DataFrame, table: pd.DataFrame) -> bool:
    shared = summary.index.intersection(table.index)
    return set(summary.columns) == set(table.columns) and np.allclose(
        summary.loc[shared, table.columns], table.loc[shared], atol=1e-6, equal_nan=True
    )


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


def _with_short_names(entries: Sequence[Entry]) -> list[Entry]:
    """Names results by their trainer and by the other parts that are not the same for all of them."""
    parts = [(entry.trainer, entry.plans, entry.configuration) for entry in entries]
    varies = [True, *(len({part[position] for part in parts}) > 1 for position in (1, 2))]
    shown = [" · ".join(part for part, use in zip(row, varies, strict=True) if use) for row in parts]
    return [replace(entry, name=name) for entry, name in zip(entries, shown, strict=True)]


def _check_folds(folds: Sequence[str], models: Iterable[Path]) -> None:
    known = {path.name.removeprefix("fold_") for model in models for path in model.glob("fold_*")}
    known |= {fold for model in models for path in model.glob(f"{MERGED}*") for fold in path.name.split("_")[3:]}
    for fold in folds:
        if not re.fullmatch(r"\d+|all", fold):
            raise UserError(f"--folds: required numbers or 'all' · got {fold!r} · for example --folds 0,1")
        if known and fold not in known:
            raise UserError(f"--folds: required one that was trained · got {fold} · there are {', '.join(sorted(known))}")


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
