"""nnU-Net's ``summary.json``: Dice of every case and label, or scores of neurons, checked while it is read."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import pandas as pd

from nnunet_dino._errors import UserError
from nnunet_dino._nnunet_folders import read_json
from nnunet_dino.em.score_folder import NEURONS, TITLES

REMEDY = "make it again with nnUNetv2_train … --val or nnUNetv2_evaluate_folder, or remove it"


def label_key(label: str | int | list | tuple) -> str:
    """Returns the key of a label or region: ``"1"`` for ``1`` and ``"(1,)"``, ``"1+2"`` for ``[2, 1]`` and ``"(1, 2)"``."""
    if isinstance(label, (list, tuple)):
        values = [int(value) for value in label]
    else:
        values = [int(value) for value in re.findall(r"-?\d+", str(label))]
    if not values:
        raise ValueError(f"required label or tuple of labels · got {label!r}")
    return "+".join(str(value) for value in sorted(values))


def label_values(key: str) -> list[int]:
    """Returns the label values of a key made by :func:`label_key`."""
    return [int(value) for value in key.split("+")]


def case_of(path: str, file_ending: str | None) -> str:
    """Returns the case identifier of a prediction's path, whatever system wrote the path."""
    name = re.split(r"[\\/]", path)[-1]
    endings = ([file_ending] if file_ending else []) + [".nii.gz"]
    for ending in endings:
        if name.endswith(ending):
            return name[: -len(ending)]
    return Path(name).stem


def read_summary(path: Path, file_ending: str | None = None) -> pd.DataFrame:
    """Reads Dice per case and label, or the scores of neurons per case.

    Args:
        path: A ``summary.json`` as nnU-Net's validation and ``nnUNetv2_evaluate_folder`` write it.
        file_ending: Ending of the segmentation files, such as ``.nii.gz``.

    Returns:
        One row per case (index: case identifier, sorted), one column per label or region (:func:`label_key`); NaN where
        nnU-Net wrote NaN (label absent from the reference and from the prediction). Of neurons one column per score.

    Raises:
        UserError: The file cannot be read, is no JSON, lacks parts, repeats a case, or holds a Dice outside [0, 1].
    """
    content = read_json(path, dict, REMEDY)
    try:
        cases = [case_of(e.get("prediction_file") or e["reference_file"], file_ending) for e in content["metric_per_case"]]
        scores = [_scores(entry["metrics"]) for entry in content["metric_per_case"]]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _broken(path, f"is not in nnU-Net's form ({type(error).__name__}: {error})") from error
    if not cases:
        raise _broken(path, "holds no case")
    repeated, labels = sorted(case for case, count in Counter(cases).items() if count > 1), list(scores[0])
    if repeated:
        raise _broken(path, f"holds case {repeated[0]} more than once")
    if not labels:
        raise _broken(path, "holds no label")
    for case, dice in zip(cases, scores, strict=True):
        if list(dice) != labels:
            raise _broken(path, f"has other labels for case {case} than for case {cases[0]}")
        is_neurons = "voi_sum" in dice
        wrong = [value for value in dice.values() if not (math.isnan(value) or 0 <= value <= (math.inf if is_neurons else 1))]
        if wrong:
            what, where = ("score", "below 0") if is_neurons else ("Dice", "outside [0, 1]")
            raise _broken(path, f"has a {what} of {wrong[0]:g} for case {case}, {where}")
    table = pd.DataFrame(scores, index=pd.Index(cases, name="case"), dtype=float)
    return (table if is_neurons else table[sorted(labels, key=label_values)]).sort_index()


def _scores(metrics: dict) -> dict[str, float]:
    """Returns Dice by label, or the scores of neurons by name."""
    if list(metrics) == [NEURONS]:
        return {name: float(metrics[NEURONS][name]) for name in TITLES}
    return {label_key(key): float(values["Dice"]) for key, values in metrics.items()}


def _broken(path: Path, what: str) -> UserError:
    return UserError(f"{path}: required a summary as nnU-Net writes it · got one that {what} · {REMEDY}")
