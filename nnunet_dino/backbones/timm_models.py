"""Models that timm builds and the catalogue has not: by timm's name, from the hub, or from a folder."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from nnunet_dino._errors import UserError, nearest
from nnunet_dino.backbones.model_folder import cached_folder, read_model_folder
from nnunet_dino.backbones.quiet_timm import timm
from nnunet_dino.backbones.spec import ANY_SIZE, HUB, TIMM, BackboneSpec


@cache
@torch.no_grad()
def spec_of(name: str) -> BackboneSpec:
    """Returns what timm or a configuration says of ``timm:ARCHITECTURE[.TAG]``, ``hf-hub:OWNER/NAME``, or a folder or file.

    Raises:
        UserError: There is no such model, its configuration is not on this machine, or it gives no map of its features.
    """
    if name.startswith(TIMM):
        return _of_timm(name)
    repository = name.removeprefix(HUB) if name.startswith(HUB) else ""
    if repository:
        place = cached_folder(repository)
        if place is None:
            raise UserError(
                f"{name}: required its configuration on this machine · got none in the Hugging Face cache · run `nnunet-dino "
                f"weights fetch {name}`; if it is gated, ask for access at https://huggingface.co/{repository} before"
            )
    else:
        place = Path(name).expanduser()
    model = read_model_folder(place, name)
    where = f"https://huggingface.co/{repository}" if repository else "who made it"
    licence = str(model.facts.get("license") or f"not stated by its configuration; see {where}")
    arguments = model.arguments | _UNSAID.get(repository, {})
    spec = _measured(name, model.architecture, arguments, model.facts, licence)
    return replace(spec, gated_hub=repository, place="" if repository else str(place))


# What model cards tell to pass to timm beside their configuration.
_SWIGLU = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": nn.SiLU}
_UNSAID = {"paige-ai/Virchow": _SWIGLU, "paige-ai/Virchow2": _SWIGLU}


def _of_timm(name: str) -> BackboneSpec:
    model, _, tag = name.removeprefix(TIMM).partition(".")
    if not timm.is_model(model):
        hint = nearest(model, timm.list_models())
        raise UserError(
            f"backbone: required a model of timm {timm.__version__} · got {name!r}{hint} · timm.list_models() has all"
        )
    if tag and not timm.models.is_model_pretrained(f"{model}.{tag}"):
        known = [other.partition(".")[2] for other in timm.list_pretrained(f"{model}.*")]
        raise UserError(f"backbone: required weights that timm has of {model}: {', '.join(known) or 'none'} · got {tag!r}")
    found = timm.models.get_pretrained_cfg(f"{model}.{tag}" if tag else model)
    facts = found.to_dict() if found else {}
    hub = f"timm/{model}.{facts.get('tag')}" if facts.get("tag") and facts.get("hf_hub_id") else ""
    licence = str(facts.get("license") or f"not stated by timm; see https://huggingface.co/{hub}")
    return replace(_measured(name, f"{model}.{tag}" if tag else model, {}, facts, licence), timm_hub=hub)


def _measured(name: str, model: str, arguments: Mapping[str, Any], facts: Mapping[str, Any], licence: str) -> BackboneSpec:
    """Builds a model without memory for its weights, shows it an empty image, and returns what comes out."""
    shown = timm.data.resolve_data_config(pretrained_cfg=dict(facts))
    edge = int(shown["input_size"][-1])
    given = {key: value for key, value in arguments.items() if key not in ("num_classes", "global_pool")}
    network, more = _built(name, model, given, edge)
    device = next(network.parameters()).device
    features = network.forward_features(torch.zeros(1, 3, edge, edge, device=device))
    tapped = getattr(network, "forward_intermediates", None)
    gives_prefix = tapped is not None and "return_prefix_tokens" in inspect.signature(tapped).parameters
    is_vit = gives_prefix and hasattr(network, "num_prefix_tokens") and len(getattr(network, "blocks", ())) >= 4
    prefix = int(network.num_prefix_tokens) if is_vit else 0
    width, depth = int(network.num_features), len(network.blocks) if is_vit else 1
    patches = _cells(features, width, prefix)
    patch_px = 0 if patches is None else edge // patches if is_vit else 2 ** round(math.log2(edge / patches))
    if not patch_px or math.ceil(edge / patch_px) != patches:  # convolutions round up
        got = "x".join(map(str, features.shape[1:]))
        raise UserError(
            f"backbone: required a model with a square map of features · got {name}, which gives {got} · take another model"
        )
    more_px = (patches + 2) * patch_px
    try:
        larger = network.forward_features(torch.zeros(1, 3, more_px, more_px, device=device))
        takes_any_size = _cells(larger, width, prefix) == patches + 2
    except (RuntimeError, AssertionError):
        takes_any_size = False
    return BackboneSpec(
        name=name,
        timm_model=model,
        taps=tuple(depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)) if is_vit else (0,),
        embed_dim=width,
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        overrides={**given, **more},
        patch_px=patch_px,
        num_prefix_tokens=prefix,
        is_dinov3=False,
        is_vit=is_vit,
        takes_any_size=takes_any_size,
        own_input={key: shown[key] for key in ("interpolation", "crop_pct", "crop_mode")}
        | {"input_size": (3, patches * patch_px, patches * patch_px)},
        statistics=(tuple(shown["mean"]), tuple(shown["std"])) if facts.get("mean") else None,
        licence=licence,
    )


def _built(name: str, model: str, given: Mapping[str, Any], edge: int) -> tuple[nn.Module, dict[str, Any]]:
    """Returns a network that has seen an image, if possible without memory for its weights, and what lets it take any size."""
    problem = ""
    for device in ("meta", "cpu"):  # some compute with their buffers while they are built
        for more in ({"strict_img_size": False}, ANY_SIZE, {}):
            try:
                with torch.device(device):
                    network = timm.create_model(model, pretrained=False, num_classes=0, **{**given, **more}).eval()
                network.forward_features(torch.zeros(1, 3, edge, edge, device=device))
                return network, more
            except (TypeError, RuntimeError, AssertionError, AttributeError, KeyError, ValueError) as error:
                problem = " ".join(str(error).split())[:150]
    raise UserError(f"backbone: required a model that timm builds for images of {edge} px squared · got {name}: {problem}")


def _cells(features: Tensor, width: int, prefix: int) -> int | None:
    """Returns the edge of the square map that a model's features are, ``1 e g g``, ``1 g g e`` or ``1 p+g·g e``."""
    sides = tuple(features.shape[1:])
    if len(sides) == 2 and sides[1] == width:
        edge = math.isqrt(max(sides[0] - prefix, 0))
        return edge if edge and edge * edge == sides[0] - prefix else None
    if len(sides) == 3 and width in (sides[0], sides[2]):
        rest = sides[1:] if sides[0] == width else sides[:2]
        return rest[0] if rest[0] == rest[1] else None
    return None


def timm_state(tensors: Mapping[str, Tensor], spec: BackboneSpec, where: object) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the tensors of ``Backbone(spec).vit`` in float32 and the names of those that it has no use for.

    Names of other libraries and learned positions of another grid are converted by the function that timm has for the family.

    Raises:
        UserError: A tensor is missing, of a wrong shape or not finite.
    """
    with torch.device("cpu"):
        vit = timm.create_model(spec.timm_model, pretrained=False, num_classes=0, **spec.overrides)
    convert = getattr(sys.modules[type(vit).__module__], "checkpoint_filter_fn", None)
    wanted = vit.state_dict()
    is_its_own = all(key in tensors and tensors[key].shape == wanted[key].shape for key in wanted)
    state = dict(tensors) if convert is None or is_its_own else convert(dict(tensors), vit)
    state |= {key: value for key, value in wanted.items() if key.endswith("num_batches_tracked") and key not in state}
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
