"""Lets tokens speak to the outputs directly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nnunet_dino.networks.injection import resample


class TokenHead(nn.Module):
    """``logits + resample(linear(tokens))`` at every output, with a linear layer that starts at zero.

    What a linear probe finds in the tokens is found within few steps, while the way through the decoder is still being learned.

    Args:
        conv_op: ``nn.Conv2d`` or ``nn.Conv3d``.
        width: Width ``k`` of the tokens.
        num_classes: Segmentation heads.

    Attributes:
        seg_layers: The layer, called as nnU-Net calls output layers so that ``-pretrained_weights`` leaves it out.
    """

    def __init__(self, conv_op: type[nn.Module], width: int, num_classes: int) -> None:
        super().__init__()
        self.seg_layers = nn.ModuleList([conv_op(width, num_classes, kernel_size=1, bias=False)])
        nn.init.zeros_(self.seg_layers[0].weight)

    def forward(self, logits: Tensor | list[Tensor], tokens: Tensor) -> Tensor | list[Tensor]:
        """Returns logits ``b classes d h w``, one or one per resolution as given, given tokens ``b k d gh gw``."""
        seen = self.seg_layers[0](tokens)
        if isinstance(logits, Tensor):
            return self._add(logits, seen)
        return [self._add(output, seen) for output in logits]

    def _add(self, logits: Tensor, seen: Tensor) -> Tensor:
        return torch.add(logits, resample(seen, logits.shape[2:]))
