"""nnU-Net's own commands from planning to a shared model, with our trainer, on small phantoms and on the processor."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import SimpleITK as sitk
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from stock import NUM_TEST, NUM_TRAINING, OURS, PHANTOM, REGIONS, SHAPE, Workspace, weights

from nnunet_dino.backbones.catalogue import get_spec
from nnunet_dino.demo.phantom import LABELS

pytestmark = pytest.mark.slow

STOCK, DINOV2 = "nnUNetTrainerSmoke", "nnUNetTrainerDINOv2TinySmoke"
BACKBONE = "slice_encoder.backbone."


def array(file: Path) -> NDArray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def probabilities(file: Path) -> NDArray:
    with np.load(file) as content:
        return content["probabilities"]


def assert_segmentations_of_test_images(folder: Path, workspace: Workspace, dataset: str, labels: set[int]) -> None:
    """Asserts one segmentation per test image, in the image's space and with known labels only."""
    images = sorted((workspace.raw(dataset) / "imagesTs").glob("*_0000.nii.gz"))
    assert len(images) == NUM_TEST
    for file in images:
        image, segmentation = sitk.ReadImage(str(file)), sitk.ReadImage(str(folder / file.name.replace("_0000", "")))
        assert segmentation.GetSize() == image.GetSize() == SHAPE[::-1]
        for fact in ("GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(segmentation, fact)() == pytest.approx(getattr(image, fact)())
        assert set(np.unique(sitk.GetArrayFromImage(segmentation)).tolist()) <= labels


# -- one fold: interrupted, continued, validated again, predicted, shared ------------------------------------------------------


@pytest.fixture(scope="module")
def stock_fold(planned_phantom: Workspace) -> Path:
    """Fold 0 of stock nnU-Net."""
    planned_phantom.train(PHANTOM, "3d_fullres", 0, STOCK)
    return planned_phantom.model(PHANTOM, STOCK, "3d_fullres") / "fold_0"


@pytest.fixture(scope="module")
def our_prediction(planned_phantom: Workspace, our_fold, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test images, predicted with probabilities."""
    output = tmp_path_factory.mktemp("prediction") / "ours"
    planned_phantom.predict(PHANTOM, "3d_fullres", OURS, output, "--save_probabilities", really=True)
    return output


def test_an_interrupted_training_continues_where_it_stopped(our_fold) -> None:
    folder, _, output = our_fold
    assert "Epoch 1" in output
    assert "Epoch 0" not in output
    checkpoint = torch.load(folder / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    assert checkpoint["current_epoch"] == 2
    assert checkpoint["trainer_name"] == OURS
    assert len(checkpoint["logging"]["train_losses"]) == 2


def test_training_changes_the_network_and_leaves_the_frozen_backbone(our_fold) -> None:
    folder, before, _ = our_fold
    after = weights(folder / "checkpoint_final.pth")
    assert before.keys() == after.keys()
    frozen = {key for key in before if key.startswith(BACKBONE)}
    assert frozen
    unchanged = {key for key in before if torch.equal(before[key], after[key])}
    assert frozen <= unchanged
    assert {key.split(".")[0] for key in before.keys() - unchanged} == {
        "encoder",
        "decoder",
        "neck",
        "injections",
        "token_head",
    }


def test_validation_can_be_repeated(planned_phantom: Workspace, our_fold) -> None:
    folder = our_fold[0]
    before = planned_phantom.summary(PHANTOM, OURS, "3d_fullres", 0)
    cases = sorted(folder.glob("validation/*.nii.gz"))
    assert len(cases) == len(before["metric_per_case"]) == 2
    for file in (folder / "validation").iterdir():
        file.unlink()
    planned_phantom.train(PHANTOM, "3d_fullres", 0, OURS, "--val", "--npz")
    assert planned_phantom.summary(PHANTOM, OURS, "3d_fullres", 0) == before
    for file in cases:
        chances = probabilities(file.with_name(file.name.replace(".nii.gz", ".npz")))
        assert chances.shape == (len(LABELS), *SHAPE)
        np.testing.assert_allclose(chances.astype(np.float64).sum(0), 1, atol=2e-3)
        np.testing.assert_array_equal(chances.argmax(0), array(file))


def test_new_volumes_are_segmented_in_their_own_space(planned_phantom: Workspace, our_prediction: Path) -> None:
    assert_segmentations_of_test_images(our_prediction, planned_phantom, PHANTOM, set(LABELS.values()))


def test_a_zip_installed_elsewhere_predicts_the_same(planned_phantom: Workspace, our_prediction: Path, tmp_path: Path) -> None:
    archive = tmp_path / "model.zip"
    planned_phantom.run("nnUNetv2_export_model_to_zip", "-d", 801, "-o", archive, "-c", "3d_fullres", "-f", 0, "-tr", OURS)
    elsewhere = Workspace(tmp_path / "elsewhere")
    elsewhere.run("nnUNetv2_install_pretrained_model_from_zip", archive)
    elsewhere.raw(PHANTOM).symlink_to(planned_phantom.raw(PHANTOM))
    elsewhere.predict(PHANTOM, "3d_fullres", OURS, tmp_path / "prediction")
    files = sorted(our_prediction.glob("*.nii.gz"))
    assert len(files) == NUM_TEST
    for file in files:
        np.testing.assert_array_equal(array(tmp_path / "prediction" / file.name), array(file))


PREDICT_AS = """
import os, sys
import matplotlib.pyplot, nnunetv2.run.run_training, peft, torch
import nnunet_dino.networks, nnunet_dino.nnunet.trainer
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
model, user, output = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if user:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
predictor = nnUNetPredictor(tile_step_size=1, use_mirroring=False, device=torch.device("cpu"), verbose=False)
predictor.initialize_from_trained_model_folder(model, (0,), "checkpoint_final.pth")
generator = torch.Generator().manual_seed(0)
volume = torch.randn(1, 8, 40, 48, generator=generator).numpy()
labels = predictor.predict_single_npy_array(volume, {"spacing": [3.0, 1.0, 1.0]})
sys.stdout.flush()
open(output, "wb").write(labels.tobytes())
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may become somebody else")
def test_an_exported_model_runs_as_an_unknown_user_without_home_or_cache(planned_phantom: Workspace, our_fold) -> None:
    """As in a container that is started with another user's number: nobody's home, a cache that may not be looked at."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        model = planned_phantom.model(PHANTOM, OURS, "3d_fullres")
        planned_phantom.run("nnunet-dino", "export", model, "-o", folder / "model.zip")
        shutil.unpack_archive(folder / "model.zip", folder / "zip")
        (plans,) = (folder / "zip").rglob("plans.json")
        plans.parent.rename(folder / "model")
        (folder / "cache").mkdir(mode=0o700)
        (folder / "out").mkdir()
        folder.chmod(0o755)
        for path in (folder / "model").rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        (folder / "out").chmod(0o777)
        settings = {name: value for name, value in planned_phantom.environment.items() if name == "nnUNet_extTrainer"}
        settings |= {"OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"], "XDG_CACHE_HOME": str(folder / "cache")}
        for user in (0, 54321):
            command = [sys.executable, "-c", PREDICT_AS, folder / "model", str(user), folder / "out" / str(user)]
            done = subprocess.run(command, env=settings, cwd=folder, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-3000:]
        assert (folder / "out" / "0").read_bytes() == (folder / "out" / "54321").read_bytes()


def test_an_ensemble_with_stock_is_the_mean_of_both(
    planned_phantom: Workspace, stock_fold: Path, our_prediction: Path, tmp_path: Path
) -> None:
    planned_phantom.predict(PHANTOM, "3d_fullres", STOCK, tmp_path / "stock", "--save_probabilities")
    planned_phantom.run("nnUNetv2_ensemble", "-i", our_prediction, tmp_path / "stock", "-o", tmp_path / "both", "-np", 1)
    files = sorted((tmp_path / "both").glob("*.nii.gz"))
    assert len(files) == NUM_TEST
    for file in files:
        name = file.name.replace(".nii.gz", ".npz")
        mean = (probabilities(our_prediction / name).astype(np.float32) + probabilities(tmp_path / "stock" / name)) / 2
        np.testing.assert_array_equal(array(file), mean.argmax(0))


def test_a_stock_checkpoint_starts_the_convolutional_part(planned_phantom: Workspace, stock_fold: Path) -> None:
    checkpoint = stock_fold / "checkpoint_final.pth"
    output = planned_phantom.train(PHANTOM, "3d_fullres", 1, OURS, "-pretrained_weights", checkpoint)
    given, trained = (
        weights(checkpoint),
        weights(planned_phantom.model(PHANTOM, OURS, "3d_fullres") / "fold_1/checkpoint_final.pth"),
    )
    shared = [key for key in given if ".seg_layers." not in key]
    assert f"{len(shared)} tensors" in output
    # Six steps move the weights a little; weights of another start would be orthogonal to these.
    kernels = [key for key in shared if given[key].ndim == 5]
    likeness = [torch.cosine_similarity(given[key].flatten(), trained[key].flatten(), 0).item() for key in kernels]
    assert len(kernels) > 10
    assert min(likeness) > 0.9


# -- other configurations ------------------------------------------------------------------------------------------------------


def test_2d(planned_phantom: Workspace, tmp_path: Path) -> None:
    planned_phantom.train(PHANTOM, "2d", 0, OURS, really=True)
    assert len(planned_phantom.summary(PHANTOM, OURS, "2d", 0)["metric_per_case"]) == 2
    planned_phantom.predict(PHANTOM, "2d", OURS, tmp_path)
    assert_segmentations_of_test_images(tmp_path, planned_phantom, PHANTOM, set(LABELS.values()))


def test_another_transformer(planned_phantom: Workspace, tmp_path: Path) -> None:
    """DINOv2's form, with registers; where the exported model is installed, nobody has its weights."""
    spec = get_spec("dinov2_tiny")
    model = timm.create_model(spec.timm_model, num_classes=0, **spec.overrides)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    found = {"nnUNet_dino_weights": str(tmp_path / "weights.safetensors")}
    planned_phantom.train(PHANTOM, "3d_fullres", 0, DINOV2, **found)
    planned_phantom.predict(PHANTOM, "3d_fullres", DINOV2, tmp_path / "here", **found)
    assert_segmentations_of_test_images(tmp_path / "here", planned_phantom, PHANTOM, set(LABELS.values()))
    trained = planned_phantom.model(PHANTOM, DINOV2, "3d_fullres")
    planned_phantom.run("nnunet-dino", "export", trained, "-o", tmp_path / "model.zip", **found)
    elsewhere = Workspace(tmp_path / "elsewhere")
    elsewhere.run("nnUNetv2_install_pretrained_model_from_zip", tmp_path / "model.zip")
    elsewhere.raw(PHANTOM).symlink_to(planned_phantom.raw(PHANTOM))
    elsewhere.predict(PHANTOM, "3d_fullres", DINOV2, tmp_path / "there")
    for file in sorted((tmp_path / "here").glob("*.nii.gz")):
        np.testing.assert_array_equal(array(tmp_path / "there" / file.name), array(file))


def test_a_trainer_says_which_planned_options_it_does_not_follow(planned_phantom: Workspace) -> None:
    plans = json.loads(planned_phantom.plans_file(PHANTOM).read_text())
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    entry = {"backbone": "dinov3_tiny", "neck_width": 40, "token_stride_px": 16, "pixel_aspect": 2.0, "lora": {"rank": 2}}
    architecture["arch_kwargs"] |= {"unet": architecture["network_class_name"], "dino": entry}
    architecture["network_class_name"] = "nnunet_dino.networks.DINOv3UNet"
    planned_phantom.plans_file(PHANTOM).with_name("edited.json").write_text(json.dumps(plans | {"plans_name": "edited"}))
    planned_phantom.train(PHANTOM, "3d_fullres", 0, OURS, "-p", "edited")
    fold = planned_phantom.folder / "nnUNet_results" / PHANTOM / f"{OURS}__edited__3d_fullres" / "fold_0"
    log = next(fold.glob("training_log*")).read_text()
    assert re.findall("the plans say .* has [^ ]+", log) == ["the plans say dino.neck_width 40, this trainer has 128"]


def test_find_best_configuration(planned_phantom: Workspace, our_fold) -> None:
    args = (801, "-c", "3d_fullres", "-tr", OURS, "-f", 0, "-np", 1)
    planned_phantom.run("nnUNetv2_find_best_configuration", *args)
    information = json.loads((planned_phantom.folder / "nnUNet_results" / PHANTOM / "inference_information.json").read_text())
    assert information["best_model_or_ensemble"]["selected_model_or_models"] == [
        {"configuration": "3d_fullres", "plans_identifier": "nnUNetPlans", "trainer": OURS}
    ]
    model = planned_phantom.model(PHANTOM, OURS, "3d_fullres")
    summary = json.loads((model / "crossval_results_folds_0" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 2


def test_lowres_leads_to_the_cascade(planned_phantom: Workspace, tmp_path: Path) -> None:
    """Fold ``all`` predicts every training case for the next stage."""
    planned_phantom.train(PHANTOM, "3d_lowres", "all", OURS)
    assert len(planned_phantom.summary(PHANTOM, OURS, "3d_lowres", "all")["metric_per_case"]) == NUM_TRAINING
    planned_phantom.train(PHANTOM, "3d_cascade_fullres", 0, OURS)
    cascade = planned_phantom.model(PHANTOM, OURS, "3d_cascade_fullres") / "fold_0/checkpoint_final.pth"
    first_kernel = next(
        value for key, value in weights(cascade).items() if key.endswith("conv.weight") and key.startswith("encoder")
    )
    assert first_kernel.shape[1] == 1 + len(LABELS) - 1  # the scan, and one channel for each organ of the previous stage

    planned_phantom.predict(PHANTOM, "3d_lowres", OURS, tmp_path / "lowres", "-f", "all")
    planned_phantom.predict(
        PHANTOM, "3d_cascade_fullres", OURS, tmp_path / "cascade", "-prev_stage_predictions", tmp_path / "lowres"
    )
    assert_segmentations_of_test_images(tmp_path / "cascade", planned_phantom, PHANTOM, set(LABELS.values()))


# -- other data ----------------------------------------------------------------------------------------------------------------


def test_four_channels_with_regions_and_an_ignore_label(planned_regions: Workspace, tmp_path: Path) -> None:
    planned_regions.train(REGIONS, "3d_fullres", 0, OURS)
    cases = planned_regions.summary(REGIONS, OURS, "3d_fullres", 0)["metric_per_case"]
    assert len(cases) == 2
    assert set(cases[0]["metrics"]) == {"(1, 2, 3, 4)", "(3, 4)", "(4,)"}
    planned_regions.predict(REGIONS, "3d_fullres", OURS, tmp_path)
    assert_segmentations_of_test_images(tmp_path, planned_regions, REGIONS, {0, 1, 3, 4})
