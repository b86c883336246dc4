"""Linear layer and nearest neighbours against scikit-learn, brute force and DINOv3's rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from torch.overrides import TorchFunctionMode

from nnunet_dino._errors import UserError
from nnunet_dino.probes.knn import KnnOptions, knn_scores
from nnunet_dino.probes.linear import LinearOptions, train_linear


def planted(count: int, seed: int, num_labels: int = 3, width: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Returns features and labels that follow a noisy linear rule."""
    rule = np.random.default_rng(99).normal(size=(width, num_labels)) / np.sqrt(width)
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(count, width)).astype(np.float32)
    chances = 1 / (1 + np.exp(-3 * features @ rule))
    return features, (generator.random((count, num_labels)) < chances).astype(np.float32)


def test_the_linear_layer_finds_a_planted_rule_as_well_as_logistic_regression():
    (x, y), (new_x, new_y) = planted(6000, 0), planted(3000, 1)
    scores = train_linear(x, y, False, LinearOptions()).scores(new_x)
    for label in range(3):
        expected = roc_auc_score(new_y[:, label], LogisticRegression().fit(x, y[:, label]).predict_proba(new_x)[:, 1])
        assert roc_auc_score(new_y[:, label], scores[:, label]) == pytest.approx(expected, abs=0.01)
        assert expected > 0.8


def test_exclusive_classes_share_one_probability():
    x, _ = planted(2000, 0)
    classes = (x @ np.random.default_rng(5).normal(size=(24, 4))).argmax(1)
    probe = train_linear(x, np.eye(4, dtype=np.float32)[classes], True, LinearOptions(lr=0.05))
    np.testing.assert_allclose(probe.scores(x).sum(1), 1, atol=1e-9)
    assert (probe.scores(x).argmax(1) == classes).mean() > 0.95


def test_one_step_of_sgd_by_hand():
    """From weights W: the gradient of mean binary cross-entropy is mean((sigmoid(xW) - y) xᵀ) / number of labels."""
    x, y = planted(7, 2)
    options = LinearOptions(optimizer="sgd", epochs=1, lr=0.3, batch=7)
    before = train_linear(x, y, False, LinearOptions(optimizer="sgd", epochs=1, lr=1e-30, batch=7)).weight.double().numpy()
    after = train_linear(x, y, False, options).weight.double().numpy()
    error = 1 / (1 + np.exp(-x.astype(float) @ before.T)) - y
    np.testing.assert_allclose(after, before - 0.3 * error.T @ x / (7 * 3), atol=1e-6)


