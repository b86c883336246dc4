"""What patch tokens see: their principal components as colours, and their similarity to one of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PERCENTILES = (1, 99)


@dataclass(frozen=True)
class Seen:
    """Images as the backbone was shown them, and their patch tokens.

    Attributes:
        names: Of the images, for example slices.
        images: ``n s s 3``, 0..1.
        tokens: ``n gh gw e``.
    """

    names: list[str]
    images: np.ndarray
    tokens: np.ndarray


def pca_colours(tokens: np.ndarray) -> np.ndarray:
    """Returns the first three principal components as red, green and blue.

    They are found in all tokens together, so that the same colour means the same in every image. Each is stretched from its
    1st to its 99th percentile; its sign is such that its largest weight is positive.

    Args:
        tokens: ``… e``.

    Returns:
        ``… 3``, 0..1.
    """
    flat = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64)
    centred = flat - flat.mean(0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    directions = directions[:, ::-1][:, :3]  # eigenvalues come in rising order
    largest = np.take_along_axis(directions, np.abs(directions).argmax(0)[None], axis=0)
    components = centred @ (directions * np.sign(largest))
    low, high = np.percentile(components, PERCENTILES, axis=0)
    colours = np.clip((components - low) / np.where(high > low, high - low, 1), 0, 1)
    return colours.reshape(*tokens.shape[:-1], colours.shape[1])


def similarity(tokens: np.ndarray, place: tuple[int, ...]) -> np.ndarray:
    """Returns the cosine of all tokens with one of them.

    Args:
        tokens: ``… e``.
        place: Index of the one.

    Returns:
        ``…``, -1..1.
    """
    unit = tokens / np.maximum(np.linalg.norm(tokens, axis=-1, keepdims=True), 1e-12)
    return unit @ unit[place]
