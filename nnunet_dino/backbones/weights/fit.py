"""Does a checkpoint fit a backbone, tensor by tensor?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from nnunet_dino._errors import UserError
from nnunet_dino.backbones.catalogue import CATALOGUE, BackboneSpec
from nnunet_dino.backbones.quiet_timm import timm
from nnunet_dino.backbones.weights.formats import Conversion, ConversionReport, Dropped

# Half a unit in the last place of bfloat16 is 2^-9 of the value; one more bit for files that were cut, not rounded.
BFLOAT16_ROUNDING = 2.0**-8
SHOWN = 3


@dataclass(frozen=True)
class Architecture:
    """What the tensors of a backbone must look like.

    Attributes:
        shapes: Shape of every tensor of ``Backbone(spec).vit.state_dict()``.
        periods: Periods of the rotary position embedding, ``head_dim / 4`` values, float32.
        num_heads: Heads of every attention.
        rope_theta: Base of the rotary position embedding.
    """

    shapes: Mapping[str, tuple[int, ...]]
    periods: Tensor
    num_heads: int
    rope_theta: float


def architecture(spec: BackboneSpec) -> Architecture:
    """Returns the architecture of ``spec`` without allocating its weights."""
    return _architecture(spec.timm_model, tuple(sorted(spec.overrides.items())))


@cache
def _architecture(timm_model: str, overrides: tuple[tuple[str, Any], ...]) -> Architecture:
    with torch.device("meta"):
        vit = timm.create_model(timm_model, pretrained=False, num_classes=0, **dict(overrides))
    return Architecture(
        shapes={name: tuple(tensor.shape) for name, tensor in vit.state_dict().items()},
        periods=vit.rope._compute_periods(device=torch.device("cpu")),
        num_heads=vit.blocks[0].attn.num_heads,
        rope_theta=vit.rope.temperature,
    )


def fit(
    conversion: Conversion, spec: BackboneSpec, where: object, config: Mapping[str, Any] | None = None
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Returns exactly the tensors of ``Backbone(spec).vit`` in float32, and what was done to get them.

    Args:
        conversion: A renamed checkpoint.
        spec: The backbone.
        where: What to call the checkpoint in messages.
        config: The ``config.json`` of a Hugging Face model, where there is one.

    Raises:
        UserError: A tensor is missing, unexpected, of a wrong shape, not finite or not floating point, or the attention heads
            or position embedding differ.
    """
    wanted = architecture(spec)
    state = dict(conversion.state)
    dropped, notes = list(conversion.dropped), []
    used = list(conversion.used)
    filled = _fill_biases(state, wanted)
    for name in _surplus_zero_biases(state, wanted):
        del state[name]
        origin = conversion.origin[name]
        if origin in used:
            used.remove(origin)
            dropped.append(Dropped(origin, f"all zero; {spec.name} has no query and value bias"))
    _check_shapes(state, wanted, conversion, spec, where)
    _check_config(config or {}, wanted, spec, where)
    if conversion.periods is not None:
        notes += _check_periods(conversion.periods, wanted, spec, where)
    stored_as = {str(tensor.dtype).removeprefix("torch.") for tensor in state.values()} - {"float32"}
    if stored_as:
        notes.append(f"stored as {', '.join(sorted(stored_as))}; converted to float32")
    result = {name: _as_float32(name, state[name], where) for name in wanted.shapes}
    return result, ConversionReport(conversion.format, tuple(used), tuple(dropped), tuple(filled), tuple(notes))


def fitting(conversion: Conversion) -> list[str]:
    """Returns the names of the backbones in the catalogue that have the tensors of ``conversion``, by name and shape."""
    return [spec.name for spec in CATALOGUE.values() if _num_differences(conversion, spec) == 0]


def closest(conversion: Conversion) -> BackboneSpec:
    """Returns the backbone in the catalogue whose tensors differ least from those of ``conversion``, by name and shape."""
    return min(CATALOGUE.values(), key=lambda spec: _num_differences(conversion, spec))


def _num_differences(conversion: Conversion, spec: BackboneSpec) -> int:
    wanted = architecture(spec)
    state = dict(conversion.state)
    _fill_biases(state, wanted)
    for name in _surplus_zero_biases(state, wanted):
        del state[name]
    return len({(name, tuple(tensor.shape)) for name, tensor in state.items()} ^ set(wanted.shapes.items()))


