"""Our trainers with nnU-Net's variants in either order, and settings in a class body."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.primus.primus_trainers import nnUNet_Primus_S_Trainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import nnUNetTrainerNoMirroring
from nnunetv2.training.nnUNetTrainer.variants.lr_schedule.nnUNetTrainer_warmup import nnUNetTrainer_warmup
from nnunetv2.training.nnUNetTrainer.variants.lr_schedule.nnUNetTrainerCosAnneal import nnUNetTrainerCosAnneal
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerBN import nnUNetTrainerBN
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerNoDeepSupervision import (
    nnUNetTrainerNoDeepSupervision,
)
from nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdam import (
    nnUNetTrainerAdam1en3,
    nnUNetTrainerVanillaAdam3en4,
)
from nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs import nnUNetTrainer_5epochs
from torch import nn

from nnunet_dino import trainers
from nnunet_dino._errors import UserError
from nnunet_dino.nnunet.trainer import DINOv3Trainer

Make = Callable[[type, str], DINOv3Trainer]
FROZEN, LORA, FULL, TOKENS = (f"nnUNetTrainerDINOv3Tiny{ending}" for ending in ("", "_LoRA", "_FT", "_TokensOnly"))
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # no step is made in between
ORDERS = pytest.mark.parametrize("ours_first", [True, False], ids=["ours first", "variant first"])


@pytest.fixture(autouse=True)
def _random_weights(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_dino_weights", "random")


def combined(ours: str, variant: type, ours_first: bool, **body: Any) -> type:
    bases = (getattr(trainers, ours), variant)
    return type("Mine", bases if ours_first else bases[::-1], body)


def state(trainer: DINOv3Trainer) -> tuple[Any, ...]:
    optimizer, schedule = trainer.optimizer, trainer.lr_scheduler
    groups = [{k: v for k, v in group.items() if k not in ("params", "follows")} for group in optimizer.param_groups]
    return type(optimizer), type(schedule), groups, trainer.num_epochs, trainer.enable_deep_supervision


@ORDERS
@pytest.mark.parametrize("ours", [FROZEN, LORA])
@pytest.mark.parametrize(
    "variant",
    [
        nnUNetTrainerAdam1en3,
        nnUNetTrainerVanillaAdam3en4,
        nnUNetTrainerCosAnneal,
        nnUNetTrainer_warmup,
        nnUNetTrainerNoDeepSupervision,
        nnUNetTrainer_5epochs,
    ],
)
def test_a_variant_trains_ours_as_it_trains_the_stock_network(make: Make, ours: str, variant: type, ours_first: bool) -> None:
    """What the backbone's parameters get beside it is another test."""
    mine, theirs = make(combined(ours, variant, ours_first), "3d_fullres"), make(variant, "3d_fullres")
    mine.initialize(), theirs.initialize()
    kind, schedule, groups, *rest = state(theirs)
    assert state(mine)[0] is kind and state(mine)[3:] == tuple(rest)
    assert state(mine)[1].__name__ in (schedule.__name__, "EpochSchedule")
    first = mine.optimizer.param_groups[0]
    for key in groups[0].keys() - {"initial_lr"}:  # a schedule of nnU-Net's leaves it behind
        assert first[key] == groups[0][key]
    for epoch in (0, 2, 4):
        for trainer in (mine, theirs):
            trainer.current_epoch = epoch
            nnUNetTrainer.on_train_epoch_start(trainer)
        assert mine.optimizer.param_groups[0]["lr"] == pytest.approx(theirs.optimizer.param_groups[0]["lr"])


@ORDERS
def test_mirroring_may_be_left_out(make: Make, ours_first: bool) -> None:
    trainer = make(combined(FROZEN, nnUNetTrainerNoMirroring, ours_first), "2d")
    trainer.initialize()
    assert trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[3] is None


