"""How a backbone is adapted: frozen, with low-rank adapters (LoRA), or trained in full."""

from __future__ import annotations

from torch import nn

from nnunet_dino._errors import UserError, nearest
from nnunet_dino.backbones.vit import Backbone

ADAPTATIONS = ("frozen", "lora", "full")
LORA_TARGETS = ("qkv", "proj", "fc1", "fc2", "fc1_g", "fc1_x")
ALL_LINEAR = "all-linear"  # as peft calls it


def check_adaptation(name: str) -> None:
    """Raises :class:`UserError` unless ``name`` is a known adaptation."""
    if name not in ADAPTATIONS:
        raise UserError(f"adaptation: required one of {', '.join(ADAPTATIONS)} · got {name!r}{nearest(name, ADAPTATIONS)}")


def freeze(backbone: nn.Module) -> None:
    """Excludes every parameter from training."""
    backbone.requires_grad_(False)


def add_lora(backbone: Backbone, rank: int, alpha: float, targets: tuple[str, ...]) -> None:
    """Freezes the backbone and adds trainable low-rank adapters to its linear layers (Hu et al. 2021, eq. 3).

    Args:
        backbone: Changed in place.
        rank: Rank ``r`` of the update.
        alpha: The update is scaled by ``alpha / rank``.
        targets: Names of linear layers inside every block, a subset of ``LORA_TARGETS``; or ``("all-linear",)``.

    Raises:
        UserError: a target is unknown or is not part of this backbone.
    """
    names = {name.rsplit(".", 1)[-1] for name, module in backbone.vit.blocks.named_modules() if isinstance(module, nn.Linear)}
    if tuple(targets) == (ALL_LINEAR,):
        targets = tuple(sorted(names))
    if unknown := [target for target in targets if target not in names]:
        known = ", ".join(sorted(names))
        raise UserError(f"lora_targets: required names among {known}, or {ALL_LINEAR} alone · got {', '.join(unknown)}")
    freeze(backbone)
    for block in backbone.vit.blocks:
        # timm's fused path multiplies by `qkv.weight` directly and would bypass the adapter; this one calls the layer.
        block.attn.qkv_bias_separate = True
    import peft  # slow to import, and needed for this alone

    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), lora_dropout=0.0, bias="none")
    peft.inject_adapter_in_model(config, backbone.vit.blocks)


def train_in_full(backbone: Backbone) -> None:
    """Trains every parameter that the tapped tokens depend on, and no other."""
    backbone.requires_grad_(True)
    last = max(backbone.spec.taps)
    for block in backbone.vit.blocks[last + 1 :]:
        freeze(block)
    if not backbone.taps_are_normalised:
        freeze(backbone.vit.norm)
    for name in ("attn_pool", "fc_norm"):  # what other transformers have behind their tokens
        if (behind := getattr(backbone.vit, name, None)) is not None:
            freeze(behind)


def canonical_name(name: str) -> str:
    """Returns the name a parameter had before adapters were added."""
    return name.replace(".base_layer.", ".")


def is_adapter(name: str) -> bool:
    """Tells whether a parameter belongs to an adapter, not to the backbone itself."""
    return ".lora_" in name
