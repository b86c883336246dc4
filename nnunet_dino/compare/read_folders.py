"""Reading folders of predicted segmentations: from their ``summary.json``, or by comparing them with reference labels."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from nnunet_dino._errors import UserError
from nnunet_dino._nnunet_folders import read_json
from nnunet_dino.compare.dataset import in_order, read_dataset_json
from nnunet_dino.compare.kinds import kind_of
from nnunet_dino.compare.records import Entry
from nnunet_dino.compare.segmentations import dice_of, take_to_grid
from nnunet_dino.compare.summary_json import label_values, read_summary
from nnunet_dino.em.score_folder import NEURONS, TITLES, read_ids
from nnunet_dino.em.scores import score_neurons

NUM_THREADS = 2
_RESAMPLED: list[tempfile.TemporaryDirectory] = []  # needed until the report is written; gone with the process


def read_folders(
    folders: Sequence[str | Path],
    *,
    labels_folder: Path | None = None,
    dataset_json: Path | None = None,
    resample: bool = False,
) -> tuple[list[Entry], dict]:
    """Reads or computes Dice, or scores of neurons, of folders of predictions; see :func:`nnunet_dino.compare.compare_folders`.

    Returns:
        The results, and the content of ``dataset.json`` (empty if there is none and none is needed).

    Raises:
        UserError: A folder is missing or empty, has neither summary nor labels, or a file cannot be compared.
    """
    named = _named(folders)
    description = _description([path for _, path in named], labels_folder, dataset_json)
    if labels_folder is not None and not labels_folder.is_dir():
        raise UserError(f"--labels-folder: required a folder of reference segmentations · got {labels_folder} · check the path")
    ending = description.get("file_ending", ".nii.gz")
    entries = []
    for name, path in named:
        files = sorted(path.glob(f"*{ending}"))
        place, moved = path, 0
        if labels_folder is not None:
            _require_references(path, files, labels_folder, ending)
            if resample:
                place, files, moved = _on_grids_of(labels_folder, files)
            table, notes = _computed(name, path, files, labels_folder, description)
            if moved:
                notes += (f"{name}: {moved} predictions lay on another grid than their reference and were taken to it.",)
        else:
            table, notes = _stored(name, path, files, ending)
        dice, names = in_order(table, description)
        entries.append(Entry(name, dice, (place,), ending, names, path, notes=notes))
    return entries, description


def _named(folders: Sequence[str | Path]) -> list[tuple[str, Path]]:
    found = []
    for folder in folders:
        name, separator, path = str(folder).partition("=")
        if not separator or Path(folder).is_dir():
            path = str(folder)
            name = Path(path).resolve().name
        if not Path(path).is_dir():
            raise UserError(f"--folder: required a folder of predictions · got {folder} · check the path")
        found.append((name, Path(path)))
    same = [path for number, (_, path) in enumerate(found) if any(path.samefile(other) for _, other in found[:number])]
    if same:
        raise UserError(f"--folder: required different folders · got {same[0]} twice · leave one out")
    names = [name for name, _ in found]
    if len(set(names)) == len(names):
        return found
    return [(name if names.count(name) == 1 else str(path), path) for name, path in found]


def _description(folders: Sequence[Path], labels_folder: Path | None, dataset_json: Path | None) -> dict:
    if dataset_json is not None:
        return read_dataset_json(dataset_json)
    places = [*folders, *([labels_folder, labels_folder.parent] if labels_folder else [])]
    file = next((place / "dataset.json" for place in places if (place / "dataset.json").is_file()), None)
    if file is not None:
        return read_dataset_json(file)
    if labels_folder is None:
        return {}
    raise UserError(
        f"required the data set's dataset.json (label names, file ending) · got none in {folders[0]} and none beside "
        f"{labels_folder} · give it with --dataset-json"
    )


def _stored(name: str, path: Path, files: Sequence[Path], ending: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    summary = path / "summary.json"
    if not summary.is_file():
        raise UserError(
            f"required reference segmentations or a summary.json · got neither for {path} · give --labels-folder, or run "
            "nnUNetv2_evaluate_folder first"
        )
    table = read_summary(summary, ending)
    what = "Dice" if kind_of(table.columns).headline is None else "VOI and ARAND"
    predicted = {file.name[: -len(ending)] for file in files}
    odd = sorted(predicted ^ set(table.index))
    if predicted and odd:
        raise UserError(
            f"required a summary.json of the predictions beside it · got other cases in {summary} than files in {path} "
            f"({len(odd)} differ, such as {odd[0]}) · give --labels-folder to compute {what} anew"
        )
    if any(file.stat().st_mtime > summary.stat().st_mtime + 1 for file in files):
        return table, (f"{name}: some predictions are newer than {summary}; with --labels-folder {what} computed anew.",)
    return table, (f"{name}: {what} read from {summary}.",)


def _holds_neurons(path: Path) -> bool:
    """Says whether a folder was predicted by an affinity model, or scored by ``nnunet-dino em score``."""
    plans, summary = (read_json(file, dict) if file.is_file() else {} for file in (path / "plans.json", path / "summary.json"))
    return str(plans.get("label_manager", "")).startswith("Affinity") or NEURONS in summary.get("mean", ())


def _neurons_of(labels_folder: Path) -> Callable[[Path], dict[str, float]]:
    """Returns a function that scores the neurons of one predicted file."""

    def scores(file: Path) -> dict[str, float]:
        found = score_neurons(read_ids(labels_folder / file.name), read_ids(file)).as_dict()
        return {name: found[name] for name in TITLES}

    return scores


def _require_references(path: Path, files: Sequence[Path], labels_folder: Path, ending: str) -> None:
    if not files:
        raise UserError(f"required predictions (*{ending}) · got none in {path} · check the path or --dataset-json")
    lost = [file.name for file in files if not (labels_folder / file.name).is_file()]
    if lost:
        raise UserError(
            f"required a reference segmentation for every prediction · got none for {len(lost)} of {len(files)} in {path}, "
            f"such as {lost[0]} · check --labels-folder {labels_folder}"
        )


def _on_grids_of(labels_folder: Path, files: Sequence[Path]) -> tuple[Path, list[Path], int]:
    """Returns a folder of the predictions on the grids of their references, its files, and how many lay on another."""
    _RESAMPLED.append(tempfile.TemporaryDirectory(prefix="nnunet-dino-"))
    folder = Path(_RESAMPLED[-1].name)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        moved = pool.map(lambda file: take_to_grid(file, labels_folder / file.name, folder), files)
        count = sum(tqdm(moved, total=len(files), desc="Resampling", unit="case", disable=None, leave=False))
    return folder, [folder / file.name for file in files], count


def _computed(
    name: str, path: Path, files: Sequence[Path], labels_folder: Path, description: dict
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    ending = description["file_ending"]
    is_neurons = _holds_neurons(path)
    of_file = _neurons_of(labels_folder) if is_neurons else dice_of(labels_folder, description)
    what = "VOI and ARAND" if is_neurons else "Dice"
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        results = pool.map(of_file, files)
        rows = list(tqdm(results, total=len(files), desc=f"{what} of {name}", unit="case", disable=None, leave=False))
    table = pd.DataFrame(rows, index=pd.Index([file.name[: -len(ending)] for file in files], name="case"), dtype=float)
    table = (table if is_neurons else table[sorted(table.columns, key=label_values)]).sort_index()
    unused = len(list(labels_folder.glob(f"*{ending}"))) - len(files)
    notes = (f"{name}: {unused} reference segmentations have no prediction.",) if unused else ()
    return table, (f"{name}: {what} computed from {path} and {labels_folder}.", *notes)
