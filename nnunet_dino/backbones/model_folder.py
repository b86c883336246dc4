"""Folders and repositories that say which model of timm or open_clip they hold, as those libraries write it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nnunet_dino._errors import UserError

CONFIGS = ("open_clip_config.json", "config.json")
CLIP_STATISTICS = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
# Of an image tower of open_clip's own: what is built from, and what comes behind its tokens.
_BUILT_FROM = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"}
_BEHIND = {"pool_type", "final_ln_after_pool", "output_tokens", "attentional_pool", "attn_pooler_queries", "attn_pooler_heads"}


class FolderModel(NamedTuple):
    """What a configuration says.

    Attributes:
        architecture: A model of timm.
        arguments: Of ``timm.create_model``.
        facts: As timm's ``pretrained_cfg``: how images are prepared, and the licence.
    """

    architecture: str
    arguments: dict[str, Any]
    facts: dict[str, Any]


def is_model_folder(text: str) -> bool:
    """Whether a text is a folder, or a file in one, whose configuration names a model of timm or open_clip."""
    try:
        content = _config(Path(text).expanduser())
    except (OSError, ValueError, RecursionError):
        return False
    architecture = str(content.get("architecture", ""))
    is_dinov3_vit = architecture.startswith("vit") and "dinov3" in architecture  # known by its tensors, in every format
    return "model_cfg" in content or (architecture != "" and not is_dinov3_vit)


def read_model_folder(place: Path, name: str) -> FolderModel:
    """Reads the configuration beside weights.

    Args:
        place: A folder or a file in it.
        name: For messages.

    Raises:
        UserError: It is no configuration of timm or open_clip, or of a model that timm cannot build.
    """
    try:
        content = _config(place)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{name}: required a readable config.json · got {error} · get it again") from error
    if isinstance(clip := content.get("model_cfg"), Mapping):
        return _image_tower(clip, content.get("preprocess_cfg") or {}, name)
    if "architecture" not in content:
        kind = content.get("model_type", "another program")
        raise UserError(
            f"{name}: required the configuration of a model of timm or open_clip · got one of {kind} · take timm's version of "
            "the model, or name its file in nnUNet_dino_weights and the model as timm:NAME"
        )
    facts = content.get("pretrained_cfg") or {key: value for key, value in content.items() if key != "architecture"}
    return FolderModel(content["architecture"], dict(content.get("model_args") or {}), dict(facts))


def cached_folder(repository: str) -> Path | None:
    """Returns the folder of the Hugging Face cache with the configuration of ``OWNER/NAME``; never uses the network."""
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(repository, name) for name in CONFIGS]
    return next((Path(path).parent for path in found if isinstance(path, str)), None)


def _config(place: Path) -> dict[str, Any]:
    folder = place if place.is_dir() else place.parent
    file = next((folder / name for name in CONFIGS if (folder / name).is_file()), None)
    if file is None or not place.exists():
        return {}
    content = json.loads(file.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def _image_tower(clip: Mapping[str, Any], shown: Mapping[str, Any], name: str) -> FolderModel:
    """Returns the image tower of a model of open_clip, of which timm reads the weights.

    Source: ``CLIPVisionCfg`` and ``PreprocessCfg`` of open_clip 3.3.
    """
    vision = clip["vision_cfg"]
    size = vision.get("image_size", 224)
    facts = {**CLIP_STATISTICS, **{key: shown[key] for key in ("mean", "std", "interpolation") if key in shown}}
    facts |= {"input_size": (3, size, size), "crop_pct": 1.0}
    facts["crop_mode"] = "squash" if shown.get("resize_mode") == "squash" else "center"
    if "timm_model_name" in vision:
        return FolderModel(vision["timm_model_name"], {"img_size": size} if size != 224 else {}, facts)
    odd = sorted(set(vision) - _BUILT_FROM - _BEHIND)
    if odd or not isinstance(vision.get("layers"), int):
        got = ", ".join(odd) or f"layers {vision.get('layers')}"
        raise UserError(f"{name}: required a plain vision transformer of open_clip · got {got} · take another model")
    arguments = {"embed_dim": vision["width"], "depth": vision["layers"], "patch_size": vision["patch_size"], "img_size": size}
    arguments |= {"num_heads": vision["width"] // vision.get("head_width", 64), "mlp_ratio": vision.get("mlp_ratio", 4.0)}
    return FolderModel(f"vit_base_patch16_clip{'_quickgelu' * bool(clip.get('quick_gelu'))}_224", arguments, facts)
