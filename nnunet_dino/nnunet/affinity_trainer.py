"""What affinity trainers share: targets, loss, and a validation that scores neurons."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from batchgeneratorsv2.transforms.base.basic_transform import SegOnlyTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn

from nnunet_dino._errors import UserError
from nnunet_dino._nnunet_folders import existing_folder
from nnunet_dino._packages import require
from nnunet_dino.em import WeightedMSE, affinities_of, widen_borders
from nnunet_dino.em.affinities import Offset
from nnunet_dino.em.score_folder import score_files, write_summary
from nnunet_dino.nnunet.affinity_planning import label_manager_name
from nnunet_dino.nnunet.check_plans import planned_configuration
from nnunet_dino.nnunet.neuron_labels import check_ids
from nnunet_dino.nnunet.preprocessed import preprocessed_cases
from nnunet_dino.nnunet.trainer import DINOv3Trainer

PLANNER, PLANS = "nnUNetPlannerAffinities", "nnUNetAffinitiesPlans"


class AffinityTransform(SegOnlyTransform):
    """Makes affinities of ids, after everything that moves them.

    Args:
        offsets: Of the channels.
        widens: Widen the borders in every section first.
    """

    def __init__(self, offsets: Sequence[Offset], widens: bool) -> None:
        super().__init__()
        self.offsets, self.widens = tuple(offsets), widens

    def _apply_to_segmentation(self, segmentation: Tensor, **params: Any) -> Tensor:
        ids = segmentation[0]
        return affinities_of(widen_borders(ids) if self.widens else ids, self.offsets)


class AffinityTrainer(DINOv3Trainer):
    """Trains a network to predict affinities; its predictions are neurons.

    Affinities have a direction, so that a mirrored prediction would have to be shifted by a voxel before it is averaged with
    others: training mirrors, prediction does not.
    """

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net reads exactly this signature)
    ) -> None:
        _require_em()
        plans["label_manager"] = _label_manager_for(plans, configuration)
        super().__init__(plans, configuration, fold, dataset_json, device)
        _check_first_case(plans, configuration)
        self.oversample_foreground_percent = 0.0

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Builds the network; called by nnU-Net in training and at prediction, which needs the extra ``em`` as well."""
        _require_em()
        return super().build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )

    def _build_loss(self) -> nn.Module:
        return WeightedMSE()

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> Any:
        found = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None
        return found

    def get_training_transforms(self, *arguments: Any, **options: Any) -> ComposeTransforms:  # type: ignore[override]
        return self._with_affinities(super().get_training_transforms(*arguments, **options))

    def get_validation_transforms(self, *arguments: Any, **options: Any) -> ComposeTransforms:  # type: ignore[override]
        return self._with_affinities(super().get_validation_transforms(*arguments, **options))

    def _with_affinities(self, stock: ComposeTransforms) -> ComposeTransforms:
        """Moves ids by the nearest voxel, keeps −1 for what lies outside the volume, and makes affinities in the end."""
        transforms = [step for step in stock.transforms if not isinstance(step, RemoveLabelTansform)]
        for step in transforms:
            if isinstance(step, SpatialTransform):
                step.mode_seg = "nearest"
        labels = self.label_manager
        return ComposeTransforms([*transforms, AffinityTransform(labels.offsets, widens=labels.per_section)])

    def validation_step(self, batch: dict) -> dict:
        """Returns the loss, and the hits of predicted borders (affinities below a half) per channel for the pseudo Dice."""
        data, target = (batch[key].to(self.device, non_blocking=True) for key in ("data", "target"))
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
            output = self.network(data)
            loss = self.loss(output, target)
        is_predicted, is_border, is_known = output < 0, target == 0, target >= 0
        axes = (0, 2, 3, 4)
        hits = {
            "tp_hard": is_predicted & is_border,
            "fp_hard": is_predicted & ~is_border & is_known,
            "fn_hard": ~is_predicted & is_border,
        }
        counts = {key: mask.sum(axes).double().cpu().numpy() for key, mask in hits.items()}
        return {"loss": loss.detach().cpu().numpy(), **counts}

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Predicts the validation cases and scores their neurons, into the ``summary.json`` where nnU-Net writes Dice."""
        self.set_deep_supervision_enabled(False)
        self.network.eval()
        folder = Path(self.output_folder, "validation")
        folder.mkdir(parents=True, exist_ok=True)
        keys = sorted(self.do_split()[1])
        for key in keys[self.local_rank :: dist.get_world_size()] if self.is_ddp else keys:
            self._predict_case(key, folder, save_probabilities)
        if self.is_ddp:
            dist.barrier()
        if self.local_rank == 0:
            ending = self.dataset_json["file_ending"]
            truth = Path(self.preprocessed_dataset_folder_base, "gt_segmentations")
            reader = self.plans_manager.image_reader_writer_class()
            files = [folder / f"{key}{ending}" for key in keys]
            summary = score_files(files, truth, lambda file: reader.read_seg(str(file))[0][0])
            write_summary(summary, folder / "summary.json")
            mean = summary["foreground_mean"]
            for name, value in mean.items():
                self.logger.log_summary(f"final_val/{name}", value)
            self.print_to_log_file("Validation complete")
            self.print_to_log_file(
                f"Mean Validation VOI: {mean['voi_sum']:.4f} (split {mean['voi_split']:.4f}, merge {mean['voi_merge']:.4f}), "
                f"ARAND: {mean['arand']:.4f} (CREMI {mean['arand_cremi']:.4f})"
            )
        self.set_deep_supervision_enabled(True)

    def _predict_case(self, key: str, folder: Path, save_probabilities: bool) -> None:
        self.print_to_log_file(f"predicting {key}")
        predictor = nnUNetPredictor(use_mirroring=False, device=self.device, allow_tqdm=False)
        predictor.manual_initialization(
            self.network, self.plans_manager, self.configuration_manager, None, self.dataset_json, type(self).__name__, None
        )
        data, _, _, properties = self.dataset_class(self.preprocessed_dataset_folder, [key]).load_case(key)
        logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(np.array(data[:]))).cpu()
        managers = (self.configuration_manager, self.plans_manager, self.dataset_json)
        export_prediction_from_logits(logits, properties, *managers, str(folder / key), save_probabilities)


def _require_em() -> None:
    """Ends before a training or a prediction that could not make neurons in the end."""
    for package in ("mahotas", "waterz"):
        require(package, "em", "neurons")


def _label_manager_for(plans: dict[str, Any], configuration: str) -> str:
    """Returns the label manager that the plans name, or of nnU-Net's own plans the one that fits them.

    Raises:
        UserError: The configuration is not one of volumes at full resolution, or stock plans resample or transpose.
    """
    planned = planned_configuration(plans, configuration)
    if len(planned["patch_size"]) != 3 or planned.get("previous_stage"):
        raise UserError(
            f"affinities: required a 3D configuration without a first stage · got {configuration} · train "
            "3d_fullres; 2D images have no sections to connect"
        )
    if str(plans.get("label_manager", "")).startswith("Affinity"):
        return plans["label_manager"]
    median, number = plans["original_median_spacing_after_transp"], str(plans.get("dataset_name"))[7:10].lstrip("0")
    if not np.allclose(planned["spacing"], median, rtol=1e-3, atol=0) or plans["transpose_forward"] != [0, 1, 2]:
        raise UserError(
            f"plans: required that ids are resampled to the nearest and axes stay as they are · got {plans['plans_name']} with "
            f"a spacing of {planned['spacing']} of images of {median} and axes {plans['transpose_forward']} · run: "
            f"nnUNetv2_plan_and_preprocess -d {number} -pl {PLANNER} -c 3d_fullres, and train with -p {PLANS}"
        )
    return label_manager_name(median, has_long_range=False)


def _check_first_case(plans: dict[str, Any], configuration: str) -> None:
    """Raises :class:`UserError` unless the first preprocessed case has ids of neurons."""
    identifier = planned_configuration(plans, configuration)["data_identifier"]
    folder = Path(existing_folder("nnUNet_preprocessed") or os.curdir, plans["dataset_name"], identifier)
    case = min(preprocessed_cases(folder))
    check_ids(np.asarray(infer_dataset_class(str(folder))(str(folder), [case]).load_case(case)[1][:]))
