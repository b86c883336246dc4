"""A store of slides as files for other programs: features for CLAM, tiles and tissue for QuPath, pictures of the masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from safetensors import safe_open

from nnunet_dino._errors import UserError, nearest
from nnunet_dino._files import write_atomically
from nnunet_dino._packages import require
from nnunet_dino.features.items import Unreadable
from nnunet_dino.features.slide import find_tiles, require_openslide, slide_of
from nnunet_dino.features.slide_shapes import Ring, geojson, tissue_polygons
from nnunet_dino.features.store.layout import recorded
from nnunet_dino.features.store.reader import TOKENS_OF, Bag, FeatureStore
from nnunet_dino.features.tile_map import as_png
from nnunet_dino.features.tiling import Tiling

H5, PT, GEOJSON, MASK = "h5", "pt", "geojson", "mask"
PLACES = {H5: ("h5_files", ".h5"), PT: ("pt_files", ".pt"), GEOJSON: ("geojson", ".geojson"), MASK: ("masks", ".png")}
ATTENTION = "attention.safetensors"


def write_tiles(
    store: str | Path,
    output: Path,
    kinds: Sequence[str] = (),
    attention: Path | None = None,
    overwrite: bool = False,
    echo: Callable[[str], object] = print,
) -> int:
    """Writes the tiles of a store of slides as files of other programs, one per slide and kind.

    ::

        OUTPUT/h5_files/SLIDE.h5        features n e, coords n 2 with patch_size and patch_level: as CLAM writes and reads them
        OUTPUT/pt_files/SLIDE.pt        features n e: what CLAM trains on
        OUTPUT/geojson/SLIDE.geojson    tissue and tiles, with attention if given: QuPath imports it
        OUTPUT/masks/SLIDE.png          tissue white, at 1/32 of the resolution

    Args:
        store: A store of slides.
        output: The folder.
        kinds: Which of these; all by default.
        attention: Report of ``probe mil``, or its file of attention.
        overwrite: Whether files of the same names are replaced.
        echo: Takes what could not be read.

    Returns:
        Number of slides that could not be read again.

    Raises:
        UserError: The store is not of slides, a name is unknown, h5py is missing, or a file is there.

    Source: the files that CLAM (github.com/mahmoodlab/CLAM at 0534d4e) reads in ``dataset_modules/dataset_generic.py``.
    """
    for kind in kinds:
        if kind not in PLACES:
            raise UserError(f"--as: required one of {', '.join(PLACES)} · got {kind!r}{nearest(kind, PLACES)}")
    opened = FeatureStore(store)
    if opened.facts.kind != "slides":
        raise UserError(f"{store}: required a store of slides · got one of {opened.facts.kind}")
    wanted = [kind for kind in PLACES if not kinds or kind in kinds]
    if H5 in wanted:
        require("h5py", "wsi", "--as h5")
    if {GEOJSON, MASK} & {*wanted}:
        require_openslide()
    weights = _read_attention(attention) if attention is not None else {}
    rows = opened.good.set_index("id")
    names = _file_names(rows.index)
    if not overwrite:
        _refuse_existing(output, wanted, names.values())
    pixels, features = opened.facts.preprocessing, _features(opened)
    tiling = recorded(Tiling, pixels)
    num_unreadable = 0
    for id, name in names.items():
        (bag,) = opened.bags(features, [id])
        tile_px = int(rows.loc[id, "tile_px"])
        mask: np.ndarray | None = None
        pieces: list[list[Ring]] = []
        if {GEOJSON, MASK} & {*wanted}:
            try:
                mask, pieces = _tissue(str(rows.loc[id, "path"]), int(pixels["size_px"]), tiling)
            except Unreadable as error:
                num_unreadable += 1
                echo(f"{id}: its tissue is left out, as it could not be read again: {error}")
        for kind in wanted:
            content = _content(kind, bag, tile_px, mask, pieces, weights.get(id))
            if content is not None:
                folder, ending = PLACES[kind]
                write_atomically(output / folder / (name + ending), content)
    return num_unreadable


def _features(store: FeatureStore) -> str:
    """Returns what to ask the store for: all that it holds of a tile as one vector."""
    held = [name for name, tokens in TOKENS_OF.items() if tokens == store.facts.tokens]
    if held in ([], ["map"]):
        raise UserError(f"{store.folder}: required a vector per tile · got patch maps · extract again with --features mean")
    return held[0]


def _content(
    kind: str, bag: Bag, tile_px: int, mask: np.ndarray | None, pieces: list[list[Ring]], attention: np.ndarray | None
) -> str | bytes | Callable[[str], object] | None:
    """Returns what a file holds, or how to write it; None where the slide was needed and could not be read."""
    assert bag.coordinates is not None, "tiles of slides have places"
    if kind == H5:
        return lambda path: _write_h5(path, bag, tile_px)
    if kind == PT:
        return lambda path: torch.save(torch.from_numpy(bag.features), path)
    if kind == GEOJSON:
        relative = {} if attention is None else {"Attention": attention, "Attention × tiles": attention * len(attention)}
        return geojson(pieces, bag.coordinates, tile_px, relative)
    return None if mask is None else as_png(mask.astype(np.uint8) * 255)


def _write_h5(path: str, bag: Bag, tile_px: int) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file["features"] = bag.features
        file["coords"] = bag.coordinates
        file["coords"].attrs.update({"patch_size": tile_px, "patch_level": 0, "patch_size_level0": tile_px})


def _tissue(path: str, size_px: int, tiling: Tiling) -> tuple[np.ndarray, list[list[Ring]]]:
    with slide_of(path) as slide:
        tiles = find_tiles(slide, path, size_px, replace(tiling, drop_blur=0.0))  # the mask does not need it
        return tiles.mask, tissue_polygons(tiles.mask, tiles.downsample, slide.dimensions)


def _file_names(ids: Sequence[str]) -> dict[str, str]:
    """Returns names without folders and endings, which are slides' names in CLAM."""
    names: dict[str, str] = {}
    for id in ids:
        name = str(PurePosixPath(id).with_suffix("")).replace("/", "_")
        if name in names.values():
            raise UserError(f"required slides whose names differ without folder and ending · got {name} twice · rename one")
        names[id] = name
    return names


def _refuse_existing(output: Path, kinds: Sequence[str], names) -> None:
    places = (PLACES[kind] for kind in kinds)
    there = [path for folder, ending in places for name in names if (path := output / folder / (name + ending)).exists()]
    if there:
        raise UserError(f"-o: required new files · got {there[0]}, which is there · give another folder, or --overwrite")


def _read_attention(path: Path) -> dict[str, np.ndarray]:
    file = path / ATTENTION if path.is_dir() else path
    try:
        with safe_open(file, framework="numpy") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    except Exception as error:  # safetensors raises several kinds for files that are none
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"--attention: required a report of `probe mil` · got {path}: {reason}") from error
