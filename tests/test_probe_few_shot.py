"""Few-shot curves, the sweep of learning rates, logistic regression to convergence, calibration."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from probe_inputs import TINY, write_labels, write_pictures
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score

from nnunet_dino._errors import UserError
from nnunet_dino.backbones import weights
from nnunet_dino.cli.main import main
from nnunet_dino.features.encoder import FrozenEncoder
from nnunet_dino.features.store.reader import FeatureStore
from nnunet_dino.probes.evaluation import Evaluation
from nnunet_dino.probes.few_shot import check_shots, draw
from nnunet_dino.probes.labels import Labelled
from nnunet_dino.probes.logistic import fit_logistic
from nnunet_dino.probes.metrics import compute_metrics
from nnunet_dino.probes.options import FewShotOptions
from nnunet_dino.probes.roc_plot import _draw, calibration
from nnunet_dino.reports.plot import LIGHT


def labelled(classes: np.ndarray, patients: np.ndarray, num_train: int) -> Labelled:
    split = np.where(np.arange(len(classes)) < num_train, "train", "test")
    return Labelled(list(map(str, range(len(classes)))), patients, ("x",), classes[:, None], False, split)


def test_few_are_drawn_per_class_and_of_many_patients():
    classes = np.arange(60) % 2
    labels = labelled(classes, np.array([f"P{i // 12}" for i in range(60)]), 48)  # four patients in train
    for number in (1, 4, 7):
        chosen = draw(labels, str(number), 3)
        assert np.bincount(classes[chosen]).tolist() == [number, number] and chosen.max() < 48
        for one in (0, 1):
            assert len(set(labels.patients[chosen[classes[chosen] == one]])) == min(number, 4)
    assert draw(labels, "4", 3).tolist() != draw(labels, "4", 4).tolist()
    assert draw(labels, "all", 0).tolist() == list(range(48))
    with pytest.raises(UserError, match="--shots.*at most the 24.*got 25"):
        check_shots(labels, FewShotOptions("1,25"))
    with pytest.raises(UserError, match="--shots.*'1,x'"):
        FewShotOptions("1,x,all")


def test_logistic_regression_is_at_the_minimum():
    """The gradient of the loss in the docstring is zero, one label after the other and of exclusive classes."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(90, 7))
    classes = (features[:, 0] + generator.normal(size=90) > 0).astype(int) + (features[:, 1] > 0.5)
    targets = np.eye(3)[classes]
    for is_exclusive in (False, True):
        weight, bias = fit_logistic(features, targets, is_exclusive, l2=3.0)
        logits = features @ weight.T + bias
        exponents = np.exp(logits - logits.max(1, keepdims=True))
        scores = exponents / exponents.sum(1, keepdims=True) if is_exclusive else 1 / (1 + np.exp(-logits))
        assert np.abs((scores - targets).T @ features + 3.0 * weight).max() < 0.05
        assert np.abs((scores - targets).sum(0)).max() < 0.05


def test_two_exclusive_classes_of_three_are_fitted():
    features = np.linspace(-2, 2, 20)[:, None]
    weight, bias = fit_logistic(features, np.eye(3)[(features[:, 0] > 0).astype(int)], True, 1.0)
    logits = features @ weight.T + bias
    assert (logits.argmax(1) == (features[:, 0] > 0)).all() and logits[:, 2].max() < logits[:, :2].max(1).min()


@pytest.mark.parametrize("num_labels", [1, 2, 3, 8, 20])
def test_no_title_of_a_plot_is_cut_off(num_labels):
    targets = np.tile(np.eye(2), (10, num_labels))[:, :num_labels]
    names, patients = tuple(f"label {number}" for number in range(num_labels)), np.arange(20)
    metrics = compute_metrics(names, targets, targets * 0.5, patients, np.full(num_labels, 0.5), num_rounds=2)
    figure = _draw(Evaluation("test", targets, targets * 0.5, metrics, []), list(enumerate(metrics.labels)), LIGHT)
    figure.savefig(io.BytesIO(), format="svg")
    assert figure.axes[0].get_tightbbox().y1 < figure.bbox.y1


