"""From the instances of a bag to its class: attention, and the plainer ways."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_dino.probes.clam import WEIGHT, InstanceLoss
from nnunet_dino.probes.options import ATTENTION, CLAM_SB, GATED, MAX, MEAN


class GatedAttentionPool(nn.Module):
    """Weighs instances by gated attention and adds them up.

    ::

        a_k = softmax_k( w · [ tanh(V h_k) ⊙ sigmoid(U h_k) ] )        z = Σ_k a_k h_k

    Args:
        width: Of an instance, ``e``.
        attention: Width of ``V`` and ``U``.
        is_gated: Whether there is the sigmoid.

    Source: Ilse et al., Attention-based Deep Multiple Instance Learning (ICML 2018), equation 9; not gated, equation 8.
    """

    def __init__(self, width: int, attention: int, is_gated: bool = True) -> None:
        super().__init__()
        self.content = nn.Linear(width, attention)
        self.gate = nn.Linear(width, attention) if is_gated else None
        self.weight = nn.Linear(attention, 1, bias=False)  # a bias would not change the softmax

    def forward(self, instances: Tensor, is_there: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pools bags.

        Args:
            instances: ``b n e``.
            is_there: ``b n``, false where a bag is filled up to the length of the longest; all are there by default.

        Returns:
            Bags ``b e``, and the weights of their instances ``b n``, which add up to 1.
        """
        content = torch.tanh(self.content(instances))
        if self.gate is not None:
            content = content * torch.sigmoid(self.gate(instances))
        logits = self.weight(content).squeeze(-1).float()
        if is_there is not None:
            logits = logits.masked_fill(~is_there, float("-inf"))
        weights = logits.softmax(1)
        return torch.einsum("bn,bne->be", weights.to(instances.dtype), instances), weights


class MeanPool(nn.Module):
    """The mean of the instances; all have the same weight."""

    def forward(self, instances: Tensor, is_there: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pools bags, as :class:`GatedAttentionPool` does."""
        there = instances.new_ones(instances.shape[:2]) if is_there is None else is_there.to(instances)
        weights = there / there.sum(1, keepdim=True)
        return torch.einsum("bn,bne->be", weights, instances), weights.float()


class MaxPool(nn.Module):
    """The largest value of every feature; the weight of an instance is the share of features in which it is the largest."""

    def forward(self, instances: Tensor, is_there: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pools bags, as :class:`GatedAttentionPool` does."""
        if is_there is not None:
            instances = instances.masked_fill(~is_there[..., None], float("-inf"))
        pooled, places = instances.max(1)
        counts = torch.zeros(instances.shape[:2], device=instances.device)
        return pooled, counts.scatter_add_(1, places, torch.ones_like(places, dtype=torch.float32)) / instances.shape[2]


class AttentionMIL(nn.Module):
    """Projection, gated attention or a plainer pool, linear head.

    Args:
        width: Of the features.
        num_classes: Outputs.
        projection: Widths of the projection's layers.
        attention: Width of the attention.
        has_relu: Whether a ReLU follows every layer of the projection.
        dropout: Rate after every layer of the projection.
        aggregator: How instances become a bag, one of :data:`~nnunet_dino.probes.options.AGGREGATORS`.
    """

    def __init__(
        self,
        width: int,
        num_classes: int,
        projection: Sequence[int] = (512,),
        attention: int = 256,
        has_relu: bool = False,
        dropout: float = 0.0,
        aggregator: str = GATED,
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
        self.pool: nn.Module
        if aggregator in (MEAN, MAX):
            self.pool = MeanPool() if aggregator == MEAN else MaxPool()
        else:
            self.pool = GatedAttentionPool(last, attention, is_gated=aggregator != ATTENTION)
        self.head = nn.Linear(last, num_classes)
        self.instance_loss = InstanceLoss(last, num_classes) if aggregator == CLAM_SB else None

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

    def loss(self, instances: Tensor, is_there: Tensor | None, classes: Tensor) -> Tensor:
        """Returns what training makes small: cross-entropy of bags, with CLAM's loss of instances beside it.

        Args:
            instances: ``b n e``.
            is_there: ``b n``; see :class:`GatedAttentionPool`.
            classes: Of the bags, ``b``.
        """
        projected = self.projection(instances)
        pooled, weights = self.pool(projected, is_there)
        loss = F.cross_entropy(self.head(pooled), classes)
        if self.instance_loss is None:
            return loss
        return (1 - WEIGHT) * loss + WEIGHT * self.instance_loss(projected, weights, is_there, classes)
