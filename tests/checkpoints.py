"""Small backbones and their checkpoints in every published format, written out by hand for the tests of the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from torch import Tensor

from nnunet_dino.backbones import weights
from nnunet_dino.backbones.catalogue import CATALOGUE, BackboneSpec

FIXTURES = Path(__file__).parent / "fixtures"
REFERENCES = ("dinov3_meta_mlp_qkvbias", "dinov3_meta_swiglu", "meddinov3_teacher", "dinov3_huggingface")

# Width e = 24 in 2 heads, 3 blocks, 4 register tokens, hidden width 40: all different.
WIDTH, DEPTH, HEADS, HIDDEN = 24, 3, 2, 40


def reference(name: str) -> dict[str, Any]:
    return torch.load(FIXTURES / f"{name}.pt", weights_only=True)


def reference_spec(content: dict[str, Any]) -> BackboneSpec:
    config = content["config"]
    width = config.get("embed_dim", config.get("hidden_size"))
    gated = config.get("ffn") == "swiglu"
    hidden = content["checkpoint"]["blocks.0.mlp.w1.bias"].numel() if gated else 4 * width
    sizes = {
        "embed_dim": width,
        "mlp_ratio": hidden / width,
        "depth": config.get("depth", config.get("num_hidden_layers")),
        "num_heads": config.get("num_heads", config.get("num_attention_heads")),
    }
    return small_spec("reference", gated, tuple(content["taps"]), **sizes)


def small_spec(name: str = "small", gated: bool = False, taps: tuple[int, ...] = (0, 2), **sizes: Any) -> BackboneSpec:
    sizes = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "mlp_ratio": HIDDEN / WIDTH, **sizes}
    return BackboneSpec(
        name=name,
        timm_model="vit_small_plus_patch16_dinov3_qkvb" if gated else "vit_small_patch16_dinov3_qkvb",
        taps=taps,
        embed_dim=sizes["embed_dim"],
        num_parameters=0,
        overrides=sizes,
        timm_hub=f"timm/{name}_mirror",
        gated_hub=f"authors/{name}_asked",
        meta_file=f"{name}_pretrain.pth",
    )


def canonical_state(gated: bool = False, seed: int = 0, with_bias: bool = True) -> dict[str, Tensor]:
    """Random weights under timm's names, written down from the architecture's description."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    state = {
        "cls_token": draw(1, 1, WIDTH),
        "reg_token": draw(1, 4, WIDTH),
        "patch_embed.proj.weight": draw(WIDTH, 3, 16, 16),
        "patch_embed.proj.bias": draw(WIDTH),
        "norm.weight": draw(WIDTH),
        "norm.bias": draw(WIDTH),
    }
    first_layers = ("fc1_g", "fc1_x") if gated else ("fc1",)
    for block in range(DEPTH):
        start = f"blocks.{block}"
        for norm in ("norm1", "norm2"):
            state[f"{start}.{norm}.weight"], state[f"{start}.{norm}.bias"] = draw(WIDTH), draw(WIDTH)
        state[f"{start}.gamma_1"], state[f"{start}.gamma_2"] = draw(WIDTH), draw(WIDTH)
        state[f"{start}.attn.qkv.weight"] = draw(3 * WIDTH, WIDTH)
        for part in "qv":
            state[f"{start}.attn.{part}_bias"] = draw(WIDTH) * with_bias + 0.0
        state[f"{start}.attn.proj.weight"], state[f"{start}.attn.proj.bias"] = draw(WIDTH, WIDTH), draw(WIDTH)
        for layer in first_layers:
            state[f"{start}.mlp.{layer}.weight"], state[f"{start}.mlp.{layer}.bias"] = draw(HIDDEN, WIDTH), draw(HIDDEN)
        state[f"{start}.mlp.fc2.weight"], state[f"{start}.mlp.fc2.bias"] = draw(WIDTH, HIDDEN), draw(WIDTH)
    return state


