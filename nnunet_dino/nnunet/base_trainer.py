"""nnU-Net's trainer with two settings more: how long to train, and whether the outputs start at the class frequencies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunet_dino._errors import one_line_in_stock_commands
from nnunet_dino.nnunet.pretrained import unwrap
from nnunet_dino.nnunet.prior import count_labels, prior_biases, set_output_biases

FACTS_FILE = "nnunet_dino.json"


class BaseTrainer(nnUNetTrainer):
    """nnU-Net's trainer; a new training may start with the output biases at the class frequencies.

    It does not where a training is continued (``--c``), starts from other weights (``-pretrained_weights``) or only predicts.

    Attributes:
        short_run_epochs: Number of epochs if it is not nnU-Net's 1000.
        prior: Start at the class frequencies.
        output_biases: The biases that the training started with; None for nnU-Net's own start.
    """

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
        super().__init__(plans, configuration, fold, dataset_json, device)
        if self.short_run_epochs is not None:
            self.num_epochs = self.short_run_epochs

    def run_training(self) -> None:
        """Makes the network ready, then trains as nnU-Net does."""
        with one_line_in_stock_commands():
            self.initialize_training()
        super().run_training()

    def initialize_training(self) -> None:
        """Initialises a new training, with the class prior if asked for."""
        if not self.was_initialized:  # a checkpoint or pretrained weights would have initialised the trainer
            self.initialize()
            if self.prior:
                self.output_biases = self._start_at_prior()

    def _start_at_prior(self) -> list[float]:
        training_cases, _ = self.do_split()
        dataset = self.dataset_class(self.preprocessed_dataset_folder, list(training_cases))
        biases = prior_biases(count_labels(dataset, self.label_manager), self.label_manager)
        set_output_biases(unwrap(self.network), biases)
        return biases

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.local_rank == 0:
            facts = {**network_facts(unwrap(self.network)), "output_biases": self._biases_at_start()}
            self.print_to_log_file("nnunet-dino:", json.dumps(facts))
            Path(self.output_folder, FACTS_FILE).write_text(json.dumps(facts, indent=2) + "\n")

    def _biases_at_start(self) -> list[float] | None:
        """Returns what this training started with, which a continued one finds in its folder."""
        earlier = Path(self.output_folder, FACTS_FILE)
        if self.current_epoch > 0 and earlier.is_file():
            return json.loads(earlier.read_text()).get("output_biases")
        return self.output_biases


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
