"""Skips made from tokens alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from torch import Tensor, nn

from nnunet_dino.networks.injection import resample


class TokenPyramid(nn.Module):
    """Turns patch maps into one feature map per planned stage.

    Shallow blocks feed the high resolutions, deep blocks the low ones: stage ``i`` of ``n`` takes map
    ``round(i · (maps − 1) / (n − 1))``. Each is normalised, projected to the stage's features, resampled to its size and
    passed through one convolution, the first that looks across slices.

    It has nnU-Net's encoder facts (``output_channels``, ``strides``, ``kernel_sizes``, ``conv_op`` …), from which nnU-Net's
    decoder is built.

    Args:
        num_maps: Number of patch maps.
        embed_dim: Width ``e`` of each.
        planned: The entries of the plans named in ``PLANNED``.
    """

    PLANNED = (
        "features_per_stage",
        "strides",
        "kernel_sizes",
        "conv_op",
        "conv_bias",
        "norm_op",
        "norm_op_kwargs",
        "dropout_op",
        "dropout_op_kwargs",
        "nonlin",
        "nonlin_kwargs",
    )

    def __init__(self, num_maps: int, embed_dim: int, **planned: Any) -> None:
        super().__init__()
        self.output_channels: list[int] = list(planned.pop("features_per_stage"))
        for name in self.PLANNED[1:]:
            setattr(self, name, planned.pop(name))
        num_stages = len(self.output_channels)
        self.map_of_stage = [round(i * (num_maps - 1) / (num_stages - 1)) for i in range(num_stages)]
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in self.output_channels)
        self.projections = nn.ModuleList(self.conv_op(embed_dim, f, kernel_size=1) for f in self.output_channels)
        self.convs = nn.ModuleList(
            StackedConvBlocks(
                1,
                self.conv_op,
                f,
                f,
                kernel,
                1,
                self.conv_bias,
                self.norm_op,
                self.norm_op_kwargs,
                self.dropout_op,
                self.dropout_op_kwargs,
                self.nonlin,
                self.nonlin_kwargs,
            )
            for f, kernel in zip(self.output_channels, self.kernel_sizes, strict=True)
        )

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> list[Tensor]:
        """Returns one map ``b f d h w`` per stage, given maps ``b e d gh gw`` of an input of ``size = (d, h, w)``."""
        sizes = np.asarray(size) // np.cumprod(np.asarray(self.strides), axis=0)
        skips = []
        for stage, target in enumerate(sizes.tolist()):
            tokens = maps[self.map_of_stage[stage]].movedim(1, -1)
            tokens = self.norms[stage](tokens.to(self.norms[stage].weight.dtype)).movedim(-1, 1)
            skips.append(self.convs[stage](resample(self.projections[stage](tokens), target)))
        return skips
