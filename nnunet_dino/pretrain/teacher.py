"""The teacher, a running mean of the student, and the Gram teacher, which stands still."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_dino.backbones.spec import PATCH_PX
from nnunet_dino.pretrain.sinkhorn import sinkhorn_targets
from nnunet_dino.pretrain.stream import NUM_GLOBAL, Batch
from nnunet_dino.pretrain.student import SelfSupervisedViT


class Targets(NamedTuple):
    """What the student is to predict: of class tokens ``2 b k``, of predicted patches ``m k``."""

    classes: Tensor
    patches: Tensor


def standing_copy(module: nn.Module) -> nn.Module:
    """Returns a copy that is not trained."""
    return copy.deepcopy(module).requires_grad_(False).eval()


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Moves the teacher's parameters towards the student's: ``m · teacher + (1 − m) · student``; buffers do not change."""
    own, others = list(teacher.parameters()), [parameter.detach() for parameter in student.parameters()]
    torch._foreach_mul_(own, momentum)
    torch._foreach_add_(own, others, alpha=1 - momentum)


@torch.no_grad()
def targets_of(teacher: SelfSupervisedViT, batch: Batch, temperature: float) -> Targets:
    """Returns the teacher's view of the global crops, nothing hidden."""
    seen = teacher.tokens(batch.global_views)
    classes = sinkhorn_targets(teacher.dino_head(seen.class_tokens), temperature)
    patches = sinkhorn_targets(teacher.ibot_head(seen.patches[batch.predicted.flatten(1)]), temperature)
    return Targets(classes.unflatten(0, (NUM_GLOBAL, -1)), patches)


@torch.no_grad()
def gram_patches(gram_teacher: SelfSupervisedViT, batch: Batch) -> Tensor:
    """Returns the Gram teacher's patches of the larger crops on the student's grid, ``2·b p e``."""
    assert batch.gram_views is not None
    edge = batch.gram_views.shape[-1] // PATCH_PX
    maps = gram_teacher.tokens(batch.gram_views).patches.float().mT.unflatten(2, (edge, edge))  # n e gh gw
    return resized(maps, tuple(batch.masks.shape[1:])).flatten(2).mT


def resized(maps: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Returns maps ``n e gh gw`` on another grid (bicubic, DINOv3 ``ssl_meta_arch.py``)."""
    return maps if maps.shape[2:] == grid else F.interpolate(maps, grid, mode="bicubic", antialias=False)
