"""Nearest neighbours in the space of features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from nnunet_dino._errors import UserError
from nnunet_dino.probes.options import NUM_NEIGHBOURS, KnnOptions

UNIFORM, SOFTMAX = "uniform", "softmax"
WEIGHTINGS = (UNIFORM, SOFTMAX)
QUERIES_AT_ONCE = 1024


def knn_scores(
    bank: np.ndarray,
    bank_targets: np.ndarray,
    bank_patients: np.ndarray,
    queries: np.ndarray,
    query_patients: np.ndarray,
    num_neighbours: Sequence[int] = NUM_NEIGHBOURS,
    temperature: float = KnnOptions.temperature,
    device: torch.device | None = None,
) -> dict[tuple[int, str], np.ndarray]:
    """Lets the nearest neighbours vote on every label.

    Similarity is the cosine. A neighbour of the same patient has no vote. ``uniform``: every one of the ``k`` counts alike.
    ``softmax``: neighbours count by the softmax of similarity / temperature, taken over the *largest* ``k`` and then cut off
    without being made to add up to 1 again, as DINOv3 does it; scores of small ``k`` are therefore below 1.

    Args:
        bank: Features with known labels, ``m e``.
        bank_targets: ``m c``, 0 or 1.
        bank_patients: ``m``.
        queries: ``n e``.
        query_patients: ``n``.
        num_neighbours: Values of ``k``; those larger than the bank are left out.
        temperature: Of the softmax.
        device: Where to compute; the CPU by default.

    Returns:
        By ``k`` and weighting: scores ``n c``.

    Raises:
        UserError: The bank is smaller than every ``k``, or a query has no neighbour of another patient.

    Source: facebookresearch/dinov3, ``dinov3/eval/knn.py`` at 6876159.
    """
    sizes = sorted({k for k in num_neighbours if 1 <= k <= len(bank)})
    if not sizes:
        raise UserError(
            f"-k: required numbers from 1 to the {len(bank)} training inputs · got {', '.join(map(str, num_neighbours))}"
        )
    device = device or torch.device("cpu")
    people = {name: number for number, name in enumerate(np.unique(np.concatenate([bank_patients, query_patients])))}
    of_bank, of_queries = (torch.tensor([people[p] for p in names], device=device) for names in (bank_patients, query_patients))
    unit_bank, unit_queries = (F.normalize(torch.from_numpy(values).to(device), dim=1) for values in (bank, queries))
    labels = torch.from_numpy(bank_targets).double()  # votes are counted on the CPU: Apple's GPUs have no float64
    scores: dict[tuple[int, str], list[np.ndarray]] = {(k, how): [] for k in sizes for how in WEIGHTINGS}
    may_share = bool(np.isin(query_patients, bank_patients).any())
    for some, whose in zip(unit_queries.split(QUERIES_AT_ONCE), of_queries.split(QUERIES_AT_ONCE), strict=True):
        similarity = some @ unit_bank.T
        if may_share:
            similarity.masked_fill_(whose[:, None] == of_bank[None, :], float("-inf"))
        nearest, places = (found.cpu() for found in similarity.topk(sizes[-1], dim=1))
        may_vote = torch.isfinite(nearest)
        if not may_vote[:, 0].all():
            raise UserError("required a neighbour of another patient for every input · got one without")
        votes = labels[places] * may_vote[..., None]  # n k c
        softmax = (nearest.double() / temperature).softmax(1)
        for k in sizes:
            counted = may_vote[:, :k].sum(1, keepdim=True)
            scores[k, UNIFORM].append((votes[:, :k].sum(1) / counted).numpy())
            scores[k, SOFTMAX].append((votes[:, :k] * softmax[:, :k, None]).sum(1).numpy())
    return {key: np.concatenate(parts) for key, parts in scores.items()}
