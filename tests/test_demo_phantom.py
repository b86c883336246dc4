"""The phantom: geometry against formulas, intensities, and files as other software reads them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_dino.demo.dataset import write_dataset
from nnunet_dino.demo.phantom import (
    BODY_HU,
    LABELS,
    NOISE_HU,
    ORGAN_HU,
    SHAPE,
    STRIPE_PERIOD_MM,
    TEXTURE_HU,
    Ellipsoid,
    Phantom,
    Tube,
    make_phantom,
)

NUM_PHANTOMS = 6


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    return [make_phantom(3, index) for index in range(NUM_PHANTOMS)]


def interior(phantom: Phantom, label: int) -> NDArray[np.bool_]:
    """Voxels all of whose neighbours have the same label."""
    return ndimage.binary_erosion(phantom.labels == label, np.ones((3, 3, 3)))


def grid_mm(shape: tuple[int, int, int], step_mm: float) -> NDArray[np.float64]:
    axes = [(np.arange(size) + 0.5) * step_mm - size * step_mm / 2 for size in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


@pytest.mark.slow
def test_the_same_arguments_give_the_same_scan_and_others_another() -> None:
    first, again = make_phantom(3, 1), make_phantom(3, 1)
    np.testing.assert_array_equal(first.image_hu, again.image_hu)
    np.testing.assert_array_equal(first.labels, again.labels)
    for seed, index in ((3, 2), (4, 1), (1, 3)):
        assert not np.array_equal(first.labels, make_phantom(seed, index).labels)


def test_size_and_type(phantoms: list[Phantom]) -> None:
    assert phantoms[0].image_hu.shape == phantoms[0].labels.shape == SHAPE
    assert (phantoms[0].image_hu.dtype, phantoms[0].labels.dtype) == (np.int16, np.uint8)
    small = make_phantom(3, 0, (8, 40, 48), (3.0, 1.0, 1.2))
    assert small.image_hu.shape == small.labels.shape == (8, 40, 48)
    assert small.spacing_mm == (3.0, 1.0, 1.2)


def test_every_organ_is_there_in_one_piece_inside_the_body(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        for label in list(LABELS.values())[1:]:
            _, num_pieces = ndimage.label(phantom.labels == label, np.ones((3, 3, 3)))
            assert num_pieces == 1
        around = ndimage.binary_dilation(phantom.labels > 0, np.ones((1, 3, 3)))
        assert phantom.image_hu[around].min() > -500


def test_organs_do_not_touch_in_a_slice(phantoms: list[Phantom]) -> None:
    for phantom, (one, other) in itertools.product(phantoms, itertools.combinations(range(1, 5), 2)):
        beside = ndimage.binary_dilation(
            phantom.labels == one, ndimage.generate_binary_structure(3, 1) & [[[False]], [[True]], [[False]]]
        )
        assert not (beside & (phantom.labels == other)).any()


def test_all_organs_have_the_same_mean_intensity(phantoms: list[Phantom]) -> None:
    for label in list(LABELS.values())[1:]:
        values = np.concatenate([phantom.image_hu[interior(phantom, label)] for phantom in phantoms])
        assert values.mean() == pytest.approx(ORGAN_HU, abs=0.1 * (ORGAN_HU - BODY_HU))


def test_texture_tells_two_organs_from_the_two_smooth_ones(phantoms: list[Phantom]) -> None:
    spread = {
        name: np.concatenate([phantom.image_hu[interior(phantom, label)] for phantom in phantoms]).std()
        for name, label in LABELS.items()
    }
    assert spread["ellipsoid"] == pytest.approx(NOISE_HU, rel=0.15)
    assert spread["tube"] == pytest.approx(NOISE_HU, rel=0.25)
    assert spread["spots"] > 2 * NOISE_HU
    assert spread["stripes"] > 2 * NOISE_HU


def test_stripes_have_their_period() -> None:
    """The strongest frequency of the striped organ in the plane, away from zero, is one over the period."""
    phantom = make_phantom(3, 0, (8, 128, 128), (3.0, 1.0, 1.0))
    striped = phantom.labels == LABELS["stripes"]
    section = striped.sum((1, 2)).argmax()
    values = np.where(striped[section], phantom.image_hu[section] - ORGAN_HU, 0.0)
    spectrum = np.abs(np.fft.fft2(values))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
    spectrum[frequency < 0.1] = 0
    assert 1 / frequency.flat[spectrum.argmax()] == pytest.approx(STRIPE_PERIOD_MM, rel=0.1)
    assert TEXTURE_HU > NOISE_HU


def test_surfaces_show_the_partial_volume_effect(phantoms: list[Phantom]) -> None:
    """Voxels half air and half body are neither: without the effect no value lies far from both."""
    values = phantoms[0].image_hu[phantoms[0].labels == 0]
    between = (values > -1000 + 5 * NOISE_HU) & (values < BODY_HU - 5 * NOISE_HU)
    assert between.sum() > 500


def test_an_ellipsoid_has_the_volume_of_the_formula() -> None:
    points = grid_mm((40, 60, 80), 0.5)
    organ = Ellipsoid(np.array([1.0, -2.0, 3.0]), np.array([5.0, 7.0, 9.0]))
    for margin in (0.0, 1.5):
        volume = organ.contains(points, margin).sum() * 0.5**3
        assert volume == pytest.approx(4 / 3 * np.pi * (5 + margin) * (7 + margin) * (9 + margin), rel=0.01)
    centre = points[:, organ.contains(points)].mean(1)
    np.testing.assert_allclose(centre, [1, -2, 3], atol=0.05)


def test_a_tube_has_the_volume_of_a_cylinder_and_swings() -> None:
    """Shifting every section of a cylinder leaves its volume as it was (Cavalieri)."""
    points = grid_mm((80, 60, 70), 0.5)
    organ = Tube(np.array([0.0, 1.0, 2.0]), radius_mm=4.0, length_mm=32.0, swing_mm=np.array([3.0, -5.0]), wavelength_mm=32.0)
    inside = organ.contains(points)
    assert inside.sum() * 0.5**3 == pytest.approx(np.pi * 4**2 * 32, rel=0.02)
    quarter = points[0, :, 0, 0].searchsorted(8.0)
    np.testing.assert_allclose(points[1:, quarter][:, inside[quarter]].mean(1), [1 + 3, 2 - 5], atol=0.1)


def test_files_lie_where_nnunet_looks_for_them_and_keep_the_geometry(tmp_path: Path) -> None:
    shape, spacing_mm = (8, 40, 48), (3.0, 1.0, 1.25)
    names = list(write_dataset(tmp_path, 3, 2, seed=5, shape=shape, spacing_mm=spacing_mm))
    assert names == [f"phantom_{index:03d}" for index in range(5)]
    assert {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()} == {
        "dataset.json",
        *(f"images{part}/{name}_0000.nii.gz" for part, some in (("Tr", names[:3]), ("Ts", names[3:])) for name in some),
        *(f"labels{part}/{name}.nii.gz" for part, some in (("Tr", names[:3]), ("Ts", names[3:])) for name in some),
    }
    description = json.loads((tmp_path / "dataset.json").read_text())
    assert (description["channel_names"], description["numTraining"]) == ({"0": "CT"}, 3)
    assert description["labels"] == LABELS

    phantom = make_phantom(5, 1, shape, spacing_mm)
    file = tmp_path / "imagesTr" / f"{names[1]}_0000.nii.gz"
    image, label = sitk.ReadImage(str(file)), sitk.ReadImage(str(tmp_path / "labelsTr" / f"{names[1]}.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), phantom.image_hu)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label), phantom.labels)
    assert image.GetSpacing() == label.GetSpacing() == pytest.approx((1.25, 1.0, 3.0))

    # nibabel counts towards right, front and head; DICOM's and SimpleITK's first two axes point the other way.
    other = nibabel.load(file)
    np.testing.assert_allclose(other.affine[:3, :3], np.diag([-1.25, -1.0, 3.0]), atol=1e-6)
    np.testing.assert_allclose(nibabel.affines.apply_affine(other.affine, (np.array(shape[::-1]) - 1) / 2), 0, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(other.dataobj), phantom.image_hu.transpose(2, 1, 0))