def test_training_is_repeatable_and_the_seed_matters():
    x, y = planted(300, 0)
    first, again, other = (train_linear(x, y, False, LinearOptions(seed=s, batch=64, epochs=3)).weight for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_standardised_features_may_have_any_scale():
    x, y = planted(2000, 0)
    options = LinearOptions(standardise=True)
    plain, scaled = train_linear(x, y, False, options), train_linear(1e4 * x + 50, y, False, options)
    np.testing.assert_allclose(plain.scores(x), scaled.scores(1e4 * x + 50), atol=2e-3)


def test_the_best_epoch_is_that_with_the_lowest_loss_on_val():
    x, y = planted(40, 0, width=24)
    val = planted(500, 1, width=24)
    options = {"lr": 0.5, "epochs": 40}
    last = train_linear(x, y, False, LinearOptions(**options), val).scores(val[0])
    best = train_linear(x, y, False, LinearOptions(keep="best", **options), val).scores(val[0])

    def loss(p: np.ndarray) -> float:
        return -np.mean(val[1] * np.log(p + 1e-12) + (1 - val[1]) * np.log(1 - p + 1e-12))

    assert loss(best) < loss(last)
    with pytest.raises(UserError, match="best.*val"):
        train_linear(x, y, False, LinearOptions(keep="best"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optimizer": "lion"}, "'lion'"),
        ({"epochs": 0}, "--epochs.*0"),
        ({"lr": -1.0}, "--lr.*-1"),
        ({"keep": "first"}, "'first'"),
    ],
)
def test_wrong_options_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        LinearOptions(**options)


def neighbours(seed: int = 0) -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(seed)
    bank, queries = (generator.normal(size=(count, 11)).astype(np.float32) for count in (53, 17))
    targets = (generator.random((53, 4)) < 0.4).astype(np.float32)
    return bank, targets, np.array([f"b{i}" for i in range(53)]), queries, np.array([f"q{i}" for i in range(17)])


def brute_force(bank, targets, whose, queries, who, k: int, largest: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Votes in plain loops; softmax over the largest k as DINOv3's evaluation has it."""
    uniform, weighted = np.zeros((len(queries), targets.shape[1])), np.zeros((len(queries), targets.shape[1]))
    for row, query in enumerate(queries.astype(float)):
        cosines = [float(query @ b / np.linalg.norm(query) / np.linalg.norm(b)) for b in bank.astype(float)]
        allowed = [i for i in np.argsort([-c for c in cosines], kind="stable") if whose[i] != who[row]][:largest]
        weights = np.exp(np.array([cosines[i] for i in allowed]) / temperature)
        weights /= weights.sum()
        for rank, place in enumerate(allowed[:k]):
            uniform[row] += targets[place] / min(k, len(allowed))
            weighted[row] += targets[place] * weights[rank]
    return uniform, weighted


@pytest.mark.parametrize("same_people", [False, True])
def test_votes_equal_brute_force(same_people):
    bank, targets, whose, queries, who = neighbours()
    if same_people:
        whose, who = np.array([f"P{i % 9}" for i in range(53)]), np.array([f"P{i % 9}" for i in range(17)])
    scores = knn_scores(bank, targets, whose, queries, who, (3, 10, 40), 0.07)
    assert set(scores) == {(k, how) for k in (3, 10, 40) for how in ("uniform", "softmax")}
    for k in (3, 10, 40):
        uniform, weighted = brute_force(bank, targets, whose, queries, who, k, 40, 0.07)
        np.testing.assert_allclose(scores[k, "uniform"], uniform, atol=1e-6)
        np.testing.assert_allclose(scores[k, "softmax"], weighted, atol=1e-5)


def test_softmax_votes_are_cut_off_and_not_scaled_again():
    """With every label present the votes of the largest k add up to 1, those of a smaller one to less."""
    bank, _, whose, queries, who = neighbours()
    scores = knn_scores(bank, np.ones((53, 1), np.float32), whose, queries, who, (5, 50), 0.07)
    np.testing.assert_allclose(scores[50, "softmax"], 1, atol=1e-9)
    assert scores[5, "softmax"].max() < 0.999
    np.testing.assert_allclose(scores[5, "uniform"], 1, atol=1e-9)


def test_uniform_votes_are_those_of_scikit_learn():
    bank, targets, whose, queries, who = neighbours(1)
    scores = knn_scores(bank, targets, whose, queries, who, (7,))
    for label in range(4):
        model = KNeighborsClassifier(7, metric="cosine").fit(bank, targets[:, label])
        np.testing.assert_allclose(scores[7, "uniform"][:, label], model.predict_proba(queries)[:, 1], atol=1e-6)


def test_a_copy_from_the_same_patient_has_no_vote():
    bank = np.array([[1, 0], [0.9, 0.1], [0, 1]], np.float32)
    targets = np.array([[1], [0], [1]], np.float32)
    scores = knn_scores(bank, targets, np.array(["A", "B", "C"]), bank[:1], np.array(["A"]), (1,))
    assert scores[1, "uniform"].tolist() == [[0.0]]


def test_larger_numbers_than_the_bank_are_left_out_and_none_is_refused():
    bank, targets, whose, queries, who = neighbours()
    assert {k for k, _ in knn_scores(bank, targets, whose, queries, who, (20, 100))} == {20}
    with pytest.raises(UserError, match="53 training inputs.*got 100, 200"):
        knn_scores(bank, targets, whose, queries, who, (100, 200))
    with pytest.raises(UserError, match="another patient"):
        knn_scores(bank, targets, np.array(["A"] * 53), queries, np.array(["A"] * 17), (5,))


class NoFloat64(TorchFunctionMode):
    """Plays a device without float64, as Apple's GPUs are: tensors that were moved there, and what is made of them."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        given = [entry for entry in (*args, *kwargs.values()) if isinstance(entry, torch.Tensor)]
        is_there = any(getattr(entry, "is_there", False) for entry in given) or "device" in kwargs
        if function in (torch.Tensor.to, torch.Tensor.cpu):
            result, is_there = result.clone(), function is torch.Tensor.to
        for tensor in result if isinstance(result, tuple) else [result]:
            if isinstance(tensor, torch.Tensor) and is_there:
                assert tensor.dtype != torch.float64, f"float64 by {function}"
                tensor.is_there = True
        return result


def test_votes_need_no_float64_on_the_device():
    bank, targets, whose, queries, who = neighbours()
    expected = knn_scores(bank, targets, whose, queries, who, (3, 40))
    with NoFloat64():
        with pytest.raises(AssertionError, match="float64"):
            torch.ones(2).to("cpu").double()
        found = knn_scores(bank, targets, whose, queries, who, (3, 40))
    assert all((found[setting] == values).all() for setting, values in expected.items())


@pytest.mark.parametrize(("options", "said"), [({"numbers": "5,x"}, "'5,x'"), ({"temperature": 0.0}, "--temperature.*0")])
def test_wrong_options_of_neighbours_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        KnnOptions(**options)
