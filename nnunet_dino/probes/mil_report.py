"""Attention over bags from features and labels to its report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from nnunet_dino._errors import UserError
from nnunet_dino.features.encoder import pick_device
from nnunet_dino.features.store.reader import FeatureStore
from nnunet_dino.probes.attention_map import attention_pictures
from nnunet_dino.probes.bags import bags_of, read_arrays
from nnunet_dino.probes.cross_validation import BagScores, FoldOptions, train_splits
from nnunet_dino.probes.evaluation import Evaluation, EvaluationOptions, check_parts, evaluate, evaluate_folds, mean_auroc
from nnunet_dino.probes.labels import Labelled, read_labels
from nnunet_dino.probes.mil_training import MilOptions
from nnunet_dino.probes.numbers import check_number
from nnunet_dino.probes.report import compose, write_report
from nnunet_dino.probes.request import Request
from nnunet_dino.probes.result_tables import number
from nnunet_dino.probes.splits import divide, folds
from nnunet_dino.reports import Report, Table, check_folder

ATTENTION = "attention.safetensors"


@dataclass(frozen=True)
class _Repeat:
    """All folds of one cross-validation."""

    evaluation: Evaluation
    thresholds: np.ndarray
    fold_aurocs: np.ndarray
    num_epochs: list[int]

    @property
    def summary(self) -> dict[str, float]:
        known = self.fold_aurocs[np.isfinite(self.fold_aurocs)]
        return {
            "accuracy": self.evaluation.metrics.overall["accuracy"].value,
            "auroc_mean_over_folds": float(known.mean()) if len(known) else float("nan"),
            "auroc_sd_over_folds": float(known.std(ddof=1)) if len(known) > 1 else float("nan"),
            "auroc_pooled": self.evaluation.metrics.overall["auroc"].value,
        }


def report_mil(
    request: Request, options: MilOptions, cross: FoldOptions, num_maps: int = 20, echo: Callable[[str], object] = print
) -> Report:
    """Trains attention over bags, evaluates it and writes the report.

    Args:
        request: What every probe is asked.
        options: How to train.
        cross: Cross-validation, if any.
        num_maps: Slides whose attention is drawn, at most.
        echo: Takes the short report.

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
    trained = train_splits(bags, labelled.classes, num_classes, splits, seeds, options, device, cross.workers)
    if cross.folds:
        scores, attention, extra = _when_test(labelled, trained[: cross.folds])
        groups = [trained[start : start + cross.folds] for start in range(0, len(trained), cross.folds)]
        first, *others = [request.evaluation] + [replace(request.evaluation, num_rounds=1)] * (cross.repeats - 1)
        repeats = [_repeat(labelled, one, evaluation) for one, evaluation in zip(groups, [first, *others], strict=True)]
        labelled = labelled.with_split(np.full(len(bags), "test"))
        evaluations = {"test": repeats[0].evaluation}
        tables = [_repeat_table(repeats), _fold_table(labelled, repeats[0], trained[: cross.folds])]
    else:
        labelled = labelled.with_split(splits[0])
        scores, attention, extra, repeats, tables = _columns(labelled, trained[0]), trained[0].attention, {}, [], []
        evaluations = evaluate(labelled, scores, request.evaluation)
    pictures, notes = attention_pictures(store, labelled.ids, attention, scores[:, -1], num_maps)
    num_epochs = [one.num_epochs for one in trained]
    report = compose(
        request,
        probe="mil",
        what="Attention over bags" + (_pooled_words(cross) if cross.folds else ""),
        title=f"Attention over bags of {store.facts.backbone if store else Path(request.store).name}",
        facts=store.facts if store else None,
        num_failed=len(store.failed) if store else 0,
        labelled=labelled,
        how_split=how_split,
        evaluations=evaluations,
        method=_method(options, num_epochs),
        numbers={
            "options": asdict(options),
            "cross_validation": asdict(cross),
            "repeats": [{**one.summary, "fold_aurocs": one.fold_aurocs.tolist()} for one in repeats],
            "num_epochs": num_epochs,
        },
        warnings=notes,
        sentences=[_words(repeats, cross, len(bags))] if cross.folds else [],
        tables=tables,
        pictures=pictures,
    )
    weights = {name: values.astype(np.float32) for name, values in zip(labelled.ids, attention, strict=True)}
    write_report(echo, request, report, labelled, scores, {ATTENTION: save(weights)}, extra)
    return report


