"""A backbone with its weights for use outside a segmentation network."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from nnunet_dino._errors import UserError, nearest
from nnunet_dino.backbones import weights as weight_files
from nnunet_dino.backbones.adapted import PRETRAINED, RANDOM, AdaptedBackbone, LoraOptions
from nnunet_dino.backbones.catalogue import CATALOGUE, get_spec, is_name
from nnunet_dino.backbones.spec import BackboneSpec
from nnunet_dino.backbones.vit import BackboneOutput

LOAD = "load_backbone"
IMPORT = "`nnunet-dino weights import {path} --as {name}` and give the name"


class FoundBackbone(NamedTuple):
    """A backbone, and its weights if a file of them was named; else they are looked for by its name."""

    spec: BackboneSpec
    loaded: weight_files.LoadedWeights | None = None


def find_backbone(
    source: str | Path | FoundBackbone, option: str = "--backbone", name: str | None = None, remedy: str = IMPORT
) -> FoundBackbone:
    """Returns what a user named; never downloads.

    Args:
        source: A name as for :func:`nnunet_dino.backbones.catalogue.get_spec`; or a file or folder of weights.
        option: For messages.
        name: Where ``source`` is a file that fits several backbones: which one it is.
        remedy: How to say that, with ``{path}`` and ``{name}``.

    Raises:
        UserError: It is neither, or the file is damaged or fits none or several backbones.
    """
    if isinstance(source, FoundBackbone):
        return source
    if is_name(str(source)):
        return FoundBackbone(get_spec(str(source)))
    path = Path(source).expanduser()
    if not (path.is_file() or path.is_dir()):
        raise UserError(
            f"{option}: required one of {', '.join(CATALOGUE)}, timm:NAME, hf-hub:OWNER/NAME, or a file or folder of weights · "
            f"got {str(source)!r}{nearest(str(source), CATALOGUE)} · check the path, or see `nnunet-dino weights list`"
        )
    loaded = weight_files.load_file(path, None if name is None else get_spec(name, "name"))
    if len(loaded.names) > 1:
        mend = remedy.format(path=path, name=loaded.names[0])
        got = f"{path}, which fits {' and '.join(loaded.names)}"
        raise UserError(f"{option}: required the backbone's name · got {got} · {mend}, or another of them")
    return FoundBackbone(get_spec(loaded.names[0]), loaded)


class ImageEncoder(nn.Module):
    """Images -> patch maps, class token and register tokens of every tapped block.

    Frozen it stays in evaluation mode, computes without a graph and in bfloat16 where the processor has it.

    Args:
        backbone: The backbone with its weights.

    Attributes:
        name: The row of the catalogue.
        taps: Blocks (from 0) whose tokens are returned.
        embed_dim: Width ``e`` of a token.
        digest: Content digest of the weights; None if they are random.
    """

    def __init__(self, backbone: AdaptedBackbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.name = backbone.name
        self.taps = backbone.backbone.spec.taps
        self.embed_dim = backbone.embed_dim
        self.digest = backbone.digest

    def forward(self, images: Tensor) -> BackboneOutput:
        """Encodes images.

        Args:
            images: ``n 3 h w``, normalised as the weights were trained, ``h`` and ``w`` multiples of the patch.

        Returns:
            ``patch_maps``, each ``n e gh gw``; ``class_tokens``, each ``n e``; ``register_tokens``, each ``n r e``; one per
            tapped block, shallow to deep.

        Raises:
            UserError: The images have another shape.
        """
        patch_px = self.backbone.patch_px
        if images.ndim != 4 or images.shape[1] != 3 or any(size == 0 or size % patch_px for size in images.shape[2:]):
            got = " x ".join(map(str, images.shape))
            raise UserError(
                f"images: required n x 3 x h x w with h and w multiples of {patch_px} · got {got} · resize or pad them"
            )
        return self.backbone.tokens(images)


def load_backbone(
    source: str | Path,
    adaptation: str = "frozen",
    *,
    name: str | None = None,
    weights: str = PRETRAINED,
    lora: LoraOptions | None = None,
) -> ImageEncoder:
    """Returns a backbone with its weights; never downloads.

    Args:
        source: A name of the catalogue, whose weights are looked for as for training; or a file or folder of any known format.
        adaptation: ``"frozen"``, ``"lora"`` or ``"full"``.
        name: Where ``source`` is a file that fits several backbones: which one it is.
        weights: ``"random"`` asks for random weights, where ``source`` is a name.
        lora: Used if ``adaptation`` is ``"lora"``.

    Raises:
        UserError: ``source`` is neither, there are no weights, or they are damaged or of another backbone.
    """
    if weights == RANDOM and not is_name(str(source)):
        raise UserError(f"{LOAD}: required one of {', '.join(CATALOGUE)} for random weights · got {str(source)!r}")
    found = find_backbone(source, LOAD, name, "add name={name!r}")
    encoder = AdaptedBackbone(found.spec.name, weights, adaptation, lora, loaded=found.loaded)
    encoder.require_weights()
    return ImageEncoder(encoder)
