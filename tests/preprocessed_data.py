"""Plans beside preprocessed cases that tests write themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def planned(folder: Path, patch_px: Sequence[int], spacing_mm: Sequence[float], schemes: Sequence[str]) -> dict[str, Any]:
    """Returns the entry of a configuration whose cases lie in ``folder``."""
    return {
        "data_identifier": folder.name,
        "batch_size": 2,
        "patch_size": list(patch_px),
        "spacing": list(spacing_mm),
        "normalization_schemes": list(schemes),
        "architecture": {"network_class_name": "none", "arch_kwargs": {}},
    }


def write_plans(dataset: Path, configurations: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes ``nnUNetPlans.json`` of a data set into its folder."""
    plans = {
        "plans_name": "nnUNetPlans",
        "dataset_name": dataset.name,
        "transpose_forward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {},
        "configurations": configurations,
    }
    (dataset / "nnUNetPlans.json").write_text(json.dumps(plans))
