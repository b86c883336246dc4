"""What this package knows of one backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TIMM = "timm:"  # stands before the name of a model of timm
HUB = "hf-hub:"  # stands before the name of a repository of the Hugging Face hub
ANY_SIZE = {"dynamic_img_size": True}  # of timm's models with learned positions: interpolate them to the image
PATCH_PX = 16  # of DINOv3; a backbone has its own: `BackboneSpec.patch_px`

DINOV3_LICENCE = "DINOv3 License (https://ai.meta.com/resources/models-and-libraries/dinov3-license)"
MEDDINOV3_LICENCE = f"Apache-2.0 (its authors' model card); trained from DINOv3, so mind the {DINOV3_LICENCE} as well"
DINOV2_LICENCE = "Apache-2.0"
FLEXICT_LICENCE = f"CC BY-NC-ND 4.0 (its authors' model card); trained from DINOv3, so mind the {DINOV3_LICENCE} as well"
NO_LICENCE = "random weights, no licence"


@dataclass(frozen=True)
class BackboneSpec:
    """One row of the catalogue, or a model of timm that is asked for by name.

    Attributes:
        name: What users, plans and checkpoints call it (Meta's hub names).
        timm_model: The timm architecture. The ``_qkvb`` twins keep a non-zero qkv bias, the plain ones drop it.
        taps: Blocks (from 0) whose tokens are used, shallow to deep.
        embed_dim: Width ``e`` of a token.
        num_parameters: Weights of the transformer.
        overrides: Keyword arguments for the timm model, for sizes that timm does not name.
        norm_eps: Epsilon of every LayerNorm.
        rope_dtype: Type of the rotary position embedding, ``"float32"`` or ``"bfloat16"``.
        patch_px: Edge of the square that becomes a token.
        num_prefix_tokens: Class token and registers.
        is_dinov3: DINOv3's architecture, which comes in several file formats; any other has timm's.
        is_vit: Gives tokens of several blocks; any other model gives the map before its pooling, of ``patch_px`` a cell.
        takes_any_size: Of images, in multiples of ``patch_px``; else ``input_px`` only.
        own_input: How timm prepares images for it: ``input_size``, ``interpolation``, ``crop_pct``, ``crop_mode``; empty for
            this package's own way.
        place: The folder or file of a user's own model; empty for one that is looked for.
        statistics: Mean and deviation of red, green and blue that the model was trained with; None for ImageNet's.
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
    overrides: dict[str, Any] = field(default_factory=dict, hash=False)
    norm_eps: float = 1e-5
    rope_dtype: str = "float32"
    patch_px: int = PATCH_PX
    num_prefix_tokens: int = 5
    is_dinov3: bool = True
    is_vit: bool = True
    takes_any_size: bool = True
    own_input: Mapping[str, Any] = field(default_factory=dict, hash=False)
    place: str = ""
    statistics: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None
    timm_hub: str = ""
    gated_hub: str = ""
    open_hub: str = ""
    open_file: str = ""
    meta_file: str = ""
    licence: str = DINOV3_LICENCE
    tested: bool = True

    @property
    def num_channels(self) -> int:
        """Of the images that the model takes; of one, it is given the mean of red, green and blue."""
        return int(self.overrides.get("in_chans", 3))

    @property
    def input_px(self) -> int:
        """Edge of the squares that it is shown unless others are asked for."""
        return int(self.own_input.get("input_size", (3, 224, 224))[-1])

    @property
    def interpolation(self) -> str:
        """How images are resized for it."""
        return str(self.own_input.get("interpolation", "bilinear"))

    @property
    def file_stem(self) -> str:
        """The name as part of a file's name."""
        return self.name.replace(":", "--").replace("/", "--")
