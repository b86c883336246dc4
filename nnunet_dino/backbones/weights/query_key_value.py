"""Query, key and value in timm's form: weights joined into one matrix, biases of query and value apart, no bias of the key."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from nnunet_dino._errors import UserError
from nnunet_dino.backbones.weights.conversion import Conversion
from nnunet_dino.backbones.weights.reading import AGAIN


def join_query_key_value(conversion: Conversion) -> None:
    """Joins ``{q,k,v}_proj.weight``, each ``e e``, into ``qkv.weight``, ``3e e``, and names the biases as timm does.

    Raises:
        UserError: One of the three is missing or of another shape, or there is a key bias.
    """
    state, where = conversion.state, conversion.where
    for query in [name for name in state if name.endswith(".attn.q_proj.weight")]:
        attention = query.removesuffix("q_proj.weight")
        names = [f"{attention}{part}_proj.weight" for part in "qkv"]
        missing = [name for name in names if name not in state]
        if missing:
            raise _damaged(f"{missing[0]} beside {conversion.origin[query]!r}", "none", where)
        keys, tensors = zip(*(conversion.take(name) for name in names), strict=True)
        shapes = [tuple(tensor.shape) for tensor in tensors]
        if len(set(shapes)) > 1 or tensors[0].ndim != 2:
            raise _damaged(f"three matrices of one shape for {', '.join(keys)}", shapes, where)
        conversion.put(f"{attention}qkv.weight", torch.cat(tensors), ", ".join(keys))
    for bias in [name for name in state if re.search(r"\.attn\.[qkv]_proj\.bias$", name)]:
        key, tensor = conversion.take(bias)
        attention, part = bias.removesuffix("_proj.bias")[:-1], bias.removesuffix("_proj.bias")[-1]
        if part == "k":
            _check_key_bias(tensor, key, where)
            conversion.drop(key, "all zero; DINOv3 has no key bias")
        else:
            conversion.put(f"{attention}{part}_bias", tensor, key)


def split_bias(conversion: Conversion) -> None:
    """Splits ``qkv.bias``, ``3e``, into ``q_bias`` and ``v_bias``, each ``e``.

    The reference multiplies the bias with ``bias_mask``: one for query and value, zero for key; NaN where it was never set.
    In Meta's releases mask and bias are zero throughout (https://github.com/facebookresearch/dinov3/issues/195).

    Raises:
        UserError: The bias is not in three parts, the mask is not as said, or there is a key bias.
    """
    state, where = conversion.state, conversion.where
    for name in [name for name in state if name.endswith(".attn.qkv.bias_mask")]:
        if name.removesuffix("_mask") not in state:
            conversion.drop(conversion.take(name)[0], "mask without a bias")
    for name in [name for name in state if name.endswith(".attn.qkv.bias")]:
        attention = name.removesuffix("qkv.bias")
        key, bias = conversion.take(name)
        if bias.ndim != 1 or len(bias) == 0 or len(bias) % 3:
            raise _damaged(f"a vector in three parts for {key}", f"shape {tuple(bias.shape)}", where)
        if f"{name}_mask" in state:
            mask_key, mask = conversion.take(f"{name}_mask")
            bias = _masked(bias, mask, mask_key, where)
            conversion.drop(mask_key, "applied to the bias")
        query, middle, value = bias.chunk(3)
        _check_key_bias(middle, f"middle third of {key}", where)
        conversion.put(f"{attention}q_bias", query, key)
        conversion.put(f"{attention}v_bias", value, key)


def _damaged(required: str, got: object, where: object) -> UserError:
    return UserError(f"damaged weights: required {required} · got {got} in {where} · {AGAIN}")


def _masked(bias: Tensor, mask: Tensor, mask_key: str, where: object) -> Tensor:
    if mask.shape != bias.shape:
        raise _damaged(f"shape {tuple(bias.shape)} for {mask_key}", tuple(mask.shape), where)
    if bool(mask.isnan().all()):
        query, middle, value = bias.chunk(3)
        return torch.cat([query, torch.zeros_like(middle), value])
    odd = mask[(mask != 0) & (mask != 1)]
    if len(odd):
        raise _damaged(f"0 or 1, or NaN throughout, in {mask_key}", f"{odd[0]:.3g}", where)
    return bias * mask


def _check_key_bias(bias: Tensor, key: str, where: object) -> None:
    if bool((bias != 0).any()):
        raise UserError(
            f"weights: required a key bias of zero, as in every DINOv3 · got up to {bias.abs().max():.3g} in {key} of {where}"
            " · this backbone has no place for it: take the file of a DINOv3"
        )
