"""Names of every known DINOv3 checkpoint format -> timm's names.

Nothing is dropped, filled or changed without an entry in the :class:`ConversionReport`; a name that no rule covers is kept and
found unexpected when the tensors are compared with a backbone (:mod:`nnunet_dino.backbones.weights.fit`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from nnunet_dino._errors import UserError

TRAINER = "DINOv3 trainer"
META = "Meta"
HUGGING_FACE = "Hugging Face DINOv3ViTModel"
TIMM = "timm"
FORMATS_READ = (
    "a DINOv3 vision transformer as Meta's .pth, a DINOv3-trainer checkpoint {'teacher': {'backbone.…'}}, "
    "a Hugging Face DINOv3ViTModel, or timm safetensors"
)


class Dropped(NamedTuple):
    """A tensor of the file that the backbone has no use for."""

    key: str
    reason: str


@dataclass(frozen=True)
class ConversionReport:
    """What became of every tensor of a checkpoint.

    Attributes:
        format: Name of the format that was recognised.
        used: Names, as in the file, of the tensors that were taken over.
        dropped: Tensors that were left out, and why.
        filled: Names, as in timm, of tensors that the file does not have and that were set to zero.
        notes: Further remarks, one sentence each.
    """

    format: str
    used: tuple[str, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    filled: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Returns the report as text, one remark a line, similar tensors of the blocks taken together."""
        result = [f"format: {self.format}", f"used: {len(self.used)} tensors"]
        reasons: dict[str, list[str]] = {}
        for key, reason in self.dropped:
            reasons.setdefault(reason, []).append(key)
        result += [f"dropped: {', '.join(_grouped(keys))} ({reason})" for reason, keys in reasons.items()]
        if self.filled:
            result.append(f"filled with zeros: {', '.join(_grouped(self.filled))}")
        return result + [f"note: {note}" for note in self.notes]


def _grouped(keys: Iterable[str]) -> list[str]:
    counts: dict[str, int] = {}
    for key in keys:
        name = re.sub(r"\d+", "*", key)
        counts[name] = counts.get(name, 0) + 1
    return [f"{count} times {name}" if count > 1 else name for name, count in counts.items()]


@dataclass
class Conversion:
    """Tensors under timm's names, not yet compared with any backbone.

    Attributes:
        state: Tensors by timm's names; types as in the file.
        periods: The periods of the rotary position embedding that the file carries, if any; ``head_dim / 4`` values.
        origin: Name in the file of every tensor in ``state`` (several, joined by ", ", where tensors were joined).
    """

    format: str
    state: dict[str, Tensor] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    periods: Tensor | None = None


_NUMBERED = r"(blocks\.\d+)"
_ENDING = r"\.(weight|bias)"

# Pattern of a whole name -> timm's name; the first that matches counts.
_META_RULES: tuple[tuple[str, str], ...] = (
    (r"cls_token", "cls_token"),
    (r"storage_tokens", "reg_token"),
    (r"rope_embed\.periods", "rope.periods"),
    (rf"(patch_embed\.proj|norm){_ENDING}", r"\1.\2"),
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
    (r"(dino_head|ibot_head)\..+", "head of the pretraining"),
)


def to_timm(tensors: dict[str, Tensor], where: object) -> Conversion:
    """Renames the tensors of a checkpoint and brings query, key and value into timm's form.

    Args:
        tensors: All tensors of a checkpoint by the file's names; a trainer's checkpoint without its ``teacher`` level.
        where: What to call the checkpoint in messages.

    Raises:
        UserError: The format is unknown, two names mean the same tensor, or there is a key bias, which no DINOv3 has.
    """
    conversion = Conversion(_detect(tensors, where))
    prefix = "backbone." if conversion.format == TRAINER else ""
    rules = [(re.compile(pattern), name) for pattern, name in _RULES[conversion.format]]
    drops = [(re.compile(pattern), reason) for pattern, reason in _DROPS]
    for key, tensor in tensors.items():
        short = key.removeprefix(prefix)
        reason = next((reason for pattern, reason in drops if pattern.fullmatch(short)), None)
        if reason is not None:
            conversion.dropped.append(Dropped(key, reason))
            continue
        name = next((pattern.sub(name, short) for pattern, name in rules if pattern.fullmatch(short)), short)
        if name in conversion.state:
            raise UserError(
                f"weights: required one tensor per name · got both {conversion.origin[name]!r} and {key!r} in {where}"
            )
        conversion.state[name] = tensor
        conversion.origin[name] = key
        conversion.used.append(key)
    conversion.periods = _take_periods(conversion)
    _name_gated_mlps(conversion)
    _join_query_key_value(conversion, where)
    _split_bias(conversion, where)
    return conversion


def _detect(tensors: dict[str, Tensor], where: object) -> str:
    for marker, name in (
        ("backbone.storage_tokens", TRAINER),
        ("storage_tokens", META),
        ("embeddings.register_tokens", HUGGING_FACE),
        ("reg_token", TIMM),
    ):
        if marker in tensors:
            return name
    some = ", ".join(repr(key) for key in list(tensors)[:4])
    raise UserError(
        f"unknown weights: required {FORMATS_READ} · got {where} with {len(tensors)} tensors ({some} …) "
        "· take one of the files that `nnunet-dino weights list` names"
    )


