"""One 2D vision transformer, or another model of timm that gives a map, behind one small record."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nnunet_dino.backbones.quiet_timm import timm
from nnunet_dino.backbones.rope import rotate_in_bfloat16
from nnunet_dino.backbones.spec import BackboneSpec

NUM_PREFIX_TOKENS = 5  # the class token and four registers
TOKENS_AT_ONCE = 16_384  # frozen: keeps any processor busy, and activations within a few hundred MiB


class BackboneOutput(NamedTuple):
    """What a backbone saw in ``n`` images, one entry per tapped block, shallow to deep.

    Attributes:
        patch_maps: Patch tokens as maps, each ``n e gh gw``, views with ``e`` last in memory.
        class_tokens: Each ``n e``; none of a transformer without a class token.
        register_tokens: Each ``n r e``.
    """

    patch_maps: tuple[Tensor, ...]
    class_tokens: tuple[Tensor, ...]
    register_tokens: tuple[Tensor, ...]


class Backbone(nn.Module):
    """A vision transformer that returns the tokens of several blocks.

    DINOv3's is timm's ``Eva`` in its DINOv3 form, others are as timm builds them; a model that is no such transformer gives the
    one map that timm's ``forward_features`` ends with. Parameters are uninitialised memory until
    weights are loaded (``vit.load_state_dict``) unless ``random`` is true.

    Args:
        spec: A row of the catalogue.
        random: Initialise with timm's random weights instead of leaving the parameters empty.
        taps_are_normalised: Pass every tapped block through the transformer's final LayerNorm.
        drop_path: Stochastic depth rate in [0, 1).
    """

    def __init__(
        self, spec: BackboneSpec, random: bool = False, taps_are_normalised: bool = True, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.spec = spec
        self.taps_are_normalised = taps_are_normalised
        self.vit = _build_vit(spec, random, drop_path)

    def forward(self, images: Tensor) -> BackboneOutput:
        """Encodes images.

        Args:
            images: ``n 3 h w``, about zero mean and unit variance, ``h`` and ``w`` multiples of ``spec.patch_px``.
        """
        gh, gw = (size // self.spec.patch_px for size in images.shape[2:])
        if self.spec.num_channels == 1:
            images = images.mean(1, keepdim=True, dtype=torch.float64).to(images.dtype)  # exact for equal channels
        if not self.spec.is_vit:
            return BackboneOutput((_as_map(self.vit.forward_features(images), (self.spec.embed_dim, gh, gw)),), (), ())
        tapped = self.vit.forward_intermediates(
            images,
            indices=list(self.spec.taps),
            return_prefix_tokens=True,
            norm=self.taps_are_normalised,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        if self.spec.num_prefix_tokens:
            tokens, prefixes = zip(*tapped, strict=True)
        else:
            tokens, prefixes = tapped, ()
        return BackboneOutput(
            patch_maps=tuple(patches.unflatten(1, (gh, gw)).movedim(3, 1) for patches in tokens),
            class_tokens=tuple(prefix[:, 0] for prefix in prefixes),
            register_tokens=tuple(prefix[:, 1:] for prefix in prefixes),
        )


def _as_map(features: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Returns ``n e gh gw`` of what a model of timm gives: that, ``n gh gw e``, or ``n gh·gw e``."""
    if features.ndim == 3:
        return features.unflatten(1, shape[1:]).movedim(3, 1)
    features = features if features.shape[1:] == shape else features.movedim(3, 1)
    assert features.shape[1:] == shape, f"{tuple(features.shape)}, not {shape}"
    return features


def _build_vit(spec: BackboneSpec, random: bool, drop_path: float) -> nn.Module:
    arguments = {"num_classes": 0, "drop_path_rate": drop_path, **spec.overrides}
    if not spec.is_dinov3:  # timm knows their epsilon, and which of their buffers must be computed
        return timm.create_model(spec.timm_model, pretrained=False, **arguments)
    arguments["norm_layer"] = partial(timm.layers.LayerNorm, eps=spec.norm_eps)
    # On the meta device nothing is initialised, which saves seconds and, for large models, touching their memory at all.
    with nullcontext() if random else torch.device("meta"):
        vit = timm.create_model(spec.timm_model, pretrained=False, **arguments)
    if not random:
        vit.to_empty(device="cpu")
        _restore_buffers(vit)
    if spec.rope_dtype == "bfloat16":
        rotate_in_bfloat16(vit)
    return vit


def _restore_buffers(vit: nn.Module) -> None:
    """Recomputes the two buffers of timm's model that no checkpoint carries."""
    vit.rope.periods = vit.rope._compute_periods(device=torch.device("cpu"))
    for block in vit.blocks:
        if block.attn.k_bias is not None:
            block.attn.k_bias.zero_()