def test_calibration_is_that_of_scikit_learn():
    generator = np.random.default_rng(1)
    scores = generator.uniform(size=200)
    targets = (generator.uniform(size=200) < scores**2).astype(int)
    true, said = calibration_curve(targets, scores, n_bins=10, strategy="quantile")
    mine = calibration(targets, scores)
    np.testing.assert_allclose(mine[0], said, atol=1e-9)
    np.testing.assert_allclose(mine[1], true, atol=1e-9)
    assert len(calibration(targets[:12], scores[:12])[0]) == 2


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shots")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(weights.ENVIRONMENT_VARIABLE, "random")
        names = write_pictures(folder / "in", 60)
        write_labels(folder / "labels.csv", names)
        words = ["extract", str(folder / "in"), "-o", str(folder / "store"), "--backbone", TINY, "--size", "32"]
        result = CliRunner().invoke(main, [*words, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    return folder


def probe(folder, output: str, *more: str, features: str = "store"):
    words = ["probe", "linear", str(folder / features), "--labels", str(folder / "labels.csv"), "--target", "bright"]
    words += ["--patient", "who", "--device", "cpu", "--rounds", "10", "--fractions", "0.5,0.2,0.3", "--threshold", "0.5"]
    return CliRunner().invoke(main, [*words, "-o", str(folder / output), *more])


def test_a_curve_ends_at_the_probe_itself(store):
    result = probe(store, "curve", "--shots", "1,5,all", "--draws", "3")
    assert result.exit_code == 0, result.output
    found = json.loads((store / "curve/report.json").read_text())
    assert [(one["shots"], one["num_train"], len(one["areas"])) for one in found["few_shot"]][:2] == [("1", 2, 3), ("5", 10, 3)]
    table = pd.read_csv(store / "curve/predictions.csv")
    test = table[table["split"] == "test"]
    assert found["few_shot"][2]["areas"] == [pytest.approx(roc_auc_score(test["bright"], test["score bright"]))]
    assert "Few examples" in (store / "curve/report.html").read_text()


@pytest.mark.slow
def test_a_curve_of_folds_ends_at_the_mean_over_folds(store):
    result = probe(store, "folds", "--shots", "2,all", "--draws", "3", "--folds", "4", "--repeats", "2")
    assert result.exit_code == 0, result.output
    found = json.loads((store / "folds/report.json").read_text())
    two, all_of_them = (one["areas"] for one in found["few_shot"])
    assert (len(two), len(all_of_them)) == (3 * 4 * 2, 4 * 2)
    table = pd.read_csv(store / "folds/predictions.csv")  # of the first repeat
    areas = [roc_auc_score(part["bright"], part["score bright"]) for _, part in table.groupby("fold")]
    np.testing.assert_allclose(all_of_them[:4], areas)
    result = probe(
        store, "x", "--shots", "24", "--folds", "4"
    )  # 60 pictures, 30 of each class, 22 or 23 in the train of a fold
    assert result.exit_code == 2 and "got 24" in result.output


def test_the_sweep_takes_what_is_best_on_val(store):
    result = probe(store, "sweep", "--sweep", "--epochs", "5")
    assert result.exit_code == 0, result.output
    found = json.loads((store / "sweep/report.json").read_text())
    text = (store / "sweep/report.md").read_text()
    rows = [row.split("|")[1:-1] for row in text.split("## Learning rates")[1].splitlines()[4:17]]
    areas = np.array([[float(cell.replace("*", "")) for cell in row[1:]] for row in rows])
    assert areas.shape == (13, 3)
    (place,) = [(r, c) for r, row in enumerate(rows) for c, cell in enumerate(row[1:]) if "*" in cell]
    assert areas[place] == areas.max()
    assert f"{found['options']['lr']:.3g}" == rows[place[0]][0].strip()
    assert found["features"] == ("class", "mean", "both")[place[1]]
    table = pd.read_csv(store / "sweep/predictions.csv")
    val = table[table["split"] == "val"]
    assert roc_auc_score(val["bright"], val["score bright"]) == pytest.approx(areas.max(), abs=1e-3)
    assert "--sweep" in probe(store, "y", "--sweep", "--lr", "0.1").output


def test_the_sweep_tries_the_last_four_blocks_where_the_store_holds_them(store):
    words = ["extract", str(store / "in"), "--backbone", TINY, "--size", "32", "--device", "cpu", "--features"]
    for features in ("all", "both4"):
        result = CliRunner(env={weights.ENVIRONMENT_VARIABLE: "random"}).invoke(
            main, [*words, features, "-o", str(store / features)]
        )
        assert result.exit_code == 0, result.output
    full, usual = FeatureStore(store / "all"), FeatureStore(store / "store")
    width = usual.vectors("class")[1].shape[1]
    np.testing.assert_array_equal(full.vectors("both")[1], usual.vectors("both")[1])
    np.testing.assert_array_equal(full.vectors("class4")[1][:, 3 * width :], usual.vectors("class")[1])
    np.testing.assert_array_equal(full.vectors("both4")[1], FeatureStore(store / "both4").vectors("both4")[1])
    result = probe(store, "sweep4", "--sweep", "--epochs", "2", features="all")
    assert result.exit_code == 0, result.output
    header = (store / "sweep4/report.md").read_text().split("## Learning rates")[1].splitlines()[2]
    assert [cell.strip() for cell in header.split("|")[2:-1]] == ["class", "mean", "both", "class4", "both4"]


def test_the_last_four_blocks_are_those_of_timm():
    images = torch.from_numpy(np.random.default_rng(0).uniform(size=(2, 3, 32, 48)).astype(np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(weights.ENVIRONMENT_VARIABLE, "random")
        encoder = FrozenEncoder("timm:vit_tiny_patch16_224", torch.device("cpu"))
    found = encoder(images)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in encoder.statistics)
    vit = encoder._backbone.backbone.vit
    pairs = vit.get_intermediate_layers(((images - mean) / std).to(encoder.dtype), 4, return_prefix_tokens=True, norm=True)
    expected = torch.cat([prefix[:, 0] for _, prefix in pairs], 1).float()
    torch.testing.assert_close(found.class_tokens, expected, atol=0, rtol=0)


def test_lbfgs_is_scikit_learn_on_the_training_part(store):
    from sklearn.linear_model import LogisticRegression

    result = probe(store, "logistic", "--optimizer", "lbfgs", "--l2", "0.5")
    assert result.exit_code == 0, result.output
    ids, vectors = FeatureStore(store / "store").vectors()
    table = pd.read_csv(store / "logistic/predictions.csv").set_index("id").loc[ids]
    train = (table["split"] == "train").to_numpy()
    model = LogisticRegression(C=2.0, max_iter=10_000).fit(vectors[train].astype(float), table["bright"][train])
    np.testing.assert_allclose(table["score bright"], model.predict_proba(vectors.astype(float))[:, 1], atol=1e-4)
    assert (
        "--l2" in probe(store, "z", "--l2", "0.5").output
        and "--epochs" in probe(store, "z", "--optimizer", "lbfgs", "--epochs", "3").output
    )
