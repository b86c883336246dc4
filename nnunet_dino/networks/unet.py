"""The planned U-Net with tokens in its encoder."""

from __future__ import annotations

import pydoc
from typing import Any

from torch import Tensor, nn

from nnunet_dino._errors import UserError
from nnunet_dino.networks.head import TokenHead
from nnunet_dino.networks.injection import TokenInjection
from nnunet_dino.networks.neck import TokenNeck
from nnunet_dino.networks.options import DinoOptions, build_slice_encoder
from nnunet_dino.networks.slices import unfold_slices

PLAIN_UNET = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
RESIDUAL_UNET = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
NEGATIVE_SLOPE = 1e-2


class DINOv3UNet(nn.Module):
    """The planned U-Net, with the tokens of every slice injected at every stage of its encoder.

    ::

        volume b c d h w ── slice encoder ──► taps ── neck ──► tokens b k d gh gw
              │                                                   │ per stage: resample, project ── head ─┐
              └► stage 0 ─►(+)─► stage 1 ─►(+)─► … ─► stage n ─►(+)                                       ▼
                            └ skip        └ skip               └► decoder ──────────────────────────────►(+)─► logits

    Projections and head start at zero: before training the output equals that of the stock network with the same weights. The
    convolutional part has the stock network's parameter names, so a stock checkpoint of the same plans can start it.

    Args:
        input_channels: Channels ``c``.
        num_classes: Segmentation heads.
        deep_supervision: Return the logits of every decoder stage while true, highest resolution first.
        unet: Dotted path of the stock network class.
        dino: The ``dino`` entry of the plans, see :class:`nnunet_dino.networks.options.DinoOptions`.
        unet_kwargs: The stock network's own arguments, as planned.

    Raises:
        UserError: an unknown option.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        deep_supervision: bool = False,
        *,
        unet: str,
        dino: dict[str, Any],
        **unet_kwargs: Any,
    ) -> None:
        super().__init__()
        options = DinoOptions.from_plans(dino)
        stock = build_stock_unet(unet, input_channels, num_classes, deep_supervision, unet_kwargs)
        self.encoder = stock.encoder
        self.decoder = stock.decoder
        self.slice_encoder = build_slice_encoder(options, input_channels)
        self.neck = TokenNeck(
            self.slice_encoder.num_maps,
            self.slice_encoder.backbone.embed_dim,
            options.neck_width,
            normalise=not options.taps_are_normalised,
        )
        self.injections = nn.ModuleList(
            TokenInjection(self.encoder.conv_op, options.neck_width, num_features, options.gate_start)
            for num_features in self.encoder.output_channels
        )
        self.token_head = TokenHead(self.encoder.conv_op, options.neck_width, num_classes) if options.token_head else None
        keep_buffers_out_of_ddp(self)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Returns logits ``b classes d h w`` for ``b c d h w``; a list of them under deep supervision."""
        return self.slice_encoder.reuse.run(self, x)

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Returns the skips ``b f d h w`` with what the tokens add to them, and the tokens ``b k d gh gw``.

        ``network.encoder(x)`` is the stock encoder alone: it knows no tokens.
        """
        tokens = self.slice_encoder.project(x, self.neck).movedim(3, 1)
        tokens = unfold_slices(tokens, x.shape[0], x.ndim - 2)
        features = self.encoder.stem(x) if getattr(self.encoder, "stem", None) is not None else x
        skips = []
        for stage, inject in zip(self.encoder.stages, self.injections, strict=True):
            features = inject(stage(features), tokens)
            skips.append(features)
        return skips, tokens

    def decode(self, skips: list[Tensor], tokens: Tensor) -> Tensor | list[Tensor]:
        """Returns the logits: ``network.decode(*network.encode(x))`` is ``network(x)``."""
        logits = self.decoder(skips)
        return logits if self.token_head is None else self.token_head(logits, tokens)

    def _forward(self, x: Tensor) -> Tensor | list[Tensor]:
        return self.decode(*self.encode(x))

    def compute_conv_feature_map_size(self, input_size: list[int]) -> int:
        """Counts the convolutional part's outputs for one sample, as nnU-Net's planner asks."""
        return self.encoder.compute_conv_feature_map_size(input_size) + self.decoder.compute_conv_feature_map_size(input_size)


def build_stock_unet(
    unet: str, input_channels: int, num_classes: int, deep_supervision: bool, unet_kwargs: dict[str, Any]
) -> nn.Module:
    """Builds and initialises the planned network exactly as nnU-Net does.

    Raises:
        UserError: ``unet`` is neither nnU-Net's plain nor its residual-encoder U-Net.
    """
    network_class: Any = pydoc.locate(stock_unet(unet))
    network = network_class(
        input_channels=input_channels, num_classes=num_classes, deep_supervision=deep_supervision, **unet_kwargs
    )
    network.apply(network.initialize)
    return network


def stock_unet(unet: str) -> str:
    """Returns the dotted path of the network that plans name; the module was another one when older plans were made.

    Raises:
        UserError: :class:`DINOv3UNet` cannot extend it.
    """
    package, _, name = unet.partition(".")
    known = {path.rpartition(".")[2]: path for path in (PLAIN_UNET, RESIDUAL_UNET)}
    name = name.rpartition(".")[2]
    if package != "dynamic_network_architectures" or name not in known:
        raise UserError(f"plans: required network {PLAIN_UNET} or {RESIDUAL_UNET} · got {unet} · plan with a stock planner")
    return known[name]


def keep_buffers_out_of_ddp(network: nn.Module) -> None:
    """Stops DistributedDataParallel from broadcasting the transformer's constant buffers before every forward pass.

    With such buffers, ranks that have fewer validation cases than others would wait for each other for ever.
    """
    names = [name for name, _ in network.named_buffers()]
    network._ddp_params_and_buffers_to_ignore = names + [f"_orig_mod.{name}" for name in names]
