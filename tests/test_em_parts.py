"""Targets, loss, fragments, agglomeration and scores of neurons, against other libraries, formulas and hand-made volumes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nnunet_dino._errors import UserError
from nnunet_dino.em import (
    LONG_RANGE,
    NEAREST,
    WeightedMSE,
    affinities_of,
    agglomerate,
    balanced_weights,
    fragments_of,
    neurons_of,
    renumbered,
    score_neurons,
    widen_borders,
)
from nnunet_dino.em import fragments as fragments_module
from nnunet_dino.em.blocks import _blocks

TWO_ROWS = 2


def toy(row: str) -> NDArray[np.int64]:
    """Two rows of four voxels, given as their digits."""
    return np.array([[[int(digit) for digit in row]] * TWO_ROWS])


def cells(seed: int, shape: tuple[int, int, int], num_cells: int = 12, step: float = 1) -> NDArray[np.int64]:
    """Cells around random points: every voxel has the id of the nearest; sections are ``step`` pixels thick."""
    random = np.random.default_rng(seed)
    points = random.uniform(0, shape, (num_cells, 3))
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    grid = grid * [step, 1, 1]
    points[:, 0] *= step
    return np.linalg.norm(grid[..., None, :] - points, axis=-1).argmin(-1) + 1


# -- scores ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("truth", "found", "split", "merge", "arand", "arand_cremi"),
    [
        ("1122", "7733", 0, 0, 0, 0),
        ("1122", "1322", 0.5, 0, 0.2, 0.142857),
        ("1122", "1111", 0, 1, 0.4, 0.333333),
        ("0122", "7112", 0.666667, 0.666667, 0.571429, 0.4),
    ],
)
def test_scores_of_eight_voxels(truth: str, found: str, split: float, merge: float, arand: float, arand_cremi: float) -> None:
    scores = score_neurons(toy(truth), toy(found))
    values = (scores.voi_split, scores.voi_merge, scores.arand, scores.arand_cremi)
    assert values == pytest.approx((split, merge, arand, arand_cremi), abs=1e-6)
    assert scores.voi_sum == pytest.approx(split + merge, abs=1e-6)


def test_singletons_have_no_pair_right() -> None:
    scores = score_neurons(toy("1122"), np.arange(1, 9).reshape(1, 2, 4))
    assert (scores.voi_split, scores.arand, scores.arand_cremi) == pytest.approx((2, 1, 0.6))


@pytest.mark.parametrize("has_zeros", [False, True])
def test_scores_are_those_of_other_libraries(has_zeros: bool) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    waterz = pytest.importorskip("waterz")
    truth, found = cells(0, (6, 30, 40)), cells(1, (6, 30, 40), 9) * 1000
    if has_zeros:
        truth[:, :5], found[:, :, :4] = 0, 0
    scores = score_neurons(truth, found)
    split, merge = metrics.variation_of_information(truth, found, ignore_labels=(0,))
    assert (scores.voi_split, scores.voi_merge) == pytest.approx((split, merge), abs=1e-12)
    assert scores.arand == pytest.approx(metrics.adapted_rand_error(truth, found, ignore_labels=(0,))[0], abs=1e-12)
    if not has_zeros:
        theirs = waterz.evaluate(found.astype(np.uint64), truth.astype(np.uint64))
        rand = 2 * theirs["rand_split"] * theirs["rand_merge"] / (theirs["rand_split"] + theirs["rand_merge"])
        assert scores.arand_cremi == pytest.approx(1 - rand, abs=1e-9)


def test_cremis_error_is_its_formula_where_the_segmentation_has_zeros() -> None:
    """A literal reading: voxels of segment 0 are segments of one voxel each."""
    truth, found = toy("1122"), toy("0113")
    apart = found.copy()
    apart[found == 0] = 100 + np.arange((found == 0).sum())
    n = np.array([[((truth == i) & (apart == j)).sum() for j in np.unique(apart)] for i in np.unique(truth)], dtype=float)
    expected = 1 - 2 * (n**2).sum() / ((n.sum(0) ** 2).sum() + (n.sum(1) ** 2).sum())
    assert score_neurons(truth, found).arand_cremi == pytest.approx(expected)


def test_ids_may_be_large() -> None:
    assert score_neurons(toy("1122").astype(np.uint64) << np.uint64(40), toy("3344")).voi_sum == 0


def test_scores_refuse_other_shapes_and_no_truth() -> None:
    with pytest.raises(UserError, match=r"one shape · got \(1, 2, 4\) and \(2, 1, 4\)"):
        score_neurons(toy("1122"), toy("1122").transpose(1, 0, 2))
    with pytest.raises(UserError, match="got only 0"):
        score_neurons(toy("0000"), toy("1122"))


# -- targets and loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offsets", [NEAREST, LONG_RANGE])
def test_affinities_are_those_of_another_library(offsets: tuple) -> None:
    theirs = pytest.importorskip("bioimage_cpp.affinities")
    ids = cells(2, (6, 31, 40))
    ids[:, 4:7, 8:12] = 0
    expected, is_inside = theirs.compute_affinities(ids, offsets, ignore_label=0)
    made = affinities_of(torch.from_numpy(ids), offsets).numpy()
    compared = is_inside.astype(bool)
    assert compared.any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(made[compared], expected[compared])


def test_without_a_neighbour_an_affinity_says_whether_there_is_a_neuron() -> None:
    ids = torch.tensor([[[0, 3, 3], [3, 3, 0]], [[3, 3, 4], [0, 0, 4]]])
    made = affinities_of(ids)
    assert made[0, 0].tolist() == [[0, 1, 1], [1, 1, 0]]
    assert made[1, :, 0].tolist() == [[0, 1, 1], [1, 1, 1]]
    assert made[2, :, :, 0].tolist() == [[0, 1], [1, 0]]
    assert made[0, 1].tolist() == [[0, 1, 0], [0, 0, 0]]  # a pair of background is no pair
    assert made[2, 0].tolist() == [[0, 0, 1], [1, 1, 0]]


def test_what_is_not_known_has_no_affinity_and_no_weight() -> None:
    ids = torch.tensor([[[-1, 1, 1, 2]]])
    assert affinities_of(ids)[2].tolist() == [[[-1, -1, 1, 0]]]
    assert (balanced_weights(affinities_of(ids)) > 0).tolist() == (affinities_of(ids) >= 0).tolist()


def test_borders_are_widened_in_their_section() -> None:
    ids = torch.tensor([[[1, 1, 1, 2, 2, 2], [1, 1, 1, 2, 2, 0]], [[5] * 6, [5] * 6]])
    assert widen_borders(ids).tolist() == [[[1, 1, 0, 0, 2, 2], [1, 1, 0, 0, 2, 0]], [[5] * 6, [5] * 6]]


def test_both_kinds_of_pairs_weigh_the_same() -> None:
    affinities = torch.ones(3, 4, 4, 4)
    affinities.view(-1)[:48] = 0
    weights = balanced_weights(affinities)
    assert weights.unique().tolist() == [1, 3]
    assert weights[affinities > 0].sum() == weights[affinities == 0].sum() == 144
    assert (balanced_weights(torch.ones(3, 2, 4, 5)) == 1).all()


def test_the_loss_is_summed_over_channels() -> None:
    affinities = torch.ones(1, 3, 4, 4, 4)
    affinities.view(-1)[:48] = 0
    assert WeightedMSE()(torch.zeros(1, 3, 4, 4, 4), affinities).item() == pytest.approx(1.125)


# -- fragments and agglomeration -----------------------------------------------------------------------------------------------


def noisy(ids: NDArray[np.int64], sigma: float = 0.15) -> NDArray[np.float32]:
    """Affinities of ids, blurred by noise."""
    affinities = affinities_of(torch.from_numpy(ids)).numpy()
    return np.clip(affinities + np.random.default_rng(3).normal(0, sigma, affinities.shape), 0, 1).astype(np.float32)


@pytest.mark.parametrize("per_section", [True, False])
def test_fragments_fill_the_volume(per_section: bool) -> None:
    pytest.importorskip("mahotas")
    fragments = fragments_of(noisy(cells(4, (5, 30, 40))), per_section)
    assert fragments.min() > 0
    sections = [set(np.unique(section)) for section in fragments]
    assert all(not a & b for a, b in pairwise(sections))
    assert all(len(section) > 1 for section in sections)


def test_where_sections_are_thin_a_neurite_of_one_voxel_is_a_fragment() -> None:
    pytest.importorskip("mahotas")
    ids = np.ones((70, 9, 11), np.int64)
    ids[:, 4, 6] = 2
    neurons = neurons_of(affinities_of(torch.from_numpy(ids)).numpy().astype(np.float32), per_section=False)
    assert score_neurons(ids, neurons).voi_sum == 0


def test_where_sections_are_thin_single_voxels_go_to_their_neighbours() -> None:
    pytest.importorskip("mahotas")
    ids = np.ones((6, 12, 20), np.int64)
    ids[:, :, 9:] = 2
    affinities = affinities_of(torch.from_numpy(ids)).numpy().astype(np.float32)
    affinities[2, 3, 5, 14:16] = affinities[1, 3, 5:7, 14] = affinities[0, 3:5, 5, 14] = 0.1
    affinities[2, 3, 5:7, 15] = 0.1  # two voxels that hold together, and to nothing else
    affinities[1, 3, 7, 14] = affinities[2, 3, 6, 14] = affinities[0, 3:5, 6, 14] = 0.1
    affinities[1, 3, 6, 14] = 0.9
    assert score_neurons(ids, neurons_of(affinities, per_section=False)).voi_sum == 0


@pytest.mark.parametrize(("first", "taker"), [(0.2, 2), (0.35, 1)])
def test_dust_goes_where_the_highest_affinities_lead(first: float, taker: int) -> None:
    neurons = np.repeat([[[1] * 5 + [3, 4] + [2] * 5]], 8, axis=1).repeat(2, axis=0)
    affinities = np.ones((3, *neurons.shape), np.float32)
    for column, affinity in ((5, first), (6, 0.4), (7, 0.3)):  # dust holds together at 0.4, and to its neighbours less
        affinities[2, :, :, column] = affinity
    assert fragments_module.without_dust(neurons, affinities)[1, 3].tolist() == [1] * 5 + [taker] * 2 + [2] * 5


def test_seeds_are_those_of_scikit_image() -> None:
    morphology = pytest.importorskip("skimage.morphology")
    from scipy.ndimage import distance_transform_edt, label

    affinities = noisy(cells(5, (2, 60, 70), 20), 0.1)
    for section, fragments in zip(affinities.transpose(1, 0, 2, 3), fragments_of(affinities, per_section=True), strict=True):
        is_inside = 1 - (section[1] + section[2]) / 2 < 0.5
        squared = np.round(distance_transform_edt(is_inside) ** 2).astype(int)
        maxima = morphology.local_maxima(squared, connectivity=1) & is_inside
        assert len(np.unique(fragments)) == label(maxima)[1]


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("per_section", [True, False])
def test_a_constant_network_gives_neurons_of_all_or_one_section(value: float, per_section: bool) -> None:
    neurons = neurons_of(np.full((3, 4, 10, 12), value, np.float32), per_section)
    assert neurons.min() == 1
    assert neurons.max() == (4 if per_section and value < 0.5 else neurons.max())
    assert neurons.max() <= neurons.size


def four_fragments() -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
    """A row of four fragments; the affinities between neighbours are 0.9, 0.2 and 0.7."""
    fragments = np.repeat(np.arange(1, 5, dtype=np.uint64), 3)[None, None].repeat(4, axis=1)
    affinities = np.ones((3, 1, 4, 12), np.float32)
    for place, affinity in ((3, 0.9), (6, 0.2), (9, 0.7)):
        affinities[2, :, :, place] = affinity
    return affinities, fragments


@pytest.mark.parametrize(("threshold", "expected"), [(0.05, 4), (0.2, 3), (0.5, 2), (0.9, 1)])
def test_four_fragments_are_joined_where_affinities_are_high(threshold: float, expected: int) -> None:
    affinities, fragments = four_fragments()
    before = fragments.copy()
    joined = agglomerate(affinities, fragments, threshold)
    assert len(np.unique(joined)) == expected
    assert (fragments == before).all()


def test_agglomeration_says_nothing_and_repeats_itself(capfd: pytest.CaptureFixture[str]) -> None:
    affinities = noisy(cells(6, (5, 30, 40)))
    first, second = neurons_of(affinities, True), neurons_of(affinities, True)
    assert (first == second).all()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("per_section", [True, False])
def test_true_affinities_give_the_true_cells(per_section: bool) -> None:
    ids = cells(7, (12, 96, 104), 7, 0.2 if per_section else 1)
    target = widen_borders(torch.from_numpy(ids)) if per_section else torch.from_numpy(ids)
    scores = score_neurons(ids, neurons_of(affinities_of(target).numpy(), per_section))
    assert scores.voi_sum < 0.2
    assert scores.arand < 0.02


@pytest.mark.parametrize("per_section", [True, False])
def test_a_volume_cut_in_blocks_is_nearly_the_volume_cut_as_a_whole(per_section: bool) -> None:
    ids = cells(8, (20, 96, 104), 16, 0.3)
    affinities = noisy(ids, 0.1)
    whole = neurons_of(affinities, per_section)
    np.testing.assert_array_equal(neurons_of(affinities, per_section, block=(20, 96, 104)), whole)
    blocks = neurons_of(affinities, per_section, block=(20, 64, 64))
    assert set(np.unique(blocks)) == set(range(1, blocks.max() + 1))
    assert score_neurons(whole, blocks).voi_sum < 0.1


@pytest.mark.parametrize("shape", [(7, 8, 8), (8, 16, 23), (9, 15, 64)])
def test_blocks_cover_a_volume_and_overlap(shape: tuple[int, int, int]) -> None:
    covered = np.zeros(shape, int)
    for place in _blocks(shape, (8, 16, 16)):
        assert all(0 < covered[place].shape[axis] <= (8, 16, 16)[axis] for axis in range(3))
        covered[place] += 1
    assert covered.min() == 1
    assert (covered.max() > 1) == any(size > edge for size, edge in zip(shape, (8, 16, 16), strict=True))


def test_new_numbers_leave_no_gap() -> None:
    assert renumbered(np.array([7, 0, 2**40, 7])).tolist() == [1, 0, 2, 1]
    assert renumbered(np.array([7, 2**40, 7])).tolist() == [1, 2, 1]


def test_a_threshold_is_a_share() -> None:
    with pytest.raises(UserError, match=r"from 0 to 1 · got 1\.5"):
        agglomerate(*four_fragments(), 1.5)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mahotas", None)
    with pytest.raises(UserError, match=r"mahotas .* pip install 'nnunet-dino\[em\]'"):
        fragments_module.fragments_of(np.ones((3, 2, 4, 5), np.float32), True)


@pytest.mark.realdata
def test_true_affinities_give_the_true_neurons_of_fib25(shared_data: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(shared_data / "em_fib25" / "fib25.h5") as file:
        ids = file["neuron_ids"][130:].astype(np.int64)
    scores = score_neurons(ids, neurons_of(affinities_of(torch.from_numpy(ids)).numpy(), per_section=False))
    assert scores.voi_sum < 0.2
    assert scores.arand < 0.02
