"""What ``nnunet-dino probe mil`` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save
from tqdm import tqdm

from nnunet_dino._errors import UserError
from nnunet_dino.features.encoder import pick_device
from nnunet_dino.features.store.reader import FeatureStore
from nnunet_dino.probes.attention_map import attention_pictures
from nnunet_dino.probes.auroc import auroc
from nnunet_dino.probes.bags import StoreBags, read_arrays
from nnunet_dino.probes.compose import compose, write_report
from nnunet_dino.probes.evaluation import judge, refuse_single_class
from nnunet_dino.probes.labels import Labelled, read_labels
from nnunet_dino.probes.mil_training import MilOptions, train_mil
from nnunet_dino.probes.prepare import Request, with_parts
from nnunet_dino.probes.result_tables import number
from nnunet_dino.probes.splits import folds
from nnunet_dino.reports import Report, Table, check_folder

ATTENTION = "attention.safetensors"


@dataclass(frozen=True)
class FoldOptions:
    """Cross-validation.

    Attributes:
        folds: Number of parts, each of which is test once; 0 for the split instead.
        repeats: How often, with other parts.
        maps: Slides whose attention is drawn, at most.

    Raises:
        UserError: A value is none of these.
    """

    folds: int = 0
    repeats: int = 1
    maps: int = 20

    def __post_init__(self) -> None:
        if self.folds == 1 or self.folds < 0:
            raise UserError(f"--folds: required 0 or a number from 2 · got {self.folds}")
        if self.repeats < 1 or (self.repeats > 1 and not self.folds):
            raise UserError(f"--repeats: required a number from 1, and --folds with more than 1 · got {self.repeats}")


@dataclass(frozen=True)
class _Round:
    """One pass in which every bag gets a score: a split, or all folds of one cross-validation."""

    labelled: Labelled
    scores: np.ndarray
    attention: list[np.ndarray]
    num_epochs: list[int]


def run(echo: Callable[[str], object], request: Request, options: MilOptions, cross: FoldOptions) -> Report:
    """Trains attention over bags, judges it and writes the report.

    Raises:
        UserError: The bags, the labels or an option cannot be used.
    """
    check_folder(Path(request.output), request.overwrite)
    store, bags, labelled = _bags(request)
    classes = labelled.classes if labelled.is_exclusive else labelled.targets[:, 0].astype(int)
    if len(labelled.names) > 1 and not labelled.is_exclusive:
        raise UserError(f"--target: required one column for bags · got {', '.join(labelled.names)}")
    device = pick_device(request.device)
    if cross.folds:
        val_fraction = request.splitting.val_fraction if options.patience else 0.0
        splits = [
            list(folds(classes, labelled.patients, cross.folds, request.splitting.seed + repeat, val_fraction))
            for repeat in range(cross.repeats)
        ]
        how_split = (
            f"{cross.folds}-fold cross-validation by patient, {cross.repeats} times, classes divided evenly (seed "
            f"{request.splitting.seed}); {val_fraction:.0%} of the training patients of every fold are val"
        )
    else:
        labelled, how_split = with_parts(labelled, request.splitting)
        refuse_single_class(labelled)
        splits = [[labelled.split]]
    rounds = []
    with tqdm(total=sum(map(len, splits)), unit="training", disable=None, leave=False) as bar:
        for some in splits:
            rounds.append(_round(bags, labelled, classes, some, options, device, bar))
    first = rounds[0]
    judged = judge(first.labelled, first.scores, request.judging)
    table = [_repeat_table(rounds, classes)] if cross.folds else []
    pictures, notes = attention_pictures(store, first.labelled.ids, first.attention, first.scores[:, -1], cross.maps)
    num_epochs = [count for one in rounds for count in one.num_epochs]
    report = compose(
        request,
        probe="mil",
        what="Attention over bags" + (", first repeat" if cross.repeats > 1 else ""),
        title=f"Attention over bags of {store.facts.backbone if store else Path(request.store).name}",
        facts=store.facts if store else None,
        num_failed=len(store.failed) if store else 0,
        labelled=first.labelled,
        how_split=how_split,
        judged=judged,
        method=_method(options, num_epochs),
        numbers={
            "options": asdict(options),
            "cross_validation": asdict(cross),
            "repeats": [_summary(one, classes) for one in rounds],
            "num_epochs": num_epochs,
        },
        warnings=notes,
        tables=table,
        pictures=pictures,
    )
    if cross.folds:
        report = replace(report, sentences=[_words(rounds, classes, cross), *report.sentences])
    weights = {name: values.astype(np.float32) for name, values in zip(first.labelled.ids, first.attention, strict=True)}
    write_report(echo, request, report, first.labelled, first.scores, {ATTENTION: save(weights)})
    return report


def _bags(request: Request) -> tuple[FeatureStore | None, Sequence[np.ndarray], Labelled]:
    if request.store.endswith(".npz"):
        if request.columns is not None:
            raise UserError(
                f"--labels: required none with {request.store}, which holds its labels · got {request.columns.file}"
            )
        return None, *read_arrays(Path(request.store))
    if request.columns is None:
        raise UserError(f"--labels: required with --target and --patient for {request.store} · got none")
    store = FeatureStore(request.store)
    labelled = read_labels(request.columns, store.good["id"].tolist())
    return store, StoreBags(store, labelled.ids, request.features), labelled


def _round(
    bags: Sequence[np.ndarray],
    labelled: Labelled,
    classes: np.ndarray,
    splits: Sequence[np.ndarray],
    options: MilOptions,
    device: torch.device,
    bar: tqdm,
) -> _Round:
    """Trains once per split. With several splits every bag is scored by the network that has not seen it."""
    num_classes = max(2, len(labelled.names))
    probabilities = np.zeros((len(bags), num_classes))
    attention: list[np.ndarray] = [np.zeros(0)] * len(bags)
    num_epochs = []
    for number_of_split, split in enumerate(splits):
        train, val = np.flatnonzero(split == "train"), np.flatnonzero(split == "val")
        seeded = replace(options, seed=options.seed + number_of_split)
        trained = train_mil(bags, classes, num_classes, train, val, seeded, device)
        num_epochs.append(trained.num_epochs)
        for position in np.flatnonzero(split == "test") if len(splits) > 1 else range(len(bags)):
            probabilities[position], attention[position] = trained(bags[position])
        bar.update()
    if len(splits) > 1:
        labelled = replace(labelled, split=np.full(len(bags), "test"))
    scores = probabilities if labelled.is_exclusive else probabilities[:, 1:]
    return _Round(labelled, scores, attention, num_epochs)


def _summary(one: _Round, classes: np.ndarray) -> dict[str, float]:
    """Returns accuracy at the highest score and mean AUROC over the test bags of a round."""
    test = one.labelled.split == "test"
    scores, targets = one.scores[test], one.labelled.targets[test]
    found = scores.argmax(1) if one.labelled.is_exclusive else (scores[:, 0] >= 0.5).astype(int)
    areas = [auroc(targets[:, c], scores[:, c]) for c in range(scores.shape[1])]
    return {"accuracy": float((found == classes[test]).mean()), "auroc": float(np.mean(areas))}


def _spread(rounds: Sequence[_Round], classes: np.ndarray, name: str) -> str:
    values = [_summary(one, classes)[name] for one in rounds]
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")


def _words(rounds: Sequence[_Round], classes: np.ndarray, cross: FoldOptions) -> str:
    how = f"{cross.folds}-fold cross-validation" + (
        f", mean ± standard deviation over {cross.repeats} repeats" if cross.repeats > 1 else ""
    )
    accuracy, area = (_spread(rounds, classes, name) for name in ("accuracy", "auroc"))
    return f"Accuracy {accuracy}, AUROC {area} ({how}; {len(classes)} bags)."


def _repeat_table(rounds: Sequence[_Round], classes: np.ndarray) -> Table:
    rows = [[str(place), *(number(value) for value in _summary(one, classes).values())] for place, one in enumerate(rounds, 1)]
    return Table("Repeats", ["Repeat", "Accuracy", "AUROC"], rows, "Of all bags together, each scored when it was test.")


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
