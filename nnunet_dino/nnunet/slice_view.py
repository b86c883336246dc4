"""What nnU-Net's plans tell of how slices are to be shown to a transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist, fmean
from typing import Any

from nnunet_dino._errors import UserError
from nnunet_dino.backbones.rgb import IMAGENET_MEAN, IMAGENET_STD, NEIGHBOURS, REPEAT, WINDOWS, ChannelView
from nnunet_dino.networks.options import DinoOptions

CT_WINDOWS_HU = ((-160.0, 240.0), (-45.0, 105.0))
"""Soft tissue and liver; the first of three windows is all that nnU-Net's normalisation of CT lets through."""

PERCENTILES = ((0.5, 99.5), (10.0, 90.0), (25.0, 75.0))
"""The windows of other images, of a normal distribution."""

PLANES = ("axial", "coronal", "sagittal")


def fit_to_plans(options: DinoOptions, configuration: Mapping[str, Any], intensities: Mapping[str, Any]) -> DinoOptions:
    """Returns ``options`` with the token stride, the image channels and the pixel aspect of a configuration.

    Of the token stride in ``options`` and the one in the plans' ``dino`` entry, if any, the coarser counts: ``2d_896`` is
    planned for one token per 16 pixels. Plans may say as well which channels the transformer sees. There are as many image
    channels as normalisation schemes: the one-hot channels that a cascade adds have none.

    Args:
        options: The DINOv3 side of the network.
        configuration: One of the plans' configurations.
        intensities: The plans' ``foreground_intensity_properties_per_channel``.

    Raises:
        UserError: neighbours are asked for in 2D, or a channel that the plans do not have.
    """
    if options.rgb == NEIGHBOURS and len(configuration["patch_size"]) == 2:
        raise UserError("dino.rgb: required slices with neighbours · got a 2D configuration · use repeat or windows")
    schemes = configuration["normalization_schemes"]
    planned = configuration.get("architecture", {}).get("arch_kwargs", {}).get("dino", {})
    sees = options.sees or tuple(planned.get("sees", ()))
    if odd := [place for place in sees if place >= len(schemes)]:
        raise UserError(f"dino.sees: required image channels from 0 to {len(schemes) - 1} · got {odd[0]} · leave it out")
    places = {channel: place for place, channel in enumerate(sees or range(len(schemes)))}
    views = [
        _view(scheme, intensities.get(str(channel), {}), places.get(channel, 0), len(places), options.rgb)
        for channel, scheme in enumerate(schemes)
    ]
    planned_stride_px = planned.get("token_stride_px", 0)
    return replace(
        options,
        token_stride_px=max(options.token_stride_px, planned_stride_px),
        channels=tuple(views),
        sees=sees,
        pixel_aspect=pixel_aspect(configuration["spacing"]),
    )


def pixel_aspect(spacing_mm: Sequence[float]) -> float:
    """Returns the height of a pixel over its width, given ``(d, h, w)`` or ``(h, w)``."""
    return float(spacing_mm[-2]) / float(spacing_mm[-1])


def describe_plane(
    plans: Mapping[str, Any], configuration: Mapping[str, Any], token_stride_px: int, rgb: str, sees: Sequence[int] = ()
) -> str:
    """Says which plane of the images the transformer sees, how large its pixels and tokens are, and which channels."""
    axis = int(plans["transpose_forward"][0])
    height, width = (float(mm) for mm in configuration["spacing"][-2:])
    token_mm = token_stride_px * min(height, width)
    return (
        f"the transformer sees slices across axis {axis} of the images ({PLANES[axis]} where they are stored as scanners do), "
        f"pixels of {height:.3g} × {width:.3g} mm, one token per {token_mm:.3g} mm, rgb: {rgb}"
        + (f", image channels seen: {', '.join(map(str, sees))}" if sees else "")
    )


def _view(scheme: str, intensities: Mapping[str, float], channel: int, num_channels: int, rgb: str) -> ChannelView:
    centre, deviation = _as_they_arrive(scheme, intensities, channel, num_channels, rgb)
    if rgb != WINDOWS:
        return ChannelView(centre, deviation)
    if scheme == "CTNormalization":
        return ChannelView(windows=_ct_windows(intensities))
    normal = NormalDist(centre, deviation)
    return ChannelView(windows=tuple((normal.inv_cdf(low / 100), normal.inv_cdf(high / 100)) for low, high in PERCENTILES))


def _as_they_arrive(
    scheme: str, intensities: Mapping[str, float], channel: int, num_channels: int, rgb: str
) -> tuple[float, float]:
    """Returns the mean and the standard deviation of a channel after nnU-Net's normalisation.

    Intensities from 0 to 1 have those of natural images, unnormalised ones those of the foreground in the training cases.
    """
    if scheme in ("RGBTo01Normalization", "RescaleTo01Normalization"):
        if rgb == REPEAT and num_channels - channel // 3 * 3 >= 3:
            return IMAGENET_MEAN[channel % 3], IMAGENET_STD[channel % 3]
        return fmean(IMAGENET_MEAN), fmean(IMAGENET_STD)
    if scheme == "NoNormalization" and intensities.get("std", 0) > 0:
        return float(intensities["mean"]), float(intensities["std"])
    return 0.0, 1.0


def _ct_windows(intensities: Mapping[str, float]) -> tuple[tuple[float, float], ...]:
    """Returns the windows in normalised intensities; what lies beyond nnU-Net's clipping is cut off."""
    low, high = float(intensities["percentile_00_5"]), float(intensities["percentile_99_5"])
    cut = [(max(low, a), min(high, b)) for a, b in CT_WINDOWS_HU]
    windows_hu = [(low, high), *((a, b) if a < b else (low, high) for a, b in cut)]
    centre, deviation = float(intensities["mean"]), max(float(intensities["std"]), 1e-8)
    return tuple(((a - centre) / deviation, (b - centre) / deviation) for a, b in windows_hu)
