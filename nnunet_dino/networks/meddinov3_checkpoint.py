"""What MedDINOv3's published nnU-Net trainer wrote, under the names of :class:`nnunet_dino.networks.MedDINOv3`.

The names are those of ``meddinov3_base_primus_multiscale_Trainer`` in https://github.com/ricklisz/MedDINOv3, as read in its
fork sash9966/MedDINOv3 at commit bc5a6b7fa88ca41ceedc647a3edba5f06506d8f0:

    published                        here
    dino_encoder.<Meta's name>       slice_encoder.backbone.backbone.vit.<timm's name>
    up_projection.decode.i.j.<name>  decoder.stages.i.j.<name>      i = 0 … 3; j = 0: convolution, 1: LayerNorm
    up_projection.decode.4.<name>    decoder.seg_layers.0.<name>
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from nnunet_dino._errors import UserError
from nnunet_dino.backbones.adaptation import canonical_name, is_adapter
from nnunet_dino.backbones.weights import ConversionReport, Dropped, match, to_timm
from nnunet_dino.networks.meddinov3 import NUM_DOUBLINGS, MedDINOv3

PUBLISHED_VIT = "dino_encoder."
PUBLISHED_DECODER = "up_projection.decode."
PUBLISHED_REGISTERS = f"{PUBLISHED_VIT}storage_tokens"
VIT = "slice_encoder.backbone.backbone.vit."
_SHOWN = 3
_DECODER_NAMES = {
    f"{PUBLISHED_DECODER}{i}.{j}.{name}": f"decoder.stages.{i}.{j}.{name}"
    for i in range(NUM_DOUBLINGS)
    for j in (0, 1)
    for name in ("weight", "bias")
} | {f"{PUBLISHED_DECODER}{NUM_DOUBLINGS}.{name}": f"decoder.seg_layers.0.{name}" for name in ("weight", "bias")}


def is_published(state: Iterable[str]) -> bool:
    """Tells whether a checkpoint's names are those of the published trainer."""
    return any(key.startswith(PUBLISHED_DECODER) for key in state)


def load_published(network: nn.Module, state: Mapping[str, Tensor], where: object = "the checkpoint") -> ConversionReport:
    """Loads the ``network_weights`` that the published trainer wrote, all of them, into ``network``.

    Args:
        network: A :class:`MedDINOv3` with as many classes, changed in place.
        state: Tensors by published names.
        where: What to call the checkpoint in messages.

    Returns:
        What became of every tensor, by published names.

    Raises:
        UserError: ``network`` is another network, or a tensor is missing, unexpected or of another shape.
    """
    renamed, report = from_published(network, state, where)
    for published, own in _DECODER_NAMES.items():
        have, want = tuple(renamed[own].shape), tuple(network.get_parameter(own).shape)
        if have != want:
            raise UserError(
                f"{where}: required shape {want} for {published} · got {have} · use a checkpoint of the same classes"
            )
    network.load_state_dict(renamed)
    return report


def from_published(
    network: nn.Module, state: Mapping[str, Tensor], where: object
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Renames the tensors that the published trainer wrote, and checks that the transformer's fit.

    Args:
        network: The :class:`MedDINOv3` that they are for; not changed.
        state: Tensors by published names.
        where: What to call the checkpoint in messages.

    Returns:
        Every entry of ``network.state_dict()`` in full, decoder shapes unchecked, and what became of every tensor.

    Raises:
        UserError: As for :func:`load_published`, but for the decoder's shapes.
    """
    if not isinstance(network, MedDINOv3):
        raise UserError(
            f"{where}: required a checkpoint of {type(network).__name__} · got one of MedDINOv3's published trainer · "
            "use -tr nnUNetTrainerMedDINOv3B"
        )
    _check_names(state, where)
    backbone = network.slice_encoder.backbone.backbone
    vit = {key.removeprefix(PUBLISHED_VIT): tensor for key, tensor in state.items() if key.startswith(PUBLISHED_VIT)}
    fitted, report = match(to_timm(vit, where), backbone.spec)
    renamed = {own: state[published] for published, own in _DECODER_NAMES.items()}
    for key, own in backbone.vit.state_dict().items():
        renamed[VIT + key] = own if is_adapter(key) else fitted[canonical_name(key)]
    return renamed, replace(
        report,
        used=(*(PUBLISHED_VIT + key for key in report.used), *_DECODER_NAMES),
        dropped=tuple(Dropped(PUBLISHED_VIT + key, reason) for key, reason in report.dropped),
    )


def _check_names(state: Iterable[str], where: object) -> None:
    names = set(state)
    others = sorted(key for key in names if not key.startswith(PUBLISHED_VIT) and key not in _DECODER_NAMES)
    missing = [key for key in (*_DECODER_NAMES, PUBLISHED_REGISTERS) if key not in names]
    for what, keys in (("without", missing), ("with", others)):
        if keys:
            shown = ", ".join(keys[:_SHOWN]) + (f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else "")
            raise UserError(
                f"{where}: required what meddinov3_base_primus_multiscale_Trainer saves · got a checkpoint {what} {shown} · "
                "it is of another trainer"
            )
