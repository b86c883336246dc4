"""The dense probe with few labels, asked again and again while a pretraining runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import torch
from torch import Tensor

from nnunet_dino.backbones.spec import PATCH_PX
from nnunet_dino.pretrain.recipe import Recipe
from nnunet_dino.pretrain.slices import Case
from nnunet_dino.pretrain.step import Engine
from nnunet_dino.pretrain.student import SelfSupervisedViT
from nnunet_dino.probes.dense import DenseProbe
from nnunet_dino.probes.dense_cases import LabelledCases, find_cases
from nnunet_dino.probes.dense_options import DenseOptions

NUM_CASES, NUM_SLICES = 5, 16
METHOD = "linear"


class FewLabelProbe:
    """Ridge regression on the patch tokens of a few labelled cases of fold 0, judged on its validation cases.

    Args:
        datasets: Numbers or names of data sets with labels.
        configuration: Of their plans.
        plans: Name of the plans.
        recipe: Says how slices are shown.

    Raises:
        UserError: A data set is unknown, or has no labels or folds.
    """

    def __init__(self, datasets: Sequence[str], configuration: str, plans: str, recipe: Recipe) -> None:
        options = DenseOptions(
            token_stride_px=recipe.token_stride_px, rgb=recipe.rgb, max_slices=NUM_SLICES, num_rounds=1, seed=0
        )
        found = [find_cases(dataset, configuration, plans, 0, options) for dataset in datasets]
        self.probes = [_probe(cases, options) for cases in found]

    def seen_in_training(self, train: Sequence[Case]) -> list[str]:
        """Returns the cases that judge the probe and are pretrained on as well."""
        titles = {case.title for case in train}
        judges = [f"{probe.cases.dataset}/{case}" for probe in self.probes for case in probe.cases.test]
        return [title for title in judges if title in titles]

    def measure(self, engine: Engine) -> float:
        """Returns the mean average precision of the teacher's patch tokens, over classes and data sets."""
        model: SelfSupervisedViT = engine.teacher

        def patch_maps(images: Tensor) -> Tensor:
            grid = images.shape[2] // PATCH_PX, images.shape[3] // PATCH_PX
            with torch.no_grad(), engine.autocast():
                return model.tokens(images).patches.float().mT.unflatten(2, grid)

        scores = [
            probe(patch_maps, engine.device).score(METHOD, probe.numbers_of_cases[-1]).average_precision.value
            for probe in self.probes
        ]
        return fmean(scores)


def _probe(cases: LabelledCases, options: DenseOptions) -> DenseProbe:
    return DenseProbe(cases, replace(options, sizes=str(min(NUM_CASES, len(cases.training)))))
