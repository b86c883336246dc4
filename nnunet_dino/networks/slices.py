"""Shows every slice of a volume to a 2D backbone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import any_torch_dispatch_mode_on_stack

from nnunet_dino.backbones.adapted import AdaptedBackbone
from nnunet_dino.backbones.precision import is_exporting
from nnunet_dino.backbones.rgb import NEIGHBOURS, REPEAT, ChannelView, num_images, shown, with_neighbours
from nnunet_dino.backbones.vit import TOKENS_AT_ONCE
from nnunet_dino.networks.slice_reuse import SliceReuse

CHUNK_TOKENS_ON_CPU = 2048  # as fast, and intermediate results stay small
MIN_ROWS = 32


def token_grid(size_px: Sequence[int], token_stride_px: int, pixel_aspect: float = 1.0) -> tuple[int, int]:
    """Returns ``(gh, gw)``: how many tokens cover a slice of ``size_px = (h, w)`` at one token per ``token_stride_px``.

    The shorter side decides by how much a slice is enlarged, the longer one follows. So a millimetre is as long along ``h`` as
    along ``w`` but for the rounding of the longer side to whole tokens, by which it is stretched or squeezed by at most half a
    patch.

    Args:
        size_px: ``(h, w)``.
        token_stride_px: Pixels per token, along the axis with the smaller ones.
        pixel_aspect: Height of a pixel over its width.
    """
    height, width = int(size_px[0]) * max(1.0, pixel_aspect), int(size_px[1]) * max(1.0, 1 / pixel_aspect)
    shorter, longer = sorted((height, width))
    num_shorter = math.ceil(round(shorter / token_stride_px, 6))
    num_longer = max(1, round(longer * num_shorter / shorter))
    return (num_shorter, num_longer) if height <= width else (num_longer, num_shorter)


def fold_slices(volume: Tensor) -> Tensor:
    """Turns ``b c d h w`` into slices ``(b·d) c h w``; a batch of images ``b c h w`` passes unchanged."""
    return volume if volume.ndim == 4 else volume.movedim(2, 1).flatten(0, 1)


def unfold_slices(maps: Tensor, batch: int, num_spatial_axes: int) -> Tensor:
    """Turns maps ``(b·d) e gh gw`` of slices into ``b e d gh gw``; for two spatial axes they pass unchanged."""
    return maps if num_spatial_axes == 2 else maps.unflatten(0, (batch, -1)).movedim(1, 2)


class SliceEncoder(nn.Module):
    """Encodes every slice of a volume by itself.

    ::

        b c d h w ─► (b·d) c h w ─► resize ─► (b·d) 3 p·gh p·gw ─► backbone ─► per tap (b·d) gh gw e

    A slice is resized so that one token covers ``token_stride_px`` pixels of the input, which enlarges small slices: at a
    stride of 8 a 56 × 40 slice is seen as 112 × 80 pixels and gives 7 × 5 tokens. Pixels that are not square are resized until
    they are. Intensities are passed on as nnU-Net normalised them where that is to zero mean and unit variance, as the backbone
    was trained with; ``channels`` tell how else. Slices are never normalised one by one.

    Args:
        backbone: The backbone.
        channels: Leading channels that are images. Further ones (the one-hot labels of a cascade) are not shown.
        token_stride_px: Pixels of the input per token, along the axis with the smaller ones.
        pixel_aspect: Height of a pixel over its width, in millimetres.
        rgb: How channels become red, green and blue, see :mod:`nnunet_dino.backbones.rgb`.
        sees: Positions of the images that are shown; empty for all.
    """

    def __init__(
        self,
        backbone: AdaptedBackbone,
        channels: Sequence[ChannelView],
        token_stride_px: int,
        pixel_aspect: float = 1.0,
        rgb: str = REPEAT,
        sees: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.sees = tuple(sees) or tuple(range(len(channels)))
        self.channels = tuple(channels[place] for place in self.sees)
        self.token_stride_px = token_stride_px
        self.pixel_aspect = pixel_aspect
        self.rgb = rgb
        self.num_maps = backbone.num_taps * num_images(len(self.channels), rgb)
        self.reuse = SliceReuse()

    def train(self, mode: bool = True) -> SliceEncoder:
        """Sets the mode and forgets what is remembered of slices: nnU-Net calls ``eval()`` when an image or fold begins."""
        super().train(mode)
        self.reuse.forget()
        return self

    def forward(self, volume: Tensor) -> tuple[Tensor, ...]:
        """Encodes slices in chunks, so that memory does not grow with their number.

        At prediction (evaluation under ``torch.inference_mode``) every distinct slice of a volume is encoded once.

        Args:
            volume: ``b c d h w`` or ``b c h w``.

        Returns:
            ``num_maps`` maps, each ``(b·d) gh gw e`` (or ``b gh gw e``).
        """
        if is_exporting():
            return self.encode(self._slices(volume))
        return self._outside_graphs(volume)

    @torch.compiler.disable
    def _outside_graphs(self, volume: Tensor) -> tuple[Tensor, ...]:
        return self._once(volume) if self._predicts() else self.encode(self._slices(volume))

    def project(self, volume: Tensor, neck: nn.Module) -> Tensor:
        """Returns ``neck(self(volume))``, tokens ``(b·d) gh gw k``; at prediction the neck, too, sees every slice once."""
        if self._predicts():
            return self._once(volume, neck)[0]
        return neck(self(volume))

    def _predicts(self) -> bool:
        if self.training or is_exporting() or not torch.is_inference_mode_enabled():
            return False
        return not any_torch_dispatch_mode_on_stack()  # who counts operations wants those of every slice

    @torch.compiler.disable
    def _once(self, volume: Tensor, neck: nn.Module | None = None) -> tuple[Tensor, ...]:
        """Encodes every distinct slice once. In 2D no slice returns: tiles differ, and so does a slice that is mirrored."""
        slices = self._slices(volume)
        self.backbone.settle(slices.device)

        def encode(some: Tensor) -> tuple[Tensor, ...]:
            maps = self.encode(some)
            return maps if neck is None else (neck(maps),)

        weights = [self.backbone] if neck is None else [self.backbone, neck]
        return self.reuse.fetch(slices, encode, weights, self._at_least(slices), they_return=volume.ndim > 4)

    def grid(self, size_px: Sequence[int]) -> tuple[int, int]:
        """Returns ``(gh, gw)`` of a slice of ``size_px = (h, w)``."""
        return token_grid(size_px, self.token_stride_px, self.pixel_aspect)

    def _slices(self, volume: Tensor) -> Tensor:
        leading = self.sees == tuple(range(len(self.channels)))
        images = volume[:, : len(self.channels)] if leading else volume[:, list(self.sees)]
        return fold_slices(with_neighbours(images) if self.rgb == NEIGHBOURS else images)

    def _at_least(self, slices: Tensor) -> int:
        return math.ceil(MIN_ROWS / math.prod(self.grid(slices.shape[2:])))

    def encode(self, slices: Tensor) -> tuple[Tensor, ...]:
        """Encodes slices ``n c h w``, every one anew; with neighbours ``n 3·c h w``. Returns what :meth:`forward` does."""
        gh, gw = self.grid(slices.shape[2:])
        size_px = gh * self.backbone.patch_px, gw * self.backbone.patch_px
        at_a_time = CHUNK_TOKENS_ON_CPU if slices.device.type == "cpu" else TOKENS_AT_ONCE
        num_chunks = min(len(slices), math.ceil(len(slices) * (gh * gw + self.backbone.num_prefix_tokens) / at_a_time))
        if num_chunks == 1:
            return tuple(m.contiguous() for m in self._encode_chunk(slices, size_px))
        chunks = (self._encode_chunk(part, size_px) for part in slices.tensor_split(num_chunks))
        if self.backbone.is_frozen and not (slices.requires_grad or is_exporting()):
            return _fill(len(slices), chunks)
        return tuple(torch.cat(maps) for maps in zip(*chunks, strict=True))

    def _encode_chunk(self, slices: Tensor, size_px: tuple[int, int]) -> list[Tensor]:
        if slices.shape[2:] != size_px:
            slices = F.interpolate(slices.float(), size_px, mode="bilinear", antialias=False)
        return [
            tap.movedim(1, 3)
            for image in shown(slices, self.channels, self.rgb, self.backbone.statistics)
            for tap in self.backbone(image)
        ]


def _fill(num: int, chunks: Iterable[Sequence[Tensor]]) -> tuple[Tensor, ...]:
    """Joins maps of ``num`` slices as they come, so that no more than one chunk of them exists twice."""
    whole: tuple[Tensor, ...] = ()
    done = 0
    for maps in chunks:
        whole = whole or tuple(m.new_empty((num, *m.shape[1:])) for m in maps)
        for target, m in zip(whole, maps, strict=True):
            target[done : done + len(m)] = m
        done += len(maps[0])
    return whole
