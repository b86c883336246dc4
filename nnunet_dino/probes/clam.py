"""CLAM's loss on single instances: those with the most and the least attention are told apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_SAMPLED = 8
WEIGHT = 0.3  # of this loss beside the bags' own


class InstanceLoss(nn.Module):
    """One classifier per class of bags: has an instance of such a bag to do with the class?

    Args:
        width: Of an instance, ``e``.
        num_classes: Of bags.

    Source: Lu et al., Data-efficient and weakly supervised computational pathology on whole-slide images (2021); branch of the
    bag's own class only, eight instances of each sort and weights 0.7 and 0.3 as github.com/mahmoodlab/CLAM at 0534d4e.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.classifiers = nn.ModuleList(nn.Linear(width, 2) for _ in range(num_classes))

    def forward(self, instances: Tensor, weights: Tensor, is_there: Tensor | None, classes: Tensor) -> Tensor:
        """Returns the mean loss over bags.

        Args:
            instances: ``b n e``.
            weights: Their attention, ``b n``.
            is_there: ``b n``; None if no bag is filled up.
            classes: Of the bags, ``b``.
        """
        losses = []
        for row, number in enumerate(classes.tolist()):
            own = slice(None) if is_there is None else is_there[row]
            bag, order = instances[row][own], weights[row][own].argsort(descending=True)
            count = min(NUM_SAMPLED, len(bag))
            scores = self.classifiers[number](bag[torch.cat([order[:count], order[len(bag) - count :]])])
            losses.append(smooth_svm(scores, torch.arange(2, device=scores.device).flip(0).repeat_interleave(count)))
        return torch.stack(losses).mean()


def smooth_svm(scores: Tensor, classes: Tensor) -> Tensor:
    """Returns the mean smooth top-1 hinge loss of scores ``n c`` with margin and temperature 1.

    ::

        log Σ_j exp( s_j − s_y + [j ≠ y] )

    Source: Berrada et al., Smooth Loss Functions for Deep Top-k Classification (ICLR 2018), equation 9 with k = 1.
    """
    margins = 1 - F.one_hot(classes, scores.shape[1]).to(scores)
    return (torch.logsumexp(scores + margins, 1) - scores.gather(1, classes[:, None]).squeeze(1)).mean()
