"""A network whose every skip is made from tokens alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn

from nnunet_dino.networks.head import TokenHead
from nnunet_dino.networks.injection import resample
from nnunet_dino.networks.neck import TokenNeck
from nnunet_dino.networks.options import DinoOptions, build_slice_encoder, refuse_label_channels, refuse_unused
from nnunet_dino.networks.slices import unfold_slices
from nnunet_dino.networks.unet import NEGATIVE_SLOPE, keep_buffers_out_of_ddp


class TokensOnly(nn.Module):
    """Frozen slice tokens and a light convolutional decoder with skips (Benchmark paper, arXiv 2509.06467, sec. 2.3).

    No convolution sees the image itself: every skip is made from tokens. Stages, strides and features are the planned ones. A
    linear layer of the tokens is added to every output, as in :class:`nnunet_dino.networks.unet.DINOv3UNet`.

    Args:
        input_channels: Channels ``c``.
        num_classes: Segmentation heads.
        deep_supervision: Return the logits of every decoder stage while true, highest resolution first.
        dino: The ``dino`` entry of the plans.
        unet_kwargs: The stock network's own arguments, as planned.

    Raises:
        UserError: an unknown option, or the label channels of a cascade.
    """

    def __init__(
        self, input_channels: int, num_classes: int, deep_supervision: bool = False, *, dino: dict[str, Any], **unet_kwargs: Any
    ) -> None:
        super().__init__()
        options = DinoOptions.from_plans(dino)
        refuse_label_channels("TokensOnly", options, input_channels)
        refuse_unused("TokensOnly", options, "gate_start", "sees")
        self.slice_encoder = build_slice_encoder(options, input_channels)
        backbone = self.slice_encoder.backbone
        self.encoder = TokenPyramid(
            backbone.num_taps,
            backbone.embed_dim * self.slice_encoder.num_maps // backbone.num_taps,
            **{key: value for key, value in unet_kwargs.items() if key in TokenPyramid.PLANNED},
        )
        self.encoder.__dict__["slice_encoder"] = self.slice_encoder  # not a module of it: parameters have one name
        self.decoder = UNetDecoder(self.encoder, num_classes, 1, deep_supervision)
        self.neck, self.token_head = None, None
        if options.token_head:
            self.neck = TokenNeck(
                self.slice_encoder.num_maps, backbone.embed_dim, options.neck_width, not options.taps_are_normalised
            )
            self.token_head = TokenHead(self.encoder.conv_op, options.neck_width, num_classes)
        self.encoder.apply(InitWeights_He(NEGATIVE_SLOPE))
        self.decoder.apply(InitWeights_He(NEGATIVE_SLOPE))
        keep_buffers_out_of_ddp(self)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Returns logits ``b classes d h w`` for ``b c d h w``; a list of them under deep supervision."""
        return self.slice_encoder.reuse.run(self, x)

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Returns the skips ``b f d h w``, and for the head tokens ``b k d gh gw``."""
        maps = self.slice_encoder(x)
        skips = self.encoder(taps_of(maps, x, self.encoder.num_taps), x.shape[2:])
        if self.neck is None:
            return skips, None
        return skips, unfold_slices(self.neck(maps).movedim(3, 1), x.shape[0], x.ndim - 2)

    def decode(self, skips: list[Tensor], tokens: Tensor | None) -> Tensor | list[Tensor]:
        """Returns the logits: ``network.decode(*network.encode(x))`` is ``network(x)``."""
        logits = self.decoder(skips)
        return logits if self.token_head is None else self.token_head(logits, tokens)

    def _forward(self, x: Tensor) -> Tensor | list[Tensor]:
        return self.decode(*self.encode(x))

    def compute_conv_feature_map_size(self, input_size: list[int]) -> int:
        """Counts the decoder's outputs for one sample, as nnU-Net's planner asks."""
        return self.decoder.compute_conv_feature_map_size(input_size)


def taps_of(maps: Sequence[Tensor], x: Tensor, num_taps: int) -> list[Tensor]:
    """Returns taps ``b k d gh gw`` of the maps of the slices of ``x``, ``b c d h w``."""
    return [unfold_slices(tap.movedim(3, 1), x.shape[0], x.ndim - 2) for tap in group_by_tap(maps, num_taps)]


def group_by_tap(maps: Sequence[Tensor], num_taps: int) -> list[Tensor]:
    """Lays the images of a slice side by side: from maps ``n gh gw e``, image by image, to taps ``n gh gw (images·e)``."""
    if len(maps) == num_taps:
        return list(maps)
    return [torch.cat(maps[tap::num_taps], dim=-1) for tap in range(num_taps)]


class TokenPyramid(nn.Module):
    """Turns the patch maps of several blocks into one feature map per planned stage.

    Shallow blocks feed the high resolutions, deep blocks the low ones: stage ``i`` of ``n`` takes tap
    ``round(i · (taps − 1) / (n − 1))``. Each is normalised, projected to the stage's features, resampled to its size and
    passed through one convolution, the first that looks across slices.

    It has nnU-Net's encoder facts (``output_channels``, ``strides``, ``kernel_sizes``, ``conv_op`` …), from which nnU-Net's
    decoder is built.

    Args:
        num_taps: Number of tapped blocks.
        width: Width ``k`` of a tap: that of a token, times the images of a slice.
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

    def __init__(self, num_taps: int, width: int, **planned: Any) -> None:
        super().__init__()
        self.num_taps = num_taps
        num_stages = len(planned["strides"])
        for name in ("features_per_stage", "kernel_sizes"):
            if isinstance(planned[name], int):  # PlainConvUNet takes one number for all
                planned[name] = [planned[name]] * num_stages
        self.output_channels: list[int] = list(planned.pop("features_per_stage"))
        for name in self.PLANNED[1:]:
            setattr(self, name, planned.pop(name, None))
        self.tap_of_stage = [round(i * (num_taps - 1) / max(num_stages - 1, 1)) for i in range(num_stages)]
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in self.output_channels)
        self.projections = nn.ModuleList(self.conv_op(width, f, kernel_size=1) for f in self.output_channels)
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

    def forward(self, taps: Sequence[Tensor] | Tensor, size: Sequence[int] = ()) -> list[Tensor]:
        """Returns one map ``b f d h w`` per stage, given taps ``b k d gh gw`` of an input of ``size = (d, h, w)``.

        An image ``b c d h w``, which nnU-Net's encoder takes, may stand for its taps.
        """
        if isinstance(taps, Tensor):
            size = taps.shape[2:]
            taps = taps_of(self.slice_encoder(taps), taps, self.num_taps)
        sizes = np.asarray([int(n) for n in size]) // np.cumprod(np.asarray(self.strides), axis=0)
        skips = []
        for stage, target in enumerate(sizes.tolist()):
            tokens = taps[self.tap_of_stage[stage]].movedim(1, len(size) + 1)
            tokens = self.norms[stage](tokens.to(self.norms[stage].weight.dtype)).movedim(len(size) + 1, 1)
            skips.append(self.convs[stage](resample(self.projections[stage](tokens), target)))
        return skips
