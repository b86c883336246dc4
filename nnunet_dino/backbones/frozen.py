"""The forward pass of a frozen vision transformer, with fewer passes over memory than timm's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_dino.backbones.quiet_timm import timm

SCORES_AT_A_TIME = 1 << 24


def encode_frozen(vit: nn.Module, images: Tensor, taps: Sequence[int], normalise: bool) -> list[Tensor]:
    """Returns the tokens of tapped blocks, in float32 bit for bit as timm's model computes them.

    Against timm's own forward pass: all blocks write their large results into the same memory (fresh memory costs a page fault
    for every 4 KiB, on a CPU a fifth of the time), queries and keys are rotated together, nothing is concatenated, scaling and
    adding happen in place, and in bfloat16 on a CPU the attention is two batched matrix products, which take half the time of
    torch's fused kernel there.

    Args:
        vit: timm's ``Eva`` in its DINOv3 form, in evaluation mode.
        images: ``n 3 h w`` in the type of the weights.
        taps: Indices of blocks, ascending.
        normalise: Apply the final LayerNorm to each.

    Returns:
        One tensor ``n t e`` per tap; the prefix tokens come first.
    """
    x, rope = vit._pos_embed(vit.patch_embed(images))
    memory = _Memory(x)
    rotation = _rotation(rope, x.shape[1] - len(rope), vit.blocks[0].attn.scale)
    if _multiplies_fastest(x):
        rotation = tuple(part.to(x.dtype) for part in rotation)
    tapped = []
    for index, block in enumerate(vit.blocks[: max(taps) + 1]):
        x = _attend(block.attn, block.norm1(x), rotation, memory).mul_(block.gamma_1).add_(x)
        x = _feed(block.mlp, block.norm2(x), memory).mul_(block.gamma_2).add_(x)
        if index in taps:
            tapped.append(vit.norm(x) if normalise else x)
    return tapped


class _Memory:
    """Tensors by name, handed out again to every block."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._tensors: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        if name not in self._tensors or self._tensors[name].shape != shape:
            self._tensors[name] = self._like.new_empty(shape)
        return self._tensors[name]


def _multiplies_fastest(x: Tensor) -> bool:
    """Whether matrix products are much faster than anything else: bfloat16 on a CPU."""
    return x.device.type == "cpu" and x.dtype is torch.bfloat16


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """Returns ``x weightᵀ + bias`` in ``out``, for ``x`` of shape ``n t i``."""
    rows = x.flatten(0, 1)
    if bias is None:
        torch.mm(rows, weight.t(), out=out.flatten(0, 1))
    else:
        torch.addmm(bias, rows, weight.t(), out=out.flatten(0, 1))
    return out


def _feed(mlp: nn.Module, x: Tensor, memory: _Memory) -> Tensor:
    if type(mlp) is not timm.layers.Mlp or not isinstance(mlp.act, nn.GELU) or mlp.act.approximate != "none":
        return mlp(x)
    hidden = _linear(x, mlp.fc1.weight, mlp.fc1.bias, memory("hidden", *x.shape[:2], mlp.fc1.out_features))
    return mlp.fc2(torch.ops.aten.gelu_(hidden))


def _attend(attention: nn.Module, x: Tensor, rotation: tuple[Tensor, Tensor], memory: _Memory) -> Tensor:
    bias = None
    if attention.q_bias is not None:
        bias = torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))
    weight = attention.qkv.weight
    qkv = _linear(x, weight, bias, memory("qkv", *x.shape[:2], len(weight)))
    qkv = qkv.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)  # 3 n heads t channels
    turned = memory("turned", 2, *qkv.shape[1:])
    if _multiplies_fastest(x):
        queries, keys = _rotate_in_own_type(turned, qkv[:2], *rotation)
        attended = _weighted_values(queries, keys, qkv[2], memory)
    else:
        queries, keys = _rotate(turned, qkv[:2], *rotation)
        attended = F.scaled_dot_product_attention(queries, keys, qkv[2], scale=1.0)
    return attention.proj(attended.transpose(1, 2).flatten(2))


def _rotation(rope: Tensor, num_prefix_tokens: int, scale: float) -> tuple[Tensor, Tensor]:
    """Returns cosines and sines ``2 1 1 t half`` for queries and keys; prefix tokens do not turn, queries are scaled.

    Both halves of a head turn by the same angles, so timm's table holds every angle twice.
    """
    sin, cos = (part[:, : part.shape[1] // 2] for part in rope.float().chunk(2, dim=-1))
    sin = F.pad(sin, (0, 0, num_prefix_tokens, 0), value=0.0)
    cos = F.pad(cos, (0, 0, num_prefix_tokens, 0), value=1.0)
    return tuple(torch.stack([scale * part, part])[:, None, None] for part in (cos, sin))


def _rotate(out: Tensor, vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns components ``i`` and ``i + half`` of ``2 n heads t 2·half`` as a pair, in float32."""
    first, second = vectors.to(torch.float32, memory_format=torch.contiguous_format).chunk(2, dim=-1)
    left, right = out.chunk(2, dim=-1)
    left.copy_((first * cos).sub_(second * sin))
    right.copy_((second * cos).add_(first * sin))
    return out


def _rotate_in_own_type(out: Tensor, vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns as :func:`_rotate` does, in the type of the vectors: one rounding more, half the passes."""
    first, second = vectors.chunk(2, dim=-1)
    torch.mul(vectors, torch.cat([cos, cos], dim=-1), out=out)
    left, right = out.chunk(2, dim=-1)
    left.addcmul_(second, sin, value=-1)
    right.addcmul_(first, sin)
    return out


def _weighted_values(queries: Tensor, keys: Tensor, values: Tensor, memory: _Memory) -> Tensor:
    """Returns softmax(queries · keysᵀ) · values, each ``n heads t channels``; the queries are scaled already."""
    num, heads, tokens, channels = values.shape
    values = memory("values", *values.shape).copy_(values)
    result = memory("attended", num * heads, tokens, channels)
    at_a_time = max(1, SCORES_AT_A_TIME // tokens**2)
    parts = (part.flatten(0, 1).split(at_a_time) for part in (queries, keys, values))
    for q, k, v, attended in zip(*parts, result.split(at_a_time), strict=True):
        scores = torch.bmm(q, k.transpose(1, 2), out=memory("scores", len(q), tokens, tokens))
        shares = torch.softmax(scores, dim=-1, out=memory("shares", *scores.shape))
        torch.bmm(shares, v, out=attended)
    return result.unflatten(0, (num, heads))
