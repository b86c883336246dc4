"""The tables and sentences that every probe's report has."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nnunet_dino.features.store.layout import StoreFacts
from nnunet_dino.features.store.reader import FeatureStore
from nnunet_dino.probes.evaluation import Evaluation
from nnunet_dino.probes.labels import Labelled, count_words
from nnunet_dino.probes.metrics import Estimate
from nnunet_dino.probes.options import HALF, EvaluationOptions
from nnunet_dino.reports import Table

MIN_VAL_PATIENTS = 20
OVERALL = {
    "auroc": "AUROC, mean over labels",
    "accuracy": "Accuracy",
    "subset_accuracy": "Accuracy, all labels right",
    "precision": "Precision, mean over labels",
    "recall": "Recall, mean over labels",
    "micro_precision": "Precision, all decisions",
    "micro_recall": "Recall, all decisions",
    "weighted_precision": "Precision, weighted by frequency",
    "weighted_recall": "Recall, weighted by frequency",
    "average_precision": "Average precision (AUPRC), mean over labels",
    "specificity": "Specificity, mean over labels",
    "balanced_accuracy": "Balanced accuracy",
    "f1": "F1, mean over labels",
    "brier": "Brier score, mean over labels",
}
OF_ONE_LABEL = {
    "auroc": "AUROC",
    "average_precision": "Average precision (AUPRC)",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "precision": "Precision",
    "recall": "Recall, sensitivity",
    "specificity": "Specificity",
    "f1": "F1",
    "brier": "Brier score",
}


def number(value: float) -> str:
    """Returns a number with three digits, or a dash where it is undefined."""
    return f"{value:.3f}" if math.isfinite(value) else "–"


def with_interval(estimate: Estimate) -> str:
    """Returns ``0.712 [0.650, 0.770]``."""
    if not math.isfinite(estimate.low):
        return number(estimate.value)
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def overall_table(evaluations: dict[str, Evaluation], options: EvaluationOptions, labelled: Labelled) -> Table:
    """All overall measures, one column per part."""
    parts = [part for part in ("test", "val") if part in evaluations]
    names = OF_ONE_LABEL if len(labelled.names) == 1 else OVERALL
    rows = [[words, *(with_interval(evaluations[part].metrics.overall[key]) for part in parts)] for key, words in names.items()]
    if len(labelled.names) == 1:
        rows += _counts([evaluations[part] for part in parts])
    caption = "In brackets: 95 % intervals from drawing patients with replacement."
    if labelled.is_exclusive:
        caption += " Accuracy, precision and recall: of the class with the highest score."
    else:
        caption += f" Threshold of accuracy, precision and recall: {options.words}."
    return Table("Result", ["Measure", *parts], rows, caption, in_terminal=True)


def _counts(evaluations: Sequence[Evaluation]) -> list[list[str]]:
    """Rows of a single label: how many have it, where the threshold lies, and what was found."""
    metrics = [one.metrics for one in evaluations]
    labels = [one.labels[0] for one in metrics]
    prevalence = [
        f"{label.num_positive} of {one.num} ({label.num_positive / one.num:.0%})"
        for label, one in zip(labels, metrics, strict=True)
    ]
    names = ("Found, has it", "Found, has it not", "Missed", "Not found, has it not")
    return [
        ["Has it", *prevalence],
        ["Threshold", *(number(label.threshold) for label in labels)],
        *([name, *(str(label.confusion[cell]) for label in labels)] for cell, name in enumerate(names)),
    ]


def label_table(evaluation: Evaluation) -> Table:
    """All measures of every label."""
    measures = ("accuracy", "precision", "recall", "specificity", "f1", "average_precision")
    rows = []
    for label in evaluation.metrics.labels:
        positive, area = f"{label.num_positive} of {evaluation.metrics.num}", with_interval(label.auroc)
        values = [label.threshold, *(getattr(label, name).value for name in measures)]
        rows.append([label.name, positive, area, *map(number, values)])
    headers = ["Label", "Positive", "AUROC", "Threshold", "Accuracy", "Precision", "Recall", "Specificity", "F1", "AUPRC"]
    caption = "– is undefined: a label that all inputs have, or none, has no AUROC; exclusive classes have no threshold."
    return Table(f"Labels on {evaluation.part}", headers, rows, caption)


def confusion_table(evaluation: Evaluation) -> Table:
    """How often every exclusive class was found as which."""
    names, size = [label.name for label in evaluation.metrics.labels], len(evaluation.metrics.labels)
    counts = np.zeros((size, size), int)
    np.add.at(counts, (evaluation.targets.argmax(1), evaluation.scores.argmax(1)), 1)
    rows = [[name, *map(str, row)] for name, row in zip(names, counts.tolist(), strict=True)]
    caption = "Rows: the class that inputs have; columns: the class with the highest score."
    return Table(f"Confusion on {evaluation.part}", ["Is", *(f"found {name}" for name in names)], rows, caption)


def headline(what: str, evaluation: Evaluation) -> str:
    """Returns the result in one sentence."""
    metrics = evaluation.metrics
    name = (
        metrics.labels[0].name
        if len(metrics.labels) == 1
        else f"mean of {len(metrics.labels) - len(metrics.single_class)} labels"
    )
    return (
        f"{what}: AUROC {with_interval(metrics.overall['auroc'])} on {evaluation.part} ({name}; {metrics.num} inputs of "
        f"{metrics.num_patients} patients)."
    )


def store_warnings(store: FeatureStore, labelled: Labelled) -> list[str]:
    """Returns what must be known of the features."""
    warnings = []
    if store.facts.weights_are_random:
        warnings.append("The backbone's weights are random. The numbers say nothing about DINOv3.")
    if len(store.failed):
        warnings.append(f"{len(store.failed)} inputs could not be read when features were extracted; they are left out.")
    if labelled.num_without_features:
        warnings.append(f"{labelled.num_without_features} rows of the label file name inputs that the store has nothing for.")
    if labelled.num_without_labels:
        warnings.append(f"{labelled.num_without_labels} inputs of the store have no row in the label file; they are left out.")
    return warnings


def result_warnings(evaluations: dict[str, Evaluation], options: EvaluationOptions, untrained: Sequence[str] = ()) -> list[str]:
    """Returns what must be known of the numbers."""
    warnings = []
    if options.tuned_on == "test" and options.rule != HALF:
        warnings.append(
            "Paper-style thresholds: they were chosen on the test part itself, so accuracy, precision and recall flatter."
        )
    if untrained:
        warnings.append(f"Only one class in the training part, so nothing was learned of: {listed(untrained)}.")
    for one in evaluations.values():
        if one.metrics.single_class:
            count = len(one.metrics.single_class)
            warnings.append(
                f"{one.part}: {count} left out of the mean AUROC, with one class only: {listed(one.metrics.single_class)}."
            )
    few = evaluations["val"].metrics.num_patients if "val" in evaluations else MIN_VAL_PATIENTS
    if few < MIN_VAL_PATIENTS:
        people = "1 patient" if few == 1 else f"{few} patients"
        warnings.append(
            f"val has {people} only: what was chosen there (thresholds, k, epochs), and its numbers, are little more "
            "than chance. Think of --folds."
        )
    if evaluations["test"].untuned:
        warnings.append(f"Threshold 0.5, as {options.tuned_on} has one class only: {listed(evaluations['test'].untuned)}.")
    return warnings


def listed(names: Sequence[str]) -> str:
    """Returns names with commas; of many, the first twenty."""
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def method_of_features(facts: StoreFacts, features: str) -> str:
    """Returns how the features came about."""
    pixels = facts.preprocessing
    window = pixels["window"] if not pixels["window_low_high"] else f"{pixels['window']} ({pixels['window_low_high']})"
    weights = "random weights" if facts.weights_are_random else f"weights with digest {facts.weights[:12]}"
    what = {"class": "class token", "mean": "mean of the patch tokens", "both": "class token and mean of the patch tokens"}[
        features
    ]
    planes = f", every {pixels['every']}. {pixels['plane']} slice" if facts.kind == "volumes" else ""
    return (
        f"Features: {what} of the last block of {facts.backbone} ({weights}, frozen, {facts.precision}); {facts.kind} shown as "
        f"{pixels['size_px']} px squares ({pixels['fit']}), intensities {window}{planes}."
        + (f" Licence of the weights: {facts.licence}." if facts.licence else "")
    )


def method_of_split(labelled: Labelled) -> str:
    """Returns how the parts came about."""
    people = {part: len(set(labelled.patients[labelled.split == part])) for part in ("train", "val", "test")}
    shown = ", ".join(f"{part} {count}" for part, count in people.items() if count)
    inputs = count_words(labelled.split.tolist())
    return f"Split: {labelled.how_split}. Inputs: {inputs}; patients: {shown}; no patient is in two parts."


METHOD_OF_METRICS = (
    "AUROC: area under the ROC curve, ties count half; the mean leaves out labels with one class. Precision of a label that is "
    "never found is 0. Intervals: percentile bootstrap over patients."
)
