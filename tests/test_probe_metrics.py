"""AUROC, thresholds, other measures and their intervals, against scikit-learn and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from nnunet_dino._errors import UserError
from nnunet_dino.probes.evaluation import EvaluationOptions, check_parts, evaluate, evaluate_folds
from nnunet_dino.probes.labels import Labelled
from nnunet_dino.probes.metrics import auroc, compute_metrics, threshold_by, weighted_auroc, weighted_average_precision


def scores_with_ties(seed: int, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    targets = (generator.random(count) < 0.3).astype(float)
    return targets, np.round(np.clip(0.4 * targets + generator.random(count) * 0.7, 0, 1), 1)


@pytest.mark.parametrize("seed", range(5))
def test_auroc_is_that_of_scikit_learn(seed):
    targets, scores = scores_with_ties(seed)
    assert auroc(targets, scores) == pytest.approx(reference.roc_auc_score(targets, scores), abs=1e-12)
    weights = np.random.default_rng(seed).integers(0, 4, size=(7, len(targets)))
    expected = [reference.roc_auc_score(targets, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(weighted_auroc(targets, scores, weights), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_measures_of_one_label_are_those_of_scikit_learn(seed):
    targets, scores = scores_with_ties(seed)
    found = scores >= 0.5
    patients = np.arange(len(targets)).astype(str)
    metrics = compute_metrics(("a",), targets[:, None], scores[:, None], patients, np.array([0.5]), num_rounds=20)
    expected = {
        "average_precision": reference.average_precision_score(targets, scores),
        "specificity": reference.recall_score(targets, found, pos_label=0),
        "balanced_accuracy": reference.balanced_accuracy_score(targets, found),
        "f1": reference.f1_score(targets, found),
        "brier": reference.brier_score_loss(targets, scores),
    }
    for name, value in expected.items():
        assert metrics.overall[name].value == pytest.approx(value, abs=1e-12), name
        assert getattr(metrics.labels[0], name).low < value < getattr(metrics.labels[0], name).high
    hits, alarms, missed, rest = metrics.labels[0].confusion
    assert [[rest, alarms], [missed, hits]] == reference.confusion_matrix(targets, found).tolist()
    weights = np.random.default_rng(seed).integers(0, 4, size=(7, len(targets)))
    areas = [reference.average_precision_score(targets, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(weighted_average_precision(targets, scores, weights), areas, atol=1e-12)


def test_balanced_accuracy_of_exclusive_classes_is_that_of_scikit_learn():
    generator = np.random.default_rng(0)
    classes, scores = np.arange(40) % 3, generator.random((40, 3))
    patients = np.arange(40).astype(str)
    metrics = compute_metrics(("a", "b", "c"), np.eye(3)[classes], scores, patients, None, num_rounds=5)
    expected = reference.balanced_accuracy_score(classes, scores.argmax(1))
    assert metrics.overall["balanced_accuracy"].value == pytest.approx(expected, abs=1e-12)


def test_auroc_by_hand():
    assert auroc(np.array([0, 1, 0, 1]), np.array([0.1, 0.1, 0.5, 0.9])) == pytest.approx((0.5 + 0 + 1 + 1) / 4)


def test_auroc_of_one_class_is_undefined():
    assert math.isnan(auroc(np.ones(5), np.arange(5.0)))


@pytest.mark.parametrize("seed", range(5))
def test_corner_is_the_last_nearest_of_a_hundred(seed):
    targets, scores = scores_with_ties(seed)
    best, chosen = math.inf, None
    for threshold in np.linspace(0, 1, 100):
        found = scores >= threshold
        true_rate, false_rate = found[targets == 1].mean(), found[targets == 0].mean()
        distance = math.sqrt((1 - true_rate) ** 2 + false_rate**2)
        if distance <= best + 1e-12:
            best, chosen = distance, threshold
    assert threshold_by("corner", targets, scores) == pytest.approx(chosen)


@pytest.mark.parametrize("seed", range(5))
def test_youden_is_the_best_of_all_scores(seed):
    targets, scores = scores_with_ties(seed)
    gains = {t: (scores >= t)[targets == 1].mean() - (scores >= t)[targets == 0].mean() for t in np.unique(scores)}
    chosen = threshold_by("youden", targets, scores)
    assert gains[chosen] == pytest.approx(max(gains.values()))


def test_youden_and_corner_differ_where_they_should():
    """At 0.5: (TPR 0.6, FPR 0) with J = 0.6, distance 0.4. At 0.3: (0.85, 0.27) with J = 0.58, distance 0.31."""
    targets = np.array([1] * 100 + [0] * 100)
    scores = np.array([0.5] * 60 + [0.3] * 25 + [0.1] * 15 + [0.3] * 27 + [0.1] * 73)
    assert threshold_by("youden", targets, scores) == 0.5
    assert 0.1 < threshold_by("corner", targets, scores) <= 0.3


def test_one_class_leaves_the_threshold_at_half():
    assert threshold_by("youden", np.zeros(4), np.arange(4) / 4) == 0.5


@pytest.fixture(scope="module")
def several() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    targets = (generator.random((80, 4)) < (0.1, 0.3, 0.5, 0.0)).astype(float)
    scores = np.clip(0.3 * targets + 0.7 * generator.random((80, 4)), 0, 1)
    return targets, scores, np.array([f"P{i // 3}" for i in range(80)])


def test_measures_are_those_of_scikit_learn(several):
    targets, scores, patients = several
    thresholds = np.array([0.5, 0.4, 0.6, 0.5])
    found = compute_metrics(("a", "b", "c", "none"), targets, scores, patients, thresholds, num_rounds=20)
    decided = (scores >= thresholds).astype(int)
    for average, prefix in (("macro", ""), ("micro", "micro_"), ("weighted", "weighted_")):
        for name in ("precision", "recall"):
            absent = np.nan if (name, average) == ("recall", "macro") else 0
            expected = getattr(reference, f"{name}_score")(targets, decided, average=average, zero_division=absent)
            assert found.overall[prefix + name].value == pytest.approx(expected), prefix + name
    assert found.overall["subset_accuracy"].value == pytest.approx(reference.accuracy_score(targets, decided))
    assert found.overall["accuracy"].value == pytest.approx((targets == decided).mean())
    known = [reference.roc_auc_score(targets[:, c], scores[:, c]) for c in range(3)]
    assert found.overall["auroc"].value == pytest.approx(np.mean(known)), "not a fourth label with AUROC 0"
    assert found.single_class == ["none"]
    assert [label.num_positive for label in found.labels] == targets.sum(0).astype(int).tolist()
    assert found.num_patients == 27


def test_drawings_without_a_class_say_nothing_of_its_recall_and_specificity():
    """One of five lacks the label, one has it: both are decided rightly in every drawing in which they are."""
    scores, people = np.array([[0.1], [0.9], [0.9], [0.9], [0.9]]), np.arange(5)
    for truth, name in ((scores > 0.5, "specificity"), (scores < 0.5, "recall")):
        shown = scores if name == "specificity" else 1 - scores
        found = compute_metrics(("a",), truth.astype(float), shown, people, np.array([0.5]))
        for one in (getattr(found.labels[0], name), found.overall[name]):
            assert (one.value, one.low, one.high) == (1, 1, 1), name
    for truth, name in ((np.ones((5, 1)), "specificity"), (np.zeros((5, 1)), "recall")):
        found = compute_metrics(("a",), truth, scores, people, np.array([0.5]))
        assert np.isnan([getattr(found.labels[0], name).value, found.overall[name].value]).all(), name


def test_exclusive_classes_are_decided_by_the_highest_score(several):
    _, scores, patients = several
    classes = np.arange(80) % 3
    probabilities = scores[:, :3] / scores[:, :3].sum(1, keepdims=True)
    found = compute_metrics(("x", "y", "z"), np.eye(3)[classes], probabilities, patients, None, num_rounds=5)
    decided = probabilities.argmax(1)
    assert found.overall["accuracy"].value == pytest.approx((decided == classes).mean())
    assert found.overall["recall"].value == pytest.approx(reference.balanced_accuracy_score(classes, decided))
    expected = reference.roc_auc_score(classes, probabilities, multi_class="ovr")
    assert found.overall["auroc"].value == pytest.approx(expected)


def test_intervals_are_of_patients_and_not_of_pictures():
    """Every patient photographed ten times: intervals as wide as with one picture each, not √10 narrower."""
    targets, scores = scores_with_ties(1, 40)
    once = compute_metrics(("a",), targets[:, None], scores[:, None], np.arange(40), np.array([0.5]))
    ten = np.repeat(np.arange(40), 10)
    often = compute_metrics(("a",), targets[ten][:, None], scores[ten][:, None], ten, np.array([0.5]))
    widths = [found.overall["auroc"].high - found.overall["auroc"].low for found in (once, often)]
    assert widths[0] == pytest.approx(widths[1], rel=0.02)
    naive = compute_metrics(("a",), targets[ten][:, None], scores[ten][:, None], np.arange(400), np.array([0.5]))
    assert naive.overall["auroc"].high - naive.overall["auroc"].low < 0.5 * widths[0]


def test_intervals_hold_what_they_promise():
    """Accuracy 0.8 of 400 independent inputs: the binomial interval is 0.8 ± 1.96 · 0.02."""
    targets = np.zeros((400, 1))
    scores = np.where(np.arange(400) < 80, 0.9, 0.1)[:, None]
    found = compute_metrics(("a",), targets, scores, np.arange(400), np.array([0.5])).overall["accuracy"]
    assert (found.low, found.high) == (pytest.approx(0.7608, abs=0.006), pytest.approx(0.8392, abs=0.006))


def labelled(split: list[str], targets: np.ndarray, names: tuple[str, ...] = ("a",)) -> Labelled:
    people = np.array([f"P{i}" for i in range(len(split))])
    return Labelled([f"i{i}" for i in range(len(split))], people, names, targets, False, np.array(split))


def test_thresholds_come_from_the_part_they_are_tuned_on():
    split = ["train"] * 2 + ["val"] * 4 + ["test"] * 4
    targets = np.array([0, 1, 0, 0, 1, 1, 0, 0, 1, 1.0])[:, None]
    scores = np.array([0, 0, 0.1, 0.2, 0.3, 0.9, 0.1, 0.75, 0.8, 0.9])[:, None]
    on_val = evaluate(labelled(split, targets), scores, EvaluationOptions("youden", "val", 5))["test"].metrics
    on_test = evaluate(labelled(split, targets), scores, EvaluationOptions("youden", "test", 5))["test"].metrics
    assert (on_val.labels[0].threshold, on_val.overall["accuracy"].value) == (0.3, 0.75)
    assert (on_test.labels[0].threshold, on_test.overall["accuracy"].value) == (0.8, 1.0)


def test_a_rule_without_its_part_is_refused():
    without_val = labelled(["train", "train", "test", "test"], np.array([[0], [1], [0], [1.0]]))
    with pytest.raises(UserError, match=r"youden.*val part.*0.5"):
        check_parts(without_val, EvaluationOptions())
    assert check_parts(without_val, EvaluationOptions("0.5")) == []
    assert check_parts(without_val, EvaluationOptions(tuned_on="test")) == []


@pytest.mark.parametrize("part", ["train", "test"])
def test_one_class_only_is_refused_by_name(part):
    targets = np.array([[0], [int(part != "train")], [0], [int(part != "test")]], float)
    with pytest.raises(UserError, match=f"{part}: required both classes.*cough"):
        check_parts(labelled(["train", "train", "test", "test"], targets, ("cough",)), EvaluationOptions("0.5"))


def test_every_fold_has_its_own_threshold_and_all_are_pooled():
    """Two folds whose networks score on different scales: Youden's 0.2 and 0.8, chosen on val, decide all rightly."""
    targets = np.array([0, 1, 0, 1, 0, 1, 0, 1.0])[:, None]
    splits = [np.array(parts) for parts in (["test"] * 4 + ["val"] * 4, ["val"] * 4 + ["test"] * 4)]
    scores = [np.array([0.1, 0.2] * 4)[:, None], np.array([0.7, 0.8] * 4)[:, None]]
    everyone = labelled(["test"] * 8, targets)
    found, thresholds = evaluate_folds(everyone, splits, scores, EvaluationOptions(num_rounds=5))
    assert thresholds.tolist() == [[0.2], [0.8]]
    assert found.metrics.overall["accuracy"].value == 1
    assert found.metrics.overall["auroc"].value == reference.roc_auc_score(targets[:, 0], [0.1, 0.2] * 2 + [0.7, 0.8] * 2)
    assert math.isnan(found.metrics.labels[0].threshold), "there is not one threshold"
    half, _ = evaluate_folds(everyone, splits, scores, EvaluationOptions("0.5", num_rounds=5))
    assert half.metrics.overall["accuracy"].value == 0.5


@pytest.mark.parametrize(("options", "said"), [({"rule": "yuoden"}, "youden"), ({"tuned_on": "train"}, "'train'")])
def test_unknown_words_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        EvaluationOptions(**options)
