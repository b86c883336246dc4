"""nnU-Net's own sliding window over networks that were never saved."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor, nn


def predictor(
    network: nn.Module,
    patch_size: tuple[int, ...],
    mirror_axes: tuple[int, ...] | None,
    num_heads: int = 3,
    kind: type[nnUNetPredictor] = nnUNetPredictor,
    device: str = "cpu",
) -> Any:
    """nnU-Net's predictor for ``network``, without the files of a trained model."""
    result = kind(device=torch.device(device), allow_tqdm=False, use_mirroring=mirror_axes is not None)
    label_manager = SimpleNamespace(num_segmentation_heads=num_heads)
    plans_manager = SimpleNamespace(get_label_manager=lambda dataset_json: label_manager)
    configuration = SimpleNamespace(patch_size=patch_size)
    result.manual_initialization(network, plans_manager, configuration, [network.state_dict()], {}, "", mirror_axes)
    return result


class MovingPredictor(nnUNetPredictor):
    """Does to a network on the host what nnU-Net's ``.to("cuda")`` does: in inference mode it makes every tensor anew."""

    @torch.inference_mode()
    def predict_sliding_window_return_logits(self, input_image: Tensor) -> Tensor:
        self.network._apply(torch.clone)
        return super().predict_sliding_window_return_logits(input_image)


def predict(network: nn.Module, image: Tensor, patch_size: tuple[int, ...], mirror_axes: tuple[int, ...] | None) -> Tensor:
    return predictor(network, patch_size, mirror_axes).predict_logits_from_preprocessed_data(image)


def image(*size: int, channels: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(channels, *size, generator=torch.Generator().manual_seed(seed))