def _fill_biases(state: dict[str, Tensor], wanted: Architecture) -> list[str]:
    """Adds zeros for a kind of bias that the whole file lacks; a bias that only some blocks lack stays missing."""
    filled = []
    for ending in (".attn.q_bias", ".attn.v_bias"):
        if not any(name.endswith(ending) for name in state):
            filled += [name for name in wanted.shapes if name.endswith(ending)]
    state.update({name: torch.zeros(wanted.shapes[name]) for name in filled})
    return filled


def _surplus_zero_biases(state: dict[str, Tensor], wanted: Architecture) -> list[str]:
    return [
        name
        for name, tensor in state.items()
        if name.endswith((".attn.q_bias", ".attn.v_bias")) and name not in wanted.shapes and not bool((tensor != 0).any())
    ]


def _check_shapes(
    state: dict[str, Tensor], wanted: Architecture, conversion: Conversion, spec: BackboneSpec, where: object
) -> None:
    missing = [f"{name} {_text(shape)}" for name, shape in wanted.shapes.items() if name not in state]
    unexpected = [
        f"{conversion.origin.get(name, name)} {_text(tensor.shape)}"
        for name, tensor in state.items()
        if name not in wanted.shapes
    ]
    wrong = [
        f"{conversion.origin.get(name, name)} {_text(state[name].shape)} instead of {_text(shape)}"
        for name, shape in wanted.shapes.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    found = [
        f"{len(keys)} {what}: {', '.join(keys[:SHOWN])}{' …' if len(keys) > SHOWN else ''}"
        for what, keys in (("of wrong shape", wrong), ("missing", missing), ("unexpected", unexpected))
        if keys
    ]
    if found:
        others = fitting(conversion)
        remedy = f"the file fits {' or '.join(others)}" if others else "it fits no backbone of `nnunet-dino weights list`"
        raise UserError(f"wrong weights: required the tensors of {spec.name} · got {where} with {'; '.join(found)} · {remedy}")


def _text(shape: tuple[int, ...] | torch.Size) -> str:
    return "x".join(str(length) for length in shape)


def _check_config(config: Mapping[str, Any], wanted: Architecture, spec: BackboneSpec, where: object) -> None:
    for key, required in (("num_attention_heads", wanted.num_heads), ("rope_theta", wanted.rope_theta)):
        if config.get(key, required) != required:
            raise UserError(
                f"wrong weights: required {key} {required} for {spec.name} · got {config[key]} in the config.json of {where}"
            )


def _check_periods(periods: Tensor, wanted: Architecture, spec: BackboneSpec, where: object) -> list[str]:
    """Compares the file's periods with timm's.

    They follow from the architecture, so none are loaded: timm and Hugging Face compute them in float32. Meta's releases carry
    them rounded to bfloat16, the type that MedDINOv3's own network computes in.
    """
    expected = wanted.periods.to(getattr(torch, spec.rope_dtype)).float()
    if periods.shape != wanted.periods.shape:
        raise UserError(
            f"wrong weights: required {len(wanted.periods)} rope periods ({wanted.num_heads} heads) for {spec.name} "
            f"· got {periods.numel()} in {where}"
        )
    difference = ((periods.float() - expected) / expected).abs().max().item()
    if not difference <= BFLOAT16_ROUNDING:
        raise UserError(
            f"wrong weights: required rope periods {_range(wanted.periods)} for {spec.name} · got {_range(periods)} in {where} "
            "· the file was trained with another position embedding"
        )
    # float32 computed on another machine may differ in the last bits.
    if difference <= 1e-6:
        return []
    return [f"the file's rope periods are rounded ({difference:.1e} relative); computed in {spec.rope_dtype} instead"]


def _range(periods: Tensor) -> str:
    return f"{periods.float().min():.4g} … {periods.float().max():.4g}"


def _as_float32(name: str, tensor: Tensor, where: object) -> Tensor:
    if not tensor.is_floating_point():
        raise UserError(f"wrong weights: required floating-point numbers · got {tensor.dtype} for {name} in {where}")
    tensor = tensor.detach().float()
    if not bool(torch.stack(torch.aminmax(tensor)).isfinite().all()):
        raise UserError(
            f"damaged weights: required finite numbers · got NaN or infinity for {name} in {where} · get the file again"
        )
    if name.endswith((".attn.q_bias", ".attn.v_bias")):
        tensor = tensor + 0.0  # -0.0 becomes 0.0, so that a stored and a filled zero have the same digest
    return tensor.contiguous()
