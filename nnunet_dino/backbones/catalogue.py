"""Every backbone this package knows, in one literal table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nnunet_dino._errors import UserError, nearest

PATCH_PX = 16

DINOV3_LICENCE = "DINOv3 License (https://ai.meta.com/resources/models-and-libraries/dinov3-license)"
MEDDINOV3_LICENCE = f"Apache-2.0 (its authors' model card); trained from DINOv3, so mind the {DINOV3_LICENCE} as well"
NO_LICENCE = "random weights, no licence"


@dataclass(frozen=True)
class BackboneSpec:
    """One row of the catalogue.

    Attributes:
        name: What users, plans and checkpoints call it (Meta's hub names).
        timm_model: The timm architecture. The ``_qkvb`` twins keep a non-zero qkv bias, the plain ones drop it.
        taps: Blocks (from 0) whose tokens are used, shallow to deep.
        embed_dim: Width ``e`` of a token.
        num_parameters: Weights of the transformer.
        overrides: Keyword arguments for the timm model, for sizes that timm does not name.
        norm_eps: Epsilon of every LayerNorm.
        rope_dtype: Type of the rotary position embedding, ``"float32"`` or ``"bfloat16"``.
        timm_hub: Open mirror on the Hugging Face hub, ``owner/name``; empty if there is none.
        gated_hub: The authors' own repository on the hub, where access is asked for; empty if there is none.
        open_hub: The authors' own repository on the hub, open to all; empty if there is none.
        open_file: Name of the weights file in ``open_hub``.
        meta_file: File name of Meta's release; it ends in the first eight hex digits of the file's sha256.
        licence: Licence of the weights.
        tested: False for a size nobody has run here.
    """

    name: str
    timm_model: str
    taps: tuple[int, ...]
    embed_dim: int
    num_parameters: int
    overrides: dict[str, Any] = field(default_factory=dict)
    norm_eps: float = 1e-5
    rope_dtype: str = "float32"
    timm_hub: str = ""
    gated_hub: str = ""
    open_hub: str = ""
    open_file: str = ""
    meta_file: str = ""
    licence: str = DINOV3_LICENCE
    tested: bool = True


def _dinov3(
    name: str,
    timm_model: str,
    taps: tuple[int, ...],
    embed_dim: int,
    num_parameters: int,
    sha256: str,
    tested: bool = True,
) -> BackboneSpec:
    """Returns a size that Meta released, trained on LVD-1689M; ``sha256`` are the digits at the end of its file name."""
    return BackboneSpec(
        name=name,
        timm_model=timm_model,
        taps=taps,
        embed_dim=embed_dim,
        num_parameters=num_parameters,
        timm_hub=f"timm/{timm_model.removesuffix('_qkvb')}.lvd1689m",
        gated_hub=f"facebook/{name.replace('_', '-')}-pretrain-lvd1689m",
        meta_file=f"{name}_pretrain_lvd1689m-{sha256}.pth",
        tested=tested,
    )


# Blocks at a quarter, half, three quarters and the end of 12, 24, 32 and 40.
_S, _L, _H, _7B = (2, 5, 8, 11), (4, 11, 17, 23), (7, 15, 23, 31), (9, 19, 29, 39)
_TINY = {"embed_dim": 128, "depth": 4, "num_heads": 2}

CATALOGUE: dict[str, BackboneSpec] = {
    spec.name: spec
    for spec in (
        _dinov3("dinov3_vits16", "vit_small_patch16_dinov3_qkvb", _S, 384, 21_596_160, "08c60483"),
        _dinov3("dinov3_vits16plus", "vit_small_plus_patch16_dinov3_qkvb", _S, 384, 28_692_480, "4057cbaa"),
        _dinov3("dinov3_vitb16", "vit_base_patch16_dinov3_qkvb", _S, 768, 85_659_648, "73cec8be"),
        _dinov3("dinov3_vitl16", "vit_large_patch16_dinov3_qkvb", _L, 1024, 303_128_576, "8aa4cbdd"),
        _dinov3("dinov3_vith16plus", "vit_huge_plus_patch16_dinov3_qkvb", _H, 1280, 840_591_360, "7c1da9a5"),
        _dinov3("dinov3_vit7b16", "vit_7b_patch16_dinov3", _7B, 4096, 6_716_030_976, "a955f4ea", tested=False),
        BackboneSpec(
            name="meddinov3_vitb16",
            timm_model="vit_base_patch16_dinov3",  # trained without qkv bias
            taps=(2, 5, 8, 11),
            embed_dim=768,
            num_parameters=85_641_216,
            norm_eps=1e-6,  # its trainer built DINOv3's `vit_base`, whose defaults are not those of Meta's hub entries
            rope_dtype="bfloat16",
            open_hub="ricklisz123/MedDINOv3-ViTB-16-CT-3M",
            open_file="model.pth",
            licence=MEDDINOV3_LICENCE,
        ),
        BackboneSpec(
            name="dinov3_tiny",
            timm_model="vit_small_patch16_dinov3_qkvb",
            taps=(0, 1, 2, 3),
            embed_dim=128,
            num_parameters=892_928,
            overrides=_TINY,
            licence=NO_LICENCE,
        ),
        BackboneSpec(
            name="dinov3_tiny_swiglu",
            timm_model="vit_small_plus_patch16_dinov3_qkvb",
            taps=(0, 1, 2, 3),
            embed_dim=128,
            num_parameters=1_157_120,
            overrides=_TINY,
            licence=NO_LICENCE,
        ),
    )
}


def get_spec(name: str, option: str = "backbone") -> BackboneSpec:
    """Returns the row called ``name``, which was given as ``option``.

    Raises:
        UserError: ``name`` is not in the catalogue.
    """
    if name not in CATALOGUE:
        raise UserError(
            f"unknown {option}: required one of {', '.join(CATALOGUE)} · got {name!r}{nearest(name, CATALOGUE)} "
            "· `nnunet-dino weights list` describes them"
        )
    return CATALOGUE[name]
