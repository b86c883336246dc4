"""The projection from tokens to prototypes, which is thrown away after pretraining."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_dino.pretrain.distributed import all_sum, summed
from nnunet_dino.pretrain.recipe import Recipe


class ProjectionHead(nn.Module):
    """A few linear layers, a point on the sphere, its products with prototypes (DINOv3, ``dino_head.py``: three layers).

    ::

        n e ─► Linear, GELU ─► Linear, GELU ─► Linear ─► (standardised over the batch) ─► length 1 ─► n k

    Args:
        embed_dim: Width ``e`` of a token.
        num_prototypes: ``k``.
        recipe: Widths, and what is normalised.
    """

    def __init__(self, embed_dim: int, num_prototypes: int, recipe: Recipe) -> None:
        super().__init__()
        hidden = [recipe.head_hidden] * (recipe.head_layers - 1)
        layers = [nn.Linear(a, b) for a, b in pairwise((embed_dim, *hidden, recipe.head_bottleneck))]
        self.mlp = nn.Sequential(layers[0], *(part for layer in layers[1:] for part in (nn.GELU(), layer)))
        self.prototypes = nn.Linear(recipe.head_bottleneck, num_prototypes, bias=False)
        self.has_batch_norm, self.has_unit_prototypes = recipe.head_batch_norm, recipe.unit_prototypes
        for layer in (*layers, self.prototypes):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns logits ``n k`` of tokens ``n e``."""
        points = self.mlp(tokens)
        if self.has_batch_norm:
            points = standardised_over_batch(points)
        points = F.normalize(points.float(), dim=-1)
        if self.has_unit_prototypes:
            return F.linear(points, F.normalize(self.prototypes.weight, dim=-1))
        return self.prototypes(points)


def standardised_over_batch(points: Tensor, eps: float = 1e-5) -> Tensor:
    """Returns ``n e`` with mean 0 and variance 1 of each column over the rows of all processes."""
    points = points.float()
    count = all_sum(points.new_tensor(float(len(points)))).clamp(min=1)
    mean = summed(points.sum(dim=0)) / count
    centred = points - mean
    variance = summed(centred.square().sum(dim=0)) / count
    return centred * torch.rsqrt(variance + eps)
