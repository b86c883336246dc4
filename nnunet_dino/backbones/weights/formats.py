"""Names of every known DINOv3 checkpoint format -> timm's names.

Nothing is dropped, filled or changed without an entry in the :class:`ConversionReport`; a name that no rule covers is kept and
found unexpected when the tensors are compared with a backbone (:mod:`nnunet_dino.backbones.weights.matching`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor

from nnunet_dino._errors import UserError
from nnunet_dino.backbones.weights.conversion import Conversion
from nnunet_dino.backbones.weights.query_key_value import join_query_key_value, split_bias
from nnunet_dino.backbones.weights.reading import FORMATS_READ
from nnunet_dino.backbones.weights.unwrapping import adapter_scale, describe, merge_adapters, plain_names, prefixes

TRAINER = "DINOv3 trainer"
META = "Meta"
HUGGING_FACE = "Hugging Face DINOv3ViTModel"
TIMM = "timm"
READ_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

_NUMBERED = r"(blocks\.\d+)"
_ENDING = r"\.(weight|bias)"

# Pattern of a whole name -> timm's name; the first that matches counts.
_META_RULES: tuple[tuple[str, str], ...] = (
    (r"cls_token", "cls_token"),
    (r"storage_tokens", "reg_token"),
    (r"rope_embed(?:_2D)?\.periods", "rope.periods"),
    (rf"patch_embed(?:_2D)?\.proj{_ENDING}", r"patch_embed.proj.\1"),
    (rf"norm{_ENDING}", r"norm.\1"),
    (rf"{_NUMBERED}\.(norm1|norm2|attn\.proj|mlp\.fc1|mlp\.fc2){_ENDING}", r"\1.\2.\3"),
    (rf"{_NUMBERED}\.attn\.qkv\.(weight|bias|bias_mask)", r"\1.attn.qkv.\2"),
    (rf"{_NUMBERED}\.ls([12])\.gamma", r"\1.gamma_\2"),
    (rf"{_NUMBERED}\.mlp\.w1{_ENDING}", r"\1.mlp.fc1_g.\2"),
    (rf"{_NUMBERED}\.mlp\.w2{_ENDING}", r"\1.mlp.fc1_x.\2"),
    (rf"{_NUMBERED}\.mlp\.w3{_ENDING}", r"\1.mlp.fc2.\2"),
)
_LAYER = r"(?:model\.)?layer\.(\d+)"
_HUGGING_FACE_RULES: tuple[tuple[str, str], ...] = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (rf"embeddings\.patch_embeddings{_ENDING}", r"patch_embed.proj.\1"),
    (rf"norm{_ENDING}", r"norm.\1"),
    (rf"{_LAYER}\.norm([12]){_ENDING}", r"blocks.\1.norm\2.\3"),
    (rf"{_LAYER}\.attention\.([qkv])_proj{_ENDING}", r"blocks.\1.attn.\2_proj.\3"),
    (rf"{_LAYER}\.attention\.o_proj{_ENDING}", r"blocks.\1.attn.proj.\2"),
    (rf"{_LAYER}\.layer_scale([12])\.lambda1", r"blocks.\1.gamma_\2"),
    (rf"{_LAYER}\.mlp\.gate_proj{_ENDING}", r"blocks.\1.mlp.fc1_g.\2"),
    (rf"{_LAYER}\.mlp\.up_proj{_ENDING}", r"blocks.\1.mlp.fc1.\2"),
    (rf"{_LAYER}\.mlp\.down_proj{_ENDING}", r"blocks.\1.mlp.fc2.\2"),
)
_RULES = {META: _META_RULES, TRAINER: _META_RULES, HUGGING_FACE: _HUGGING_FACE_RULES, TIMM: ()}

_DROPS: tuple[tuple[str, str], ...] = (
    (r"(embeddings\.)?mask_token", "used in pretraining only"),
    (r"local_cls_norm\..+", "used in pretraining only"),
    (r"(patch_embed|rope_embed)_3D\..+", "for volumes"),
    (r"(dino_head|ibot_head)\..+", "head of the pretraining"),
    (r"(\w*head\w*|fc_norm|fc|classifier|linear|proj|projection|projector|predictor)\..+|logit_scale", "head of a task"),
)


def to_timm(tensors: dict[str, Tensor], where: object) -> Conversion:
    """Renames the tensors of a checkpoint and brings query, key and value into timm's form.

    Args:
        tensors: All tensors of a checkpoint by the file's names; of a nested file the innermost level.
        where: What to call the checkpoint in messages.

    Raises:
        UserError: The format is unknown, a tensor is not of floating-point numbers, two names mean the same tensor, or there is
            a key bias, which no DINOv3 has.
    """
    adapted = any(".lora_A." in key for key in tensors)
    tensors = _without_adapters(tensors, where) if adapted else tensors
    names = plain_names(tensors)
    kind, prefix = _detect(tensors, names, where)
    conversion = Conversion(kind, where)
    if prefix not in ("", "backbone."):
        conversion.notes.append(f"taken from the network under {prefix.rstrip('.')}")
    if adapted:
        conversion.notes.append("adapters merged")
    rules = [(re.compile(pattern), name) for pattern, name in _RULES[conversion.format]]
    drops = [(re.compile(pattern), reason) for pattern, reason in _DROPS]
    for plain, key in names.items():
        short, tensor = plain.removeprefix(prefix), tensors[key]
        reason = next((reason for pattern, reason in drops if pattern.fullmatch(short)), None)
        if not plain.startswith(prefix):
            reason = reason or "outside the backbone"
        if reason is not None:
            conversion.drop(key, reason)
            continue
        _check_type(tensor, key, where)
        name = next((pattern.sub(name, short) for pattern, name in rules if pattern.fullmatch(short)), short)
        conversion.put(name, tensor, key)
        conversion.used.append(key)
    if "rope.periods" in conversion.state:
        key, conversion.periods = conversion.take("rope.periods")
        conversion.drop(key, "timm computes them; compared")
    _name_gated_mlps(conversion)
    join_query_key_value(conversion)
    split_bias(conversion)
    return conversion


def _without_adapters(tensors: dict[str, Tensor], where: object) -> dict[str, Tensor]:
    scale = adapter_scale(tensors)
    if scale is None:
        raise UserError(
            f"weights: required the scale of the adapters to merge them · got {where}, which does not say alpha and rank · "
            "merge them where they were trained (peft: merge_and_unload), then save the backbone"
        )
    return merge_adapters(tensors, scale)


def _detect(tensors: dict[str, Tensor], names: Iterable[str], where: object) -> tuple[str, str]:
    """Returns the format, and what stands before the names of the backbone's tensors."""
    names = list(names)
    for marker, name in (("embeddings.register_tokens", HUGGING_FACE), ("storage_tokens", META), ("reg_token", TIMM)):
        found = prefixes(names, marker)
        if len(found) > 1:
            raise UserError(
                f"unknown weights: required one backbone · got {where} with {len(found)}: under {', '.join(found)} · save the "
                "one that is meant in a file of its own"
            )
        if found:
            return TRAINER if name == META and found[0] == "backbone." else name, found[0]
    if any(key.endswith(".weights_record") for key in tensors):
        raise UserError(
            f"unknown weights: required a backbone · got {where}, a checkpoint of a frozen backbone or of adapters, which "
            "holds its digest, not its weights · name the file it was trained with, or a checkpoint of `nnunet-dino export`"
        )
    some = ", ".join(repr(key) for key in list(tensors)[:4])
    what = describe(tensors) or f"{len(tensors)} tensors ({some} …)"
    raise UserError(
        f"unknown weights: required {FORMATS_READ} · got {where} with {what} "
        "· take one of the files that `nnunet-dino weights list` names"
    )


def _check_type(tensor: Tensor, key: str, where: object) -> None:
    if tensor.dtype not in READ_TYPES:
        known = ", ".join(_name(dtype) for dtype in READ_TYPES)
        raise UserError(
            f"wrong weights: required numbers of type {known} · got {_name(tensor.dtype)} for {key} in {where} "
            "· take the file as its authors published it, not a compressed or edited copy"
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _name_gated_mlps(conversion: Conversion) -> None:
    """Hugging Face calls the first linear layer ``up_proj`` with and without a gate; timm has two names."""
    for gate in [name for name in conversion.state if ".mlp.fc1_g." in name]:
        plain = gate.replace("fc1_g", "fc1")
        if plain in conversion.state:
            key, tensor = conversion.take(plain)
            conversion.put(gate.replace("fc1_g", "fc1_x"), tensor, key)