@ORDERS
@pytest.mark.parametrize("variant", [nnUNetTrainerAdam1en3, nnUNetTrainerCosAnneal, nnUNetTrainer_warmup])
def test_the_backbone_keeps_its_own_rate_beside_every_schedule(make: Make, variant: type, ours_first: bool) -> None:
    trainer = make(combined(FULL, variant, ours_first), "2d")
    trainer.num_epochs = 100
    trainer.initialize()
    backbone = {id(p) for p in trainer.network.slice_encoder.backbone.parameters()}
    for epoch in (0, 1, 30, 60):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        rest, of_backbone = trainer.optimizer.param_groups
        assert {id(p) for p in of_backbone["params"]} == backbone
        assert not backbone & {id(p) for p in rest["params"]}
        assert of_backbone["lr"] / rest["lr"] == pytest.approx(trainer.vit_lr / trainer.initial_lr)
    resumed = make(type(trainer), "2d")
    resumed.num_epochs = 100
    resumed.initialize()
    resumed.optimizer.load_state_dict(trainer.optimizer.state_dict())
    resumed.current_epoch = 60
    resumed.on_train_epoch_start()
    assert [g["lr"] for g in resumed.optimizer.param_groups] == [g["lr"] for g in trainer.optimizer.param_groups]


class CyclesEveryStep:
    """As users write it: one group, and a schedule of their own that is stepped with every batch."""

    def configure_optimizers(self) -> tuple[Any, Any]:
        optimizer = torch.optim.SGD(self.network.parameters(), 1e-2)  # type: ignore[attr-defined]
        self.cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=100)
        return optimizer, self.by_epoch(optimizer)  # type: ignore[attr-defined]


SCHEDULES = (
    lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0),
    torch.optim.lr_scheduler.ReduceLROnPlateau,
    lambda optimizer: torch.optim.lr_scheduler.CyclicLR(optimizer, 1e-3, 1e-2),
)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["lambda", "plateau", "cyclic"])
def test_the_backbone_keeps_its_share_beside_a_schedule_of_every_step(make: Make, schedule: Callable[..., Any]) -> None:
    trainer = make(type("Mine", (CyclesEveryStep, getattr(trainers, FULL)), {"by_epoch": staticmethod(schedule)}), "2d")
    trainer.initialize()
    trainer.on_train_epoch_start()
    rest, of_backbone = trainer.optimizer.param_groups
    share, rates = trainer.vit_lr / trainer.initial_lr, set()
    for _ in range(9):
        trainer.optimizer.step()
        assert of_backbone["lr"] == pytest.approx(rest["lr"] * share)
        trainer.cycle.step()
        rates.add(rest["lr"])
    assert len(rates) == 9


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["lambda", "plateau", "cyclic"])
def test_a_schedule_that_is_kept_on_the_trainer_knows_the_backbones_group(make: Make, schedule: Callable[..., Any]) -> None:
    """Returned or not: a trainer with an ``on_train_epoch_start`` of its own may return None."""

    class Mine(getattr(trainers, FULL)):  # type: ignore[misc]
        def configure_optimizers(self) -> tuple[Any, Any]:
            optimizer = torch.optim.SGD(self.network.parameters(), 1e-2)
            self.alone, listed, inner = (schedule(optimizer) for _ in range(3))
            self.kept = {"listed": [listed], "outer": SimpleNamespace(optimizer=optimizer, after=inner)}
            return optimizer, None

    trainer = make(Mine, "2d")
    trainer.initialize()
    rest, of_backbone = trainer.optimizer.param_groups
    share = of_backbone["lr"] / rest["lr"]
    for one in (trainer.alone, *trainer.kept["listed"], trainer.kept["outer"].after):
        trainer.optimizer.step()
        one.step(1.0) if isinstance(one, torch.optim.lr_scheduler.ReduceLROnPlateau) else one.step()
        trainer.optimizer.step()
        assert of_backbone["lr"] == pytest.approx(rest["lr"] * share)
        assert {len(getattr(one, name)) for name in ("base_lrs", "max_lrs", "min_lrs", "lr_lambdas") if hasattr(one, name)} == {
            2
        }


