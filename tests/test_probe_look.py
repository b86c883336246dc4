"""Looks at features: colours and similarities of tokens, and the picture and the page that a command writes."""

from __future__ import annotations

import base64
import itertools
import json
import re

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner, Result
from matplotlib.figure import Figure
from PIL import Image
from probe_inputs import TINY, asymmetric_volume
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity

from nnunet_dino.backbones import weights
from nnunet_dino.cli.main import main
from nnunet_dino.features.token_colours import BACKGROUND_GREY, foreground, pca_colours, similarity
from nnunet_dino.features.view_page import quantised
from nnunet_dino.features.view_png import TokenView, view_png

TOKENS = np.random.default_rng(0).normal(size=(2, 5, 7, 11)) * np.linspace(3, 0.1, 11) + 4


def look(*words: object) -> Result:
    return CliRunner().invoke(
        main, ["look", *map(str, words), "--backbone", TINY, "--device", "cpu"], env={weights.ENVIRONMENT_VARIABLE: "random"}
    )


def test_colours_are_the_principal_components_of_scikit_learn():
    expected = PCA(3).fit_transform(TOKENS.reshape(-1, 11))
    found = pca_colours(TOKENS).reshape(-1, 3)
    inside = (found > 0.001) & (found < 0.999)
    for component in range(3):
        rows = inside[:, component]
        assert abs(np.corrcoef(expected[rows, component], found[rows, component])[0, 1]) > 1 - 1e-9
    assert (found.min(), found.max()) == (0, 1)
    assert 0.9 < inside.mean() < 1, "one percent at either end is cut off"


def test_tokens_that_are_left_out_change_no_colour():
    chosen = np.zeros(TOKENS.shape[:-1], bool)
    chosen[:, 1:4, 2:6] = True
    other = np.where(chosen[..., None], TOKENS, 1000.0)
    np.testing.assert_array_equal(pca_colours(other, chosen), pca_colours(TOKENS, chosen))
    np.testing.assert_array_equal(pca_colours(TOKENS, chosen)[chosen], pca_colours(TOKENS[:, 1:4, 2:6]).reshape(-1, 3))
    assert (pca_colours(TOKENS, chosen)[~chosen] == BACKGROUND_GREY).all()


def test_the_sign_does_not_depend_on_chance():
    turned = np.concatenate([TOKENS[:, ::-1]])
    np.testing.assert_allclose(pca_colours(turned), pca_colours(TOKENS)[:, ::-1], atol=1e-9)


def test_equal_tokens_have_one_colour():
    assert np.isfinite(pca_colours(np.ones((1, 3, 4, 6)))).all()


def test_similarity_is_the_cosine():
    expected = cosine_similarity(TOKENS.reshape(-1, 11), TOKENS[1, 2, 3][None]).reshape(2, 5, 7)
    np.testing.assert_allclose(similarity(TOKENS, (1, 2, 3)), expected, atol=1e-12)


def test_whole_numbers_keep_cosines():
    tokens = np.random.default_rng(1).normal(size=(1, 4, 4, 384))
    error = similarity(quantised(tokens).astype(float), (0, 1, 2)) - similarity(tokens, (0, 1, 2))
    assert np.abs(error).max() < 0.005


@pytest.mark.parametrize("air", [0.0, 0.23])
def test_air_around_a_body_is_background_and_lungs_are_not(air):
    """Padding above and below, half a token of it in rows 1 and 8; a body with a dark hole."""
    picture = np.full((1, 160, 192, 3), air)
    picture[:, :24] = picture[:, 136:] = 0
    picture[:, 48:112, 32:160] = 0.8
    picture[:, 64:80, 64:96] = air
    shown = np.zeros((10, 12), bool)
    shown[1:9] = True
    body = np.zeros((1, 10, 12), bool)
    body[:, 3:7, 2:10] = True
    np.testing.assert_array_equal(foreground(picture, shown), body)


def test_an_image_without_contrast_is_foreground_where_it_is_shown():
    shown = np.zeros((3, 4), bool)
    shown[1] = True
    np.testing.assert_array_equal(foreground(np.zeros((2, 48, 64, 3)), shown), np.broadcast_to(shown, (2, 3, 4)))


