"""Slides: grids, overlap, shares of tissue, pens, resolutions, and tiles as files of other programs."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from probe_inputs import PINK, TINY, write_slide
from scipy import ndimage

from nnunet_dino._errors import UserError
from nnunet_dino.backbones import weights
from nnunet_dino.cli.main import main
from nnunet_dino.features import Tiling
from nnunet_dino.features.items import Item, Unreadable
from nnunet_dino.features.pixels import Preprocessing
from nnunet_dino.features.slide import open_slide
from nnunet_dino.features.slide_resolution import own_mpp
from nnunet_dino.features.slide_shapes import tissue_polygons
from nnunet_dino.features.store.reader import FeatureStore
from nnunet_dino.features.tile_map import colour_tiles
from nnunet_dino.features.tissue import pen_mask, sharpness, tile_corners, tissue_mask, tissue_rule

MASK = np.zeros((12, 20), bool)  # in pixels of 10; tissue from x 50 to 130, y 20 to 70
MASK[2:7, 5:13] = True
SIZE = (200, 120)


def test_a_grid_begins_at_the_tissue_or_at_the_slide():
    assert tile_corners(MASK, 10, SIZE, 40).tolist() == [[50, 20], [90, 20]]
    of_slide = tile_corners(MASK, 10, SIZE, 40, grid="slide")
    assert (of_slide % 40 == 0).all()
    assert of_slide.tolist() == [[40, 0], [80, 0], [40, 40], [80, 40]]


def test_tiles_that_overlap_cover_the_tissue():
    corners = tile_corners(MASK, 10, SIZE, 40, overlap=0.5)
    assert sorted({x for x, _ in corners.tolist()}) == [50, 70, 90]  # the last ends where the tissue does, at 130
    assert sorted({y for _, y in corners.tolist()}) == [20, 40]


def test_shares_of_tissue_are_areas():
    """By hand: a tile of 40 px from (40, 0) has tissue from x 50 and y 20, 30 × 20 of 1,600 px."""
    shares = {(40, 0): 30 * 20, (80, 0): 40 * 20, (120, 0): 10 * 20, (40, 40): 30 * 30, (80, 40): 40 * 30, (120, 40): 10 * 30}
    for least in (0.1, 0.3, 0.5, 0.7):
        expected = {corner for corner, area in shares.items() if area / 1600 >= least}
        assert {tuple(corner) for corner in tile_corners(MASK, 10, SIZE, 40, "slide", 0, least).tolist()} == expected
    whole = tile_corners(np.ones((7, 9), bool), 10, (90, 70), 15, "slide", 0, 1.0)  # corners between pixels of the mask
    assert len(whole) == 6 * 4  # the fifth row has 10 px of the slide


def test_pens_are_no_tissue():
    pixels = np.full((60, 80, 3), 245, np.uint8)
    pixels[20:50, 20:70] = PINK
    tissue = tissue_mask(pixels, 32, tissue_rule("biopsy"))
    for pen in ((20, 120, 60), (30, 60, 170), (30, 30, 35)):
        marked = pixels.copy()
        marked[2:14, 5:75] = pen
        assert tissue_mask(marked, 32, tissue_rule("biopsy"))[7, 30]
        without = tissue_mask(marked, 32, tissue_rule("biopsy"), without_pen=True)
        assert not without[2:14].any()
        assert (without == tissue).mean() > 0.97
    assert not pen_mask(pixels).any()


def test_shapes_have_the_area_of_the_mask():
    shapely = pytest.importorskip("shapely", reason="shapely is not installed")
    mask = np.zeros((40, 60), bool)
    mask[5:35, 10:50] = True
    mask[12:20, 20:30] = False
    mask[2, 58] = True
    pieces = [shapely.Polygon(rings[0], rings[1:]) for rings in tissue_polygons(mask, 32, (60 * 32, 40 * 32))]
    assert [len(piece.interiors) for piece in sorted(pieces, key=lambda piece: piece.area)] == [0, 1]
    assert all(piece.is_valid for piece in pieces)
    assert sum(piece.area for piece in pieces) == pytest.approx(mask.sum() * 32**2, rel=0.01)
    assert max(pieces, key=lambda piece: piece.area).bounds == pytest.approx((10 * 32, 5 * 32, 50 * 32, 35 * 32))


def test_where_tiles_overlap_their_colours_are_averaged():
    ground = np.full((4, 6, 3), 255, np.uint8)
    drawn = colour_tiles(ground, 1, np.array([[0, 0], [2, 0]]), 4, np.array([[0.0, 0, 0], [1.0, 1, 1]]), opacity=1)
    assert drawn[0, :, 0].tolist() == [0, 0, 128, 128, 255, 255]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": "tisue"}, "--grid.*'tisue'.*'tissue'"),
        ({"overlap": 1.0}, "--overlap.*0 to 0.9 · got 1"),
        ({"min_tissue": 1.5}, "--min-tissue.*got 1.5"),
        ({"mag": 20.0, "mpp": 0.5}, "--mag.*20 and 0.5"),
        ({"mag": -4.0}, "--mag.*-4"),
    ],
)
def test_impossible_tilings_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Tiling(**options)


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> str:
    return write_slide(tmp_path_factory.mktemp("slides") / "s1.tif")


@pytest.fixture
def random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(weights.ENVIRONMENT_VARIABLE, "random")


def test_a_magnification_is_a_resolution(slide):
    """The slide has 0.25 µm per pixel, which is 40x."""
    for mag, tile_px in ((40, 224), (20, 448), (10, 896)):
        source = open_slide(Item("s1", slide), Preprocessing(224), Tiling("biopsy", mag=mag))
        assert source.facts["tile_px"] == tile_px
        source.close()
    with pytest.raises(Unreadable, match=r"0\.25 \(--mag 40\), has --mag 80"):
        open_slide(Item("s1", slide), Preprocessing(224), Tiling("biopsy", mag=80))


def scan(**properties):
    """What OpenSlide says of a slide: its properties alone."""
    return SimpleNamespace(properties={f"openslide.{name.replace('_', '-')}": value for name, value in properties.items()})


@pytest.mark.parametrize(
    ("properties", "asked", "mpp", "said"),
    [
        ({"objective_power": "20"}, {"mag": 10}, 0.5, "20x"),
        ({"objective_power": "20"}, {"mpp": 1.0}, None, r"--mpp 1.*--slide-mpp"),
        ({"objective_power": "400"}, {"mag": 10}, None, "0.025 micrometres.*--slide-mpp"),
        ({"objective_power": "40", "mpp_x": "2.5", "mpp_y": "2.5"}, {"mpp": 4.0}, None, "2.5 micrometres.*40x.*--slide-mpp"),
        ({"objective_power": "40", "mpp_x": "2.5", "mpp_y": "2.5"}, {}, None, "2.5 micrometres.*40x; full resolution"),
        ({"objective_power": "40", "mpp_x": "0.23", "mpp_y": "0.23"}, {"mpp": 1.0}, 0.23, "^$"),
    ],
)
def test_what_a_file_says_of_its_resolution(properties, asked, mpp, said):
    try:
        found = own_mpp(scan(**properties), "none.svs", Tiling(**asked))
    except Unreadable as error:
        found = None, str(error)
    assert found[0] == mpp and re.search(said, found[1]), found


@pytest.mark.parametrize(("size", "unit"), [(0.5, "µm"), (0.0005, "mm"), (500, "nm")])
def test_units_of_ome(tmp_path, size, unit):
    metadata = {"PhysicalSizeX": size, "PhysicalSizeY": size, "PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((64, 48, 3), np.uint8), photometric="rgb", metadata=metadata)
    assert own_mpp(scan(), str(tmp_path / "a.ome.tif"), Tiling(mpp=1.0)) == (pytest.approx(0.5), "")


def test_a_refused_rule_names_those_that_work(slide):
    with pytest.raises(Unreadable, match=r"--tissue default.*try --tissue biopsy \(\d+ tiles\)$"):
        open_slide(Item("s1", slide), Preprocessing(224), Tiling())
    with pytest.raises(Unreadable, match="filled to 1 with tissue.*--min-tissue"):
        open_slide(Item("s1", slide), Preprocessing(1024), Tiling("biopsy", min_tissue=1.0))


def test_older_stores_of_slides_are_continued():
    assert Tiling("biopsy").record() == {"tissue": "biopsy", "mpp": None, "slide_mpp": None, "edge": "padded"}
    assert Tiling("biopsy", overlap=0.5).record()["overlap"] == 0.5


def test_sharpness_is_the_variance_of_the_laplacian():
    """By hand: of a single point of grey level v in a black tile, the kernel itself: -4 v once and v four times."""
    tile = np.zeros((9, 12, 3))
    tile[4, 5] = 50
    values = np.array([-200, 50, 50, 50, 50] + [0] * (7 * 10 - 5))
    assert sharpness(tile) == pytest.approx(values.var())


def test_blurred_tiles_are_left_out(tmp_path, random_weights):
    """The left half of the slide has structure, the right half has the same after a Gaussian of 3 px."""
    grain = np.random.default_rng(0).normal(0, 25, (896, 896, 1))
    pixels = np.concatenate([PINK + grain, PINK + ndimage.gaussian_filter(grain, (3, 3, 0))], axis=1)
    path = str(tmp_path / "half.tif")
    tifffile.imwrite(path, pixels.clip(0, 255).astype(np.uint8), tile=(256, 256), photometric="rgb")
    words = [path, "--kind", "slides", "--tissue", "biopsy", "--grid", "slide", "--drop-blur", "50"]
    for verb in (
        ["look", *words, "--tiles-only", "-o", str(tmp_path / "tiles.geojson")],
        ["extract", *words, "--backbone", TINY, "--device", "cpu", "-o", str(tmp_path / "store")],
    ):
        result = CliRunner().invoke(main, verb)
        assert result.exit_code == 0, result.output
        assert "16 of 32 tiles were left out as blurred" in result.output
    (bag,) = FeatureStore(tmp_path / "store").bags("mean")
    assert sorted(map(tuple, bag.coordinates.tolist())) == [(x, y) for x in range(0, 896, 224) for y in range(0, 896, 224)]
    tiles = CliRunner().invoke(main, ["tiles", str(tmp_path / "store"), "-o", str(tmp_path / "files")])
    assert tiles.exit_code == 0, tiles.output
    found = json.loads((tmp_path / "files/geojson/half.geojson").read_text())["features"]
    assert len(found) == 1 + 16
    with pytest.raises(Unreadable, match=r"all 32 tiles are blurred, the sharpest with .* --drop-blur"):
        open_slide(Item("half", path), Preprocessing(224), Tiling("biopsy", grid="slide", drop_blur=1e6))
    with pytest.raises(UserError, match="--drop-blur.*got -1"):
        Tiling(drop_blur=-1.0)


def test_tiles_are_shown_without_a_backbone(slide, tmp_path):
    """No weights are there, and none are asked for."""
    shapely = pytest.importorskip("shapely", reason="shapely is not installed")
    run = CliRunner()
    for name in ("tiles.png", "tiles.geojson"):
        options = ["--kind", "slides", "--tissue", "biopsy", "--tiles-only", "-o", str(tmp_path / name)]
        result = run.invoke(main, ["look", slide, *options])
        assert result.exit_code == 0, result.output
    collection = shapely.from_geojson((tmp_path / "tiles.geojson").read_text())
    tissue, *tiles = collection.geoms
    assert f"{len(tiles)} tiles, each 224 px" in result.output
    assert tissue.area == pytest.approx(np.pi * 1000 * 600, rel=0.04)
    assert all(tile.area == 224**2 and tile.intersects(tissue) for tile in tiles)
    result = run.invoke(main, ["look", slide, "--tiles-only", "--kind", "images", "-o", str(tmp_path / "x.png")])
    assert result.exit_code == 2 and "--kind slides" in result.output


def test_tiles_are_written_for_clam_and_qupath(slide, tmp_path, random_weights):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    shapely = pytest.importorskip("shapely", reason="shapely is not installed")
    import torch
    from PIL import Image
    from safetensors.numpy import save_file

    run = CliRunner()
    options = ["--kind", "slides", "--tissue", "biopsy", "--backbone", TINY, "--device", "cpu", "--overlap", "0.25"]
    result = run.invoke(main, ["extract", slide, "-o", str(tmp_path / "store"), *options])
    assert result.exit_code == 0, result.output
    (bag,) = FeatureStore(tmp_path / "store").bags("mean")
    attention = np.linspace(0, 1, len(bag.features), dtype=np.float32)
    (tmp_path / "report").mkdir()
    save_file({"s1.tif": attention}, tmp_path / "report" / "attention.safetensors")
    words = ["tiles", str(tmp_path / "store"), "-o", str(tmp_path / "out"), "--attention", str(tmp_path / "report")]
    result = run.invoke(main, words)
    assert result.exit_code == 0, result.output
    with h5py.File(tmp_path / "out/h5_files/s1.h5") as file:
        np.testing.assert_array_equal(file["features"][:], bag.features)
        np.testing.assert_array_equal(file["coords"][:], bag.coordinates)
        assert file["coords"].attrs["patch_size"] == 224 and file["coords"].attrs["patch_level"] == 0
    np.testing.assert_array_equal(torch.load(tmp_path / "out/pt_files/s1.pt").numpy(), bag.features)
    text = (tmp_path / "out/geojson/s1.geojson").read_text()
    assert len(shapely.from_geojson(text).geoms) == 1 + len(bag.features)
    tiles = json.loads(text)["features"][1:]
    found = [tile["properties"]["measurements"]["Attention"] for tile in tiles]
    np.testing.assert_allclose(found, attention, rtol=1e-6)
    assert [tile["geometry"]["coordinates"][0][0] for tile in tiles] == bag.coordinates.tolist()
    mask = np.asarray(Image.open(tmp_path / "out/masks/s1.png")) > 0
    assert mask.sum() * 32**2 == pytest.approx(np.pi * 1000 * 600, rel=0.05)
    result = run.invoke(main, words)
    assert result.exit_code == 2 and "s1.h5" in result.output
    result = run.invoke(main, [*words, "--as", "h6"])
    assert result.exit_code == 2 and "'h6'" in result.output
