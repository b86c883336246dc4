"""What all trainers of this package share; in what they differ is a row of :mod:`nnunet_dino.nnunet.presets`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_dino._checkpoints import read_checkpoint
from nnunet_dino._errors import UserError
from nnunet_dino._files import write_atomically
from nnunet_dino._nnunet_folders import FACTS_FILE, read_json
from nnunet_dino.networks.options import DinoOptions
from nnunet_dino.nnunet.checks import check_training, check_weights
from nnunet_dino.nnunet.command_errors import report_in_one_line
from nnunet_dino.nnunet.plans import build_from_plans, overruled_options
from nnunet_dino.nnunet.predictor import forget_slices_after_every_image
from nnunet_dino.nnunet.presets import DINOV3_UNET
from nnunet_dino.nnunet.pretrained import check_start, install_loader, unwrap
from nnunet_dino.nnunet.prior import start_at_class_frequencies
from nnunet_dino.nnunet.recipes import RECIPES, Recipe
from nnunet_dino.nnunet.schedules import EpochSchedule
from nnunet_dino.nnunet.slice_view import describe_plane
from nnunet_dino.nnunet.variants import OPTIMISES, check_combination, follow, honour_class_body, separating

_AFTER_A_FAILED_SAVE = "free disk space or make the folder writable, then continue with --c; the last good checkpoint is kept"

report_in_one_line()  # for those who do without the start-up hook


class DINOv3Trainer(nnUNetTrainer):
    """nnU-Net's trainer with a DINOv3 slice encoder in the planned network.

    Subclasses set ``dino`` and ``network_class``; everything that nnU-Net trains by stays as it is unless they say otherwise.

    Attributes:
        dino: The DINOv3 side of the network; None where there is none.
        network_class: Dotted path of the network; None for the planned stock network.
        recipe: Optimiser and learning rate.
        vit_lr: Learning rate of the backbone's trained parameters; None takes ``initial_lr``.
        short_run_epochs: Number of epochs if it is not nnU-Net's 1000.
        prior: Start a new training with the output biases at the class frequencies.
        output_biases: The biases that the training started with; None for nnU-Net's own start.
    """

    dino: ClassVar[DinoOptions | None]
    network_class: ClassVar[str | None] = DINOV3_UNET
    recipe: ClassVar[Recipe] = RECIPES["sgd"]
    vit_lr: ClassVar[float | None] = None
    short_run_epochs: ClassVar[int | None] = None
    prior: ClassVar[bool] = False
    output_biases: list[float] | None = None

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net reads exactly this signature)
    ) -> None:
        name = type(self).__name__
        check_training(name, plans, configuration, fold, dataset_json, device, self.network_class, self.dino)
        check_start()
        has_own_recipe = self.recipe is not RECIPES["sgd"]
        check_combination(type(self), DINOv3Trainer, builds=self.network_class is not None, optimises=has_own_recipe)
        super().__init__(plans, configuration, fold, dataset_json, device)
        if has_own_recipe:
            self.initial_lr = self.recipe.initial_lr
            self.weight_decay = self.recipe.weight_decay
            self.enable_deep_supervision &= self.recipe.has_deep_supervision  # a variant may have left it out
        if self.short_run_epochs is not None:
            self.num_epochs = self.short_run_epochs
        honour_class_body(self, DINOv3Trainer)
        self.configure_optimizers = separating(self, self._backbone_parameters, lambda: self.vit_lr)  # type: ignore[method-assign]
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
        arguments = (num_input_channels, num_output_channels, enable_deep_supervision)
        if cls.network_class is None or cls.dino is None:
            return super().build_network_architecture(plans_manager, configuration_manager, *arguments)
        forget_slices_after_every_image()
        return build_from_plans(plans_manager, configuration_manager, cls.network_class, cls.dino, *arguments)

    def run_training(self) -> None:
        """Makes the network ready, then trains as nnU-Net does."""
        if not self.was_initialized:  # --c and -pretrained_weights have initialised the trainer by now
            self.initialize_from_scratch()
        if self.dino is not None:
            unwrap(self.network).slice_encoder.backbone.require_weights()
        super().run_training()

    def initialize_from_scratch(self) -> None:
        """Makes sure that there are weights, builds the network, and sets its output biases if asked for."""
        if self.dino is not None:
            check_weights(self.dino.backbone, self.dino.weights)
        self.initialize()
        if self.prior:
            self.output_biases = start_at_class_frequencies(self)

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.local_rank == 0:
            facts = {**network_facts(unwrap(self.network)), "output_biases": self._biases_at_start()}
            self.print_to_log_file("nnunet-dino:", json.dumps(facts))
            if encoder := getattr(unwrap(self.network), "slice_encoder", None):
                plans, configuration = self.plans_manager.plans, self.configuration_manager.configuration
                plane = describe_plane(plans, configuration, encoder.token_stride_px, encoder.rgb, encoder.sees)
                self.print_to_log_file("nnunet-dino:", plane)
                overruled = overruled_options(configuration["architecture"], encoder.options)
                for key, (planned, here) in overruled.items():
                    self.print_to_log_file(f"nnunet-dino: the plans say dino.{key} {planned!r}, this trainer has {here!r}")
                if said := encoder.backbone.says_of_colours(encoder.rgb):
                    self.print_to_log_file("nnunet-dino: warning:", said)
            Path(self.output_folder, FACTS_FILE).write_text(json.dumps(facts, indent=2) + "\n")

    def _biases_at_start(self) -> list[float] | None:
        """Returns what the training started with, which a continued one finds in its folder."""
        earlier = Path(self.output_folder, FACTS_FILE)
        if self.current_epoch > 0 and earlier.is_file():
            return read_json(earlier, dict).get("output_biases")
        return self.output_biases

    def on_train_epoch_start(self) -> None:
        if self.lr_scheduler is None:
            raise UserError(
                f"{type(self).__name__}: required a schedule with {OPTIMISES}'s optimiser · got None · return one, or write "
                "on_train_epoch_start without that of the base class"
            )
        super().on_train_epoch_start()
        follow(self.optimizer)

    def configure_optimizers(self, *args: Any, **kwargs: Any) -> tuple[torch.optim.Optimizer, Any]:
        """The recipe's optimiser and decay, with a learning rate of its own for the backbone; or those of a variant of nnU-Net
        that is named behind this class."""
        if getattr(super(), OPTIMISES).__func__ is not nnUNetTrainer.configure_optimizers:
            return super().configure_optimizers(*args, **kwargs)
        optimizer = self.recipe.optimizer(self.parameter_groups(), lr=self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, EpochSchedule(optimizer, self.recipe.decay, self.num_epochs)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Returns the trained parameters as one group, or two if the backbone is trained."""
        backbone = self._backbone_parameters()
        in_backbone = {id(p) for p in backbone}
        rest = [p for p in unwrap(self.network).parameters() if p.requires_grad and id(p) not in in_backbone]
        groups: list[dict[str, Any]] = [{"params": rest, "lr": self.initial_lr}]
        if backbone:
            groups.append({"params": backbone, "lr": self.initial_lr if self.vit_lr is None else self.vit_lr})
        return groups

    def _backbone_parameters(self) -> list[nn.Parameter]:
        """Returns the trained parameters of the backbone."""
        if self.dino is None:
            return []
        network = unwrap(self.network)
        if not hasattr(network, "slice_encoder"):
            raise UserError(
                f"{type(self).__name__}: required a network with a slice encoder · got {type(network).__name__} · leave "
                "build_network_architecture as it is, or derive from nnUNetTrainer"
            )
        return [p for p in network.slice_encoder.backbone.parameters() if p.requires_grad]

    def save_checkpoint(self, filename: str) -> None:
        """Saves so that a good checkpoint is never lost to an interruption or a full disk.

        The final checkpoint does without the optimiser's momentum, which is as large as the trained network and of no use
        when the learning rate has reached zero. ``--c`` loads it all the same.
        """
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        is_final = Path(filename).name == "checkpoint_final.pth"
        with _without_optimizer_state(self) if is_final else nullcontext():
            write_atomically(filename, super().save_checkpoint, _AFTER_A_FAILED_SAVE)

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """Loads as nnU-Net does, for ``--c`` and ``--val``.

        Raises:
            UserError: The file is damaged, or one of another training.
        """
        try:
            super().load_checkpoint(filename_or_checkpoint)
        except (UserError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if isinstance(filename_or_checkpoint, dict):
                raise
            read_checkpoint(filename_or_checkpoint)
            raise UserError(
                f"{filename_or_checkpoint}: required a checkpoint of {type(self).__name__} with these plans · got "
                f"{' '.join(str(error).split())[:200]} · put it back, or train again without --c and --val"
            ) from error

    def plot_network_architecture(self) -> None:
        """Does nothing: nnU-Net's plot can hang on networks that are not its own."""


def network_facts(network: nn.Module) -> dict[str, Any]:
    """Returns what a comparison wants to know of a network: sizes, backbone, and where its weights came from."""
    facts: dict[str, Any] = {
        "num_parameters_total": sum(p.numel() for p in network.parameters()),
        "num_parameters_trained": sum(p.numel() for p in network.parameters() if p.requires_grad),
    }
    if hasattr(network, "slice_encoder"):
        backbone = network.slice_encoder.backbone
        weights = "random" if backbone.weights_are_random else backbone.digest or "from a checkpoint"
        facts |= {"backbone": backbone.name, "adaptation": backbone.adaptation, "weights": weights}
    return facts


@contextmanager
def _without_optimizer_state(trainer: DINOv3Trainer) -> Iterator[None]:
    optimizer = trainer.optimizer
    slim = {**optimizer.state_dict(), "state": {}}
    trainer.optimizer = SimpleNamespace(state_dict=lambda: slim)
    try:
        yield
    finally:
        trainer.optimizer = optimizer