def rope_periods() -> Tensor:
    """100^(2i / (head_dim / 2)), i = 0 … head_dim / 4 - 1."""
    head_dim = WIDTH // HEADS
    return torch.tensor([100.0 ** (2 * i / (head_dim // 2)) for i in range(head_dim // 4)])


def as_meta(state: dict[str, Tensor], mask: str = "set") -> dict[str, Tensor]:
    """``mask``: set (1, 0, 1), unset (NaN), zero, absent (and a key bias of zero), or no bias at all."""
    names = {"reg_token": "storage_tokens"}
    endings = {
        ".gamma_1": ".ls1.gamma",
        ".gamma_2": ".ls2.gamma",
        ".mlp.fc1_g.weight": ".mlp.w1.weight",
        ".mlp.fc1_g.bias": ".mlp.w1.bias",
        ".mlp.fc1_x.weight": ".mlp.w2.weight",
        ".mlp.fc1_x.bias": ".mlp.w2.bias",
    }
    if any(".fc1_g." in name for name in state):
        endings |= {".mlp.fc2.weight": ".mlp.w3.weight", ".mlp.fc2.bias": ".mlp.w3.bias"}
    result = {"mask_token": torch.full((1, WIDTH), 0.5), "rope_embed.periods": rope_periods()}
    for name, tensor in state.items():
        if name.endswith(("q_bias", "v_bias")):
            continue
        ending = next((ending for ending in endings if name.endswith(ending)), "")
        new = names.get(name, name.removesuffix(ending) + endings[ending] if ending else name)
        result[new] = tensor
    if mask == "no bias":
        return result
    one, zero = torch.ones(WIDTH), torch.zeros(WIDTH)
    masks = {"set": torch.cat([one, zero, one]), "unset": torch.full((3 * WIDTH,), torch.nan), "zero": torch.zeros(3 * WIDTH)}
    for block in range(DEPTH):
        start = f"blocks.{block}.attn"
        key_bias = zero if mask == "absent" else one * 7  # a mask hides what is stored for the key
        bias = [state[f"{start}.q_bias"], key_bias, state[f"{start}.v_bias"]]
        result[f"{start}.qkv.bias"] = torch.cat(bias)
        if mask in masks:
            result[f"{start}.qkv.bias_mask"] = masks[mask]
    return result


def as_trainer(state: dict[str, Tensor], mask: str = "set") -> dict[str, dict[str, Tensor]]:
    backbone = {f"backbone.{name}": tensor for name, tensor in as_meta(state, mask).items()}
    return {
        "teacher": {**backbone, "dino_head.mlp.0.weight": torch.ones(5, 3), "ibot_head.last_layer.weight": torch.ones(3, 5)}
    }


def as_hugging_face(state: dict[str, Tensor], layers: str = "layer", key_bias: float | None = None) -> dict[str, Tensor]:
    result = {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.register_tokens": state["reg_token"],
        "embeddings.mask_token": torch.full((1, 1, WIDTH), 0.5),
        "embeddings.patch_embeddings.weight": state["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.bias": state["patch_embed.proj.bias"],
        "norm.weight": state["norm.weight"],
        "norm.bias": state["norm.bias"],
    }
    gated = "blocks.0.mlp.fc1_g.weight" in state
    mlp = {"gate_proj": "fc1_g", "up_proj": "fc1_x", "down_proj": "fc2"} if gated else {"up_proj": "fc1", "down_proj": "fc2"}
    for block in range(DEPTH):
        old, new = f"blocks.{block}", f"{layers}.{block}"
        for ending in ("weight", "bias"):
            result[f"{new}.norm1.{ending}"] = state[f"{old}.norm1.{ending}"]
            result[f"{new}.norm2.{ending}"] = state[f"{old}.norm2.{ending}"]
            result[f"{new}.attention.o_proj.{ending}"] = state[f"{old}.attn.proj.{ending}"]
            for theirs, ours in mlp.items():
                result[f"{new}.mlp.{theirs}.{ending}"] = state[f"{old}.mlp.{ours}.{ending}"]
        for number in (1, 2):
            result[f"{new}.layer_scale{number}.lambda1"] = state[f"{old}.gamma_{number}"]
        rows = state[f"{old}.attn.qkv.weight"]
        for index, part in enumerate("qkv"):
            result[f"{new}.attention.{part}_proj.weight"] = rows[index * WIDTH : (index + 1) * WIDTH].clone()
        for part in "qv":
            result[f"{new}.attention.{part}_proj.bias"] = state[f"{old}.attn.{part}_bias"]
        if key_bias is not None:
            result[f"{new}.attention.k_proj.bias"] = torch.full((WIDTH,), key_bias)
    return result


def without_bias(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As timm's models without ``qkvb`` in their name."""
    return {name: tensor for name, tensor in state.items() if not name.endswith(("q_bias", "v_bias"))}


def isolate(monkeypatch: pytest.MonkeyPatch, folder: Path, *names: str) -> None:
    """Puts small backbones of equal shape into the catalogue, and empty caches below ``folder`` in the place of the user's."""
    for name in names:
        monkeypatch.setitem(CATALOGUE, name, small_spec(name))
    monkeypatch.delenv(weights.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.delenv(weights.STORE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "hub"))
