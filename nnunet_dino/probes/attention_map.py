"""Attention over the tiles of slides, drawn on their overviews."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np

from nnunet_dino.features.items import Unreadable
from nnunet_dino.features.store.reader import FeatureStore
from nnunet_dino.features.tile_files import ATTENTION as ATTENTION
from nnunet_dino.features.tile_map import above_each_other, colour_bar, colour_tiles, png, side_by_side, tile_row
from nnunet_dino.probes.options import MEAN
from nnunet_dino.reports import Picture

OVERVIEW_PX = 900
NUM_TILES, TILE_PX = 8, 112  # shown of most and of least attention
UNDECIDED = 1.5  # largest attention, as a multiple of equal attention


def attention_pictures(
    store: FeatureStore | None,
    ids: Sequence[str],
    attention: Sequence[np.ndarray],
    scores: np.ndarray,
    labels: Sequence[str],
    aggregator: str | None,
    most: int,
) -> tuple[list[Picture], list[str]]:
    """Draws the attention weights of tiles on at most ``most`` slides, in turn those with the highest scores of every label.

    Args:
        store: The features; only those of slides are drawn.
        ids: Of the slides.
        attention: A weight per tile, for every slide.
        scores: ``n l``.
        labels: Their ``l`` names.
        aggregator: What pooled the tiles; where it is the mean, all weigh the same and nothing is drawn.
        most: How many slides.

    Returns:
        Pictures, none where the features are not of slides, and what a reader must be told where some are missing.
    """
    if store is None or store.facts.kind != "slides" or not attention or aggregator == MEAN or most < 1:
        return [], []
    try:
        from nnunet_dino.features.slide import require_openslide

        require_openslide()
    except ValueError:
        return [], ["OpenSlide is not installed, so attention is not drawn; it is in attention.safetensors."]
    pictures, missing = [], []
    rows = store.good.set_index("id")
    in_turn = np.argsort(-scores, axis=0, kind="stable").ravel().tolist()
    for position in list(dict.fromkeys(in_turn))[:most]:
        name = ids[position]
        try:
            content = _picture(store, name, str(rows.loc[name, "path"]), int(rows.loc[name, "tile_px"]), attention[position])
        except Unreadable as error:
            missing.append(f"{name} ({error})")
            continue
        told = ", ".join(f"{label} {score:.3f}" for label, score in zip(labels, scores[position], strict=True))
        caption = f"Score of {told}. {attention_words(attention[position])}"
        pictures.append(Picture(f"attention-{position:04d}", name, caption, content))
    notes = [f"Attention is not drawn where the slide cannot be read: {', '.join(missing[:5])}."] if missing else []
    return pictures, notes


def _picture(store: FeatureStore, name: str, path: str, tile_px: int, weights: np.ndarray) -> bytes:
    from nnunet_dino.features.slide import read_overview, read_tile, slide_of

    (bag,) = store.bags(next(key for key in ("mean", "class") if _holds(store, key)), [name])
    assert bag.coordinates is not None, "tiles of slides have places"
    order = np.argsort(-weights, kind="stable")
    count = min(NUM_TILES, -(-len(order) // 2))
    with slide_of(path) as slide:
        overview, downsample = read_overview(slide, path, max(1.0, max(slide.dimensions) / OVERVIEW_PX))
        rows = []
        for title, chosen in (("most", order[:count]), ("least", order[::-1][:count])):
            tiles = [read_tile(slide, x, y, tile_px, TILE_PX) for x, y in bag.coordinates[chosen].tolist()]
            shown = [(255 * tile.permute(1, 2, 0).numpy()).round().astype(np.uint8) for tile in tiles]
            rows.append(tile_row(title, shown, [f"{weights[place] * len(weights):.3g}x" for place in chosen]))
    heat = colour_tiles(overview, downsample, bag.coordinates, tile_px, attention_colours(weights))
    scale = matplotlib.colormaps["viridis"](np.linspace(0, 1, 256))[:, :3]
    bar = colour_bar(len(overview), scale, [f"{10**power:g}x" for power in (-1, 0, 1)])
    return png(above_each_other(side_by_side(overview, heat, bar), *rows))


def attention_colours(weights: np.ndarray) -> np.ndarray:
    """Returns a colour per tile, ``n 3``, by attention as a multiple of equal attention: 0.1 and less, 1, 10 and more.

    The scale is the same on all slides, so that a network that is undecided does not look as if it had decided.
    """
    multiples = np.maximum(weights.astype(np.float64) * len(weights), 1e-6)
    return matplotlib.colormaps["viridis"](np.clip(0.5 + np.log10(multiples) / 2, 0, 1))[:, :3]


def attention_words(weights: np.ndarray) -> str:
    """Returns what the colours mean and how far attention is from equal."""
    multiples = weights.astype(np.float64) * len(weights)
    undecided = " The network hardly tells these tiles apart." if multiples.max() < UNDECIDED else ""
    return (
        f"Attention of {len(weights)} tiles as a multiple of equal attention (1 ×): from {multiples.min():.3g} to "
        f"{multiples.max():.3g} ×.{undecided}"
    )


def _holds(store: FeatureStore, key: str) -> bool:
    return {"mean": "patch_mean", "class": "class_token"}[key] in store.facts.tokens
