"""What the tensors of a backbone must look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from nnunet_dino.backbones.catalogue import BackboneSpec
from nnunet_dino.backbones.quiet_timm import timm


@dataclass(frozen=True)
class Architecture:
    """What the tensors of a backbone must look like.

    Attributes:
        shapes: Shape of every tensor of ``Backbone(spec).vit.state_dict()``.
        periods: Periods of the rotary position embedding, ``head_dim / 4`` values, float32.
        num_heads: Heads of every attention.
        rope_theta: Base of the rotary position embedding.
        is_gated: Whether its feed-forward layers are SwiGLU.
    """

    shapes: Mapping[str, tuple[int, ...]]
    periods: Tensor
    num_heads: int
    rope_theta: float
    is_gated: bool


@cache
def architecture(spec: BackboneSpec) -> Architecture:
    """Returns the architecture of ``spec`` without allocating its weights."""
    with torch.device("meta"):
        vit = timm.create_model(spec.timm_model, pretrained=False, num_classes=0, **spec.overrides)
    shapes = {name: tuple(tensor.shape) for name, tensor in vit.state_dict().items()}
    return Architecture(
        shapes=shapes,
        periods=vit.rope._compute_periods(device=torch.device("cpu")),
        num_heads=vit.blocks[0].attn.num_heads,
        rope_theta=vit.rope.temperature,
        is_gated="blocks.0.mlp.fc1_g.weight" in shapes,
    )