def _bags(request: Request) -> tuple[FeatureStore | None, Sequence[np.ndarray], Labelled]:
    if request.store.endswith(".npz") and not Path(request.store).is_dir():
        if request.columns is not None:
            raise UserError(
                f"--labels: required none with {request.store}, which holds its labels · got {request.columns.file}"
            )
        return None, *read_arrays(Path(request.store))
    columns, store = request.label_columns, FeatureStore(request.store)
    labelled = read_labels(columns, store.good["id"].tolist())
    return store, bags_of(store, labelled.ids, request.features), labelled


def _splits(labelled: Labelled, request: Request, options: MilOptions, cross: FoldOptions) -> tuple[list[np.ndarray], str]:
    """Returns all splits to train with, and how they came about, after finding out whether each will do.

    Raises:
        UserError: A part that training or evaluation needs is missing or has one class only.
    """
    evaluation, splitting = request.evaluation, request.splitting
    if not cross.folds:
        split, how_split = divide(labelled.split, labelled.patients, splitting)
        _check_split(labelled.with_split(split), evaluation, options)
        return [split], how_split
    needs_val = options.patience > 0 or (evaluation.needs_val and not labelled.is_exclusive)
    val_fraction = splitting.val_fraction if needs_val else 0.0
    splits = []
    for seed in range(splitting.seed, splitting.seed + cross.repeats):
        splits += folds(labelled.classes, labelled.patients, cross.folds, seed, val_fraction)
    for split in splits:
        _check_val(labelled.with_split(split), evaluation, options)
    people = [len(set(labelled.patients[split != "test"])) for split in splits]
    held_out = [len(set(labelled.patients[split == "val"])) for split in splits]
    share = f"; {sum(held_out) / sum(people):.0%} of the patients outside test are val in every fold" if val_fraction else ""
    return splits, (
        f"{cross.folds}-fold cross-validation by patient, {cross.repeats} {'time' if cross.repeats == 1 else 'times'}, classes "
        f"divided evenly (seed {splitting.seed}){share}"
    )


def _check_split(labelled: Labelled, evaluation: EvaluationOptions, options: MilOptions) -> None:
    check_parts(labelled, evaluation)
    _check_val(labelled, evaluation, options)


def _check_val(labelled: Labelled, evaluation: EvaluationOptions, options: MilOptions) -> None:
    if "val" in labelled.split:
        return
    if options.patience:
        raise UserError("--patience: required a val part for early stopping · got none · give --val-fraction, or --patience 0")
    if evaluation.needs_val and not labelled.is_exclusive:
        raise UserError(
            f"--threshold {evaluation.rule}: required a val part · got none · give --val-fraction, or --threshold 0.5"
        )


def _columns(labelled: Labelled, trained: BagScores) -> np.ndarray:
    """Returns scores of the labels: of two classes those of the second."""
    return trained.scores if labelled.is_exclusive else trained.scores[:, 1:]


def _when_test(
    labelled: Labelled, trained: Sequence[BagScores]
) -> tuple[np.ndarray, list[np.ndarray], dict[str, Sequence[Any]]]:
    """Returns scores and attention of every bag from the network that had it as test, and which fold that was."""
    fold_of = np.zeros(len(labelled.ids), int)
    for fold, one in enumerate(trained):
        fold_of[one.split == "test"] = fold
    scores = np.array([_columns(labelled, trained[fold])[bag] for bag, fold in enumerate(fold_of)])
    attention = [trained[fold].attention[bag] for bag, fold in enumerate(fold_of)]
    return scores, attention, {"fold": (fold_of + 1).tolist()}


