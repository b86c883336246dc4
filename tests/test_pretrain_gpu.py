"""Pretraining on a CUDA device, compiled and not; ``NNUNET_DINO_TEST_DEVICE=cpu`` runs it without one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from pretrain_data import CONFIGURATION, DATASET, SMALL, small, write_preprocessed

from nnunet_dino import load_backbone
from nnunet_dino.backbones.precision import ENVIRONMENT_VARIABLE
from nnunet_dino.cli.main import main
from nnunet_dino.pretrain.slices import find_cases
from nnunet_dino.pretrain.start import start_from_weights
from nnunet_dino.pretrain.step import Engine
from nnunet_dino.pretrain.stream import Stream

DEVICE = os.environ.get("NNUNET_DINO_TEST_DEVICE", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("compiles", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", ["adapt", "anchor", "sharpen", "scratch"])
def test_every_recipe_takes_steps_in_bfloat16(
    nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch, name: str, compiles: bool
) -> None:
    if compiles and DEVICE == "cpu":
        pytest.skip("compiling for a processor takes minutes")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "bfloat16")
    write_preprocessed(nnunet_folders / "nnUNet_preprocessed")
    more = ("start=random", "frozen_backbone=0", "size_shares=1", "gram_refresh=1", "warmup=0", "layer_scale=1")
    recipe = small(name, *more)
    stream = Stream(find_cases([DATASET], CONFIGURATION, "nnUNetPlans", recipe), recipe)
    engine = Engine(start_from_weights("dinov3_tiny", recipe).model, recipe, torch.device(DEVICE), compiles)
    for step in range(3):
        metrics = engine.step(stream[step].to(engine.device), step)
        assert all(abs(value) < 1e4 for value in metrics.values())
    assert engine.skipped == 0
    assert {parameter.dtype for parameter in engine.student.parameters()} == {torch.float32}


def test_the_command_trains_goes_on_and_exports(nnunet_folders: Path) -> None:
    write_preprocessed(nnunet_folders / "nnUNet_preprocessed")
    settings = [word for change in SMALL for word in ("--set", change)]
    words = ["pretrain", DATASET[7:10], "-c", CONFIGURATION, "--backbone", "dinov3_tiny", "--recipe", "scratch", *settings]
    folder = nnunet_folders / "run"
    for expected in ("finished", "finished already"):
        done = CliRunner().invoke(main, [*words, "--device", DEVICE, "-o", str(folder)], standalone_mode=False)
        assert done.exception is None
        assert expected in done.output
    images = torch.randn(2, 3, 32, 48)
    assert load_backbone(folder / "teacher.safetensors")(images).patch_maps[-1].isfinite().all()
