"""Attention over bags from features and labels to its report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from nnunet_dino._errors import UserError
from nnunet_dino.features.encoder import pick_device
from nnunet_dino.features.store.layout import FACTS
from nnunet_dino.features.store.reader import FeatureStore
from nnunet_dino.probes.attention_map import ATTENTION, attention_pictures
from nnunet_dino.probes.bags import bags_of, file_bags, read_arrays
from nnunet_dino.probes.cross_validation import expected_duration, train_splits
from nnunet_dino.probes.evaluation import check_parts
from nnunet_dino.probes.fold_splits import fold_splits
from nnunet_dino.probes.fold_tables import judged
from nnunet_dino.probes.given import bag_files, refuse_no_store
from nnunet_dino.probes.labels import Labelled, read_labels
from nnunet_dino.probes.options import (
    AGGREGATORS,
    MAX,
    MEAN,
    EvaluationOptions,
    FoldOptions,
    MilFolds,
    MilOptions,
    Request,
    check_number,
)
from nnunet_dino.probes.report import report_scores
from nnunet_dino.probes.saved import FILES, MIL, numbered, probe_file, saved_probe
from nnunet_dino.probes.splits import divide
from nnunet_dino.reports import Report, check_folder


def report_mil(
    request: Request, options: MilOptions, cross: MilFolds, num_maps: int = 20, echo: Callable[[str], object] = print
) -> Report:
    """Trains attention over bags, evaluates it, draws it on ``num_maps`` slides at most, and writes the report.

    Raises:
        UserError: The bags, the labels or an option cannot be used.
    """
    check_number("--maps", num_maps, least=0)
    check_folder(Path(request.output), request.overwrite)
    device = pick_device(request.device)
    store, bags, labelled = _bags(request)
    if len(labelled.names) > 1 and not labelled.is_exclusive:
        raise UserError(f"--target: required one column for bags · got {', '.join(labelled.names)}")
    splits, how_split = _splits(labelled, request, options, cross)
    num_classes = max(2, len(labelled.names))
    seeds = list(range(cross.folds)) * cross.repeats if cross.folds else [0]
    echo(expected_duration(bags, labelled.classes, num_classes, splits, options, device, cross.workers))
    trained = train_splits(bags, labelled.classes, num_classes, splits, seeds, options, device, cross.workers)
    scores = [one.scores if labelled.is_exclusive else one.scores[:, 1:] for one in trained]  # of two classes the second
    num_epochs, num_passes = ([getattr(one.trained, name) for one in trained] for name in ("num_epochs", "num_passes"))
    found = judged(labelled, splits, scores, cross, request.evaluation, how_split, {"Epochs": list(map(str, num_epochs))})
    attention = trained[0].attention
    if cross.folds:
        attention = [trained[fold - 1].attention[bag] for bag, fold in enumerate(found.fold_of)]
    pictures, notes = attention_pictures(
        store, labelled.ids, attention, found.scores, labelled.names, options.aggregator, num_maps
    )
    weights = {name: values.astype(np.float32) for name, values in zip(labelled.ids, attention, strict=True)}
    files = {ATTENTION: save(weights)}
    if store is not None:
        saved = saved_probe(MIL, found, request.features, store.facts, options.network)
        files[FILES[MIL]] = probe_file(saved, numbered(one.trained.tensors for one in trained[: cross.folds or 1]))
    return report_scores(
        request,
        store,
        found,
        echo,
        probe="mil",
        what="Attention over bags",
        title=f"Attention over bags of {store.facts.backbone if store else Path(request.store).name}",
        method=_method(options, num_epochs, num_passes),
        numbers={
            "options": asdict(options),
            "cross_validation": asdict(cross),
            "repeats": found.numbers,
            "num_epochs": num_epochs,
            "num_passes": num_passes,
        },
        warnings=[*notes, *_at_the_limit(options, num_passes)],
        pictures=pictures,
        files=files,
    )


def _bags(request: Request) -> tuple[FeatureStore | None, Sequence[np.ndarray], Labelled]:
    if request.store.endswith(".npz") and not Path(request.store).is_dir():
        if request.columns is not None:
            raise UserError(
                f"--labels: required none with {request.store}, which holds its labels · got {request.columns.file}"
            )
        return None, *read_arrays(Path(request.store))
    columns = request.label_columns
    if not Path(request.store, FACTS).exists() and (files := bag_files(Path(request.store))):
        labelled = read_labels(columns, list(files))
        return None, file_bags([files[name] for name in labelled.ids]), labelled
    refuse_no_store(Path(request.store), "a folder of .h5 files or an .npz file")
    store = FeatureStore(request.store)
    labelled = read_labels(columns, store.good["id"].tolist()).with_notes(store.notes)
    return store, bags_of(store, labelled.ids, request.features), labelled


def _splits(labelled: Labelled, request: Request, options: MilOptions, cross: FoldOptions) -> tuple[list[np.ndarray], str]:
    """Returns all splits to train with, and how they came about, after finding out whether each will do.

    Raises:
        UserError: A part that training or evaluation needs is missing or has one class only.
    """
    evaluation, splitting = request.evaluation, request.splitting
    is_tuned_on_val = evaluation.needs_val and not labelled.is_exclusive
    if not cross.folds:
        split, how_split = divide(labelled.split, labelled.patients, splitting)
        check_parts(labelled.with_split(split), evaluation)
        _check_val(split, is_tuned_on_val, evaluation, options)
        return [split], how_split
    splits, how_split = fold_splits(labelled, cross, splitting, has_val=bool(options.patience) or is_tuned_on_val)
    for split in splits:
        _check_val(split, is_tuned_on_val, evaluation, options)
    return splits, how_split


def _check_val(split: np.ndarray, is_tuned_on_val: bool, evaluation: EvaluationOptions, options: MilOptions) -> None:
    if "val" not in split and (options.patience or is_tuned_on_val):
        option, other = (
            ("--patience", "--patience 0") if options.patience else (f"--threshold {evaluation.rule}", "--threshold 0.5")
        )
        raise UserError(f"{option}: required a val part · got none · give --val-fraction, or {other}")


def _at_the_limit(options: MilOptions, num_passes: Sequence[int]) -> list[str]:
    """Says how many trainings were ended by the largest number of epochs and not for want of progress."""
    count = num_passes.count(options.epochs)
    if not count or not options.patience:
        return []
    return [
        f"{count} of {len(num_passes)} trainings ended at the limit of {options.epochs} epochs, not by convergence: --epochs."
    ]


def _method(options: MilOptions, num_epochs: Sequence[int], num_passes: Sequence[int]) -> str:
    layers = " → ".join(map(str, options.widths)) or "none"
    relu = ", ReLU" if options.relu else ""
    stop = (
        f"at most {options.epochs} epochs, stopped after {options.patience} without a better loss on val but not before "
        f"{options.min_epochs}, best epoch kept"
        if options.patience
        else f"{options.epochs} epochs, the last kept"
    )
    limited = num_passes.count(options.epochs)
    ends = f"ended by convergence: {len(num_epochs) - limited}, by the limit: {limited}"
    pool = AGGREGATORS[options.aggregator]
    pool += "" if options.aggregator in (MEAN, MAX) else f", width {options.attention}"
    return (
        f"Probe: projection {layers}{relu}, dropout {options.dropout:g}, {pool}, linear head; "
        f"cross-entropy, {options.optimizer}, learning rate {options.lr:g}, weight decay {options.weight_decay:g}, "
        f"{options.bags} {'bag' if options.bags == 1 else 'bags'} per step, "
        f"{'classes drawn equally often' if options.balanced else 'every bag once per epoch'}"
        f"{', features standardised by the training bags' if options.standardise else ''}; {stop} (kept: "
        f"{min(num_epochs)} to {max(num_epochs)}; trainings {ends}), seed {options.seed}."
    )
