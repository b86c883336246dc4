"""A vision transformer that can hide patches, with its two heads: the student, and by a copy the teacher."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nnunet_dino.backbones.vit import NUM_PREFIX_TOKENS
from nnunet_dino.pretrain.head import ProjectionHead
from nnunet_dino.pretrain.recipe import Recipe
from nnunet_dino.pretrain.stream import NUM_GLOBAL, Batch


class Tokens(NamedTuple):
    """Normalised tokens of the last block: ``class_tokens`` ``n e`` and ``patches`` ``n p e``."""

    class_tokens: Tensor
    patches: Tensor


class StudentOutput(NamedTuple):
    """What the losses need of the student.

    Attributes:
        class_tokens: Of the global crops, before the head, ``2 b e``.
        global_logits: ``2 b k``.
        local_logits: ``l b k``.
        patch_logits: Of the predicted patches, ``m k``.
        patches: Of the global crops, ``2·b p e``.
    """

    class_tokens: Tensor
    global_logits: Tensor
    local_logits: Tensor
    patch_logits: Tensor
    patches: Tensor


class SelfSupervisedViT(nn.Module):
    """A transformer with a mask token and two heads.

    Args:
        vit: timm's ``Eva`` in its DINOv3 form.
        embed_dim: Width ``e`` of a token.
        recipe: Sizes of the heads.
    """

    def __init__(self, vit: nn.Module, embed_dim: int, recipe: Recipe) -> None:
        super().__init__()
        self.backbone = vit
        self.mask_token = nn.Parameter(torch.zeros(embed_dim))
        self.dino_head = ProjectionHead(embed_dim, recipe.prototypes, recipe)
        self.ibot_head = ProjectionHead(embed_dim, recipe.patch_prototypes, recipe)
        self.recomputes = recipe.recompute

    def tokens(self, images: Tensor, masks: Tensor | None = None, rope_scale: float = 1.0) -> Tokens:
        """Encodes images.

        Args:
            images: ``n 3 h w``.
            masks: Patches to hide, ``n gh gw``.
            rope_scale: Factor on position coordinates.
        """
        vit = self.backbone
        patches = vit.patch_embed(images)  # n gh gw e
        grid = patches.shape[1:3]
        if masks is not None:
            patches = torch.where(masks[..., None], self.mask_token.to(patches.dtype), patches)
        prefix = (vit.cls_token.expand(len(images), -1, -1), vit.reg_token.expand(len(images), -1, -1))
        tokens = vit.norm_pre(torch.cat([*prefix, patches.flatten(1, 2)], dim=1))
        with _rescaled(vit.rope, rope_scale):
            rope = vit.rope.get_embed(shape=tuple(grid))
        for block in vit.blocks:
            if self.recomputes and self.training:
                tokens = checkpoint(block, tokens, rope=rope, use_reentrant=False)
            else:
                tokens = block(tokens, rope=rope)
        tokens = vit.norm(tokens)
        return Tokens(tokens[:, 0], tokens[:, NUM_PREFIX_TOKENS:])

    def forward(self, batch: Batch) -> StudentOutput:
        """Returns what the student makes of its crops; global ones with masked patches."""
        seen = self.tokens(batch.global_views, batch.masks, batch.rope_scales[0])
        has_local = len(batch.local_views) > 0
        local = self.tokens(batch.local_views, None, batch.rope_scales[1]).class_tokens if has_local else seen.class_tokens[:0]
        num_slices = len(batch.global_views) // NUM_GLOBAL
        global_logits = self.dino_head(seen.class_tokens)
        local_logits = self.dino_head(local) if has_local else global_logits[:0]
        return StudentOutput(
            class_tokens=seen.class_tokens.unflatten(0, (NUM_GLOBAL, num_slices)),
            global_logits=global_logits.unflatten(0, (NUM_GLOBAL, num_slices)),
            local_logits=local_logits.unflatten(0, (-1, num_slices)),
            patch_logits=self.ibot_head(seen.patches[batch.predicted.flatten(1)]),
            patches=seen.patches,
        )


@contextmanager
def _rescaled(rope: nn.Module, factor: float) -> Iterator[None]:
    """Stretches position coordinates: dividing the periods is the same."""
    periods = rope.periods
    rope.periods = periods / factor
    try:
        yield
    finally:
        rope.periods = periods
