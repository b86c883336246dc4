"""Every backbone this package knows, in one literal table."""

from __future__ import annotations

from dataclasses import replace

from nnunet_dino._errors import UserError, nearest
from nnunet_dino.backbones.model_folder import is_model_folder
from nnunet_dino.backbones.spec import (
    ANY_SIZE,
    DINOV2_LICENCE,
    FLEXICT_LICENCE,
    HUB,
    MEDDINOV3_LICENCE,
    NO_LICENCE,
    TIMM,
    BackboneSpec,
)


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


def _dinov2(name: str, timm_model: str, taps: tuple[int, ...], embed_dim: int, num_parameters: int) -> BackboneSpec:
    """Returns a size of DINOv2 with registers, whose learned positions are interpolated to any size of image."""
    return BackboneSpec(
        name=name,
        timm_model=timm_model,
        taps=taps,
        embed_dim=embed_dim,
        num_parameters=num_parameters,
        overrides=ANY_SIZE,
        norm_eps=1e-6,
        patch_px=14,
        is_dinov3=False,
        own_input={"input_size": (3, 518, 518), "interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center"},
        timm_hub=f"timm/{timm_model}.lvd142m",
        licence=DINOV2_LICENCE,
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
            name="flexict_2d",
            timm_model="vit_base_patch16_dinov3",  # `flexi_ct_backbone_base` of ricklisz/FlexiCT, without qkv bias
            taps=(3, 7, 11, 15),
            embed_dim=864,
            num_parameters=143_555_328,
            overrides={"embed_dim": 864, "depth": 16, "num_heads": 12, "patch_size": 8, "in_chans": 1},
            norm_eps=1e-6,
            rope_dtype="bfloat16",
            patch_px=8,
            open_hub="ricklisz123/FlexiCT-2D",
            open_file="model.safetensors",
            licence=FLEXICT_LICENCE,
        ),
        BackboneSpec(
            name="dinov3_vitt16",  # lightly-train's, distilled from DINOv3 ViT-L
            timm_model="vit_small_patch16_dinov3_qkvb",
            taps=_S,
            embed_dim=192,
            num_parameters=5_489_664,
            overrides={"embed_dim": 192, "num_heads": 3},
        ),
        _dinov2("dinov2_vits14_reg", "vit_small_patch14_reg4_dinov2", _S, 384, 22_057_344),
        _dinov2("dinov2_vitb14_reg", "vit_base_patch14_reg4_dinov2", _S, 768, 86_582_016),
        _dinov2("dinov2_vitl14_reg", "vit_large_patch14_reg4_dinov2", _L, 1024, 304_370_688),
        BackboneSpec(
            name="dinov3_tiny",
            timm_model="vit_small_patch16_dinov3_qkvb",
            taps=(0, 1, 2, 3),
            embed_dim=128,
            num_parameters=892_928,
            overrides=_TINY,
            licence=NO_LICENCE,
        ),
        replace(
            _dinov2("dinov2_tiny", "vit_small_patch14_reg4_dinov2", (0, 1, 2, 3), 128, 1_045_632),
            overrides={**_TINY, **ANY_SIZE},
            timm_hub="",
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


def is_name(text: str) -> bool:
    """Whether a text names a backbone by itself; a file of weights does not, but a folder that says of which model it is."""
    return text in CATALOGUE or text.startswith((TIMM, HUB)) or is_model_folder(text)


def get_spec(name: str, option: str = "backbone") -> BackboneSpec:
    """Returns the row called ``name``, which was given as ``option``, or what is known of another model.

    Args:
        name: Of the catalogue; ``timm:NAME``; ``hf-hub:OWNER/NAME``; or a folder, or file in it, with timm's ``config.json``.
        option: For messages.

    Raises:
        UserError: There is no such backbone, or no encoder of this package can be made of it.
    """
    if name not in CATALOGUE and is_name(name):
        from nnunet_dino.backbones.timm_models import spec_of  # imports timm, which the catalogue need not

        return spec_of(name)
    if name not in CATALOGUE:
        raise UserError(
            f"unknown {option}: required one of {', '.join(CATALOGUE)} · got {name!r}{nearest(name, CATALOGUE)} "
            "· `nnunet-dino weights list` describes them; timm:NAME is any model of timm, hf-hub:OWNER/NAME one of the hub"
        )
    return CATALOGUE[name]
