"""A comparison as CSV: one table of results, one of cases."""

from __future__ import annotations

import pandas as pd

from nnunet_dino.compare.records import Comparison, Entry

MEAN = "mean"
COUNTS = ("num_pairs", "num_better", "num_worse", "num_equal")
OF_TRAINING = (
    *("num_params_total", "num_params_trained", "checkpoint_bytes", "epoch_s", "num_epochs", "num_iterations"),
    *("device", "backbone", "adaptation", "weights"),
)


def summary_csv(comparison: Comparison) -> str:
    """One row per result and label (of neurons: score), and one for what stands for a case; an empty cell is unknown."""
    rows = [_row(comparison, entry, key) for entry in comparison.entries for key in (MEAN, *entry.dice.columns)]
    table = pd.DataFrame(rows)
    whole = [name for name in table.columns if name.startswith("num_") or name.endswith("_bytes")]
    return table.astype(dict.fromkeys(whole, "Int64")).to_csv(index=False, lineterminator="\n")


def cases_csv(comparison: Comparison) -> str:
    """One row per result, case and label (of neurons: score), and one for the case's mean; an empty Dice is undefined."""
    parts = []
    for entry in comparison.entries:
        table = entry.dice.assign(**{MEAN: entry.case_means})
        long = table.rename_axis("case").reset_index().melt("case", var_name="label", value_name=entry.kind.csv)
        long.insert(0, "result", entry.name)
        long.insert(3, "label_name", [comparison.label_names.get(key, MEAN) for key in long["label"]])
        long.insert(4, "fold", [entry.fold_of.get(case, "") for case in long["case"]])
        parts.append(long)
    return pd.concat(parts).to_csv(index=False, lineterminator="\n")


def _row(comparison: Comparison, entry: Entry, key: str) -> dict:
    scores = entry.case_means if key == MEAN else entry.dice[key]
    pair = comparison.pair_of(entry)
    difference = None if pair is None else pair.mean if key == MEAN else pair.classes[key]
    test = difference.test if difference else None
    return {
        "result": entry.name,
        "trainer": entry.trainer,
        "plans": entry.plans,
        "configuration": entry.configuration,
        "folds": " ".join(entry.folds),
        "label": key,
        "label_name": comparison.label_names.get(key, MEAN),
        "num_cases": len(scores),
        "num_undefined": int(scores.isna().sum()),
        f"{entry.kind.csv}_mean": scores.mean(),
        f"{entry.kind.csv}_sd": scores.std(),
        "nnunet_foreground_mean": entry.foreground_mean,
        "baseline": pair.baseline.name if pair else "",
        "difference": difference.mean if difference else None,
        "ci95_low": difference.low if difference else None,
        "ci95_high": difference.high if difference else None,
        **{name: getattr(difference, name, None) for name in (*COUNTS, "p_holm")},
        "p": test.p if test else None,
        "p_method": test.method or test.reason if test else None,
        **{name: getattr(entry.facts, name) for name in OF_TRAINING},
    }
