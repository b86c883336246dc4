"""Parameter groups: slower towards the input, no decay of norms and biases (DINOv3, ``param_groups.py``)."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from nnunet_dino.pretrain.recipe import Recipe

BACKBONE, HEADS, LAST_LAYER = "backbone", "heads", "last layer"
_UNDECAYED = re.compile(r"bias|norm|gamma")
_BLOCK = re.compile(r"backbone\.blocks\.(\d+)\.")
_INPUT = re.compile(r"backbone\.(patch_embed|cls_token|reg_token)|mask_token")


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Returns groups for AdamW; beside ``params`` each has ``part``, ``lr_factor`` and ``decay_factor``.

    The factor of the learning rate is ``layer_decay ** (L + 1 − id)``: id 0 is the input, block ``i`` has id ``i + 1``, heads
    and the last norm have ``L + 1``.
    """
    num_blocks = len(model.backbone.blocks)
    groups: dict[tuple[str, float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = _part(name), _lr_factor(name, num_blocks, recipe), 0.0 if _UNDECAYED.search(name) else 1.0
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "part": part, "lr_factor": lr_factor, "decay_factor": decay_factor}
        for (part, lr_factor, decay_factor), parameters in groups.items()
    ]


def _part(name: str) -> str:
    if name.endswith("head.prototypes.weight"):
        return LAST_LAYER
    return HEADS if "_head." in name else BACKBONE


def _lr_factor(name: str, num_blocks: int, recipe: Recipe) -> float:
    block = _BLOCK.match(name)
    number = int(block[1]) + 1 if block else 0 if _INPUT.match(name) else num_blocks + 1
    factor = recipe.layer_decay ** (num_blocks + 1 - number)
    return factor * recipe.patch_embed_lr if ".patch_embed." in name else factor
