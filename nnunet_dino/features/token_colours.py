"""What patch tokens see: their principal components as colours, and their similarity to one of them."""

from __future__ import annotations

import matplotlib
import numpy as np
from scipy import ndimage

PERCENTILES = (1, 99)
DARK = 0.1  # of the range of an image
BACKGROUND_GREY = 0.15


def foreground(images: np.ndarray, shows_image: np.ndarray) -> np.ndarray:
    """Returns which tokens show something: not padding, nor the dark ground that reaches the edge, as air around a patient.

    Dark parts inside, such as lungs, count as foreground. Where nothing would be left, all tokens that show the image do.

    Args:
        images: ``n s s 3``, 0..1.
        shows_image: Which tokens show the image and not only padding, ``gh gw``.

    Returns:
        ``n gh gw``.
    """
    gh, gw = shows_image.shape
    n, height, width, _ = images.shape
    grey = images.mean(-1).reshape(n, gh, height // gh, gw, width // gw).mean((2, 4))
    inside = ndimage.binary_erosion(shows_image, border_value=1)  # tokens that are half padding are darker than the image
    low, high = np.percentile(grey[:, inside if inside.any() else shows_image], PERCENTILES)
    around = ~shows_image | (grey <= low + DARK * (high - low))
    edge = np.ones((gh, gw), bool)
    edge[1:-1, 1:-1] = False
    found = np.stack([~ndimage.binary_propagation(part & edge, mask=part) for part in around])
    return found if found.any() else np.broadcast_to(shows_image, found.shape)


def pca_colours(tokens: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
    """Returns the first three principal components as red, green and blue.

    They are found in all chosen tokens together, so that the same colour means the same in every image. Each is stretched from
    its 1st to its 99th percentile; its sign is such that its largest weight is positive.

    Args:
        tokens: ``… e``.
        chosen: Which tokens are looked at, ``…``; the others become dark grey. None for all.

    Returns:
        ``… 3``, 0..1.
    """
    chosen = np.ones(tokens.shape[:-1], bool) if chosen is None else chosen
    flat = tokens[chosen].astype(np.float64)
    centred = flat - flat.mean(0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    directions = directions[:, ::-1][:, :3]  # eigenvalues come in rising order
    largest = np.take_along_axis(directions, np.abs(directions).argmax(0)[None], axis=0)
    components = centred @ (directions * np.sign(largest))
    low, high = np.percentile(components, PERCENTILES, axis=0)
    colours = np.full((*tokens.shape[:-1], components.shape[1]), BACKGROUND_GREY)
    colours[chosen] = np.clip((components - low) / np.where(high > low, high - low, 1), 0, 1)
    return colours


def similarity(tokens: np.ndarray, place: tuple[int, ...]) -> np.ndarray:
    """Returns the cosine of all tokens with one of them.

    Args:
        tokens: ``… e``.
        place: Index of the one.

    Returns:
        ``…``, -1..1.
    """
    unit: np.ndarray = tokens / np.maximum(np.linalg.norm(tokens, axis=-1, keepdims=True), 1e-12)
    return unit @ unit[place]


def gradient(cosines: np.ndarray) -> np.ndarray:
    """Returns colours ``n 3`` from the smallest cosine (dark) to 1 (yellow)."""
    low = float(cosines.min())
    colours: np.ndarray = matplotlib.colormaps["viridis"]((cosines - low) / max(1e-6, 1 - low))
    return colours[:, :3]
