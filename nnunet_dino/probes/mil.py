"""Gated attention over the instances of a bag."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class GatedAttentionPool(nn.Module):
    """Weighs instances by gated attention and adds them up.

    ::

        a_k = softmax_k( w · [ tanh(V h_k) ⊙ sigmoid(U h_k) ] )        z = Σ_k a_k h_k

    Args:
        width: Of an instance, ``e``.
        attention: Width of ``V`` and ``U``.

    Source: Ilse et al., Attention-based Deep Multiple Instance Learning (ICML 2018), equation 9.
    """

    def __init__(self, width: int, attention: int) -> None:
        super().__init__()
        self.content = nn.Linear(width, attention)
        self.gate = nn.Linear(width, attention)
        self.weight = nn.Linear(attention, 1, bias=False)  # a bias would not change the softmax

    def forward(self, instances: Tensor, is_there: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pools bags.

        Args:
            instances: ``b n e``.
            is_there: ``b n``, false where a bag is filled up to the length of the longest; all are there by default.

        Returns:
            Bags ``b e``, and the weights of their instances ``b n``, which add up to 1.
        """
        logits = self.weight(torch.tanh(self.content(instances)) * torch.sigmoid(self.gate(instances))).squeeze(-1).float()
        if is_there is not None:
            logits = logits.masked_fill(~is_there, float("-inf"))
        weights = logits.softmax(1)
        return torch.einsum("bn,bne->be", weights.to(instances.dtype), instances), weights


class AttentionMIL(nn.Module):
    """Projection, gated attention, linear head.

    Args:
        width: Of the features.
        num_classes: Outputs.
        projection: Widths of the projection's layers.
        attention: Width of the attention.
        has_relu: Whether a ReLU follows every layer of the projection.
        dropout: Rate after every layer of the projection.
    """

    def __init__(
        self,
        width: int,
        num_classes: int,
        projection: Sequence[int] = (512,),
        attention: int = 256,
        has_relu: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((width, *projection), projection, strict=False):
            layers += [
                nn.Linear(before, after),
                *([nn.ReLU()] if has_relu else []),
                *([nn.Dropout(dropout)] if dropout else []),
            ]
        self.projection = nn.Sequential(*layers)
        last = projection[-1] if projection else width
        self.pool = GatedAttentionPool(last, attention)
        self.head = nn.Linear(last, num_classes)

    def forward(self, instances: Tensor, is_there: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Classifies bags.

        Args:
            instances: ``b n e``.
            is_there: ``b n``; see :class:`GatedAttentionPool`.

        Returns:
            Logits ``b c``, and the weights of the instances ``b n``.
        """
        pooled, weights = self.pool(self.projection(instances), is_there)
        return self.head(pooled), weights
