"""Sinkhorn-Knopp targets in the log domain."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nnunet_dino.pretrain.distributed import all_max, all_sum

ITERATIONS = 3


@torch.no_grad()
def sinkhorn_targets(logits: Tensor, temperature: float, iterations: int = ITERATIONS) -> Tensor:
    """Returns the teacher's probabilities, spread evenly over the prototypes (SwAV, arXiv 2006.09882, eq. 5).

    Alternating sums of exponentials would overflow for sharp logits; their logarithms do not. Each row sums to one; after many
    iterations each prototype has the same share of all rows of all processes.

    Args:
        logits: ``n k``; processes may have different numbers of rows, and none.
        temperature: Of the teacher.
        iterations: Rounds of normalising prototypes and rows.
    """
    scaled = logits.float() / temperature
    num_rows = all_sum(torch.tensor(float(len(logits)), device=logits.device))
    row_share = num_rows.log()
    of_row = scaled.new_zeros(len(scaled), 1)
    for _ in range(iterations):
        of_prototype = _log_sum_over_rows(scaled - of_row) + math.log(scaled.shape[1])
        of_row = torch.logsumexp(scaled - of_prototype, dim=1, keepdim=True) + row_share
    return (scaled - of_prototype - of_row + row_share).exp()


def _log_sum_over_rows(values: Tensor) -> Tensor:
    """Returns ``logsumexp`` over the rows of all processes, ``1 k``."""
    lowest = torch.finfo(values.dtype).min
    highest = values.amax(dim=0, keepdim=True) if len(values) else values.new_full((1, values.shape[1]), lowest)
    highest = all_max(highest)
    return highest + all_sum((values - highest).exp().sum(dim=0, keepdim=True)).log()
