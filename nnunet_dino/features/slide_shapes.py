"""Tissue and tiles of a slide as shapes for QuPath: GeoJSON in pixels at full resolution."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import contourpy
import numpy as np

TISSUE_COLOUR = (0, 130, 60)
Ring = list[list[float]]


def tissue_polygons(mask: np.ndarray, downsample: float, size_px: tuple[int, int]) -> list[list[Ring]]:
    """Returns the pieces of a mask, each as its outer ring and the rings of its holes, closed.

    Args:
        mask: Tissue, ``h w``.
        downsample: Pixels at full resolution per pixel of the mask.
        size_px: Width and height of the slide at full resolution, beyond which no ring reaches.
    """
    padded = np.pad(mask, 1).astype(np.float32)  # so that pieces at the edge close
    levels = contourpy.contour_generator(z=padded, fill_type=contourpy.FillType.OuterOffset).filled(0.5, 2)
    pieces = []
    for points, offsets in zip(*levels, strict=True):
        places = np.clip((points - 0.5) * downsample, 0, size_px).round(1)  # from pixel centres of the padded mask
        pieces.append([places[start:stop].tolist() for start, stop in itertools.pairwise(offsets)])
    return pieces


def geojson(
    pieces: Sequence[list[Ring]], corners: np.ndarray, tile_px: int, measurements: Mapping[str, np.ndarray] | None = None
) -> str:
    """Returns tissue as an annotation and tiles with their measurements, as QuPath imports them.

    Args:
        pieces: Of :func:`tissue_polygons`; none is fine.
        corners: x and y of the upper left corners of tiles, ``n 2``.
        tile_px: Their edge.
        measurements: Names and a number per tile, each ``n``.
    """
    features: list[dict[str, Any]] = []
    if pieces:
        tissue = {"objectType": "annotation", "classification": {"name": "Tissue", "color": list(TISSUE_COLOUR)}}
        features.append(_feature("MultiPolygon", pieces, tissue))
    values = {name: numbers.astype(float).tolist() for name, numbers in (measurements or {}).items()}
    for number, (x, y) in enumerate(corners.tolist()):
        right, lower = x + tile_px, y + tile_px
        square = [[[x, y], [right, y], [right, lower], [x, lower], [x, y]]]
        own = {"measurements": {name: numbers[number] for name, numbers in values.items()}} if values else {}
        features.append(_feature("Polygon", square, {"objectType": "tile", "name": str(number), **own}))
    return json.dumps({"type": "FeatureCollection", "features": features}) + "\n"


def _feature(kind: str, coordinates: Any, properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}
