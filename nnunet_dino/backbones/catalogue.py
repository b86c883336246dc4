"""Every backbone this package knows, in one literal table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nnunet_dino._errors import UserError, nearest

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


_TINY = {"embed_dim": 128, "depth": 4, "num_heads": 2}

CATALOGUE: dict[str, BackboneSpec] = {
    spec.name: spec
    for spec in (
        BackboneSpec(
            name="dinov3_vits16",
            timm_model="vit_small_patch16_dinov3_qkvb",
            taps=(2, 5, 8, 11),
            embed_dim=384,
            num_parameters=21_596_160,
            timm_hub="timm/vit_small_patch16_dinov3.lvd1689m",
            gated_hub="facebook/dinov3-vits16-pretrain-lvd1689m",
            meta_file="dinov3_vits16_pretrain_lvd1689m-08c60483.pth",
        ),
        BackboneSpec(
            name="dinov3_vits16plus",
            timm_model="vit_small_plus_patch16_dinov3_qkvb",
            taps=(2, 5, 8, 11),
            embed_dim=384,
            num_parameters=28_692_480,
            timm_hub="timm/vit_small_plus_patch16_dinov3.lvd1689m",
            gated_hub="facebook/dinov3-vits16plus-pretrain-lvd1689m",
            meta_file="dinov3_vits16plus_pretrain_lvd1689m-4057cbaa.pth",
        ),
        BackboneSpec(
            name="dinov3_vitb16",
            timm_model="vit_base_patch16_dinov3_qkvb",
            taps=(2, 5, 8, 11),
            embed_dim=768,
            num_parameters=85_659_648,
            timm_hub="timm/vit_base_patch16_dinov3.lvd1689m",
            gated_hub="facebook/dinov3-vitb16-pretrain-lvd1689m",
            meta_file="dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth",
        ),
        BackboneSpec(
            name="dinov3_vitl16",
            timm_model="vit_large_patch16_dinov3_qkvb",
            taps=(4, 11, 17, 23),
            embed_dim=1024,
            num_parameters=303_128_576,
            timm_hub="timm/vit_large_patch16_dinov3.lvd1689m",
            gated_hub="facebook/dinov3-vitl16-pretrain-lvd1689m",
            meta_file="dinov3_vitl16_pretrain_lvd1689m-8aa4cbdd.pth",
        ),
        BackboneSpec(
            name="dinov3_vith16plus",
            timm_model="vit_huge_plus_patch16_dinov3_qkvb",
            taps=(7, 15, 23, 31),
            embed_dim=1280,
            num_parameters=840_591_360,
            timm_hub="timm/vit_huge_plus_patch16_dinov3.lvd1689m",
            gated_hub="facebook/dinov3-vith16plus-pretrain-lvd1689m",
            meta_file="dinov3_vith16plus_pretrain_lvd1689m-7c1da9a5.pth",
        ),
        BackboneSpec(
            name="dinov3_vit7b16",
            timm_model="vit_7b_patch16_dinov3",
            taps=(9, 19, 29, 39),
            embed_dim=4096,
            num_parameters=6_716_030_976,
            timm_hub="timm/vit_7b_patch16_dinov3.lvd1689m",
            gated_hub="facebook/dinov3-vit7b16-pretrain-lvd1689m",
            meta_file="dinov3_vit7b16_pretrain_lvd1689m-a955f4ea.pth",
            tested=False,
        ),
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


def get_spec(name: str) -> BackboneSpec:
    """Returns the row called ``name``.

    Raises:
        UserError: ``name`` is not in the catalogue.
    """
    if name not in CATALOGUE:
        raise UserError(f"unknown backbone: required one of {', '.join(CATALOGUE)} · got {name!r}{nearest(name, CATALOGUE)}")
    return CATALOGUE[name]
