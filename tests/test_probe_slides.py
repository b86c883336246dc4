"""Slides: tissue, tiles, and what is read of them."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from probe_inputs import PINK, SLIDE_PX, TINY, ellipse, write_slide

from nnunet_dino._errors import UserError
from nnunet_dino.backbones import weights
from nnunet_dino.cli.main import main
from nnunet_dino.features import slide as slides
from nnunet_dino.features.items import Item, Unreadable
from nnunet_dino.features.pixels import Preprocessing
from nnunet_dino.features.slide import read_tile
from nnunet_dino.features.store.reader import FeatureStore
from nnunet_dino.features.tissue import TISSUE_RULES, TissueRule, tile_corners, tissue_mask, tissue_rule
from nnunet_dino.probes.attention_map import attention_colours, attention_pictures, attention_words

WIDTH, HEIGHT = SLIDE_PX


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> str:
    return write_slide(tmp_path_factory.mktemp("slides") / "s1.tif")


def test_the_four_points_of_a_tile():
    """Tiles of 8 px on a mask of the same size: the points lie at 2 and 6, and one of them is enough."""
    mask = np.zeros((32, 32), bool)
    mask[0, 0] = mask[31, 31] = True  # the bounding box is everything
    assert tile_corners(mask, 1, (32, 32), 8).tolist() == []
    mask[8 + 6, 16 + 2] = True
    mask[16 + 4, 0 + 4] = True  # the centre alone does not count
    assert tile_corners(mask, 1, (32, 32), 8).tolist() == [[16, 8]]


def test_tiles_do_not_overlap_and_none_of_the_edge_is_dropped():
    """139 × 99 px in tiles of 24: the sixth column reaches 5 px beyond, a fifth row would have 3 px of the slide."""
    mask = np.ones((50, 70), bool)
    corners = tile_corners(mask, 2, (139, 99), 24)
    assert len(np.unique(corners, axis=0)) == len(corners) == 6 * 4
    assert (corners % 24 == 0).all()
    assert corners.max(0).tolist() == [120, 72]


def test_a_tile_beyond_the_edge_is_filled_up_with_white(slide):
    import openslide

    with openslide.open_slide(slide) as opened:
        width, height = opened.dimensions
        tile = read_tile(opened, width - 100, height - 50, 224, 224)
        inside = np.asarray(opened.read_region((width - 100, height - 50), 0, (100, 50)).convert("RGB"))
    assert (tile[:, 50:] == 1).all() and (tile[:, :, 100:] == 1).all()
    np.testing.assert_allclose(tile[:, :50, :100].permute(1, 2, 0).numpy() * 255, inside, atol=1e-3)


def test_attention_that_is_nearly_equal_looks_equal():
    nearly, sure = np.full(40, 1 / 40), np.full(40, 0.1 / 39)
    nearly[3], sure[3] = 1.1 / 40, 0.9
    colours = attention_colours(nearly / nearly.sum())
    assert np.ptp(colours, axis=0).max() < 0.05
    np.testing.assert_allclose(attention_colours(sure)[3], matplotlib.colormaps["viridis"](1.0)[:3])
    np.testing.assert_allclose(attention_colours(np.full(7, 1 / 7)), [matplotlib.colormaps["viridis"](0.5)[:3]] * 7)
    assert "hardly tells" in attention_words(nearly) and "to 36 ×." in attention_words(sure)


def test_small_pieces_and_small_holes_do_not_count():
    """One pixel of the picture is one square of 512 px: areas can be counted by hand."""
    rule = TissueRule(saturation=8, median_px=1, closing_px=1, min_area=10, min_hole=4, max_holes=1)
    tissue = np.zeros((20, 40), bool)
    tissue[2:14, 2:16] = True
    tissue[4:6, 4:6] = tissue[8:11, 4:7] = tissue[4, 10] = False  # holes of 4, 9 and 1; only the largest stays
    tissue[2:5, 20:23] = True  # a piece of 9
    picture = np.where(tissue[..., None], PINK, 250).astype(np.uint8)
    expected = np.zeros_like(tissue)
    expected[2:14, 2:16] = True
    expected[8:11, 4:7] = False
    np.testing.assert_array_equal(tissue_mask(picture, 512, rule), expected)


def test_white_and_black_are_no_tissue():
    for grey in (0, 128, 255):
        assert not tissue_mask(np.full((40, 40, 3), grey, np.uint8), 32, tissue_rule("biopsy")).any()


# seg_level, sthresh, mthresh, close, use_otsu, a_t, a_h, max_n_holes: the second lines of CLAM's presets at 53e2409, and what
# its create_patches_fp.py takes without one.
CLAM = {
    "biopsy": "-1,15,11,2,FALSE,1,1,2",
    "resection": "-1,15,11,4,FALSE,100,16,8",
    "tcga": "-1,8,7,4,FALSE,16,4,8",
    "default": "-1,8,7,4,FALSE,100,16,8",
}


def test_rules_are_the_presets_of_clam():
    assert set(TISSUE_RULES) == set(CLAM)
    for name, line in CLAM.items():
        _, saturation, median, closing, _, area, hole, num_holes = line.split(",")
        assert tissue_rule(name) == TissueRule(*(int(text) for text in (saturation, median, closing, area, hole, num_holes)))


def test_unknown_rules_are_refused():
    with pytest.raises(UserError, match="'bipsy'.*'biopsy'"):
        tissue_rule("bipsy")


def test_the_overview_of_ome_is_one_of_its_smaller_levels(tmp_path, monkeypatch):
    """OpenSlide sees full resolution alone, which would not fit into memory."""
    picture = np.where(ellipse(4)[..., None], PINK, 250).astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        options = {"photometric": "rgb", "tile": (64, 64), "compression": "zlib"}
        file.write(picture, subifds=2, metadata={"axes": "YXS"}, **options)
        for step in (4, 16):
            file.write(picture[::step, ::step], subfiletype=1, **options)
    monkeypatch.setattr(slides, "MAX_OVERVIEW_PIXELS", 1)
    opened = slides.slide_of(str(tmp_path / "a.ome.tif"))
    assert opened.level_count == 1
    overview, downsample = slides.read_overview(opened, str(tmp_path / "a.ome.tif"), 8)
    assert (overview.shape, downsample) == ((64, 96, 3), 8)
    np.testing.assert_allclose(overview.astype(int), picture[::8, ::8].astype(int), atol=160)  # pixels of the border are mixed
    assert (np.abs(overview.astype(int) - picture[4::8, 4::8]).max(2) < 3).mean() > 0.9
    opened.close()


def test_tissue_of_a_slide_is_its_ellipse(slide):
    from nnunet_dino.features.slide import read_overview, slide_of

    opened = slide_of(slide)
    overview, downsample = read_overview(opened, slide, 32)
    assert (overview.shape, downsample) == ((64, 96, 3), 32)
    found = tissue_mask(overview, downsample, tissue_rule("biopsy"))
    truth = ellipse(32)
    assert (found & truth).sum() / (found | truth).sum() > 0.93
    assert found.mean() == pytest.approx(np.pi * 1000 * 600 / (WIDTH * HEIGHT), abs=0.02)


def test_tiles_of_a_slide_are_its_pixels(slide):
    import openslide

    from nnunet_dino.features.slide import Tiling, open_slide

    source = open_slide(Item("s1", slide), Preprocessing(224), Tiling("biopsy"))
    area = np.pi * 1000 * 600 / 224**2
    assert source.num_images == pytest.approx(area, rel=0.3)
    corners = source.coordinates.numpy()
    tiles = source.images(3, 6)
    assert tiles.shape == (3, 3, 224, 224)
    with openslide.OpenSlide(slide) as opened:
        for tile, (x, y) in zip(tiles, corners[3:6].tolist(), strict=True):
            expected = np.asarray(opened.read_region((x, y), 0, (224, 224)).convert("RGB"))
            np.testing.assert_allclose(tile.permute(1, 2, 0).numpy() * 255, expected, atol=1e-3)
    source.close()


def test_resolution_may_be_asked_for(slide):
    from nnunet_dino.features.slide import Tiling, open_slide

    source = open_slide(Item("s1", slide), Preprocessing(224), Tiling("biopsy", mpp=0.5))
    assert source.facts["tile_px"] == 448
    assert source.images(0, 2).shape == (2, 3, 224, 224)
    source.close()


def test_slides_that_cannot_be_used_say_why(slide, tmp_path):
    from nnunet_dino.features.slide import Tiling, open_slide

    with pytest.raises(Unreadable, match="--tissue default.*100 squares"):
        open_slide(Item("s1", slide), Preprocessing(224), Tiling())
    (tmp_path / "x.svs").write_text("no slide")
    with pytest.raises(Unreadable, match="OpenSlide"):
        open_slide(Item("x", str(tmp_path / "x.svs")), Preprocessing(224), Tiling())
    with pytest.raises(Unreadable, match="no such file"):
        open_slide(Item("y", str(tmp_path / "y.svs")), Preprocessing(224), Tiling())
    from PIL import Image

    Image.new("RGB", (600, 600), PINK).save(tmp_path / "z.png")
    with pytest.raises(Unreadable, match="resolution for --mpp 0.5"):
        open_slide(Item("z", str(tmp_path / "z.png")), Preprocessing(224), Tiling(mpp=0.5))


@pytest.fixture
def random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(weights.ENVIRONMENT_VARIABLE, "random")


@pytest.mark.slow
def test_slides_become_bags_and_attention_is_drawn(slide, tmp_path, random_weights):
    import shutil

    for number in range(6):
        shutil.copy(slide, tmp_path / f"s{number}.tif")
    options = ["--kind", "slides", "--tissue", "biopsy", "--backbone", TINY, "--size", "224", "--device", "cpu"]
    run = CliRunner()
    result = run.invoke(main, ["extract", f"{tmp_path}/*.tif", "-o", str(tmp_path / "store"), *options])
    assert result.exit_code == 0, result.output
    store = FeatureStore(tmp_path / "store")
    bags = store.bags("mean")
    assert len({bag.features.shape for bag in bags}) == 1 and bags[0].features.shape[1] == 128
    assert bags[0].coordinates.shape == (len(bags[0].features), 2)
    (tmp_path / "labels.csv").write_text(
        "slide,who,tumour,grade,part\n"
        + "".join(f"s{i}.tif,P{i},{i % 2},{'abc'[i % 3]},{('train', 'test')[i > 3]}\n" for i in range(6))
    )
    words = ["probe", "mil", str(tmp_path / "store"), "--labels", str(tmp_path / "labels.csv"), "--patient", "who"]
    words += ["--split", "part", "--val-fraction", "0", "--patience", "0", "--epochs", "1"]
    result = run.invoke(main, [*words, "--target", "tumour", "-o", str(tmp_path / "report")])
    assert result.exit_code == 0, result.output
    from safetensors.numpy import load_file

    attention = load_file(tmp_path / "report" / "attention.safetensors")
    assert {name: len(weights) for name, weights in attention.items()} == {f"s{i}.tif": len(bags[0].features) for i in range(6)}
    assert all(weights.sum() == pytest.approx(1, abs=1e-5) for weights in attention.values())
    assert len(list((tmp_path / "report" / "pictures").glob("attention-*.png"))) == 6
    assert "Score of tumour 0." in (tmp_path / "report" / "report.md").read_text()

    result = run.invoke(main, [*words, "--target", "grade", "--aggregator", "mean", "-o", str(tmp_path / "grades")])
    assert result.exit_code == 0, result.output
    result = run.invoke(
        main, ["probe", "apply", str(tmp_path / "grades"), str(tmp_path / "store"), "-o", str(tmp_path / "new")]
    )
    assert result.exit_code == 0, result.output
    assert not list(tmp_path.glob("grades/pictures/attention*")) + list(
        tmp_path.glob("new/pictures/*")
    )  # all tiles weigh the same
    scores = np.array([[0.9, 0.1, 0.0], [0.8, 0.0, 0.2], [0.2, 0.5, 0.3], [0.1, 0.4, 0.5], [0.6, 0.3, 0.1], [1, 0, 0]])
    weights = list(attention.values())
    drawn, notes = attention_pictures(store, sorted(attention), weights, scores, "abc", "gated", 3)
    assert [picture.heading for picture in drawn] == ["s5.tif", "s2.tif", "s3.tif"] and not notes
    assert drawn[1].caption.startswith("Score of a 0.200, b 0.500, c 0.300. ")
