"""A comparison as CSV: one table of results, one of cases."""

from __future__ import annotations

import pandas as pd

from nnunet_dino.compare.comparison import Comparison
from nnunet_dino.compare.entries import Entry

MEAN = "mean"


def summary_csv(comparison: Comparison) -> str:
    """One row per result and label, and one for the mean Dice per case; empty cells are unknown or undefined."""
    rows = [_row(comparison, entry, key) for entry in comparison.entries for key in (MEAN, *entry.dice.columns)]
    table = pd.DataFrame(rows)
    whole = [name for name in table.columns if name.startswith("num_") or name.endswith("_bytes")]
    return table.astype(dict.fromkeys(whole, "Int64")).to_csv(index=False, lineterminator="\n")


def cases_csv(comparison: Comparison) -> str:
    """One row per result, case and label, and one for the case's mean; an empty Dice is undefined."""
    parts = []
    for entry in comparison.entries:
        table = entry.dice.assign(**{MEAN: entry.case_means})
        long = table.rename_axis("case").reset_index().melt("case", var_name="label", value_name="dice")
        long.insert(0, "result", entry.name)
        long.insert(3, "label_name", [comparison.label_names.get(key, MEAN) for key in long["label"]])
        long.insert(4, "fold", [entry.fold_of.get(case, "") for case in long["case"]])
        parts.append(long)
    return pd.concat(parts).to_csv(index=False, lineterminator="\n")


def _row(comparison: Comparison, entry: Entry, key: str) -> dict:
    scores = entry.case_means if key == MEAN else entry.dice[key]
    row = {
        "result": entry.name,
        "trainer": entry.trainer,
        "plans": entry.plans,
        "configuration": entry.configuration,
        "folds": " ".join(entry.folds),
        "label": key,
        "label_name": comparison.label_names.get(key, MEAN),
        "num_cases": len(scores),
        "num_undefined": int(scores.isna().sum()),
        "dice_mean": scores.mean(),
        "dice_sd": scores.std(),
        "nnunet_foreground_mean": entry.foreground_mean,
    }
    pair, facts = comparison.pair_of(entry), entry.facts
    difference = None if pair is None else pair.mean if key == MEAN else pair.classes[key]
    row["baseline"] = pair.baseline.name if pair else ""
    for name in ("mean", "low", "high", "num_pairs", "num_better", "num_worse", "num_equal", "p_holm"):
        column = {"mean": "difference", "low": "ci95_low", "high": "ci95_high"}.get(name, name)
        row[column] = getattr(difference, name, None)
    row |= (
        {"p": difference.test.p, "p_method": difference.test.method or difference.test.reason}
        if difference
        else {"p": None, "p_method": None}
    )
    return row | {
        "num_params_total": facts.num_params_total,
        "num_params_trained": facts.num_params_trained,
        "checkpoint_bytes": facts.checkpoint_bytes,
        "epoch_s": facts.epoch_s,
        "num_epochs": facts.num_epochs,
        "num_iterations": facts.num_iterations,
        "device": facts.device,
        "backbone": facts.backbone,
        "adaptation": facts.adaptation,
        "weights": facts.weights,
    }
