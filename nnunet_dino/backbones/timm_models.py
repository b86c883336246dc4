"""Vision transformers that timm has and the catalogue has not, by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from nnunet_dino._errors import UserError, nearest
from nnunet_dino.backbones.quiet_timm import timm
from nnunet_dino.backbones.spec import ANY_SIZE, TIMM, BackboneSpec


@cache
def timm_spec(name: str) -> BackboneSpec:
    """Returns what timm says of ``timm:ARCHITECTURE`` or ``timm:ARCHITECTURE.TAG``.

    Raises:
        UserError: timm has no such model, or it is not a vision transformer with square patches and maps of them.
    """
    model, _, tag = name.removeprefix(TIMM).partition(".")
    if not timm.is_model(model):
        hint = nearest(model, timm.list_models("*vit*"))
        raise UserError(
            f"backbone: required a model of timm {timm.__version__} · got {name!r}{hint} · timm.list_models() has all"
        )
    if tag and not timm.models.is_model_pretrained(f"{model}.{tag}"):
        known = [other.partition(".")[2] for other in timm.list_pretrained(f"{model}.*")]
        raise UserError(f"backbone: required weights that timm has of {model}: {', '.join(known) or 'none'} · got {tag!r}")
    try:
        vit = empty_vit(model, ANY_SIZE)
        edges = vit.patch_embed.patch_size
        depth, prefix = len(vit.blocks), int(vit.num_prefix_tokens)
    except (TypeError, AttributeError, KeyError) as error:
        got = f"{name} ({error})"
        raise UserError(
            f"backbone: required a vision transformer with maps of patch tokens · got {got} · see timm.list_models('vit_*')"
        ) from error
    if edges[0] != edges[1] or depth < 4:
        raise UserError(f"backbone: required square patches and four blocks or more · got {edges} and {depth} of {name}")
    facts: Mapping[str, Any] = getattr(vit, "pretrained_cfg", None) or {}
    if tag:
        facts = timm.models.get_pretrained_cfg(f"{model}.{tag}").to_dict()
    hub = f"timm/{model}.{facts.get('tag')}" if facts.get("tag") and facts.get("hf_hub_id") else ""
    return BackboneSpec(
        name=name,
        timm_model=f"{model}.{tag}" if tag else model,
        taps=tuple(depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)),
        embed_dim=int(vit.embed_dim),
        num_parameters=sum(parameter.numel() for parameter in vit.parameters()),
        overrides=ANY_SIZE,
        patch_px=int(edges[0]),
        num_prefix_tokens=prefix,
        is_dinov3=False,
        statistics=(tuple(facts["mean"]), tuple(facts["std"])) if facts.get("mean") else None,
        timm_hub=hub,
        licence=str(facts.get("license") or f"not stated by timm; see https://huggingface.co/{hub}"),
    )


def empty_vit(timm_model: str, overrides: Mapping[str, Any]) -> nn.Module:
    """Builds a model of timm without memory for its weights."""
    with torch.device("meta"):
        return timm.create_model(timm_model, pretrained=False, num_classes=0, **overrides)


def timm_state(tensors: Mapping[str, Tensor], spec: BackboneSpec, where: object) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the tensors of ``Backbone(spec).vit`` in float32 and the names of those that it has no use for.

    Names of other libraries and learned positions of another grid are converted by the function that timm has for the family.

    Raises:
        UserError: A tensor is missing, of a wrong shape or not finite.
    """
    with torch.device("cpu"):
        vit = timm.create_model(spec.timm_model, pretrained=False, num_classes=0, **spec.overrides)
    convert = getattr(sys.modules[type(vit).__module__], "checkpoint_filter_fn", None)
    state = dict(tensors) if convert is None else convert(dict(tensors), vit)
    wanted = vit.state_dict()
    missing = [key for key in wanted if key not in state]
    wrong = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    if missing or wrong:
        named = [*(f"{key} missing" for key in missing), *(f"{key} of {tuple(state[key].shape)}" for key in wrong)]
        raise UserError(
            f"wrong weights: required the tensors of {spec.name} · got {where} with {', '.join(named[:3])}"
            f"{' …' if named[3:] else ''} · take the file of {spec.name}"
        )
    result = {key: state[key].detach().float().contiguous() for key in wanted}
    for key, tensor in result.items():
        if not bool(tensor.isfinite().all()):
            raise UserError(f"damaged weights: required finite numbers · got NaN or infinity for {key} in {where}")
    return result, [key for key in state if key not in wanted]


@contextmanager
def constant_positions() -> Iterator[None]:
    """Interpolates learned positions to a grid once, at the first pass; a graph of a later one holds the result.

    ONNX has no antialiased interpolation, and positions depend on no image.
    """
    known: dict[tuple[int, tuple[int, ...]], Tensor] = {}
    resample = timm.layers.resample_abs_pos_embed

    def once(positions: Tensor, new_size: Any, *arguments: Any, **options: Any) -> Tensor:
        key = id(positions), tuple(int(length) for length in new_size)
        if key not in known:
            known[key] = resample(positions, new_size, *arguments, **options).detach()
        return known[key]

    with ExitStack() as stack:
        for family in (timm.models.vision_transformer, timm.models.eva):
            stack.enter_context(patch.object(family, "resample_abs_pos_embed", once))
        yield
