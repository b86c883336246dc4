"""The parts of the dense probe against libraries, formulas and grids drawn by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dense_data import DATASET, boxes, write_labelled
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score, f1_score

from nnunet_dino.backbones.adapted import RANDOM, AdaptedBackbone
from nnunet_dino.networks.slices import SliceEncoder
from nnunet_dino.probes.dense import DenseProbe
from nnunet_dino.probes.dense_cases import find_cases
from nnunet_dino.probes.dense_cells import cell_shares
from nnunet_dino.probes.dense_learners import Moments
from nnunet_dino.probes.dense_metrics import _Curve, average_precision, best_threshold
from nnunet_dino.probes.dense_options import DenseOptions


def test_a_cell_has_the_share_of_each_class_a_pixel_on_its_border_in_part() -> None:
    labels = torch.tensor([[[1, 1, 0, 2, 2], [1, 0, 0, 0, 2]]])
    shares = cell_shares(labels, [(1,), (2,), (1, 2)], (1, 2))  # cells of 2.5 pixels
    expected = [[[3 / 5, 0, 3 / 5], [0, 3 / 5, 3 / 5]]]
    torch.testing.assert_close(shares, torch.tensor([expected]))


@pytest.mark.parametrize("digits", [9, 1])
def test_average_precision_is_that_of_scikit_learn_with_and_without_ties(digits: int) -> None:
    rng = np.random.default_rng(digits)
    truth = rng.random(300) < 0.1
    scores = np.round(rng.normal(size=300) + truth, digits)
    assert average_precision(scores, truth) == pytest.approx(average_precision_score(truth, scores))
    assert np.isnan(average_precision(scores, np.zeros(300, bool)))


def test_a_patient_drawn_twice_counts_as_if_it_were_there_twice() -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat([0, 1, 2], [40, 70, 50])
    truth, scores = rng.random(160) < 0.2, np.round(rng.normal(size=160), 1)
    weights = np.array([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]])
    repeats = [weights[row].astype(int)[patients] for row in range(2)]
    expected = [average_precision_score(np.repeat(truth, times), np.repeat(scores, times)) for times in repeats]
    np.testing.assert_allclose(_Curve(scores, truth, patients, 3).area(weights), expected)


def test_the_threshold_is_the_one_of_the_largest_dice() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random(200) < 0.15
    scores = np.round(rng.normal(size=200) + truth, 1)
    best = max(f1_score(truth, scores >= threshold) for threshold in np.unique(scores))
    assert f1_score(truth, scores >= best_threshold(scores, truth)) == pytest.approx(best)
    assert best_threshold(scores, np.zeros(200, bool)) == np.inf


def test_ridge_is_that_of_scikit_learn_on_standardised_features_and_parts_subtract() -> None:
    rng = np.random.default_rng(2)
    features, truth = rng.normal(3, [1, 5, 0.1, 2], (250, 4)), rng.random((250, 3)) < 0.3
    features[:, 3] = 7  # constant
    tokens = torch.from_numpy(features.astype(np.float32))
    whole, part = Moments(tokens, truth), Moments(tokens[:100], truth[:100])
    ((weight, bias),) = whole.plus(part, -1).solve((0.03,))
    kept = features.astype(np.float32).astype(float)[100:, :3]
    model = Ridge(alpha=0.03 * 150).fit((kept - kept.mean(0)) / kept.std(0), truth[100:])
    expected = model.predict((kept - kept.mean(0)) / kept.std(0))
    np.testing.assert_allclose((tokens[100:] @ weight + bias).numpy(), expected, atol=1e-4)
    assert not weight[3].any()


@pytest.fixture
def preprocessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "rgb, num_channels, spacing_mm",
    [
        ("repeat", 1, (3.0, 1.0, 1.0)),
        ("repeat", 4, (3.0, 2.0, 1.0)),
        ("windows", 2, (3.0, 1.0, 1.0)),
        ("neighbours", 2, (3, 1, 2)),
    ],
)
def test_tokens_are_those_of_the_slice_encoder_in_a_training(
    preprocessed: Path, rgb: str, num_channels: int, spacing_mm: tuple[float, ...]
) -> None:
    write_labelled(preprocessed, num_channels=num_channels, spacing_mm=spacing_mm)
    probe = DenseProbe.open(DATASET, "3d_fullres", options=DenseOptions(rgb=rgb, blocks="all", sizes="1"))
    backbone = AdaptedBackbone("dinov3_tiny", RANDOM)
    dino, case = probe.cases.dino, probe.cases.test[0]
    network = SliceEncoder(backbone, dino.channels, dino.token_stride_px, dino.pixel_aspect, dino.rgb)
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    volume = nnUNetDatasetBlosc2(str(probe.cases.folder), [case]).load_case(case)[0][:]
    expected = torch.cat(network(torch.from_numpy(volume)[None]), dim=-1)
    slices = probe.slices(case)
    torch.testing.assert_close(probe._encoder(backbone, torch.device("cpu"))(slices), expected)
    assert slices.shares.shape[:3] == expected.shape[:3]
    assert len(dino.channels) == num_channels and dino.pixel_aspect == spacing_mm[1] / spacing_mm[2]


def test_slices_are_padded_around_the_middle_and_padding_does_not_count(preprocessed: Path) -> None:
    write_labelled(preprocessed, shape=(5, 36, 52), patch_px=(5, 64, 48))
    cases = find_cases(DATASET, "2d", "nnUNetPlans", 0, DenseOptions())
    slices = cases.read(cases.test[0])
    assert slices.images.shape == (5, 1, 64, 56)  # the patch along h, whole cells along w
    truth = boxes(int(cases.test[0][-2:]), (5, 36, 52))
    truth[:, :4, :8] = 0
    np.testing.assert_array_equal(slices.labels[:, 14:50, 2:54], truth)
    assert (slices.labels == -1).sum() == 5 * (64 * 56 - 36 * 52)
    assert slices.known[0, :, 3].tolist() == [False, False, True, True, True, True, False, False]  # rows 8-16 hold 2 of 8
    # positions are those of cells: the first of five slices, the first of eight rows, the last of seven columns
    np.testing.assert_allclose(slices.position[0, 0, 6], [-0.8, -0.875, 6 / 7], atol=1e-6)


def test_regions_share_labels_and_ignored_voxels_count_neither_way(preprocessed: Path) -> None:
    write_labelled(preprocessed, labels={"background": 0, "both": [1, 2], "box": [1], "ignore": 2})
    cases = find_cases(DATASET, "3d_fullres", "nnUNetPlans", 0, DenseOptions())
    assert cases.classes == {"both": (1, 2), "box": (1,)} and cases.ignored == 2
    slices = cases.read(cases.test[0])
    bar = cell_shares(slices.labels, [(2,)], slices.known.shape[1:])[..., 0]
    assert (bar == 1).any() and not slices.known[bar == 1].any()


def test_without_a_file_of_splits_folds_are_those_of_nnunet_and_nothing_is_written(preprocessed: Path) -> None:
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    folder = write_labelled(preprocessed, num_cases=7)
    cases = find_cases(DATASET, "3d_fullres", "nnUNetPlans", 3, DenseOptions())
    assert not (folder.parent / "splits_final.json").exists()
    trainer = SimpleNamespace(
        dataset_class=nnUNetDatasetBlosc2,
        fold=3,
        preprocessed_dataset_folder=str(folder),
        preprocessed_dataset_folder_base=str(folder.parent),
        folder_with_segs_from_previous_stage=None,
        print_to_log_file=print,
    )
    training, validation = nnUNetTrainer.do_split(trainer)
    assert (sorted(cases.training), list(cases.test)) == (sorted(training), sorted(validation))


def test_any_function_from_images_to_maps_can_be_asked(preprocessed: Path) -> None:
    write_labelled(preprocessed)
    probe = DenseProbe.open(DATASET, "3d_fullres", options=DenseOptions(sizes="4", num_rounds=20))

    def mean_grey(images: torch.Tensor) -> torch.Tensor:
        grey = torch.nn.functional.avg_pool2d(images[:, :1], 16) - 1
        return torch.cat([grey, torch.full_like(grey, 0.5), grey**2], dim=1)

    knows = probe(mean_grey)
    blind = probe(lambda images: torch.randn(len(images), 7, images.shape[2] // 16, images.shape[3] // 16))
    for method in ("linear", "k-NN"):
        good, bad = (result.score(method, 4) for result in (knows, blind))
        assert good.average_precision.value > 0.75 > 0.35 > bad.average_precision.value
        assert [label.absent for label in good.classes] == ["", "", "test"]
        assert np.isnan(good.classes[2].dice.value) and np.isfinite(good.dice.value)
    # the same drawings of patients in both
    assert knows.scores[0].rounds.shape == blind.scores[0].rounds.shape == (21,)
