"""Output biases at the class frequencies: counting, formulas on hand-made labels, every network, and stock commands."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from small_nets import planned, small_unet, volume
from stock import PHANTOM, Workspace
from stock import REGIONS as REGIONS_DATASET
from torch import nn

from nnunet_dino._errors import UserError
from nnunet_dino.networks.meddinov3 import MedDINOv3
from nnunet_dino.networks.tokens_only import TokensOnly
from nnunet_dino.networks.unet import PLAIN_UNET, RESIDUAL_UNET, build_stock_unet
from nnunet_dino.nnunet.presets import TRAINERS
from nnunet_dino.nnunet.prior import MAX_CASES, RAREST, count_labels, prior_biases, set_output_biases

SOFTMAX = LabelManager({"background": 0, "liver": 1, "spleen": 2}, None)
IGNORE = LabelManager({"background": 0, "liver": 1, "ignore": 2}, None)
REGIONS = LabelManager({"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, [1, 2])
TINY = {"backbone": "dinov3_tiny", "weights": "random"}


class Cases:
    """What nnU-Net's data set offers, in memory."""

    def __init__(self, segmentations: dict[str, np.ndarray]) -> None:
        self.identifiers = list(segmentations)
        self.loaded: list[str] = []
        self._segmentations = segmentations

    def load_case(self, name: str) -> tuple[Any, np.ndarray, None, dict]:
        self.loaded.append(name)
        return None, self._segmentations[name][None], None, {}


def segmentation(**voxels: int) -> np.ndarray:
    """Returns 2 3 4 voxels of which so many have a label: ``_1=5`` five of label 1, ``outside=2`` two outside the mask."""
    values = [-1] * voxels.pop("outside", 0) + [int(name[1:]) for name, number in voxels.items() for _ in range(number)]
    return np.array(values + [0] * (24 - len(values)), np.int8).reshape(2, 3, 4)


def test_voxels_are_counted_over_cases_without_the_ignored_ones() -> None:
    cases = Cases({"b": segmentation(_1=3, outside=2), "a": segmentation(_1=1, _2=7)})
    assert count_labels(cases, IGNORE).tolist() == [21 + 16, 4]
    assert count_labels(cases, SOFTMAX).tolist() == [21 + 16, 4, 7]


def test_many_cases_are_sampled_evenly_and_the_same_whatever_their_order() -> None:
    names = [f"{i:03d}" for i in range(3 * MAX_CASES)]
    forth, back = (Cases({name: segmentation(_1=1) for name in order}) for order in (names, names[::-1]))
    assert count_labels(forth, SOFTMAX).tolist() == count_labels(back, SOFTMAX).tolist()
    assert forth.loaded == back.loaded
    assert len(forth.loaded) == MAX_CASES
    assert (forth.loaded[0], forth.loaded[-1]) == (names[0], names[-1])


def test_a_blank_output_layer_predicts_the_frequencies() -> None:
    softmax = torch.tensor(prior_biases([970, 29, 1], SOFTMAX)).softmax(0)
    assert softmax.tolist() == pytest.approx([0.97, 0.029, 0.001])
    whole, core = torch.tensor(prior_biases([970, 29, 1], REGIONS)).sigmoid().tolist()
    assert (whole, core) == pytest.approx((0.03, 0.001))


def test_absent_and_omnipresent_classes_get_finite_biases() -> None:
    assert torch.tensor(prior_biases([1000, 10, 0], SOFTMAX)).softmax(0)[2].item() == pytest.approx(RAREST, rel=1e-3)
    everywhere, nowhere = torch.tensor(prior_biases([0, 50, 0], REGIONS), dtype=torch.float64).sigmoid().tolist()
    assert (1 - everywhere, nowhere) == pytest.approx((RAREST, RAREST))


def test_cases_without_labelled_voxels_are_refused() -> None:
    with pytest.raises(UserError, match="labelled voxels · got none"):
        prior_biases([0, 0, 0], SOFTMAX)


def networks() -> dict[str, nn.Module]:
    flat = planned(PLAIN_UNET, 2)
    return {
        "stock": build_stock_unet(PLAIN_UNET, 1, 3, True, planned(PLAIN_UNET, 3)),
        "stock residual": build_stock_unet(RESIDUAL_UNET, 1, 3, True, planned(RESIDUAL_UNET, 3)),
        "DINOv3UNet": small_unet(deep_supervision=True),
        "TokensOnly": TokensOnly(1, 3, True, dino={**TINY, "token_stride_px": 16}, **planned(PLAIN_UNET, 3)),
        "MedDINOv3": MedDINOv3(1, 3, False, dino={**TINY, "token_stride_px": 16}, **flat),
    }


