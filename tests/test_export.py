"""A self-contained copy of a model."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from small_nets import small_unet, volume, write_weights

from nnunet_dino._errors import UserError
from nnunet_dino.cli.main import main
from nnunet_dino.nnunet.export import export_model
from nnunet_dino.nnunet.whole_weights import embed_backbone


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
    assert embed_backbone(state, Path()) is state


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


@pytest.mark.parametrize("name", ["model.tar", "model"])
def test_a_zip_is_not_written_under_the_name_of_something_else(name: str, weights_folder: Path, tmp_path: Path) -> None:
    model = model_folder(tmp_path, small_unet(weights="pretrained"))
    with pytest.raises(UserError, match=rf"-o: required a name that ends in \.zip · got .*{name}"):
        export_model(model, tmp_path / name)
    assert not (tmp_path / name).exists()


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


SPOILT: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-900]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "text": lambda path: path.write_text("not a checkpoint"),
    "list": lambda path: torch.save([torch.zeros(2)], path),
    "weights are a list": lambda path: torch.save({"network_weights": [1]}, path),
    "a number as a name": lambda path: torch.save({"network_weights": {7: torch.zeros(2)}}, path),
    "text as weights": lambda path: torch.save({"network_weights": {"a": "b"}}, path),
    "record": lambda path: torch.save({"network_weights": {RECORD: torch.tensor([1, 2, 3], dtype=torch.uint8)}}, path),
    "float record": lambda path: torch.save({"network_weights": {RECORD: torch.tensor([0.5, 2.5])}}, path),
    "code": lambda path: torch.save({"network_weights": {"a": Payload(path.with_name("executed"))}}, path),
    "code beside": lambda path: torch.save({"network_weights": {}, "x": Payload(path.with_name("executed"))}, path),
}
RECORD = "slice_encoder.backbone.weights_record"


@pytest.mark.parametrize("how", SPOILT)
def test_spoilt_checkpoints_are_one_line_and_nothing_in_them_runs(weights_folder: Path, tmp_path: Path, how: str) -> None:
    model = model_folder(tmp_path, small_unet(weights="pretrained"))
    checkpoint = model / "fold_0" / "checkpoint_final.pth"
    SPOILT[how](checkpoint)
    done = CliRunner().invoke(main, ["export", str(model), "-o", str(tmp_path / "model.zip")])
    assert done.exit_code == 2
    lines = done.output.strip().splitlines()
    assert [line for line in lines if line.startswith("nnunet-dino: error: ")] == lines[-1:]
    assert f"error: {checkpoint}: required" in lines[-1] and " · got " in lines[-1]
    assert not (tmp_path / "model.zip").exists()
    assert not (checkpoint.with_name("executed")).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Dataset009_Spleen", "weights"]
