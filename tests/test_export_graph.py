"""Trained models that the command writes: as graphs run without this package's code, as a zip run without their trainer."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_trainers
import torch
from click.testing import CliRunner, Result
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from sliding_window import predictor
from small_trainers import DATASET, PATCH, plans

from nnunet_dino import trainers
from nnunet_dino.backbones.adapted import LoraOptions
from nnunet_dino.cli.main import main
from nnunet_dino.networks.unet import RESIDUAL_UNET
from nnunet_dino.nnunet import export as export_module
from nnunet_dino.nnunet.trainer import DINOv3Trainer

BASE = trainers.nnUNetTrainerMedDINOv3B
MEDDINO = type("TinyMedDINOv3", (BASE,), {"dino": replace(BASE.dino, backbone="dinov3_tiny")})
SMALLEST = trainers.nnUNetTrainerDINOv3Tiny
DINOV2 = type("TinyDINOv2", (SMALLEST,), {"dino": replace(SMALLEST.dino, backbone="dinov2_tiny")})
TINY = "nnUNetTrainerDINOv3Tiny"
NETWORKS = {
    "frozen": (f"{TINY}", "3d_fullres"),
    "dinov2": (DINOV2, "3d_fullres"),
    "frozen residual": (f"{TINY}", "3d_fullres"),
    "frozen 2d": (f"{TINY}", "2d"),
    "lora": (f"{TINY}_LoRA", "3d_fullres"),
    "full": (f"{TINY}_FT", "3d_fullres"),
    "tokens only": (f"{TINY}_TokensOnly", "3d_fullres"),
    "meddinov3": (MEDDINO, "2d"),
}


@pytest.fixture
def trained(make: Callable[..., DINOv3Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Returns a function that makes a model folder whose networks use their tokens, and their networks."""
    monkeypatch.setenv("nnUNet_dino_weights", "random")

    def of(trainer: str | type, configuration: str, num_folds: int = 1) -> tuple[Path, list[torch.nn.Module]]:
        cls = getattr(trainers, trainer) if isinstance(trainer, str) else trainer
        monkeypatch.setattr(export_module, "resolve", lambda name: cls)
        model = tmp_path / "Dataset009_Spleen" / f"{cls.__name__}__nnUNetPlans__{configuration}"
        networks = []
        for fold in range(num_folds):
            made = make(cls, configuration)
            made.enable_deep_supervision = False
            made.initialize()
            for name, parameter in made.network.named_parameters():
                if "lora_B" in name or not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.05)
            (model / f"fold_{fold}").mkdir(parents=True)
            content = {
                "network_weights": made.network.state_dict(),
                "trainer_name": cls.__name__,
                "init_args": {"configuration": configuration, "fold": fold},
                "inference_allowed_mirroring_axes": (0, 1),
                "logging": {"x": [np.float64(1)]},
            }
            torch.save(content, model / f"fold_{fold}" / "checkpoint_final.pth")
            networks.append(made.network.eval())
        (model / "plans.json").write_text(json.dumps(plans()))
        (model / "dataset.json").write_text(json.dumps(DATASET))
        return model, networks

    return of


def export(*words: object) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, words)], prog_name="nnunet-dino")


def run(file: Path, image: torch.Tensor) -> torch.Tensor:
    if file.suffix == ".pt2":
        return torch.export.load(file).module()(image)
    session = pytest.importorskip("onnxruntime").InferenceSession(file, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [*((name, "onnx") for name in NETWORKS), ("frozen 2d", "torch-export")])
def test_a_graph_gives_the_logits_of_the_network(
    name: str, kind: str, trained: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "onnx":
        pytest.importorskip("onnx")
    if "residual" in name:
        monkeypatch.setattr(small_trainers, "PLAIN_UNET", RESIDUAL_UNET)
    model, networks = trained(*NETWORKS[name])
    result = export(model, "-o", tmp_path / "graphs", f"--{kind}")
    assert result.exit_code == 0, result.output + str(result.exception)
    files = sorted((tmp_path / "graphs").glob("fold_*"))
    assert len(files) == 1
    for file, network in zip(files, networks, strict=True):
        image = torch.randn(1, 1, *PATCH[NETWORKS[name][1]])
        with torch.no_grad():
            torch.testing.assert_close(run(file, image), network(image), rtol=0, atol=1e-4)
    facts = json.loads((tmp_path / "graphs" / "preprocessing.json").read_text())
    assert facts["patch_size"] == PATCH[NETWORKS[name][1]] and facts["mirroring_axes"] == [0, 1]
    assert facts["normalization_schemes"] == ["CTNormalization"] and facts["labels"] == DATASET["labels"]


@pytest.mark.slow
def test_the_sliding_window_of_the_documentation_predicts_as_nnunet_does(trained: Callable, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    model, networks = trained(*NETWORKS["frozen"], num_folds=2)
    assert export(model, "-o", tmp_path / "graphs", "--onnx").exit_code == 0
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "deploy.md").read_text()
    content: dict = {}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], content)  # type: ignore[index]
    volume = torch.randn(1, 9, 34, 10)
    logits = content["predict"](volume.numpy(), tmp_path / "graphs")
    of_folds = [predictor(network, (6, 20, 12), None).predict_sliding_window_return_logits(volume) for network in networks]
    expected = torch.stack(of_folds).float().mean(0)
    near = (torch.from_numpy(logits).float() - expected).abs() < 0.02 * expected.abs().max()
    assert near.float().mean() > 0.99  # nnU-Net weighs in half precision, which tells in the corners


