"""A self-contained copy of a model."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch
from small_nets import small_unet, volume, write_weights

from nnunet_dino._errors import UserError
from nnunet_dino.nnunet.export import embed_backbone, export_model


@pytest.fixture
def weights_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_weights(tmp_path / "weights", seed=1)
    monkeypatch.setenv("nnUNet_dino_weights", str(tmp_path / "weights"))
    monkeypatch.setenv("nnUNet_dino_precision", "float32")
    return tmp_path / "weights"


def model_folder(folder: Path, network: torch.nn.Module) -> Path:
    model = folder / "Dataset009_Spleen" / "nnUNetTrainerDINOv3Tiny__nnUNetPlans__3d_fullres"
    (model / "fold_0").mkdir(parents=True)
    for name in ("plans.json", "dataset.json"):
        (model / name).write_text(json.dumps({"name": name}))
    torch.save({"network_weights": network.state_dict(), "current_epoch": 5}, model / "fold_0" / "checkpoint_final.pth")
    return model


@pytest.mark.parametrize("adaptation", ["frozen", "lora"])
def test_the_exported_model_needs_no_weights(
    weights_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adaptation: str
) -> None:
    network = small_unet(weights="pretrained", adaptation=adaptation, gate_start=0.3).eval()
    target = export_model(model_folder(tmp_path, network), tmp_path / "model.zip")
    with zipfile.ZipFile(target) as archive:
        archive.extractall(tmp_path / "results")
    folder = tmp_path / "results" / "Dataset009_Spleen" / "nnUNetTrainerDINOv3Tiny__nnUNetPlans__3d_fullres"
    assert json.loads((folder / "plans.json").read_text()) == {"name": "plans.json"}
    exported = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=True)
    assert exported["current_epoch"] == 5
    monkeypatch.setenv("nnUNet_dino_weights", str(tmp_path))
    other = small_unet(weights="pretrained", adaptation=adaptation, gate_start=0.3).eval()
    other.load_state_dict(exported["network_weights"])
    assert torch.equal(network(volume()), other(volume()))


def test_a_full_checkpoint_is_exported_as_it_is(weights_folder: Path) -> None:
    state = small_unet(weights="random").state_dict()
    assert embed_backbone(state) is state


def test_other_weights_are_refused(weights_folder: Path, tmp_path: Path) -> None:
    model = model_folder(tmp_path, small_unet(weights="pretrained"))
    write_weights(weights_folder, seed=2)
    with pytest.raises(UserError, match="required dinov3_tiny weights with digest"):
        export_model(model, tmp_path / "model.zip")
    assert not (tmp_path / "model.zip").exists()
    assert not list(tmp_path.glob("*.part"))


def test_bad_input_writes_nothing(weights_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere without plans.json and dataset.json"):
        export_model(tmp_path / "nowhere", tmp_path / "model.zip")
    model = model_folder(tmp_path, small_unet(weights="pretrained"))
    with pytest.raises(UserError, match="checkpoint_worst.pth"):
        export_model(model, tmp_path / "model.zip", checkpoint="checkpoint_worst.pth")
    (tmp_path / "model.zip").write_text("precious")
    with pytest.raises(UserError, match="model.zip, which exists"):
        export_model(model, tmp_path / "model.zip")
    assert (tmp_path / "model.zip").read_text() == "precious"
