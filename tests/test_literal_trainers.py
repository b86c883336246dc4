"""Hyper-parameters, schedules and steps of the trainers, on stock-like plans: the flagship's and the two papers'."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdam import nnUNetTrainerAdam1en3
from small_trainers import PATCH

from nnunet_dino._errors import UserError
from nnunet_dino.networks.unet import PLAIN_UNET
from nnunet_dino.nnunet.trainer import DINOv3Trainer
from nnunet_dino.trainers import (
    nnUNetTrainerDINOv3Tiny,
    nnUNetTrainerDINOv3Tiny_Adam1en3,
    nnUNetTrainerDINOv3Tiny_TokensOnly,
    nnUNetTrainerMedDINOv3B,
    nnUNetTrainerMedDINOv3B_5epochs,
)


class TinyMedDINOv3(nnUNetTrainerMedDINOv3B):
    dino = replace(nnUNetTrainerMedDINOv3B.dino, backbone="dinov3_tiny", weights="random")


class TinyMedDINOv3_5epochs(nnUNetTrainerMedDINOv3B_5epochs):
    dino = TinyMedDINOv3.dino


def batch(trainer: DINOv3Trainer, configuration: str) -> dict[str, Any]:
    size = PATCH[configuration]
    target = torch.randint(0, 3, (2, 1, *size))
    if trainer.enable_deep_supervision:
        step = (slice(None), slice(None), *(slice(None, None, 2 if n > 6 else 1) for n in size))
        target = [target, target[step]]
    return {"data": torch.randn(2, 1, *size), "target": target}


def learning_rates(trainer: DINOv3Trainer, epochs: list[int]) -> list[list[float]]:
    rates = []
    for epoch in epochs:
        trainer.lr_scheduler.step(epoch)
        rates.append([group["lr"] for group in trainer.optimizer.param_groups])
    return rates


def test_meddinov3_optimises_decoder_and_vit_apart(make: Callable[..., DINOv3Trainer]) -> None:
    trainer = make(TinyMedDINOv3, "2d")
    trainer.initialize()
    optimizer = trainer.optimizer
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [(g["lr"], g["betas"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (3e-4, (0.9, 0.98), 5e-2),
        (3e-5, (0.9, 0.98), 5e-2),
    ]
    names = {id(p): name for name, p in trainer.network.named_parameters()}
    decoder, vit = ([names[id(p)] for p in group["params"]] for group in optimizer.param_groups)
    assert all(name.startswith("decoder.") for name in decoder)
    assert all(name.startswith("slice_encoder.backbone.") for name in vit)
    assert sorted(decoder + vit) == sorted(names.values())


def test_meddinov3_decays_linearly(make: Callable[..., DINOv3Trainer]) -> None:
    trainer = make(TinyMedDINOv3, "2d")
    trainer.initialize()
    assert learning_rates(trainer, [0, 250, 999]) == [
        pytest.approx([3e-4, 3e-5]),
        pytest.approx([2.25e-4, 2.25e-5]),
        pytest.approx([3e-7, 3e-8]),
    ]


def test_a_short_run_decays_over_its_own_length(make: Callable[..., DINOv3Trainer]) -> None:
    trainer = make(TinyMedDINOv3_5epochs, "2d")
    trainer.initialize()
    assert trainer.num_epochs == 5
    assert learning_rates(trainer, [4]) == [pytest.approx([6e-5, 6e-6])]


def test_steps_of_meddinov3_move_decoder_and_vit(make: Callable[..., DINOv3Trainer]) -> None:
    trainer = make(TinyMedDINOv3, "2d")
    trainer.initialize()
    trainer.network.train()
    before = {name: p.detach().clone() for name, p in trainer.network.named_parameters()}
    for _ in range(5):  # stochastic depth may drop a block for a whole batch once, but hardly five times
        assert math.isfinite(trainer.train_step(batch(trainer, "2d"))["loss"])
    assert [name for name, p in trainer.network.named_parameters() if torch.equal(p, before[name])] == []
    assert isinstance(trainer.loss, DC_and_CE_loss)
    assert (trainer.loss.weight_ce, trainer.loss.weight_dice) == (1, 1)


def test_validation_may_switch_deep_supervision_on(make: Callable[..., DINOv3Trainer]) -> None:
    trainer = make(TinyMedDINOv3, "2d")
    trainer.initialize()
    trainer.set_deep_supervision_enabled(True)
    trainer.network.train()
    assert math.isfinite(trainer.train_step(batch(trainer, "2d"))["loss"])


def test_meddinov3_takes_a_configuration_that_inherits_its_network(make: Callable[..., DINOv3Trainer]) -> None:
    trainer = make(TinyMedDINOv3, "2d_896")
    assert trainer.configuration_manager.patch_size == [96, 160]


def test_meddinov3_refuses_volumes_before_it_writes(make: Callable[..., DINOv3Trainer], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2D only · got 3d_fullres · use -c 2d or 2d_896"):
        make(nnUNetTrainerMedDINOv3B, "3d_fullres")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_a_step_of_tokens_only_leaves_the_backbone_as_it_was(make: Callable[..., DINOv3Trainer], configuration: str) -> None:
    trainer = make(nnUNetTrainerDINOv3Tiny_TokensOnly, configuration)
    trainer.initialize()
    trainer.network.train()
    frozen = {name for name, p in trainer.network.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in trainer.network.named_parameters() if name.startswith("slice_encoder.")}
    before = {name: p.detach().clone() for name, p in trainer.network.named_parameters()}
    assert math.isfinite(trainer.train_step(batch(trainer, configuration))["loss"])
    unchanged = {name for name, p in trainer.network.named_parameters() if torch.equal(p, before[name])}
    lowest = {"decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias"}  # nnU-Net weighs the lowest resolution with zero
    waits = {"neck.norm.bias"}  # the head starts at zero, so its gradient reaches the neck from the second step on
    assert unchanged == frozen | lowest | waits
    assert isinstance(trainer.loss, DeepSupervisionWrapper)
    assert isinstance(trainer.loss.loss, DC_and_CE_loss)


@pytest.mark.parametrize(
    "twin", [(nnUNetTrainerDINOv3Tiny, nnUNetTrainer), (nnUNetTrainerDINOv3Tiny_Adam1en3, nnUNetTrainerAdam1en3)]
)
def test_the_flagship_optimises_as_its_stock_twin(make: Callable[..., DINOv3Trainer], twin: tuple[type, type]) -> None:
    ours, stock = (make(trainer, "3d_fullres") for trainer in twin)
    for trainer in (ours, stock):
        trainer.initialize()
    assert type(ours.optimizer) is type(stock.optimizer)
    options, expected = (
        [
            {key: value for key, value in group.items() if key not in ("params", "initial_lr")}
            for group in trainer.optimizer.param_groups
        ]
        for trainer in (ours, stock)
    )
    assert options == expected
    assert learning_rates(ours, [0, 250, 999]) == [pytest.approx(rates) for rates in learning_rates(stock, [0, 250, 999])]
    trained = {id(p) for p in ours.network.parameters() if p.requires_grad}
    assert {id(p) for p in ours.optimizer.param_groups[0]["params"]} == trained


def test_a_trainer_without_a_network_of_its_own_trains_the_planned_one(make: Callable[..., DINOv3Trainer]) -> None:
    twin = type("StockTwin", (DINOv3Trainer,), {"dino": None, "network_class": None, "short_run_epochs": 5})
    trainer = make(twin, "3d_fullres")
    trainer.initialize()
    assert f"{type(trainer.network).__module__}.{type(trainer.network).__qualname__}" == PLAIN_UNET
    assert {id(p) for p in trainer.optimizer.param_groups[0]["params"]} == {id(p) for p in trainer.network.parameters()}
    assert trainer.num_epochs == 5
    trainer.network.train()
    assert math.isfinite(trainer.train_step(batch(trainer, "3d_fullres"))["loss"])


def test_tokens_only_uses_adamw_and_half_a_cosine(make: Callable[..., DINOv3Trainer]) -> None:
    trainer = make(nnUNetTrainerDINOv3Tiny_TokensOnly, "3d_fullres")
    trainer.initialize()
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    expected = [[1e-4 * (1 + math.cos(math.pi * epoch / 1000)) / 2] for epoch in (0, 250, 999)]
    assert learning_rates(trainer, [0, 250, 999]) == [pytest.approx(rate) for rate in expected]
