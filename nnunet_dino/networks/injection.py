"""Adds tokens to the feature maps of a convolutional stage."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_dino.backbones.precision import is_exporting


def resample(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Averages where the target is coarser, interpolates linearly where it is finer, axis by axis.

    Both are linear along one axis, so each is a product with a small matrix. Against torch's pooling and interpolation this
    costs nothing along axes that keep their size, and the way back is a matrix product as well, not a scatter.

    Args:
        maps: ``b k d gh gw`` or ``b k gh gw``.
        size: Target size of the spatial axes.
    """
    last = maps.ndim - 1
    for axis, target in enumerate(size, start=2):
        if maps.shape[axis] != target:
            matrix = resampling_matrix(int(maps.shape[axis]), int(target), maps.device, maps.dtype)
            maps = torch.matmul(maps.movedim(axis, last), matrix).movedim(last, axis)
    return maps


def resampling_matrix(have: int, want: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Returns ``have want``: averages of bins if ``want`` is smaller, else linear interpolation between pixel centres.

    It is remembered, but not in a graph: what exporters trace must not be, and compilers take no two constants of one function.
    """
    if is_exporting() or torch.compiler.is_compiling():
        return _weights(have, want, device).to(dtype)
    return _resampling_matrix(have, want, device, dtype)


@lru_cache(maxsize=64)
def _resampling_matrix(have: int, want: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():  # a tensor made in inference mode could not take part in training
        return _weights(have, want, torch.device("cpu")).to(device, dtype)


def _weights(have: int, want: int, device: torch.device) -> Tensor:
    """Returns the matrix in float64, so that it rounds to the same numbers on every device, compiled or not."""
    row = torch.arange(have, device=device, dtype=torch.float64)[:, None]
    column = torch.arange(want, device=device, dtype=torch.float64)
    if want < have:
        start, stop = (column * have / want).floor(), ((column + 1) * have / want).ceil()
        return ((row >= start) & (row < stop)) / (stop - start)
    positions = (((2 * column + 1) * have - want) / (2 * want)).clamp(0, have - 1)
    return (1 - (row - positions).abs()).clamp(min=0)


class TokenInjection(nn.Module):
    """``features + resample(project(tokens))``, with a projection that starts at zero unless told otherwise.

    From zero it learns at the pace of the convolutions beside it: its gradient is that of the features times the tokens, and
    neither is scaled down by a gate.

    Args:
        conv_op: ``nn.Conv2d`` or ``nn.Conv3d``.
        width: Width ``k`` of the tokens.
        num_features: Channels ``f`` of the stage.
        gate_start: Factor on PyTorch's start of the projection; at zero the stage starts as if there were no tokens.
    """

    def __init__(self, conv_op: type[nn.Module], width: int, num_features: int, gate_start: float) -> None:
        super().__init__()
        self.project = conv_op(width, num_features, kernel_size=1)
        with torch.no_grad():
            self.project.weight *= gate_start
            self.project.bias *= gate_start

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Returns features of the same shape ``b f d h w``, given tokens ``b k d gh gw`` (both without ``d`` in 2D).

        The last axis is interpolated while adding: one pass over the features, and none of that size is kept for the way back.
        """
        size = features.shape[2:]
        coarse = [min(int(have), int(want)) for have, want in zip(tokens.shape[2:], size, strict=True)]
        added = self._project(resample(tokens, coarse))
        added = resample(added, (*size[:-1], coarse[-1]))
        if coarse[-1] == size[-1]:
            return features + added
        matrix = resampling_matrix(coarse[-1], int(size[-1]), features.device, features.dtype)
        with torch.autocast(features.device.type, enabled=False):
            total = torch.addmm(features.flatten(0, -2), added.flatten(0, -2).to(features.dtype), matrix)
        return total.view(features.shape)

    def _project(self, tokens: Tensor) -> Tensor:
        """Returns the 1 × 1 convolution of tokens as one product with the token's width last in memory."""
        last = tokens.ndim - 1
        return F.linear(tokens.movedim(1, last), self.project.weight.flatten(1), self.project.bias).movedim(last, 1)
