"""Does a checkpoint fit a backbone, tensor by tensor?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from nnunet_dino._errors import UserError
from nnunet_dino.backbones.catalogue import CATALOGUE, BackboneSpec
from nnunet_dino.backbones.rope import periods_in_bfloat16
from nnunet_dino.backbones.weights.architecture import Architecture, architecture
from nnunet_dino.backbones.weights.conversion import Conversion, ConversionReport, Dropped
from nnunet_dino.backbones.weights.model_config import check_config
from nnunet_dino.backbones.weights.reading import AGAIN
from nnunet_dino.backbones.weights.unwrapping import describe

# Half a unit in the last place of bfloat16 is 2^-9 of the value; one more bit for files that were cut, not rounded.
BFLOAT16_ROUNDING = 2.0**-8
SHOWN = 3
BIASES = (".attn.q_bias", ".attn.v_bias")


def match(
    conversion: Conversion, spec: BackboneSpec, config: Mapping[str, Any] | None = None
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Returns exactly the tensors of ``Backbone(spec).vit`` in float32, and what was done to get them.

    Args:
        conversion: A renamed checkpoint.
        spec: The backbone.
        config: The ``config.json`` beside it, where there is one.

    Raises:
        UserError: A tensor is missing, unexpected, of a wrong shape or not finite, or the configuration, the attention heads or
            the position embedding are of another model.
    """
    wanted = architecture(spec)
    state = dict(conversion.state)
    dropped, used, notes = list(conversion.dropped), list(conversion.used), list(conversion.notes)
    notes += check_config(config or {}, spec, conversion.where)
    filled, surplus = _with_biases_as(wanted, state)
    for key in dict.fromkeys(conversion.origin[name] for name in surplus):
        used.remove(key)
        dropped.append(Dropped(key, f"all zero; {spec.name} has no query and value bias"))
    _check_shapes(state, wanted, conversion, spec)
    if conversion.periods is not None:
        notes += _check_periods(conversion.periods, wanted, spec, conversion.where)
    stored_as = {str(tensor.dtype).removeprefix("torch.") for tensor in state.values()} - {"float32"}
    if stored_as:
        notes.append(f"stored as {', '.join(sorted(stored_as))}; converted to float32")
    result = {name: _as_float32(name, state[name], conversion.where) for name in wanted.shapes}
    return result, ConversionReport(conversion.format, tuple(used), tuple(dropped), tuple(filled), tuple(notes))


def fitting(conversion: Conversion) -> list[str]:
    """Returns the names of the backbones in the catalogue that have the tensors of ``conversion``, by name and shape."""
    return [spec.name for spec in CATALOGUE.values() if spec.is_dinov3 and _num_differences(conversion, spec) == 0]


def closest(conversion: Conversion) -> BackboneSpec:
    """Returns the backbone in the catalogue whose tensors differ least from those of ``conversion``, by name and shape."""
    return min((spec for spec in CATALOGUE.values() if spec.is_dinov3), key=lambda spec: _num_differences(conversion, spec))


def _num_differences(conversion: Conversion, spec: BackboneSpec) -> int:
    wanted = architecture(spec)
    state = dict(conversion.state)
    _with_biases_as(wanted, state)
    return len({(name, tuple(tensor.shape)) for name, tensor in state.items()} ^ set(wanted.shapes.items()))


def _with_biases_as(wanted: Architecture, state: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """Adds zeros for a kind of bias that the whole file lacks, and removes biases of zeros that the backbone lacks.

    A bias that only some blocks lack stays missing. Returns the names of those added and of those removed.
    """
    filled = []
    for ending in BIASES:
        if not any(name.endswith(ending) for name in state):
            filled += [name for name in wanted.shapes if name.endswith(ending)]
    state.update({name: torch.zeros(wanted.shapes[name]) for name in filled})
    others = [name for name in state if name.endswith(BIASES) and name not in wanted.shapes]
    surplus = [name for name in others if not bool((state[name] != 0).any())]
    for name in surplus:
        del state[name]
    return filled, surplus


def _check_shapes(state: dict[str, Tensor], wanted: Architecture, conversion: Conversion, spec: BackboneSpec) -> None:
    def key(name: str) -> str:
        return conversion.origin.get(name, name)

    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    common = [name for name in wanted.shapes if name in shapes]
    problems = {
        "of wrong shape": [
            f"{key(name)} {_text(shapes[name])} instead of {_text(wanted.shapes[name])}"
            for name in common
            if shapes[name] != wanted.shapes[name]
        ],
        "missing": [f"{name} {_text(shape)}" for name, shape in wanted.shapes.items() if name not in shapes],
        "unexpected": [f"{key(name)} {_text(shape)}" for name, shape in shapes.items() if name not in wanted.shapes],
    }
    found = [
        f"{len(keys)} {what}: {', '.join(keys[:SHOWN])}{' …' if len(keys) > SHOWN else ''}"
        for what, keys in problems.items()
        if keys
    ]
    if found:
        others = fitting(conversion)
        none = "it fits no backbone of `nnunet-dino weights list`"
        if what := describe(conversion.state):
            none += f": it is {what}"
        remedy = f"the file fits {' or '.join(others)}" if others else none
        got = f"{conversion.where} with {'; '.join(found)}"
        raise UserError(f"wrong weights: required the tensors of {spec.name} · got {got} · {remedy}")


def _text(shape: Iterable[int]) -> str:
    return "x".join(str(length) for length in shape) or "scalar"


def _check_periods(periods: Tensor, wanted: Architecture, spec: BackboneSpec, where: object) -> list[str]:
    """Compares the file's periods with timm's.

    They follow from the architecture, so none are loaded: timm and Hugging Face compute them in float32. Meta's releases carry
    them rounded to bfloat16, the type that MedDINOv3's own network computes in.
    """
    expected = wanted.periods
    if spec.rope_dtype == "bfloat16":
        expected = periods_in_bfloat16(len(expected), wanted.rope_theta).float()
    if periods.shape != wanted.periods.shape:
        raise UserError(
            f"wrong weights: required {len(wanted.periods)} rope periods ({wanted.num_heads} heads) for {spec.name} "
            f"· got {periods.numel()} in {where} · the file has another number of heads: take the one of {spec.name}"
        )
    difference = ((periods.float() - expected) / expected).abs().max().item()
    if not difference <= BFLOAT16_ROUNDING:
        raise UserError(
            f"wrong weights: required rope periods {_range(wanted.periods)} for {spec.name} · got {_range(periods)} in {where} "
            f"· the file was trained with another position embedding: take the one of {spec.name}"
        )
    # float32 computed on another machine may differ in the last bits.
    if difference <= 1e-6:
        return []
    return [f"the file's rope periods are rounded ({difference:.1e} relative); computed in {spec.rope_dtype} instead"]


def _range(periods: Tensor) -> str:
    return f"{periods.float().min():.4g} … {periods.float().max():.4g}"


def _as_float32(name: str, tensor: Tensor, where: object) -> Tensor:
    tensor = tensor.detach().float()
    if not bool(torch.stack(torch.aminmax(tensor)).isfinite().all()):
        raise UserError(f"damaged weights: required finite numbers · got NaN or infinity for {name} in {where} · {AGAIN}")
    if name.endswith(BIASES):
        tensor = tensor + 0.0  # -0.0 becomes 0.0, so that a stored and a filled zero have the same digest
    return tensor.contiguous()