@pytest.mark.parametrize("ours", [FROZEN, FULL])
def test_an_optimiser_without_a_schedule_is_refused_in_one_line(make: Make, ours: str) -> None:
    """nnU-Net ends with a TypeError where there is no pair, and with an AttributeError where it steps None."""

    class Alone(getattr(trainers, ours)):  # type: ignore[misc]
        def configure_optimizers(self) -> Any:
            self.lr_scheduler = None
            return torch.optim.SGD(self.network.parameters(), 1e-2)

    with pytest.raises(UserError, match="^Alone: required an optimiser and a schedule of configure_optimizers · got SGD · "):
        make(Alone, "2d").initialize()

    class WithNone(Alone):
        def configure_optimizers(self) -> Any:
            return super().configure_optimizers(), None

    trainer = make(WithNone, "2d")
    trainer.initialize()
    with pytest.raises(UserError, match="^WithNone: required a schedule .* · got None · "):
        trainer.on_train_epoch_start()


def test_a_network_of_ones_own_has_a_slice_encoder_or_is_refused(make: Make) -> None:
    stock = staticmethod(nnUNetTrainer.build_network_architecture)
    trainer = make(type("Mine", (getattr(trainers, FROZEN),), {"build_network_architecture": stock}), "2d")
    with pytest.raises(UserError, match="^Mine: required a network with a slice encoder · got PlainConvUNet · .*nnUNetTrainer"):
        trainer.initialize()


class SecondHalf:
    def on_train_epoch_start(self) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("bases", "says"),
    [
        (
            (FROZEN, nnUNetTrainerBN),
            "builds the network · got nnUNetTrainerBN and nnUNetTrainerDINOv3Tiny · .*-tr .*BN",
        ),
        ((nnUNetTrainerBN, FROZEN), "builds the network · got nnUNetTrainerBN and nnUNetTrainerDINOv3Tiny"),
        ((nnUNet_Primus_S_Trainer, LORA), "builds the network"),
        (
            (TOKENS, nnUNetTrainerVanillaAdam3en4),
            "sets the optimiser · got nnUNetTrainerVanillaAdam and nn",
        ),
        ((nnUNetTrainerCosAnneal, TOKENS), "sets the optimiser · got nnUNetTrainerCosAnneal and"),
        ((nnUNetTrainerCosAnneal, f"{FROZEN}_Adam1en3"), "sets the optimiser"),
        ((nnUNetTrainerCosAnneal, nnUNetTrainerAdam1en3, FROZEN), "optimizers of nnUNetTrainerAdam .* got .*CosAnneal"),
        ((FROZEN, nnUNetTrainerCosAnneal, nnUNetTrainerAdam1en3), "optimizers of nnUNetTrainerAdam .* got .*CosAnneal"),
        (
            (FROZEN, SecondHalf),
            "on_train_epoch_start of SecondHalf is called · got .* · name SecondHalf first",
        ),
    ],
)
def test_bases_that_undo_each_other_are_refused_before_anything_is_written(
    make: Make, tmp_path: Path, bases: tuple, says: str
) -> None:
    mine = type("Mine", tuple(getattr(trainers, base) if isinstance(base, str) else base for base in bases), {})
    with pytest.raises(UserError, match=f"^Mine: required .*{says}"):
        make(mine, "3d_fullres")
    assert not (tmp_path / "results").exists()