def _take_periods(conversion: Conversion) -> Tensor | None:
    periods = conversion.state.pop("rope.periods", None)
    if periods is not None:
        key = conversion.origin.pop("rope.periods")
        conversion.used.remove(key)
        conversion.dropped.append(Dropped(key, "timm computes them; compared"))
    return periods


def _name_gated_mlps(conversion: Conversion) -> None:
    """Hugging Face calls the first linear layer ``up_proj`` with and without a gate; timm has two names."""
    for gate in [name for name in conversion.state if ".mlp.fc1_g." in name]:
        plain = gate.replace("fc1_g", "fc1")
        if plain in conversion.state:
            conversion.state[gate.replace("fc1_g", "fc1_x")] = conversion.state.pop(plain)
            conversion.origin[gate.replace("fc1_g", "fc1_x")] = conversion.origin.pop(plain)


def _join_query_key_value(conversion: Conversion, where: object) -> None:
    """Joins ``{q,k,v}_proj.weight``, each ``e e``, into ``qkv.weight``, ``3e e``, and names the biases as timm does."""
    state, origin = conversion.state, conversion.origin
    for query in [name for name in state if name.endswith(".attn.q_proj.weight")]:
        attention = query.removesuffix("q_proj.weight")
        names = [f"{attention}{part}_proj.weight" for part in "qkv"]
        missing = [name for name in names if name not in state]
        if missing:
            raise UserError(
                f"damaged weights: required {missing[0]} beside {origin[query]!r} · got none in {where} · get it again"
            )
        origin[f"{attention}qkv.weight"] = ", ".join(origin.pop(name) for name in names)
        state[f"{attention}qkv.weight"] = torch.cat([state.pop(name) for name in names])
    for bias in [name for name in state if re.search(r"\.attn\.[qkv]_proj\.bias$", name)]:
        attention, part = bias.removesuffix("_proj.bias")[:-1], bias.removesuffix("_proj.bias")[-1]
        if part == "k":
            _drop_key_bias(conversion, origin.pop(bias), state.pop(bias), where)
        else:
            origin[f"{attention}{part}_bias"] = origin.pop(bias)
            state[f"{attention}{part}_bias"] = state.pop(bias)


def _split_bias(conversion: Conversion, where: object) -> None:
    """Splits ``qkv.bias``, ``3e``, into ``q_bias`` and ``v_bias``, each ``e``.

    The reference multiplies the bias with ``bias_mask``: one for query and value, zero for key; NaN where it was never set.
    In Meta's releases mask and bias are zero throughout (https://github.com/facebookresearch/dinov3/issues/195).
    """
    state, origin = conversion.state, conversion.origin
    for name in [name for name in state if name.endswith(".attn.qkv.bias_mask")]:
        if name.removesuffix("_mask") not in state:
            conversion.used.remove(origin[name])
            conversion.dropped.append(Dropped(origin.pop(name), "mask without a bias"))
            del state[name]
    for name in [name for name in state if name.endswith(".attn.qkv.bias")]:
        attention, key = name.removesuffix("qkv.bias"), origin.pop(name)
        bias = state.pop(name)
        if f"{name}_mask" in state:
            mask_key = origin.pop(f"{name}_mask")
            bias = _masked(bias, state.pop(f"{name}_mask"), mask_key, where)
            conversion.used.remove(mask_key)
            conversion.dropped.append(Dropped(mask_key, "applied to the bias"))
        query, middle, value = bias.chunk(3)
        _check_key_bias(middle, f"middle third of {key}", where)
        for part, tensor in (("q", query), ("v", value)):
            state[f"{attention}{part}_bias"] = tensor
            origin[f"{attention}{part}_bias"] = key


def _masked(bias: Tensor, mask: Tensor, mask_key: str, where: object) -> Tensor:
    if mask.shape != bias.shape or len(bias) % 3:
        raise UserError(f"wrong weights: required {tuple(bias.shape)} for {mask_key} · got {tuple(mask.shape)} in {where}")
    if bool(mask.isnan().all()):
        query, middle, value = bias.chunk(3)
        return torch.cat([query, torch.zeros_like(middle), value])
    odd = mask[(mask != 0) & (mask != 1)]
    if len(odd):
        raise UserError(f"wrong weights: required 0 or 1, or NaN throughout, in {mask_key} · got {odd[0]:.3g} in {where}")
    return bias * mask


def _drop_key_bias(conversion: Conversion, key: str, bias: Tensor, where: object) -> None:
    _check_key_bias(bias, key, where)
    conversion.used.remove(key)
    conversion.dropped.append(Dropped(key, "all zero; DINOv3 has no key bias"))


def _check_key_bias(bias: Tensor, key: str, where: object) -> None:
    if bool((bias != 0).any()):
        raise UserError(
            f"weights: required a key bias of zero, as in every DINOv3 · got up to {bias.abs().max():.3g} in {key} of {where}"
            " · this backbone has no place for it"
        )
