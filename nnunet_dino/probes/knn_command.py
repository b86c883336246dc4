"""What ``nnunet-dino probe knn`` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from nnunet_dino._errors import UserError
from nnunet_dino.features.encoder import pick_device
from nnunet_dino.features.store.reader import FeatureStore
from nnunet_dino.probes.auroc import auroc
from nnunet_dino.probes.compose import compose, write_report
from nnunet_dino.probes.evaluation import Judging, judge, refuse_single_class
from nnunet_dino.probes.knn import KnnOptions, knn_scores
from nnunet_dino.probes.labels import Labelled
from nnunet_dino.probes.prepare import Request, labelled_vectors, with_parts
from nnunet_dino.probes.result_tables import number
from nnunet_dino.probes.thresholds import HALF
from nnunet_dino.reports import Report, Table, check_folder

Setting = tuple[int, str]


def run(echo: Callable[[str], object], request: Request, options: KnnOptions) -> Report:
    """Lets neighbours in the training part vote on every input of the other parts, and writes the report.

    The setting with the highest mean AUROC on ``val`` gives the headline; all are listed.

    Raises:
        UserError: The store, the labels or an option cannot be used.
    """
    check_folder(Path(request.output), request.overwrite)
    store = FeatureStore(request.store)
    labelled, vectors = labelled_vectors(store, request.columns, request.features)
    labelled, how_split, bank, untrained = _parts(labelled, request, options)
    scores = knn_scores(
        vectors[bank],
        labelled.targets[bank],
        labelled.patients[bank],
        vectors,
        labelled.patients,
        options.num_neighbours,
        options.temperature,
        pick_device(request.device),
    )
    best, chosen_on = _best(labelled, scores)
    left_out = [k for k in options.num_neighbours if (k, best[1]) not in scores]
    report = compose(
        request,
        probe="knn",
        what=f"k-NN (k = {best[0]}, {best[1]} votes, {chosen_on})",
        title=f"Nearest neighbours with {store.facts.backbone}",
        facts=store.facts,
        num_failed=len(store.failed),
        labelled=labelled,
        how_split=how_split,
        judged=judge(labelled, scores[best], request.judging),
        method=_method(options),
        numbers={
            "options": asdict(options),
            "chosen": {"k": best[0], "votes": best[1], "how": chosen_on},
            "settings": [
                {"k": k, "votes": how, **{f"auroc_{part}": mean_auroc(labelled, values, part) for part in ("val", "test")}}
                for (k, how), values in scores.items()
            ],
        },
        untrained=untrained,
        warnings=[f"Left out, as there are not so many training inputs: k = {', '.join(map(str, left_out))}."]
        if left_out
        else [],
        tables=[_settings_table(labelled, scores, request.judging)],
    )
    write_report(echo, request, report, labelled, scores[best])
    return report


def _parts(labelled: Labelled, request: Request, options: KnnOptions) -> tuple[Labelled, str, np.ndarray, list[str]]:
    """Returns labels with parts, how these came about, who votes, and labels that nobody can vote on."""
    if not options.leave_one_out:
        labelled, how_split = with_parts(labelled, request.splitting)
        return labelled, how_split, labelled.split == "train", refuse_single_class(labelled)
    if request.judging.rule != HALF and request.judging.tuned_on != "test":
        raise UserError("--leave-one-out: required a threshold that needs no val part · got val · add --threshold 0.5")
    everything = replace(labelled, split=np.full(len(labelled.ids), "test"))
    return everything, "none; every input is asked against those of all other patients", np.ones(len(labelled.ids), bool), []


def mean_auroc(labelled: Labelled, scores: np.ndarray, part: str) -> float:
    """Returns the mean AUROC over labels that have both classes in a part; NaN if there is none."""
    here = labelled.split == part
    areas = [auroc(labelled.targets[here, c], scores[here, c]) for c in range(len(labelled.names))] if here.any() else []
    known = [area for area in areas if np.isfinite(area)]
    return float(np.mean(known)) if known else float("nan")


def _best(labelled: Labelled, scores: dict[Setting, np.ndarray]) -> tuple[Setting, str]:
    """Returns the setting that is best on ``val``; without one, the middle of the list, never the best on ``test``."""
    on_val = {setting: mean_auroc(labelled, values, "val") for setting, values in scores.items()}
    known = {setting: area for setting, area in on_val.items() if np.isfinite(area)}
    if known:
        return max(known, key=known.get), "the best on val"
    settings = sorted(scores)
    return settings[len(settings) // 2], "not chosen by result"


def _settings_table(labelled: Labelled, scores: dict[Setting, np.ndarray], judging: Judging) -> Table:
    rows = []
    for (k, how), values in sorted(scores.items(), key=lambda pair: (pair[0][1], pair[0][0])):
        metrics = judge(labelled, values, replace(judging, num_rounds=1))["test"].metrics.overall
        half = judge(labelled, values, replace(judging, rule=HALF, num_rounds=1))["test"].metrics.overall
        measures = [metrics[name].value for name in ("accuracy", "precision", "recall")]
        at_half = [half[name].value for name in ("accuracy", "precision", "recall")]
        areas = [mean_auroc(labelled, values, part) for part in ("val", "test")]
        rows.append([how, str(k), *(number(value) for value in (*areas, *measures, *at_half))])
    named = ("Accuracy", "Precision", "Recall")
    headers = [
        "Votes",
        "k",
        "AUROC val",
        "AUROC test",
        *(f"{name} test" for name in named),
        *(f"{name} at 0.5" for name in named),
    ]
    caption = f"Mean over labels. Accuracy, precision and recall on test, with the threshold {judging.words} and with 0.5."
    return Table("All settings", headers, rows, caption)


def _method(options: KnnOptions) -> str:
    return (
        "Neighbours: cosine similarity in the training part; every label is voted on by itself; no neighbour from the same "
        f"patient. Softmax votes: weights at temperature {options.temperature:g} over the largest k, cut off at k and not "
        "scaled again, as in DINOv3's evaluation."
    )
