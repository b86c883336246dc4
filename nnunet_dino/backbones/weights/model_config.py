"""Does the ``config.json`` beside a file tell of the same model?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nnunet_dino._errors import UserError
from nnunet_dino.backbones.catalogue import BackboneSpec
from nnunet_dino.backbones.weights.architecture import architecture

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
STATISTICS_KEY = "nnunet_dino_statistics"
EPS_OF_DINOV3 = (1e-5, 1e-6)  # of the releases, and of the training code's default; they differ in the sixth digit
TRAINED_ELSEWHERE = "sat493m"


def check_config(config: Mapping[str, Any], spec: BackboneSpec, where: object) -> list[str]:
    """Compares what tensors cannot tell: a file may have their shapes and mean something else.

    Args:
        config: Of a Hugging Face model or of timm; what it does not say is not compared.
        spec: The backbone.
        where: What to call the checkpoint in messages.

    Returns:
        Remarks on what is nearly the same.

    Raises:
        UserError: It is the configuration of another model.
    """
    wanted = architecture(spec)
    expected: dict[str, tuple[Any, ...]] = {
        "model_type": ("dinov3_vit",),
        "patch_size": (spec.patch_px, [spec.patch_px] * 2),
        "hidden_act": ("silu", "swish") if wanted.is_gated else ("gelu",),
        "num_attention_heads": (wanted.num_heads,),
        "rope_theta": (wanted.rope_theta,),
        "layer_norm_eps": (spec.norm_eps, *EPS_OF_DINOV3),
        "architecture": (spec.timm_model, spec.timm_model.removesuffix("_qkvb")),
    }
    said = {**_inside(config, "rope_parameters", "rope_theta"), **_inside(config, "model_args", "rope_temperature"), **config}
    for key, allowed in expected.items():
        if key in said and said[key] not in allowed:
            got = str(said[key])[:80]
            raise UserError(
                f"wrong weights: required {key} {allowed[0]} for {spec.name} · got {got} in the config.json of {where} "
                f"· the folder holds another model: take the one of {spec.name}"
            )
    timm_facts = config.get("pretrained_cfg")
    if isinstance(timm_facts, Mapping) and str(timm_facts.get("tag")) == TRAINED_ELSEWHERE:
        raise trained_elsewhere(spec, f"the config.json of {where}")
    eps = config.get("layer_norm_eps", spec.norm_eps)
    return [] if eps == spec.norm_eps else [f"its layer_norm_eps is {eps}; computed with {spec.norm_eps}"]


def _inside(config: Mapping[str, Any], group: str, name: str) -> dict[str, Any]:
    """Returns the base of the position embedding where newer transformers and timm write it."""
    values = config.get(group)
    return {"rope_theta": values[name]} if isinstance(values, Mapping) and name in values else {}


def statistics(
    metadata: Mapping[str, str], config: Mapping[str, Any], preprocessor: Mapping[str, Any], where: object
) -> Statistics | None:
    """Returns the mean and deviation of red, green and blue, from 0 to 1, that a model was trained with, if its files say so.

    Raises:
        UserError: They are not three numbers each, or of another range.
    """
    timm_facts = config.get("pretrained_cfg")
    try:
        stored = dict(json.loads(metadata.get(STATISTICS_KEY, "{}")))
    except ValueError as error:
        got = metadata[STATISTICS_KEY][:80]
        raise UserError(
            f"input statistics: required JSON in {STATISTICS_KEY} of {where} · got {got!r} · import it again"
        ) from error
    for facts, names in (
        (stored, ("mean", "std")),
        (preprocessor, ("image_mean", "image_std")),
        (timm_facts if isinstance(timm_facts, Mapping) else {}, ("mean", "std")),
    ):
        if all(name in facts for name in names):
            mean, std = (facts[name] for name in names)
            return check_statistics(*(_of_unit_range(mean, std, preprocessor) if facts is preprocessor else (mean, std)), where)
    return None


def _of_unit_range(mean: Any, std: Any, preprocessor: Mapping[str, Any]) -> tuple[Any, Any]:
    """Returns what a processor's mean and deviation are for values from 0 to 1; it may scale others, or not standardise."""
    if preprocessor.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    factor = preprocessor.get("rescale_factor", 1 / 255) if preprocessor.get("do_rescale", True) else 1
    try:
        scale = 255 * float(factor)
        return tuple(tuple(round(float(value) / scale, 6) for value in values) for values in (mean, std))  # type: ignore[return-value]
    except (TypeError, ValueError, ZeroDivisionError):
        return mean, std


def check_statistics(mean: Any, std: Any, where: object) -> Statistics:
    """Returns mean and deviation of three channels as numbers.

    Raises:
        UserError: They are not.
    """
    try:
        numbers = tuple(tuple(float(value) for value in values) for values in (mean, std))
        good = all(len(values) == 3 and all(0 <= value <= 1 for value in values) for values in numbers) and min(numbers[1]) > 0
    except (TypeError, ValueError):
        good = False
    if not good:
        raise UserError(
            f"input statistics: required three means from 0 to 1 and three deviations above 0 of {where} · got {mean} and "
            f"{std} · correct them; those of 0 to 255 are divided by 255"
        )
    return numbers  # type: ignore[return-value]


def trained_elsewhere(spec: BackboneSpec, where: object) -> UserError:
    """Returns the error for weights of the right shapes that were trained on satellite images."""
    return UserError(
        f"wrong weights: required those of {spec.name}, trained on LVD-1689M · got {where}, which says {TRAINED_ELSEWHERE}: "
        f"trained on satellite images, with other input statistics · take {spec.meta_file or 'those of another name'}"
    )
