"""The backbone inside what people's trainings save: nested dictionaries, prefixes of names, adapters, other networks beside.

Nothing depends on how the wrapping class called its parts: what stands before the name of the register tokens is the prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from nnunet_dino.backbones.records import from_tensor

# Where to look in a dictionary that holds more than tensors, the first that is there: the averaged network before the trained.
LEVELS = (
    *("teacher", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "params_ema", "ema", "shadow"),
    *("network_weights", "model", "model_state_dict", "state_dict", "checkpoint", "net", "network", "params", "weights"),
    *("module", "backbone", "student"),
)
_INSIDE = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_AVERAGED = ("teacher", "ema", "model_ema", "ema_model")
OPTIONS_KEY, STATISTICS_RECORD = "options_record", "statistics_record"  # in checkpoints of this package's trainers


def descend(content: Any) -> tuple[Any, list[str]]:
    """Returns the innermost dictionary of ``LEVELS`` in the content of a file, and the names on the way."""
    path: list[str] = []
    while isinstance(content, Mapping) and not all(isinstance(value, Tensor) for value in content.values()):
        level = next((name for name in LEVELS if isinstance(content.get(name), Mapping)), None)
        if level is None:
            break
        content = content[level]
        path.append(level)
    return content, path


def plain_names(tensors: Iterable[str]) -> dict[str, str]:
    """Returns the file's names by what they are without the parts that compiling and sharding put inside."""
    return {_INSIDE.sub("", key): key for key in tensors}


def prefixes(names: Iterable[str], marker: str) -> list[str]:
    """Returns what stands before ``marker``; of several networks only the averaged one if there is one."""
    found = [name.removesuffix(marker) for name in names if name == marker or name.endswith(f".{marker}")]
    averaged = [prefix for prefix in found if set(prefix.split(".")) & set(_AVERAGED)]
    return averaged or found


def adapter_scale(tensors: Mapping[str, Tensor]) -> float | None:
    """Returns what adapters are multiplied by, ``alpha / rank``, if a checkpoint of this package says so."""
    options = _recorded(tensors, OPTIONS_KEY)
    return None if options is None else float(options["lora.alpha"] / options["lora.rank"])


def recorded_statistics(tensors: Mapping[str, Tensor]) -> tuple[Any, Any] | None:
    """Returns mean and deviation of red, green and blue, if a checkpoint of this package says so."""
    statistics = _recorded(tensors, STATISTICS_RECORD)
    return None if statistics is None else (tuple(statistics[0]), tuple(statistics[1]))


def _recorded(tensors: Mapping[str, Tensor], name: str) -> Any:
    record = next((tensor for key, tensor in tensors.items() if key.rpartition(".")[2] == name), None)
    return None if record is None else from_tensor(record)


def merge_adapters(tensors: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Returns the network without adapters that computes the same: ``W + scale · B A`` (Hu et al. 2021, eq. 3)."""
    merged = {}
    for key, tensor in tensors.items():
        if ".lora_" in key:
            continue
        layer, is_adapted, parameter = key.partition(".base_layer.")
        if is_adapted and parameter == "weight":
            a, b = (tensors[f"{layer}.lora_{part}.default.weight"].float() for part in "AB")
            tensor = (tensor.float() + scale * (b @ a)).to(torch.float32)
        merged[f"{layer}.{parameter}" if is_adapted else key] = tensor
    return merged


def describe(tensors: Mapping[str, Tensor]) -> str:
    """Returns what kind of network tensors are of, as far as their names and shapes tell, or ""."""
    names = plain_names(tensors)
    if any(re.search(r"(^|\.)downsample_layers\.|stages\.\d+\.\d+\.(dwconv|depthwise_conv)", name) for name in names):
        return "a ConvNeXt, no vision transformer"
    ends = {name.rpartition(".")[2]: tensors[key] for name, key in names.items()}
    blocks = {match[1] for name in names if (match := re.search(r"(?:blocks|layer)\.(\d+)\.", name))}
    patch = next((tensors[key] for name, key in names.items() if re.search(r"patch_embed\w*\..*weight$", name)), None)
    if "cls_token" not in ends or patch is None or patch.ndim != 4 or not blocks:
        return ""
    registers = next((ends[name].shape[-2] for name in ("storage_tokens", "reg_token", "register_tokens") if name in ends), 0)
    heads = f", {ends['cls_token'].shape[-1] // (4 * len(ends['periods']))} heads" if "periods" in ends else ""
    return (
        f"a vision transformer {ends['cls_token'].shape[-1]} wide with {len(blocks)} blocks{heads}, patches of "
        f"{patch.shape[-1]} pixels, {registers} registers, {patch.shape[1]} channels"
    )