@pytest.mark.parametrize("place", [None, (0, 1, 2)])
def test_headings_lie_inside_the_picture(monkeypatch, place):
    """Long names without spaces, in the narrowest picture and in the widest."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (figures.append(figure), save(figure, *a, **k)))
    name = f"{'very_long_name_of_a_case_' * 6}.nii.gz"
    shown = np.ones((5, 7), bool)
    view_png(TokenView(f"{name}: tokens", ["A note. " * 9], [name], np.ones((1, 80, 112, 3)), TOKENS[:1], shown), place)
    (figure,) = figures
    figure.canvas.draw()
    texts = [figure._suptitle, *(axis.title for axis in figure.axes)]
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in boxes)
    titles = sorted((axis.title.get_window_extent() for axis in figure.axes if axis.get_title()), key=lambda box: box.x0)
    assert all(one.x1 <= two.x0 for one, two in itertools.pairwise(titles))


@pytest.fixture(scope="module")
def volume(tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("look") / "ct.nii.gz")
    sitk.WriteImage(asymmetric_volume(), path)
    return path


def test_a_pixel_that_the_crop_cuts_off_is_refused(tmp_path):
    Image.fromarray(np.zeros((20, 40), np.uint8)).save(tmp_path / "wide.png")
    result = look(tmp_path / "wide.png", "-o", tmp_path / "x.png", "--at", "3,9", "--fit", "crop")
    assert result.exit_code == 2 and "got 3,9, which --fit crop cuts off" in result.stderr
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(("pixels", "edge"), [((20, 30), 48), ((900, 500), 57), ((1500, 400), 64)])
def test_the_grid_follows_the_image(tmp_path, pixels, edge):
    """Never fewer than 48 tokens along the longer side, never more than 64, else as many pixels as the image has."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, pixels, dtype=np.uint8)).save(tmp_path / "x.png")
    result = look(tmp_path / "x.png", "-o", tmp_path / "x.html")
    assert result.exit_code == 0, result.output
    assert data_of((tmp_path / "x.html").read_text(encoding="utf-8"))["shape"] == [1, edge, edge, 128]


def data_of(page: str) -> dict:
    return json.loads(re.search(r"^const data = (.*);$", page, re.MULTILINE)[1])


def test_a_page_needs_no_other_file_and_starts_at_the_pixel_asked_for(volume, tmp_path):
    result = look(volume, "-o", tmp_path / "x.html", "--plane", "coronal", "--slice", 2, "--at", "13,0", "--size", 224)
    assert result.exit_code == 0, result.output
    page = (tmp_path / "x.html").read_text(encoding="utf-8")
    data = data_of(page)
    # 6 × 14 pixels of 2.5 × 1 mm are 15 × 14 mm, so 224 × 209 px with 7 px of padding on the left.
    # The middle of the uppermost pixel in the last column lies at 0.5 / 6 · 224 = 19 px and 7 + 13.5 / 14 · 209 = 209 px.
    assert (data["shape"], data["place"]) == ([1, 14, 14, 128], [0, 19 // 16, 209 // 16])
    assert len(base64.b64decode(data["tokens"])) == 14 * 14 * 128
    assert "coronal slice 2 of 10" in page and "random" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)


@pytest.mark.slow
def test_a_picture_of_slices(volume, tmp_path):
    result = look(volume, "-o", tmp_path / "new" / "x.png", "--slice", 1, "--slice", 4, "--at", "3,4", "--size", 64)
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "new" / "x.png") as picture:
        width, height = picture.size
    assert 1.7 < width / height < 2.1, "two rows of four panels"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "x.jpg"], "'x.jpg'"),
        (["-o", ""], "-o: required a file ending in .png or .html · got '.'"),
        (["-o", "FILE/x.png"], "a file in a folder · got .*x.png"),
        (["-o", "x.png", "--at", "3"], "--at.*'3'"),
        (["-o", "x.png", "--at", "14,0"], "0,0 to 13,9 · got 14,0"),
        (["-o", "x.png", "--slice", "6"], "0 to 5 · got 6"),
        (["-o", "x.png", "--size", "100"], "multiple of 16 · got 100"),
        (["-o", "x.png", "--plane", "top"], "'top'"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(volume, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").touch()
    result = look(volume, *words)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.output
    assert re.search(said, result.stderr), result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["FILE"]


def test_letters_of_the_patient_stand_at_the_edges(tmp_path):
    """Axial: right on the left, front on top. A picture has no letters."""
    sitk.WriteImage(asymmetric_volume(), str(tmp_path / "v.nii.gz"))
    Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(tmp_path / "p.png")
    for words, letters in ((["v.nii.gz"], "RALP"), (["v.nii.gz", "--plane", "sagittal"], "ASPI"), (["p.png"], "")):
        result = look(tmp_path / words[0], *words[1:], "--size", 32, "-o", tmp_path / "look.html")
        assert result.exit_code == 0, result.output
        page = (tmp_path / "look.html").read_text()
        found = re.findall(r'<span class="(?:left|top|right|bottom)">(.)</span>', page)
        assert "".join(found) == letters
        assert page.count('<canvas class="tokens" tabindex="0"') == 1
