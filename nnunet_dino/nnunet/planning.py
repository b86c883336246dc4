"""What all planners of this package share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from unittest.mock import patch

import numpy as np
import torch
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

from nnunet_dino._errors import UserError
from nnunet_dino._nnunet_folders import read_json
from nnunet_dino.backbones.catalogue import get_spec
from nnunet_dino.backbones.spec import PATCH_PX
from nnunet_dino.networks.options import DinoOptions
from nnunet_dino.nnunet.check_plans import check_planning
from nnunet_dino.nnunet.memory import backbone_outputs
from nnunet_dino.nnunet.plans import dino_architecture
from nnunet_dino.nnunet.preprocessed import preprocess_alike
from nnunet_dino.nnunet.presets import DINOV3_UNET
from nnunet_dino.nnunet.slice_view import fit_to_plans, pixel_aspect

if TYPE_CHECKING:  # what it is mixed into; nnU-Net's residual planners are its subclasses
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner as _Planner
else:
    _Planner = object

STOCK_PLANS, DEFAULT = "nnUNetPlans", "DefaultPreprocessor"
FINE_PX = 896
FINE = "2d_896"
MAX_ENLARGEMENT, MIN_SHORTER_PX = 32, 4 * PATCH_PX


@contextlib.contextmanager
def estimating() -> Iterator[None]:
    """nnU-Net builds a network for every patch size that it tries: here it costs nothing, nor any of its threads, of which 0
    are an error there.
    """
    with torch.device("meta"), patch.dict(os.environ, nnUNet_n_proc_DA="1"):
        yield


class DINOv3Planning(_Planner):
    """Mixed into one of nnU-Net's planners: plans its network, then writes the DINOv3 network into the plans.

    Stock trainers build it from the plans by dotted path. Spacing, transposition, normalisation and resampling are the stock
    planner's, so ``2d`` and ``3d_fullres`` use the stock preprocessed folders. A configuration ``2d_896`` is added, after
    MedDINOv3 (Li et al. 2025): one token per 16 pixels and square pixels::

        stock patch 192 × 160 px of 1 × 1 mm      the longer side, 192 mm, in 896 px: 0.214 mm
        ┌───────────────┐                         ┌───────────────┐┐
        │ 192 × 160 mm  │ ──────────────────────► │ 896 × 747 px  ││ 896 × 768 px, which the strides can halve:
        └───────────────┘                         └───────────────┘┘ 56 × 48 tokens

    Attributes:
        dino: The DINOv3 side of the network.
        default_plans_name: Name of the plans if none is given.
    """

    dino: ClassVar[DinoOptions]
    default_plans_name: ClassVar[str]
    _pixel_aspect: float = 1.0

    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float | None = None,
        preprocessor_name: str = DEFAULT,
        plans_name: str | None = None,
        overwrite_target_spacing: Sequence[float] | None = None,
        suppress_transpose: bool = False,
    ) -> None:
        name = plans_name or self.default_plans_name
        _require_memory_target(gpu_memory_target_in_gb)
        check_planning(dataset_name_or_id, name)
        memory = {} if gpu_memory_target_in_gb is None else {"gpu_memory_target_in_gb": gpu_memory_target_in_gb}
        super().__init__(
            dataset_name_or_id,
            preprocessor_name=preprocessor_name,
            plans_name=name,
            overwrite_target_spacing=overwrite_target_spacing,
            suppress_transpose=suppress_transpose,
            **memory,
        )

    def generate_data_identifier(self, configuration_name: str) -> str:
        """A folder of our own; :meth:`save_plans` shares the stock one where the data in it are the same."""
        return f"{self.plans_identifier}_{configuration_name}"

    def get_plans_for_configuration(self, spacing: Sequence[float], *arguments: Any) -> dict[str, Any]:
        """Plans a configuration with a backbone that sees square pixels."""
        self._pixel_aspect = pixel_aspect(spacing)
        return super().get_plans_for_configuration(spacing, *arguments)

    def static_estimate_VRAM_usage(self, patch_size: Sequence[int], input_channels: int, *architecture: Any) -> int:
        """Adds the backbone to nnU-Net's estimate for the convolutions.

        Raises:
            UserError: nnU-Net asks for ever smaller patches and none can fit into the memory target.
        """
        self._refuse_to_shrink_for_ever(patch_size, input_channels)
        dino = replace(self.dino, pixel_aspect=self._pixel_aspect)
        return self._estimate(dino, patch_size, input_channels, *architecture)

    def _estimate(self, dino: DinoOptions, patch_size: Sequence[int], input_channels: int, *architecture: Any) -> int:
        with estimating():
            convolutions = super().static_estimate_VRAM_usage(patch_size, input_channels, *architecture)
        return convolutions + backbone_outputs(dino, patch_size, input_channels, self._reference(len(patch_size))[1])

    def _reference(self, num_axes: int) -> tuple[float, int]:
        """Returns how many outputs fit into the memory target, and the batch size that nnU-Net counts them for."""
        outputs = self.UNet_reference_val_2d if num_axes == 2 else self.UNet_reference_val_3d
        batch_size = self.UNet_reference_val_corresp_bs_2d if num_axes == 2 else self.UNet_reference_val_corresp_bs_3d
        return outputs * self.UNet_vram_target_GB / self.UNet_reference_val_corresp_GB, batch_size

    def _refuse_to_shrink_for_ever(self, patch_size: Sequence[int], input_channels: int) -> None:
        """nnU-Net shrinks the patch until two samples fit, and what the backbone needs for any patch may not fit at all."""
        available, batch_size = self._reference(len(patch_size))
        smallest = [self.UNet_featuremap_min_edge_length] * len(patch_size)
        needed = backbone_outputs(self.dino, smallest, input_channels, batch_size) * self.UNet_min_batch_size / batch_size
        if needed > available or max(patch_size) < 2 * self.UNet_featuremap_min_edge_length or min(patch_size) < 1:
            least = self.UNet_vram_target_GB * needed / available
            raise UserError(
                f"-gpu_memory_target: required clearly more than the {least:.2g} GB of {self.dino.backbone} alone · got "
                f"{self.UNet_vram_target_GB:g} GB, in which no patch fits · raise it or use the planner of a smaller backbone"
            )

    def save_plans(self, plans: dict[str, Any]) -> None:
        """Adds ``2d_896`` and puts the DINOv3 network into every configuration before saving."""
        self._add_fine_configuration(plans)
        for name, configuration in plans["configurations"].items():
            if "architecture" in configuration:  # 3d_cascade_fullres inherits its own
                options = self._fine_dino() if name == FINE else self.dino
                options = fit_to_plans(options, configuration, plans["foreground_intensity_properties_per_channel"])
                configuration["architecture"] = dino_architecture(configuration["architecture"], DINOV3_UNET, options)
        self._share_stock_folders(plans)
        super().save_plans(plans)

    def _share_stock_folders(self, plans: dict[str, Any]) -> None:
        """Names the stock folder of ``2d`` and ``3d_fullres`` if the stock plans preprocess alike, or there are none yet."""
        file = Path(os.environ["nnUNet_preprocessed"], plans["dataset_name"], f"{STOCK_PLANS}.json")
        stock = read_json(file, dict) if file.is_file() else None
        for name in ("2d", "3d_fullres"):
            if name not in plans["configurations"]:
                continue
            if stock is not None:
                shared = name in stock["configurations"] and preprocess_alike(plans, stock, name)
                if not shared:
                    print(f"{name}: {STOCK_PLANS} preprocess otherwise, so {self.plans_identifier} get a folder of their own")
            else:
                shared = not (self.overwrite_target_spacing or self.suppress_transpose or self.preprocessor_name != DEFAULT)
            if shared:
                plans["configurations"][name]["data_identifier"] = f"{STOCK_PLANS}_{name}"

    def _fine_dino(self) -> DinoOptions:
        return replace(self.dino, token_stride_px=get_spec(self.dino.backbone).patch_px)

    def _add_fine_configuration(self, plans: dict[str, Any]) -> None:
        """Adds ``2d_896`` unless pictures of that size would hold next to nothing."""
        stock = plans["configurations"]["2d"]
        field_mm = np.asarray(stock["spacing"], dtype=float) * stock["patch_size"]
        shorter_px = FINE_PX * field_mm.min() / field_mm.max()
        if max(stock["patch_size"]) * MAX_ENLARGEMENT < FINE_PX or shorter_px < MIN_SHORTER_PX:
            print(f"{FINE} is left out: patches of 2d have {stock['patch_size']} pixels on {np.round(field_mm, 1).tolist()} mm")
            return
        fine = self._fine_configuration(stock)
        shapes, axis = np.asarray(self.dataset_fingerprint["shapes_after_crop"]), plans["transpose_forward"][0]
        num_pixels = np.prod(fine["median_image_size_in_voxels"]) * np.median(shapes[:, axis]) * len(shapes)
        covered = round(self.max_dataset_covered * num_pixels / np.prod(fine["patch_size"]))  # nnU-Net's limit for a batch
        fine["batch_size"] = max(min(fine["batch_size"], covered), self.UNet_min_batch_size)
        plans["configurations"][FINE] = fine

    def _fine_configuration(self, stock: dict[str, Any]) -> dict[str, Any]:
        """Returns the stock 2D configuration on a finer grid: the field of view of its patch, the longer side in 896 px."""
        fine = deepcopy(stock)
        stock_spacing_mm = np.asarray(stock["spacing"], dtype=float)
        field_mm = stock_spacing_mm * stock["patch_size"]
        spacing_mm = np.full(2, field_mm.max() / FINE_PX)
        median = np.asarray(stock["median_image_size_in_voxels"], dtype=float) * stock_spacing_mm / spacing_mm
        _, strides, kernels, patch_size, _ = get_pool_and_conv_props(
            spacing_mm, np.round(field_mm / spacing_mm).astype(int), self.UNet_featuremap_min_edge_length, 999999
        )
        num_stages = len(strides)
        arguments = fine["architecture"]["arch_kwargs"]
        blocks = "n_blocks_per_stage" if "n_blocks_per_stage" in arguments else "n_conv_per_stage"
        arguments.update(
            n_stages=num_stages,
            features_per_stage=[min(self.UNet_max_features_2d, self.UNet_base_num_features * 2**i) for i in range(num_stages)],
            kernel_sizes=kernels,
            strides=strides,
            n_conv_per_stage_decoder=self.UNet_blocks_per_stage_decoder[: num_stages - 1],
        )
        arguments[blocks] = self.UNet_blocks_per_stage_encoder[:num_stages]
        fine.update(
            data_identifier=self.generate_data_identifier(FINE),
            spacing=spacing_mm,
            patch_size=patch_size,
            median_image_size_in_voxels=median,
            batch_size=self._fine_batch_size(patch_size, fine["architecture"]),
        )
        return fine

    def _fine_batch_size(self, patch_size: Sequence[int], architecture: dict[str, Any]) -> int:
        estimate = self._estimate(
            self._fine_dino(),
            patch_size,
            len(self.dataset_json.get("channel_names", self.dataset_json.get("modality", {}))),
            len(self.dataset_json["labels"]),
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
        )
        available, batch_size = self._reference(2)
        return max(round(available / estimate * batch_size), self.UNet_min_batch_size)


def _require_memory_target(gb: float | None) -> None:
    if gb is not None and not 0 < gb < float("inf"):
        raise UserError(f"-gpu_memory_target: required a number of GB above 0 · got {gb:g} · give your GPU's memory")
