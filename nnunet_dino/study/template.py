"""A commented ``study.yaml``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import yaml

from nnunet_dino.study.options import SIZES, size_of


def study_yaml(
    datasets: Sequence[str], trainers: Sequence[str], configurations: Sequence[str], folds: str, cases: str, device: str
) -> str:
    """Returns the text of a study; it is read by :func:`nnunet_dino.study.read_study`."""
    sizes = {name: asdict(SIZES[name]) for name in dict.fromkeys(size_of(trainer) for trainer in trainers)}
    if device != "cuda":
        sizes = {name: {**values, "gpus": 0, "cpus": 1} for name, values in sizes.items()}
    resources = "\n".join(f"  {name}: {_inline(values)}" for name, values in sizes.items())
    return f"""\
# A study: every data set × plans × configuration × trainer × fold × number of cases is one training.
# `nnunet-dino study run` in this folder runs it, or goes on with it; `status` and `report` may be asked at any moment.

datasets: {_inline(list(datasets))}  # numbers or full names
trainers: {_inline(list(trainers))}
baseline: {trainers[0]}  # what the others are compared with
configurations: {_inline(list(configurations))}
plans:  # name of plans: planner that makes them, if they are not there
  nnUNetPlans: ExperimentPlanner
folds: [{folds}]

# How many training cases of each fold: numbers and all. Subsets are nested and get split files of their own below subsets/.
cases: [{cases}]
seeds: [0]  # one choice of subsets for each

# Beside nnU-Net's Dice, from the predicted files: dice hd95 nsd@2mm fpv fnv dsc_agg precision recall
metrics: []

# Cases that no training sees, by data set; predicted with all folds and compared.
#   Dataset009_Spleen: {{images: /data/spleen/imagesTs, labels: /data/spleen/labelsTs}}
test_sets: {{}}

device: {device}  # cuda, cpu or mps
ensemble: false  # keep probabilities and look for the best ensemble of trainers

# What a training of each size of network asks of a machine, and rates for the estimate of hours: stated, not measured.
# Logs of earlier trainings come first.
resources:
{resources}
"""


def _inline(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000).strip()