def test_what_a_class_body_says_is_so(make: Make) -> None:
    body = {"initial_lr": 5e-3, "weight_decay": 1e-4, "num_epochs": 3, "enable_deep_supervision": False, "save_every": 7}
    trainer = make(type("Mine", (getattr(trainers, f"{FROZEN}_50epochs"),), body), "3d_fullres")
    trainer.initialize()
    assert {name: getattr(trainer, name) for name in body} == body
    (group,) = trainer.optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (5e-3, 1e-4)
    trainer.lr_scheduler.step(1)
    assert group["lr"] == pytest.approx(5e-3 * (2 / 3) ** 0.9)
    assert not trainer.network.decoder.deep_supervision


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"batch_size": 4}, "without batch_size, .* got 4 · write it into the plans"),
        ({"inference_allowed_mirroring_axes": (0,)}, r"without inference_allowed_mirroring_axes, .* got \(0,\)"),
        ({"num_epoch": 5}, "required num_epochs, .* got num_epoch"),
        ({"inital_lr": 1e-3}, "required initial_lr, .* got inital_lr"),
        ({"vitlr": 1e-3}, "required vit_lr, .* got vitlr"),
        ({"max_num_epochs": 5}, "required num_epochs, .* got max_num_epochs"),
        ({"learning_rate": 5e-3}, "required initial_lr, .* got learning_rate"),
        ({"my_setting": 3, "warmup_epochs": 5, "_num_epoch": 1}, None),
    ],
)
def test_what_a_class_body_cannot_say_is_refused(make: Make, body: dict[str, Any], says: str | None) -> None:
    mine = type("Mine", (getattr(trainers, FROZEN),), body)
    if says is None:
        assert make(mine, "2d").my_setting == 3
        return
    with pytest.raises(UserError, match=f"^Mine: .*{says}"):
        make(mine, "2d")


def test_a_name_that_a_method_reads_is_the_users_own(make: Make) -> None:
    class Mine(getattr(trainers, FROZEN)):  # type: ignore[misc]
        lr = 3

        def doubled(self) -> int:
            return self.lr * 2

    assert make(Mine, "2d").doubled() == 6


@ORDERS
def test_deep_supervision_is_left_out_of_every_recipe(make: Make, ours_first: bool) -> None:
    assert not make(combined(TOKENS, nnUNetTrainerNoDeepSupervision, ours_first), "3d_fullres").enable_deep_supervision


@ORDERS
def test_three_at_once(make: Make, ours_first: bool) -> None:
    bases = (nnUNetTrainerNoMirroring, nnUNetTrainer_5epochs, nnUNetTrainerAdam1en3)
    own = (getattr(trainers, FULL),)
    trainer = make(type("Mine", own + bases if ours_first else bases + own, {}), "2d")
    trainer.initialize()
    assert trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[3] is None
    rest, of_backbone = trainer.optimizer.param_groups
    assert (trainer.num_epochs, rest["lr"], of_backbone["lr"]) == (5, 1e-3, trainer.vit_lr)


def test_what_a_subclass_sets_itself_counts_before_its_class_body(make: Make) -> None:
    class Mine(getattr(trainers, FROZEN)):  # type: ignore[misc]
        num_epochs = 3

        def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict, device: torch.device) -> None:
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.num_epochs = 4

    assert make(Mine, "2d").num_epochs == 4


def test_a_rate_of_the_backbone_that_a_subclass_sets_itself_counts_beside_a_variant(make: Make) -> None:
    class Mine(nnUNetTrainerCosAnneal, getattr(trainers, FULL)):  # type: ignore[misc]
        def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict, device: torch.device) -> None:
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.vit_lr = 3e-5

    trainer = make(Mine, "2d")
    trainer.initialize()
    assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx([trainer.initial_lr, 3e-5])


def test_a_group_that_is_added_later_gets_the_same_schedule(make: Make) -> None:
    trainer = make(getattr(trainers, FROZEN), "2d")
    trainer.initialize()
    trainer.lr_scheduler.step(1)
    trainer.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(3))], "lr": 1e-4})
    trainer.lr_scheduler.step(500)
    assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx([1e-2 * 0.5**0.9, 1e-4 * 0.5**0.9])
