"""The losses of DINOv3 as pure functions.

Sources: DINO (arXiv 2104.14294), iBOT (arXiv 2111.07832), KoLeo (arXiv 1806.03198), Gram anchoring
(arXiv 2508.10104, sec. 4.2).
In the shapes ``s`` and ``t`` count crops of student and teacher, ``b`` samples, ``k`` prototypes, ``m`` masked patches, ``n``
images, ``p`` patches, ``e`` the width of a token.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def dino_loss(student: Tensor, targets: Tensor, temperature: float, skip_same_crop: bool = False) -> Tensor:
    """Returns the mean cross-entropy between every crop of the student and every crop of the teacher (DINO, eq. 3).

    Args:
        student: Logits ``s b k``.
        targets: Probabilities of the teacher ``t b k``.
        temperature: Of the student.
        skip_same_crop: Leave out the pairs in which both saw the same crop.
    """
    log_probabilities = F.log_softmax(student.float() / temperature, dim=-1)
    entropies = -torch.einsum("sbk,tbk->st", log_probabilities, targets)
    num_pairs = entropies.numel()
    if skip_same_crop:
        num_same = min(entropies.shape)
        entropies = entropies * (1 - torch.eye(*entropies.shape, device=entropies.device))
        num_pairs -= num_same
    return entropies.sum() / (num_pairs * student.shape[1])


def ibot_loss(student: Tensor, targets: Tensor, weights: Tensor, num_crops: int, temperature: float) -> Tensor:
    """Returns the cross-entropy of masked patches (iBOT, eq. 2); every masked crop counts the same, however much is masked.

    Args:
        student: Logits ``m k``.
        targets: Probabilities of the teacher ``m k``.
        weights: One over the number of masked patches in the patch's crop, ``m``.
        num_crops: All crops that might have been masked.
        temperature: Of the student.
    """
    entropies = -(targets * F.log_softmax(student.float() / temperature, dim=-1)).sum(dim=-1)
    return (entropies * weights).sum() / num_crops


def koleo_loss(tokens: Tensor, others: Tensor | None = None, start: int = 0, eps: float = 1e-8) -> Tensor:
    """Returns minus the mean log distance to the nearest neighbour on the sphere, which spreads samples (KoLeo, eq. 6).

    Args:
        tokens: ``b e``.
        others: Tokens of all processes, among which neighbours are looked for; ``tokens`` themselves by default.
        start: Row of ``others`` at which ``tokens`` begin.
        eps: Keeps the logarithm of duplicates finite.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        own = F.normalize(tokens.float(), dim=-1)
        pool = own if others is None else F.normalize(others.float(), dim=-1)
        with torch.no_grad():
            similarities = own @ pool.T
            rows = torch.arange(len(own), device=own.device)
            similarities[rows, rows + start] = -2  # below that of opposite points
            nearest = similarities.argmax(dim=1)
        return -(F.pairwise_distance(own, pool[nearest], eps=eps) + eps).log().mean()


def gram_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns the mean square difference between the cosine matrices of the patches of each image (DINOv3, eq. 2).

    Args:
        student: Patch tokens ``n p e``.
        teacher: Patch tokens ``n p f`` of the Gram teacher; no gradient reaches them.
    """
    with torch.autocast(student.device.type, enabled=False):
        student, teacher = (F.normalize(tokens.float(), dim=-1) for tokens in (student, teacher.detach()))
        return F.mse_loss(student @ student.mT, teacher @ teacher.mT)
