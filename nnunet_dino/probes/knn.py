"""Nearest neighbours in the space of features, from a store to their report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from nnunet_dino._errors import UserError
from nnunet_dino.probes.evaluation import check_parts, evaluate, mean_auroc
from nnunet_dino.probes.fold_splits import fold_splits
from nnunet_dino.probes.fold_tables import judged
from nnunet_dino.probes.labels import Labelled
from nnunet_dino.probes.options import HALF, NUM_NEIGHBOURS, EvaluationOptions, FoldOptions, KnnOptions, Request
from nnunet_dino.probes.report import open_request, report_scores
from nnunet_dino.probes.result_tables import number
from nnunet_dino.probes.splits import divide
from nnunet_dino.reports import Report, Table

UNIFORM, SOFTMAX = "uniform", "softmax"
WEIGHTINGS = (UNIFORM, SOFTMAX)
QUERIES_AT_ONCE = 1024

Setting = tuple[int, str]


def knn_scores(
    bank: np.ndarray,
    bank_targets: np.ndarray,
    bank_patients: np.ndarray,
    queries: np.ndarray,
    query_patients: np.ndarray,
    num_neighbours: Sequence[int] = NUM_NEIGHBOURS,
    temperature: float = KnnOptions.temperature,
    device: torch.device | None = None,
) -> dict[tuple[int, str], np.ndarray]:
    """Lets the nearest neighbours vote on every label.

    Similarity is the cosine. A neighbour of the same patient has no vote. ``uniform``: every one of the ``k`` counts alike.
    ``softmax``: neighbours count by the softmax of similarity / temperature, taken over the *largest* ``k`` and then cut off
    without being made to add up to 1 again, as DINOv3 does it; scores of small ``k`` are therefore below 1.

    Args:
        bank: Features with known labels, ``m e``.
        bank_targets: ``m c``, 0 or 1.
        bank_patients: ``m``.
        queries: ``n e``.
        query_patients: ``n``.
        num_neighbours: Values of ``k``; those larger than the bank are left out.
        temperature: Of the softmax.
        device: Where to compute; the CPU by default.

    Returns:
        By ``k`` and weighting: scores ``n c``.

    Raises:
        UserError: The bank is smaller than every ``k``, or a query has no neighbour of another patient.

    Source: facebookresearch/dinov3, ``dinov3/eval/knn.py`` at 6876159.
    """
    sizes = sorted({k for k in num_neighbours if 1 <= k <= len(bank)})
    if not sizes:
        raise UserError(
            f"-k: required numbers from 1 to the {len(bank)} training inputs · got {', '.join(map(str, num_neighbours))}"
        )
    device = device or torch.device("cpu")
    people = {name: number for number, name in enumerate(np.unique(np.concatenate([bank_patients, query_patients])))}
    of_bank, of_queries = (torch.tensor([people[p] for p in names], device=device) for names in (bank_patients, query_patients))
    unit_bank, unit_queries = (F.normalize(torch.from_numpy(values).to(device), dim=1) for values in (bank, queries))
    labels = torch.from_numpy(bank_targets).double()  # votes are counted on the CPU: Apple's GPUs have no float64
    scores: dict[tuple[int, str], list[np.ndarray]] = {(k, how): [] for k in sizes for how in WEIGHTINGS}
    may_share = bool(np.isin(query_patients, bank_patients).any())
    for some, whose in zip(unit_queries.split(QUERIES_AT_ONCE), of_queries.split(QUERIES_AT_ONCE), strict=True):
        similarity = some @ unit_bank.T
        if may_share:
            similarity.masked_fill_(whose[:, None] == of_bank[None, :], float("-inf"))
        nearest, places = (found.cpu() for found in similarity.topk(sizes[-1], dim=1))
        may_vote = torch.isfinite(nearest)
        if not may_vote[:, 0].all():
            raise UserError("required a neighbour of another patient for every input · got one without")
        votes = labels[places] * may_vote[..., None]  # n k c
        softmax = (nearest.double() / temperature).softmax(1)
        for k in sizes:
            counted = may_vote[:, :k].sum(1, keepdim=True)
            scores[k, UNIFORM].append((votes[:, :k].sum(1) / counted).numpy())
            scores[k, SOFTMAX].append((votes[:, :k] * softmax[:, :k, None]).sum(1).numpy())
    return {key: np.concatenate(parts) for key, parts in scores.items()}


def report_knn(request: Request, options: KnnOptions, cross: FoldOptions, echo: Callable[[str], object] = print) -> Report:
    """Lets neighbours in the training part vote on every input of the other parts, or so in every fold, and writes the report.

    The setting with the highest mean AUROC on ``val``, of every fold its own, gives the headline; of one split all are listed.

    Raises:
        UserError: The store, the labels or an option cannot be used.
    """
    device, store, labelled, vectors = open_request(request)
    untrained: list[str] = []
    bank = "train"
    if cross.folds:
        splits, how_split = fold_splits(labelled, cross, request.splitting, has_val=True)
    else:
        if options.leave_one_out:
            bank, how_split = "test", "none; every input is asked against those of all other patients"
            splits = [np.full(len(vectors), "test")]
        else:
            split, how_split = divide(labelled.split, labelled.patients, request.splitting)
            splits = [split]
        untrained = check_parts(labelled.with_split(splits[0]), request.evaluation)
    scores, chosen = [], []
    for split in splits:
        found = _scores(labelled, vectors, split == bank, options, device)
        best, chosen_on = _best(labelled.with_split(split), found, request.evaluation)
        scores.append(found[best])
        chosen.append(best)
    neighbours = {"Neighbours": [f"{k} {how}" for k, how in chosen]}
    result = judged(labelled, splits, scores, cross, request.evaluation, how_split, neighbours)
    numbers: dict[str, Any] = {"options": asdict(options)}
    warnings, tables = [], []
    if cross.folds:
        what = "k-NN, k and votes the best on val of every fold"
        numbers |= {"cross_validation": asdict(cross), "repeats": result.numbers}
        numbers["chosen"] = [{"k": k, "votes": how} for k, how in chosen]
    else:
        what = f"k-NN (k = {best[0]}, {best[1]} votes, {chosen_on})"
        numbers["chosen"] = {"k": best[0], "votes": best[1], "how": chosen_on}
        numbers["settings"] = [
            {"k": k, "votes": how, **{f"auroc_{part}": _auroc_on(part, result.labelled, values) for part in ("val", "test")}}
            for (k, how), values in found.items()
        ]
        if left_out := ", ".join(str(k) for k in options.num_neighbours if (k, best[1]) not in found):
            warnings.append(f"Left out, as there are not so many training inputs: k = {left_out}.")
        tables.append(_settings_table(result.labelled, found, request.evaluation))
    return report_scores(
        request,
        store,
        result,
        echo,
        probe="knn",
        what=what,
        title=f"Nearest neighbours with {store.facts.backbone}",
        method=_method(options),
        numbers=numbers,
        untrained=untrained,
        warnings=warnings,
        tables=tables,
    )


def _scores(
    labelled: Labelled, vectors: np.ndarray, bank: np.ndarray, options: KnnOptions, device: torch.device
) -> dict[Setting, np.ndarray]:
    targets, patients = labelled.targets[bank], labelled.patients[bank]
    numbers, temperature = options.num_neighbours, options.temperature
    return knn_scores(vectors[bank], targets, patients, vectors, labelled.patients, numbers, temperature, device)


def _auroc_on(part: str, labelled: Labelled, scores: np.ndarray) -> float:
    here = labelled.split == part
    return mean_auroc(labelled.targets[here], scores[here]) if here.any() else float("nan")


def _best(labelled: Labelled, scores: dict[Setting, np.ndarray], evaluation: EvaluationOptions) -> tuple[Setting, str]:
    """Returns the setting that is best on ``val``; without one, the middle k, never the best on ``test``.

    Softmax votes of a small k are all below 0.5, so they are no choice where 0.5 decides, nor where nothing was chosen.
    """
    uniform = sorted(setting for setting in scores if setting[1] == UNIFORM)
    must_reach_half = evaluation.rule == HALF and not labelled.is_exclusive
    on_val = {setting: _auroc_on("val", labelled, scores[setting]) for setting in (uniform if must_reach_half else scores)}
    known = {setting: area for setting, area in on_val.items() if np.isfinite(area)}
    if not known:
        return uniform[len(uniform) // 2], "not chosen by result"
    return max(known, key=lambda setting: known[setting]), "the best on val" + (
        ", of uniform votes, as others may not reach the threshold 0.5" if must_reach_half else ""
    )


def _settings_table(labelled: Labelled, scores: dict[Setting, np.ndarray], evaluation: EvaluationOptions) -> Table:
    """All settings; with the threshold 0.5 only those whose scores can reach it."""
    names = ("accuracy", "precision", "recall")
    rules = {evaluation.words: replace(evaluation, num_rounds=1)}
    if evaluation.rule != HALF and not labelled.is_exclusive:
        rules["0.5"] = replace(evaluation, rule=HALF, num_rounds=1)
    rows = []
    for (k, how), values in sorted(scores.items(), key=lambda pair: (pair[0][1], pair[0][0])):
        row = [_auroc_on(part, labelled, values) for part in ("val", "test")]
        for options in rules.values():
            overall = evaluate(labelled, values, options)["test"].metrics.overall
            is_fair = options.rule != HALF or how == UNIFORM or labelled.is_exclusive
            row += [overall[name].value if is_fair else np.nan for name in names]
        rows.append([how, str(k), *map(number, row)])
    headers = ["Votes", "k", "AUROC val", "AUROC test", *(f"{name.capitalize()} test" for name in names)]
    caption = "Mean over labels. Accuracy, precision and recall on test: "
    if labelled.is_exclusive:
        caption += "of the class with the highest score."
    else:
        caption += f"with the threshold {' and with '.join(rules)}; – for softmax votes at 0.5, which small k cannot reach."
    headers += [f"{name.capitalize()} at 0.5" for name in names] if len(rules) > 1 else []
    return Table("All settings", headers, rows, caption)


def _method(options: KnnOptions) -> str:
    return (
        "Neighbours: cosine similarity in the training part; every label is voted on by itself; no neighbour from the same "
        f"patient. Softmax votes: weights at temperature {options.temperature:g} over the largest k, cut off at k and not "
        "scaled again, as in DINOv3's evaluation."
    )
