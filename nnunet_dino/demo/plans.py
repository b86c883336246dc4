"""A small configuration for nnU-Net's plans, so that a training takes minutes on two processor cores."""

from __future__ import annotations

import copy
import json
from pathlib import Path

BASE = "3d_fullres"
CONFIGURATION = "3d_demo"
SMALLER = 4
PATCH_SIZE = (12, 48, 48)


def add_demo_configuration(plans_file: Path) -> None:
    """Adds ``3d_demo`` to plans: ``3d_fullres`` with a quarter of the features and a smaller patch.

    nnU-Net's plans are meant to be edited like this; the new configuration inherits from the old one and shares its
    preprocessed data. The patch nnU-Net plans holds a whole phantom, so that rotated patches would mostly show its padding.
    """
    plans = json.loads(plans_file.read_text(encoding="utf-8"))
    architecture = copy.deepcopy(plans["configurations"][BASE]["architecture"])
    arguments = architecture["arch_kwargs"]
    arguments["features_per_stage"] = [features // SMALLER for features in arguments["features_per_stage"]]
    plans["configurations"][CONFIGURATION] = {
        "inherits_from": BASE,
        "patch_size": list(PATCH_SIZE),
        "architecture": architecture,
    }
    plans_file.write_text(json.dumps(plans, indent=4) + "\n", encoding="utf-8")
