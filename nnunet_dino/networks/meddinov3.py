"""MedDINOv3's segmentation network, in two dimensions (arXiv 2509.02379, sec. 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from dynamic_network_architectures.building_blocks.patch_encode_decode import LayerNormNd
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn

from nnunet_dino._errors import UserError
from nnunet_dino.backbones.quiet_timm import timm
from nnunet_dino.backbones.spec import PATCH_PX
from nnunet_dino.networks.options import DinoOptions, build_slice_encoder, refuse_label_channels, refuse_unused
from nnunet_dino.networks.unet import NEGATIVE_SLOPE, keep_buffers_out_of_ddp

NUM_DOUBLINGS = PATCH_PX.bit_length() - 1  # 16 pixels per token: four


class TokenDecoder(nn.Module):
    """Turns tokens into logits: four times a transposed convolution that doubles the grid and halves the width.

    Args:
        width: Width ``k`` of the tokens, a multiple of 16.
        num_classes: Segmentation heads.

    Attributes:
        deep_supervision: Set by nnU-Net and without effect: there is one output.
        seg_layers: The last layer, called as nnU-Net calls it so that ``-pretrained_weights`` leaves it out.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.deep_supervision = False
        self.widths = [width // 2**i for i in range(NUM_DOUBLINGS + 1)]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(wide, narrow, kernel_size=2, stride=2), LayerNormNd(narrow), nn.GELU())
            for wide, narrow in pairwise(self.widths)
        )
        self.seg_layers = nn.ModuleList([nn.Conv2d(self.widths[-1], num_classes, kernel_size=1)])
        self.apply(InitWeights_He(NEGATIVE_SLOPE))

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns logits ``b classes 16·gh 16·gw`` for tokens ``b k gh gw``."""
        features = tokens.to(self.seg_layers[0].weight.dtype)
        for stage in self.stages:
            features = stage(features)
        return self.seg_layers[0](features)


class MedDINOv3(nn.Module):
    """Tokens of four depths side by side, decoded by transposed convolutions. No skips, no deep supervision.

    ::

        b c h w ─► resize ─► b 3 16·gh 16·gw ─► ViT ─┬─ block 2  ─┐
                                                     ├─ block 5  ─┤ concatenate
                                                     ├─ block 8  ─┤ b 4·e gh gw ─► decoder ─► b classes 16·gh 16·gw ─┐
                                                     └─ block 11 ─┘                                                  │
                                                                               logits b classes h w ◄── resize ◄─────┘

    Both resizings do nothing where ``h`` and ``w`` are multiples of 16 and a token stands for 16 pixels.

    Follows ``Primus_Multiscale`` of https://github.com/ricklisz/MedDINOv3, as read in its fork sash9966/MedDINOv3 at commit
    bc5a6b7fa88ca41ceedc647a3edba5f06506d8f0 (``dinov3/models/primus.py``); what its trainer wrote can be loaded. The stochastic
    depth rate is the same in every block there, and so it is here. It takes one image channel there; here any number.

    Args:
        input_channels: Channels ``c``.
        num_classes: Segmentation heads.
        deep_supervision: Must be false.
        dino: The ``dino`` entry of the plans, see :class:`nnunet_dino.networks.options.DinoOptions`.
        unet_kwargs: The planned network's own arguments. Only its dimension counts.

    Raises:
        UserError: the plans are not two-dimensional, deep supervision is asked for, an option is unknown, or there are
            label channels of a cascade.
    """

    def __init__(
        self, input_channels: int, num_classes: int, deep_supervision: bool = False, *, dino: dict[str, Any], **unet_kwargs: Any
    ) -> None:
        super().__init__()
        _check(deep_supervision, unet_kwargs.get("conv_op", nn.Conv2d))
        options = DinoOptions.from_plans(dino)
        refuse_label_channels("MedDINOv3", options, input_channels)
        refuse_unused("MedDINOv3", options, "gate_start", "neck_width", "token_head", "sees")
        self.slice_encoder = build_slice_encoder(options, input_channels)
        backbone = self.slice_encoder.backbone
        if backbone.patch_px != PATCH_PX:
            got = f"{options.backbone} with {backbone.patch_px}"
            raise UserError(f"MedDINOv3: required patches of {PATCH_PX} pixels · got {got} · use another network or backbone")
        if options.drop_path:
            _drop_paths_alike(backbone.backbone.vit, options.drop_path)
        self.decoder = TokenDecoder(self.slice_encoder.num_maps * backbone.embed_dim, num_classes)
        keep_buffers_out_of_ddp(self)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits ``b classes h w`` for images ``b c h w``."""
        return self.slice_encoder.reuse.run(self, x)

    def encode(self, x: Tensor) -> tuple[Tensor, Sequence[int]]:
        """Returns the tokens ``b 4·e gh gw``, and the size ``(h, w)`` of the images."""
        return torch.cat(self.slice_encoder(x), dim=-1).movedim(3, 1), x.shape[2:]

    def decode(self, tokens: Tensor, size_px: Sequence[int]) -> Tensor:
        """Returns the logits: ``network.decode(*network.encode(x))`` is ``network(x)``."""
        logits = self.decoder(tokens)
        if logits.shape[2:] == size_px:
            return logits
        return F.interpolate(logits, size_px, mode="bilinear", align_corners=False)

    def _forward(self, x: Tensor) -> Tensor:
        return self.decode(*self.encode(x))

    def compute_conv_feature_map_size(self, input_size: list[int]) -> int:
        """Counts the decoder's outputs for one sample, as nnU-Net's planner asks."""
        gh, gw = self.slice_encoder.grid(input_size)
        widths = self.decoder.widths[1:]
        doubled = sum(width * gh * gw * 4**i for i, width in enumerate(widths, start=1))
        return doubled + self.decoder.seg_layers[0].out_channels * gh * gw * 4 ** len(widths)


def _check(deep_supervision: bool, conv_op: type[nn.Module]) -> None:
    if conv_op is not nn.Conv2d:
        raise UserError(f"MedDINOv3: required a 2D configuration · got {conv_op.__name__} · use -c 2d or 2d_896")
    if deep_supervision:
        raise UserError(
            "MedDINOv3: required a trainer without deep supervision · got one with it · "
            "use -tr nnUNetTrainerMedDINOv3B or nnUNetTrainerNoDeepSupervision"
        )


def _drop_paths_alike(vit: nn.Module, rate: float) -> None:
    """Gives every block the same stochastic depth rate; timm raises it from zero in the first block to ``rate`` in the last."""
    for block in vit.blocks:
        block.drop_path1 = timm.layers.DropPath(rate)
        block.drop_path2 = timm.layers.DropPath(rate)