@pytest.mark.slow
def test_every_fold_is_written_and_what_is_there_is_kept(trained: Callable, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    model, _ = trained(*NETWORKS["frozen 2d"], num_folds=2)
    words = (model, "-o", tmp_path / "graphs", "--onnx")
    assert export(*words).exit_code == 0
    assert len(list((tmp_path / "graphs").glob("fold_*.onnx"))) == 2
    before = (tmp_path / "graphs" / "fold_0.onnx").read_bytes()
    (tmp_path / "file").write_text("kept")
    for other, said in (("--onnx", "required a folder.*file"), ("--torch-export", "--onnx: required without --torch-export")):
        result = export(model, "-o", tmp_path / "file", "--onnx", other)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1) and re.search(said, result.stderr), result.stderr
    result = export(*words)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "required a folder without fold_0.onnx" in result.stderr
    assert (tmp_path / "graphs" / "fold_0.onnx").read_bytes() == before
    assert export(*words, "--overwrite").exit_code == 0


OWN = {
    "other options": (SMALLEST, "3d_fullres", {"token_stride_px": 16, "rgb": "neighbours", "token_head": False}),
    "lora": (trainers.nnUNetTrainerDINOv3Tiny_LoRA, "2d", {"lora": LoraOptions(rank=3, alpha=5)}),
    "tokens only": (trainers.nnUNetTrainerDINOv3Tiny_TokensOnly, "3d_fullres", {}),
    "meddinov3": (BASE, "2d", {"backbone": "dinov3_tiny"}),
    "stock": (nnUNetTrainer, "2d", None),
}


def own_trainer(base: type, dino: dict[str, Any] | None, **content: Any) -> type:
    options = {} if dino is None else {"dino": replace(base.dino, **dino)}  # type: ignore[attr-defined]
    return type("MyTrainer", (base,), {"__module__": "my_trainers", **options, **content})


@pytest.mark.parametrize("name", OWN)
def test_a_zip_needs_no_trainer_of_its_user(
    name: str, trained: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, configuration, dino = OWN[name]
    model, (network,) = trained(own_trainer(base, dino), configuration)
    result = export(model, "-o", tmp_path / "model.zip")
    assert result.exit_code == 0 and "MyTrainer:" not in result.output, result.output
    monkeypatch.undo()
    shutil.unpack_archive(tmp_path / "model.zip", tmp_path / "elsewhere")
    used = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    used.initialize_from_trained_model_folder(str(tmp_path / "elsewhere" / model.relative_to(tmp_path)), (0,))
    used.network.load_state_dict(used.list_of_parameters[0])
    image = torch.randn(1, 1, *PATCH[configuration])
    with torch.no_grad():
        assert torch.equal(used.network.eval()(image), network(image))


def with_another_layer(plans_manager: Any, *args: Any) -> torch.nn.Module:
    network = nnUNetTrainer.build_network_architecture(plans_manager, *args)
    network.decoder.seg_layers[-1] = torch.nn.Sequential(network.decoder.seg_layers[-1], torch.nn.Tanh())
    return network


def test_a_network_of_the_users_own_goes_on_needing_its_trainer(
    trained: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = own_trainer(nnUNetTrainer, None, build_network_architecture=staticmethod(with_another_layer))
    model, _ = trained(own, "2d")

    def broken(name: str) -> type:
        raise ImportError("no module named mine")

    for find, said in (
        (lambda name: own, "MyTrainer: builds a network that plans cannot describe, so the model goes on needing it"),
        (lambda name: None, "MyTrainer: not found here, so"),
        (broken, "MyTrainer: no module named mine, so"),
    ):
        monkeypatch.setattr(export_module, "find_trainer", find)
        result = export(model, "-o", tmp_path / "model.zip", "--overwrite")
        assert result.exit_code == 0 and said in result.output, result.output
        shutil.unpack_archive(tmp_path / "model.zip", tmp_path / "elsewhere")
        (file,) = (tmp_path / "elsewhere").rglob("checkpoint_final.pth")
        assert torch.load(file, weights_only=False)["trainer_name"] == "MyTrainer"
