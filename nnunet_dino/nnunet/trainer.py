"""What all trainers of this package share. The trainers themselves hold names and hyper-parameters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_dino._errors import one_line_in_stock_commands
from nnunet_dino._files import write_atomically
from nnunet_dino.networks.options import DinoOptions
from nnunet_dino.nnunet.plans import DINOV3_UNET, build_from_plans
from nnunet_dino.nnunet.predictor import forget_slices_after_every_image
from nnunet_dino.nnunet.pretrained import install_loader, unwrap
from nnunet_dino.nnunet.requirements import check_data_set, check_folders, check_weights
from nnunet_dino.nnunet.schedules import EpochSchedule, polynomial

FACTS_FILE = "nnunet_dino.json"
_AFTER_A_FAILED_SAVE = "free disk space or make the folder writable, then continue with --c; the last good checkpoint is kept"


class DINOv3Trainer(nnUNetTrainer):
    """nnU-Net's trainer with a DINOv3 slice encoder in the planned network.

    Subclasses set ``dino`` and ``network_class``; everything that nnU-Net trains by stays as it is unless they say otherwise.

    Attributes:
        dino: The DINOv3 side of the network.
        network_class: Dotted path of the network.
        vit_lr: Learning rate of the backbone's trained parameters; None takes ``initial_lr``.
        short_run_epochs: Number of epochs if it is not nnU-Net's 1000.
    """

    dino: ClassVar[DinoOptions]
    network_class: ClassVar[str] = DINOV3_UNET
    vit_lr: ClassVar[float | None] = None
    short_run_epochs: ClassVar[int | None] = None

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net reads exactly this signature)
    ) -> None:
        with one_line_in_stock_commands():
            check_folders()
            check_data_set(plans, dataset_json)
            if not _has_checkpoint(type(self), plans, configuration, fold):
                _on_first_rank_first(lambda: check_weights(self.dino.backbone, self.dino.weights))
        super().__init__(plans, configuration, fold, dataset_json, device)
        if self.short_run_epochs is not None:
            self.num_epochs = self.short_run_epochs
        install_loader()

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Builds the network; called by nnU-Net in training and at prediction."""
        forget_slices_after_every_image()
        with one_line_in_stock_commands():
            return build_from_plans(
                configuration_manager,
                cls.network_class,
                cls.dino,
                num_input_channels,
                num_output_channels,
                enable_deep_supervision,
            )

    def run_training(self) -> None:
        """Makes sure that there are weights, then trains as nnU-Net does."""
        with one_line_in_stock_commands():
            if not self.was_initialized:
                _on_first_rank_first(lambda: check_weights(self.dino.backbone, self.dino.weights))
                self.initialize()
            unwrap(self.network).slice_encoder.backbone.require_weights()
        super().run_training()

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.local_rank == 0:
            facts = network_facts(unwrap(self.network))
            self.print_to_log_file("nnunet-dino:", json.dumps(facts))
            Path(self.output_folder, FACTS_FILE).write_text(json.dumps(facts, indent=2) + "\n")

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """nnU-Net's SGD and polynomial decay, with a learning rate of its own for the backbone."""
        optimizer = torch.optim.SGD(
            self.parameter_groups(), self.initial_lr, weight_decay=self.weight_decay, momentum=0.99, nesterov=True
        )
        return optimizer, EpochSchedule(optimizer, polynomial, self.num_epochs)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Returns the trained parameters as one group, or two if the backbone is trained."""
        network = unwrap(self.network)
        backbone = [p for p in network.slice_encoder.backbone.parameters() if p.requires_grad]
        in_backbone = {id(p) for p in backbone}
        rest = [p for p in network.parameters() if p.requires_grad and id(p) not in in_backbone]
        groups: list[dict[str, Any]] = [{"params": rest, "lr": self.initial_lr}]
        if backbone:
            groups.append({"params": backbone, "lr": self.initial_lr if self.vit_lr is None else self.vit_lr})
        return groups

    def save_checkpoint(self, filename: str) -> None:
        """Saves so that a good checkpoint is never lost to an interruption or a full disk.

        The final checkpoint does without the optimiser's momentum, which is as large as the trained network and of no use
        when the learning rate has reached zero. ``--c`` loads it all the same.
        """
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        is_final = Path(filename).name == "checkpoint_final.pth"
        with one_line_in_stock_commands(), _without_optimizer_state(self) if is_final else nullcontext():
            write_atomically(filename, super().save_checkpoint, _AFTER_A_FAILED_SAVE)

    def plot_network_architecture(self) -> None:
        """Does nothing: nnU-Net's plot can hang on networks that are not its own."""


def network_facts(network: nn.Module) -> dict[str, Any]:
    """Returns what a comparison wants to know of a network: sizes, backbone, and where its weights came from."""
    backbone = network.slice_encoder.backbone
    return {
        "num_parameters_total": sum(p.numel() for p in network.parameters()),
        "num_parameters_trained": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "backbone": backbone.name,
        "adaptation": backbone.adaptation,
        "weights": "random" if backbone.weights_are_random else backbone.digest or "from a checkpoint",
    }


def short_runs(*trainers: type[DINOv3Trainer]) -> dict[str, type[DINOv3Trainer]]:
    """Returns twins of trainers that stop after 5, 50 and 250 epochs, by name."""
    return {
        f"{base.__name__}_{epochs}epochs": type(
            f"{base.__name__}_{epochs}epochs",
            (base,),
            {"short_run_epochs": epochs, "__module__": base.__module__, "__doc__": f"{base.__doc__} {epochs} epochs."},
        )
        for base in trainers
        for epochs in (5, 50, 250)
    }


@contextmanager
def _without_optimizer_state(trainer: DINOv3Trainer) -> Iterator[None]:
    optimizer = trainer.optimizer
    slim = {**optimizer.state_dict(), "state": {}}
    trainer.optimizer = SimpleNamespace(state_dict=lambda: slim)
    try:
        yield
    finally:
        trainer.optimizer = optimizer


def _has_checkpoint(trainer: type, plans: dict, configuration: str, fold: int | str) -> bool:
    from nnunetv2.paths import nnUNet_results

    folder = f"{trainer.__name__}__{plans['plans_name']}__{configuration}"
    return any(Path(str(nnUNet_results), plans["dataset_name"], folder, f"fold_{fold}").glob("checkpoint_*.pth"))


def _on_first_rank_first(action: Any) -> None:
    """Runs ``action`` on the first process of a distributed training before the others, so that one of them downloads."""
    if dist.is_available() and dist.is_initialized():
        if dist.get_rank() == 0:
            action()
        dist.barrier()
        if dist.get_rank() == 0:
            return
    action()