def _repeat(labelled: Labelled, trained: Sequence[BagScores], evaluation: EvaluationOptions) -> _Repeat:
    splits, scores = [one.split for one in trained], [_columns(labelled, one) for one in trained]
    pooled, thresholds = evaluate_folds(labelled, splits, scores, evaluation)
    areas = [
        mean_auroc(labelled.targets[split == "test"], values[split == "test"])
        for split, values in zip(splits, scores, strict=True)
    ]
    return _Repeat(pooled, thresholds, np.array(areas), [one.num_epochs for one in trained])


def _pooled_words(cross: FoldOptions) -> str:
    return ", scores of all folds pooled" + (", first repeat" if cross.repeats > 1 else "")


def _words(repeats: Sequence[_Repeat], cross: FoldOptions, num_bags: int) -> str:
    accuracies = [one.summary["accuracy"] for one in repeats]
    pooled = [one.summary["auroc_pooled"] for one in repeats]
    areas = np.concatenate([one.fold_aurocs for one in repeats])
    known = areas[np.isfinite(areas)]
    how = f"{cross.folds}-fold cross-validation" + (f", {cross.repeats} repeats" if cross.repeats > 1 else "")
    return (
        f"Accuracy {_spread(accuracies, 'repeats')}; AUROC {_spread(known, 'folds')}, mean over folds, and "
        f"{_spread(pooled, 'repeats')} pooled over folds ({how}; {num_bags} bags)."
    )


def _spread(values: Sequence[float] | np.ndarray, unit: str) -> str:
    """Returns ``0.812 ± 0.034 (SD over 10 folds)``."""
    if not len(values):
        return "–"
    return f"{np.mean(values):.3f}" + (
        f" ± {np.std(values, ddof=1):.3f} (SD over {len(values)} {unit})" if len(values) > 1 else ""
    )


def _repeat_table(repeats: Sequence[_Repeat]) -> Table:
    rows = [[str(place), *map(number, one.summary.values())] for place, one in enumerate(repeats, 1)]
    headers = ["Repeat", "Accuracy", "AUROC, mean over folds", "SD over folds", "AUROC, pooled"]
    caption = (
        "Every bag is scored by the network that had it as test. Pooled: all these scores in one ranking, although they come "
        "from different networks; the mean over folds ranks the bags of every fold by themselves."
    )
    return Table("Repeats", headers, rows, caption)


def _fold_table(labelled: Labelled, repeat: _Repeat, trained: Sequence[BagScores]) -> Table:
    """The folds of the first repeat."""
    rows = []
    for fold, one in enumerate(trained):
        test = labelled.targets[one.split == "test"]
        threshold = number(repeat.thresholds[fold, 0])
        positive = [] if labelled.is_exclusive else [str(int(test[:, 0].sum())), threshold]
        rows.append([str(fold + 1), str(len(test)), *positive, number(repeat.fold_aurocs[fold]), str(one.num_epochs)])
    headers = ["Fold", "Test bags", *([] if labelled.is_exclusive else ["Positive", "Threshold"]), "AUROC", "Epochs"]
    return Table("Folds of the first repeat", headers, rows, "– is undefined: one class only in the test part of the fold.")


def _method(options: MilOptions, num_epochs: Sequence[int]) -> str:
    layers = " → ".join(map(str, options.widths)) or "none"
    relu = ", ReLU" if options.relu else ""
    stop = (
        f"at most {options.epochs} epochs, stopped after {options.patience} without a better loss on val but not before "
        f"{options.min_epochs}, best epoch kept"
        if options.patience
        else f"{options.epochs} epochs, the last kept"
    )
    return (
        f"Probe: projection {layers}{relu}, dropout {options.dropout:g}, gated attention of width {options.attention}, linear "
        f"head; cross-entropy, {options.optimizer}, learning rate {options.lr:g}, weight decay {options.weight_decay:g}, "
        f"{options.bags} {'bag' if options.bags == 1 else 'bags'} per step, "
        f"{'classes drawn equally often' if options.balanced else 'every bag once per epoch'}"
        f"{', features standardised by the training bags' if options.standardise else ''}; {stop} (kept: "
        f"{min(num_epochs)} to {max(num_epochs)}), seed {options.seed}."
    )