@pytest.mark.parametrize("name", ["stock", "stock residual", "DINOv3UNet", "TokensOnly", "MedDINOv3"])
def test_every_output_of_every_network_starts_at_the_biases(name: str) -> None:
    network = networks()[name]
    biases = [0.0, -3.0, -5.0]
    set_output_biases(network, biases)
    for layer in network.decoder.seg_layers:
        nn.init.zeros_(layer.weight)
    outputs = network(volume() if name != "MedDINOv3" else volume()[:, :, 0])
    for logits in outputs if isinstance(outputs, list) else [outputs]:
        assert logits.flatten(2).amax(2)[1].tolist() == pytest.approx(biases)
        assert logits.flatten(2).amin(2)[0].tolist() == pytest.approx(biases)


def test_a_network_whose_outputs_are_elsewhere_is_refused() -> None:
    with pytest.raises(UserError, match="3 output biases in decoder.seg_layers · got Linear"):
        set_output_biases(nn.Linear(2, 3), [0.0, -3.0, -5.0])


def test_short_trainings_start_at_the_frequencies_and_have_a_stock_counterpart() -> None:
    for name, preset in TRAINERS.items():
        starts_there = name.endswith(("_2epochs", "_5epochs", "_50epochs")) or "Prior" in name
        assert preset.prior == (starts_there and not preset.has_affinities), f"{name}: ids of neurons have no frequencies"
    for ending in ("", "_5epochs", "_50epochs"):
        for recipe in ("", "_Adam1en3"):
            ours, stock = TRAINERS[f"nnUNetTrainerDINOv3S{recipe}{ending}"], TRAINERS[f"nnUNetTrainerPrior{recipe}{ending}"]
            assert (stock.recipe, stock.num_epochs, stock.network) == (ours.recipe, ours.num_epochs, None)


# -- through nnU-Net's commands ------------------------------------------------------------------------------------------------


def frequencies(workspace: Workspace, dataset: str) -> np.ndarray:
    """Counts labels in the files of fold 0's training cases."""
    splits = json.loads((workspace.folder / "nnUNet_preprocessed" / dataset / "splits_final.json").read_text())
    files = [workspace.raw(dataset) / "labelsTr" / f"{case}.nii.gz" for case in splits[0]["train"]]
    voxels = np.concatenate([sitk.GetArrayFromImage(sitk.ReadImage(file)).ravel() for file in files])
    return np.bincount(voxels) / len(voxels)


def recorded(workspace: Workspace, dataset: str, trainer: str) -> Any:
    file = workspace.model(dataset, trainer, "3d_fullres") / "fold_0" / "nnunet_dino.json"
    return json.loads(file.read_text())["output_biases"]


@pytest.mark.slow
def test_a_training_starts_at_the_frequencies_of_its_fold_and_continues(planned_phantom: Workspace) -> None:
    trainer = "nnUNetTrainerDINOv3TinyPriorSmoke"
    planned_phantom.train_and_interrupt(PHANTOM, "3d_fullres", 0, trainer)
    started = recorded(planned_phantom, PHANTOM, trainer)
    assert torch.tensor(started).softmax(0).tolist() == pytest.approx(frequencies(planned_phantom, PHANTOM).tolist(), rel=1e-4)
    folder = planned_phantom.model(PHANTOM, trainer, "3d_fullres") / "fold_0"
    interrupted = torch.load(folder / "checkpoint_latest.pth", weights_only=False)["network_weights"]
    output = planned_phantom.train(PHANTOM, "3d_fullres", 0, trainer, "--c")
    assert "Epoch 1" in output
    assert recorded(planned_phantom, PHANTOM, trainer) == started
    for weights in (interrupted, torch.load(folder / "checkpoint_final.pth", weights_only=False)["network_weights"]):
        biases = [weights[key] for key in weights if "seg_layers" in key and key.endswith("bias")]
        assert len(biases) > 1
        assert all(bias.tolist() == pytest.approx(started, abs=0.5) for bias in biases)
    # another start: these weights bring heads of their own, or leave them at nnU-Net's start
    planned_phantom.train(
        PHANTOM, "3d_fullres", 0, "nnUNetTrainerPriorSmoke", "-pretrained_weights", folder / "checkpoint_final.pth"
    )
    assert recorded(planned_phantom, PHANTOM, "nnUNetTrainerPriorSmoke") is None


@pytest.mark.slow
def test_regions_and_an_ignore_label(planned_regions: Workspace) -> None:
    trainer = "nnUNetTrainerPriorSmoke"
    planned_regions.train(REGIONS_DATASET, "3d_fullres", 0, trainer)
    found = frequencies(planned_regions, REGIONS_DATASET)
    known = found[:5] / found[:5].sum()
    regions = [known[1:].sum(), known[3:].sum(), known[4]]
    started = recorded(planned_regions, REGIONS_DATASET, trainer)
    assert torch.tensor(started).sigmoid().tolist() == pytest.approx(regions, rel=1e-4)
    assert (planned_regions.model(REGIONS_DATASET, trainer, "3d_fullres") / "fold_0/checkpoint_final.pth").is_file()
