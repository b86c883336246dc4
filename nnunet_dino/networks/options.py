"""The options of the DINOv3 side of a network, as trainers set them and plans store them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from nnunet_dino._environment import require_known_variables
from nnunet_dino._errors import UserError, nearest
from nnunet_dino.backbones.adapted import PRETRAINED, AdaptedBackbone, LoraOptions
from nnunet_dino.backbones.rgb import REPEAT, RGB, WINDOWS, ChannelView
from nnunet_dino.networks.options_record import record_options
from nnunet_dino.networks.slices import SliceEncoder


@dataclass(frozen=True)
class DinoOptions:
    """What the network is told about its backbone.

    Attributes:
        backbone: A row of the catalogue.
        weights: ``"pretrained"`` or ``"random"``.
        adaptation: ``"frozen"``, ``"lora"`` or ``"full"``.
        lora: Used if ``adaptation`` is ``"lora"``.
        token_stride_px: Pixels of the patch per token, along the axis with the smaller ones.
        taps_are_normalised: Pass tapped blocks through the transformer's final LayerNorm.
        drop_path: Stochastic depth rate of a fully trained backbone, in [0, 1).
        neck_width: Width of the aggregated tokens.
        gate_start: Factor on the start of the injections' projections; 0 starts as the stock network.
        token_head: Add a linear layer of the tokens to every output.
        rgb: How image channels become red, green and blue: ``"repeat"``, ``"windows"`` or ``"neighbours"``, see
            :mod:`nnunet_dino.backbones.rgb`.
        channels: Leading input channels that are images, and how their intensities are shown; empty for all, as they arrive.
        pixel_aspect: Height of a pixel over its width, in millimetres.
        sees: Positions of the image channels that the transformer sees; empty for all. The convolutions see every channel.
    """

    backbone: str
    weights: str = PRETRAINED
    adaptation: str = "frozen"
    lora: LoraOptions = field(default_factory=LoraOptions)
    token_stride_px: int = 8
    taps_are_normalised: bool = True
    drop_path: float = 0.0
    neck_width: int = 128
    gate_start: float = 0.0
    token_head: bool = True
    rgb: str = REPEAT
    channels: tuple[ChannelView, ...] = ()
    pixel_aspect: float = 1.0
    sees: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.rgb not in RGB:
            raise UserError(f"dino.rgb: required one of {', '.join(RGB)} · got {self.rgb!r}{nearest(self.rgb, RGB)}")
        if len(set(self.sees)) < len(self.sees) or not all(type(place) is int and place >= 0 for place in self.sees):
            raise UserError(f"dino.sees: required positions of channels from 0, each once · got {list(self.sees)} · correct it")

    @classmethod
    def from_plans(cls, entry: dict[str, Any]) -> DinoOptions:
        """Reads the ``dino`` entry of a plans file.

        Raises:
            UserError: an unknown key, or ``backbone`` is missing.
        """
        options = dict(entry)
        _refuse_unknown(options, cls, "dino")
        if "backbone" not in options:
            raise UserError(f"plans: required 'backbone' in the dino entry · got only {', '.join(options) or 'nothing'}")
        lora = dict(options.pop("lora", {}))
        _refuse_unknown(lora, LoraOptions, "dino.lora")
        if "targets" in lora:
            lora["targets"] = tuple(lora["targets"])
        channels = tuple(_channel_view(channel) for channel in options.pop("channels", ()))
        sees = tuple(options.pop("sees", ()))
        return cls(lora=LoraOptions(**lora), channels=channels, sees=sees, **options)

    def to_plans(self) -> dict[str, Any]:
        """Returns the entry that :meth:`from_plans` reads."""
        entry = asdict(self)
        entry["lora"]["targets"] = list(self.lora.targets)
        return entry


def build_slice_encoder(options: DinoOptions, input_channels: int) -> SliceEncoder:
    """Builds the slice encoder for a network with ``input_channels`` input channels.

    Raises:
        UserError: the backbone or its options are unknown, there are more image channels than input channels, windows are
            asked for and not given, or a variable of the environment looks like ours and is not read.
    """
    require_known_variables()
    channels = options.channels or (ChannelView(),) * input_channels
    if len(channels) > input_channels:
        raise UserError(f"dino.channels: required at most {input_channels} input channels · got {len(channels)}")
    if odd := [place for place in options.sees if place >= len(channels)]:
        raise UserError(f"dino.sees: required image channels from 0 to {len(channels) - 1} · got {odd[0]} · leave it out")
    if options.rgb == WINDOWS and not all(view.windows for view in channels):
        raise UserError("dino.rgb windows: required the windows of every channel · got none · let the plans give them")
    backbone = AdaptedBackbone(
        name=options.backbone,
        weights=options.weights,
        adaptation=options.adaptation,
        lora=options.lora,
        taps_are_normalised=options.taps_are_normalised,
        drop_path=options.drop_path,
    )
    encoder = SliceEncoder(backbone, channels, options.token_stride_px, options.pixel_aspect, options.rgb, options.sees)
    record_options(encoder, options.to_plans())
    return encoder


def refuse_label_channels(network: str, options: DinoOptions, input_channels: int) -> None:
    """Refuses the one-hot label channels of a cascade for a network whose convolutions do not see its input.

    Raises:
        UserError: there are channels that are not images.
    """
    num_labels = input_channels - (len(options.channels) or input_channels)
    if num_labels > 0:
        raise UserError(
            f"{network}: required image channels only · got {num_labels} label channels of a cascade, which it could not see · "
            "use another trainer for 3d_cascade_fullres"
        )


def refuse_unused(network: str, options: DinoOptions, *names: str) -> None:
    """Refuses options that a network has no part for.

    Raises:
        UserError: one of ``names`` is not left as it is by default.
    """
    defaults = {f.name: f.default for f in fields(options)}
    for name in names:
        if (got := getattr(options, name)) != defaults[name]:
            raise UserError(f"{network}: required no dino.{name}, which it has no part for · got {got} · leave it out")


def _channel_view(entry: dict[str, Any]) -> ChannelView:
    _refuse_unknown(entry, ChannelView, "dino.channels")
    return ChannelView(**{**entry, "windows": tuple((low, high) for low, high in entry.get("windows", ()))})


def _refuse_unknown(entry: dict[str, Any], cls: type, where: str) -> None:
    known = [f.name for f in fields(cls)]
    for key in entry:
        if key not in known:
            raise UserError(f"plans: required keys among {', '.join(known)} in {where} · got {key!r}{nearest(key, known)}")
