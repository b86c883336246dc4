"""Attention over bags from features and labels to its report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from nnunet_dino._errors import UserError
from nnunet_dino.features.encoder import pick_device
from nnunet_dino.features.store.reader import FeatureStore
from nnunet_dino.probes.attention_map import attention_pictures
from nnunet_dino.probes.bags import bags_of, read_arrays
from nnunet_dino.probes.cross_validation import train_splits
from nnunet_dino.probes.evaluation import check_parts, evaluate
from nnunet_dino.probes.fold_tables import fold_sentence, fold_table, label_scores, repeat_table, summarise, when_test
from nnunet_dino.probes.labels import Labelled, read_labels
from nnunet_dino.probes.options import EvaluationOptions, FoldOptions, MilOptions, Request, check_number
from nnunet_dino.probes.report import report_scores
from nnunet_dino.probes.splits import divide, folds
from nnunet_dino.reports import Report, check_folder

ATTENTION = "attention.safetensors"


def report_mil(
    request: Request, options: MilOptions, cross: FoldOptions, num_maps: int = 20, echo: Callable[[str], object] = print
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
    trained = train_splits(bags, labelled.classes, num_classes, splits, seeds, options, device, cross.workers)
    what, repeats, tables, columns = "Attention over bags", [], [], {}
    if cross.folds:
        labelled = labelled.with_split(np.full(len(bags), "test"), how_split)
        what += ", scores of all folds pooled" + (", first repeat" if cross.repeats > 1 else "")
        scores, attention, columns["fold"] = when_test(labelled, trained[: cross.folds])
        groups = [trained[start : start + cross.folds] for start in range(0, len(trained), cross.folds)]
        repeats = [summarise(labelled, one, request.evaluation) for one in groups]
        evaluations = {"test": repeats[0].evaluation}
        tables = [repeat_table(repeats), fold_table(labelled, repeats[0], trained[: cross.folds])]
    else:
        labelled = labelled.with_split(splits[0], how_split)
        scores, attention = label_scores(labelled, trained[0]), trained[0].attention
        evaluations = evaluate(labelled, scores, request.evaluation)
    pictures, notes = attention_pictures(store, labelled.ids, attention, scores[:, -1], num_maps)
    num_epochs = [one.num_epochs for one in trained]
    weights = {name: values.astype(np.float32) for name, values in zip(labelled.ids, attention, strict=True)}
    return report_scores(
        request,
        store,
        labelled,
        scores,
        evaluations,
        echo,
        probe="mil",
        what=what,
        title=f"Attention over bags of {store.facts.backbone if store else Path(request.store).name}",
        method=_method(options, num_epochs),
        numbers={
            "options": asdict(options),
            "cross_validation": asdict(cross),
            "repeats": [{**one.summary, "fold_aurocs": one.fold_aurocs.tolist()} for one in repeats],
            "num_epochs": num_epochs,
        },
        warnings=notes,
        sentences=[fold_sentence(repeats, cross, len(bags))] if cross.folds else [],
        tables=tables,
        pictures=pictures,
        files={ATTENTION: save(weights)},
        columns=columns,
    )


def _bags(request: Request) -> tuple[FeatureStore | None, Sequence[np.ndarray], Labelled]:
    if request.store.endswith(".npz") and not Path(request.store).is_dir():
        if request.columns is not None:
            raise UserError(
                f"--labels: required none with {request.store}, which holds its labels · got {request.columns.file}"
            )
        return None, *read_arrays(Path(request.store))
    columns, store = request.label_columns, FeatureStore(request.store)
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
    val_fraction = splitting.val_fraction if options.patience or is_tuned_on_val else 0.0
    splits = []
    for seed in range(splitting.seed, splitting.seed + cross.repeats):
        splits += folds(labelled.classes, labelled.patients, cross.folds, seed, val_fraction)
    for split in splits:
        _check_val(split, is_tuned_on_val, evaluation, options)
    people = [len(set(labelled.patients[split != "test"])) for split in splits]
    held_out = [len(set(labelled.patients[split == "val"])) for split in splits]
    share = f"; {sum(held_out) / sum(people):.0%} of the patients outside test are val in every fold" if val_fraction else ""
    return splits, (
        f"{cross.folds}-fold cross-validation by patient, {cross.repeats} {'time' if cross.repeats == 1 else 'times'}, classes "
        f"divided evenly (seed {splitting.seed}){share}"
    )


def _check_val(split: np.ndarray, is_tuned_on_val: bool, evaluation: EvaluationOptions, options: MilOptions) -> None:
    if "val" not in split and (options.patience or is_tuned_on_val):
        option, other = (
            ("--patience", "--patience 0") if options.patience else (f"--threshold {evaluation.rule}", "--threshold 0.5")
        )
        raise UserError(f"{option}: required a val part · got none · give --val-fraction, or {other}")


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
