"""Gated attention: its formula, another library, and that it learns."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from nnunet_dino._errors import UserError
from nnunet_dino.features import progress as progress_module
from nnunet_dino.features.progress import Meter, progress
from nnunet_dino.probes.bags import read_arrays
from nnunet_dino.probes.clam import InstanceLoss, smooth_svm
from nnunet_dino.probes.cross_validation import train_splits
from nnunet_dino.probes.mil import AttentionMIL, GatedAttentionPool, MaxPool, MeanPool
from nnunet_dino.probes.mil_training import MilOptions, train_mil
from nnunet_dino.probes.options import AGGREGATORS
from nnunet_dino.probes.splits import folds

CPU = torch.device("cpu")


def pool_and_bags(seed: int = 0) -> tuple[GatedAttentionPool, torch.Tensor]:
    torch.manual_seed(seed)
    return GatedAttentionPool(12, 5), torch.randn(3, 7, 12)


def test_the_pool_is_its_formula():
    pool, bags = pool_and_bags()
    pooled, weights = pool(bags)
    v, u, w = pool.content, pool.gate, pool.weight.weight[0].detach()
    for number, bag in enumerate(bags):
        gated = [torch.tanh(v.weight @ h + v.bias) / (1 + torch.exp(-(u.weight @ h + u.bias))) for h in bag]
        logits = [float(w @ content.detach()) for content in gated]
        expected = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(weights[number].detach().numpy(), expected, atol=1e-6)
        np.testing.assert_allclose(pooled[number].detach().numpy(), expected @ bag.numpy(), atol=1e-5)


def test_the_pool_is_that_of_torchmil():
    reference = pytest.importorskip("torchmil.nn", reason="torchmil is not installed")
    pool, bags = pool_and_bags(1)
    theirs = reference.AttentionPool(in_dim=12, att_dim=5, act="tanh", gated=True)
    mine = [pool.content.weight, pool.content.bias, pool.weight.weight, pool.gate.weight, pool.gate.bias]
    for parameter, own in zip(theirs.parameters(), mine, strict=True):
        assert parameter.shape == own.shape
        parameter.data.copy_(own.data)
    is_there = torch.arange(7) < torch.tensor([[7], [4], [1]])
    pooled, weights = pool(bags, is_there)
    their_pooled, logits = theirs(bags, mask=is_there.float(), return_att=True)
    torch.testing.assert_close(pooled, their_pooled, atol=1e-6, rtol=0)
    torch.testing.assert_close(weights, logits.masked_fill(~is_there, -torch.inf).softmax(1), atol=1e-6, rtol=0)


def test_attention_without_a_gate_is_that_of_torchmil():
    reference = pytest.importorskip("torchmil.nn", reason="torchmil is not installed")
    torch.manual_seed(6)
    pool, bags = GatedAttentionPool(12, 5, is_gated=False), torch.randn(3, 7, 12)
    theirs = reference.AttentionPool(in_dim=12, att_dim=5, act="tanh", gated=False)
    for parameter, own in zip(theirs.parameters(), (pool.content.weight, pool.content.bias, pool.weight.weight), strict=True):
        parameter.data.copy_(own.data)
    torch.testing.assert_close(pool(bags)[0], theirs(bags), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("pool", "of_torch"), [(MeanPool(), lambda bag: bag.mean(0)), (MaxPool(), lambda bag: bag.amax(0))])
def test_plain_pools_look_at_what_is_there(pool, of_torch):
    torch.manual_seed(7)
    bags, is_there = torch.randn(3, 7, 12) - 3, torch.arange(7) < torch.tensor([[7], [4], [1]])
    pooled, weights = pool(bags, is_there)
    expected = torch.stack([of_torch(bag[there]) for bag, there in zip(bags, is_there, strict=True)])
    torch.testing.assert_close(pooled, expected)
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    assert (weights[~is_there] == 0).all()
    torch.testing.assert_close(pool(bags[:1])[0], expected[:1])


def test_the_smooth_hinge_is_that_of_torchmil():
    """Of its parts: the whole, in torchmil 1.0.2, gives labels an axis too many and adds every score up with every label."""
    parts = pytest.importorskip("torchmil.nn.utils", reason="torchmil is not installed")
    torch.manual_seed(8)
    scores, classes = 3 * torch.randn(9, 2), torch.arange(9) % 2
    margins = parts.delta(classes, torch.arange(2), 1.0)
    theirs = parts.log_sum_exp(scores + margins - scores.gather(1, classes[:, None]))
    torch.testing.assert_close(smooth_svm(scores, classes), theirs.mean())


@torch.no_grad()
def test_instances_of_most_and_of_least_attention_are_told_apart():
    """By hand: the classifier of class 1 looks at the first feature, and attention is the second."""
    loss = InstanceLoss(2, 2)
    for classifier in loss.classifiers:
        classifier.weight.zero_()
        classifier.bias.zero_()
    loss.classifiers[1].weight[1, 0] = 1.0
    features = torch.arange(60.0).reshape(2, 30) / 10
    bags, weights = torch.stack([features, features.flip(1)], 2), torch.stack([torch.arange(30.0), torch.arange(30.0)])
    is_there = torch.arange(30) < torch.tensor([[30], [5]])
    of_first = [np.logaddexp(1 - s, 0) for s in features[0, 22:].tolist()]  # most attention: to be class 1
    of_first += [np.logaddexp(0, 1 + s) for s in features[0, :8].tolist()]  # least: to be class 0
    of_second = [np.logaddexp(1, 0)] * 10  # all five there are, as both sorts, by a classifier that knows nothing
    expected = (np.mean(of_first) + np.mean(of_second)) / 2
    assert float(loss(bags, weights, is_there, torch.tensor([1, 0]))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_every_aggregator_learns(aggregator):
    bags, classes, _ = needles(90, 0)
    train, test = np.arange(0, 60), np.arange(60, 90)
    options = MilOptions(aggregator=aggregator, projection="16", attention=8, optimizer="adam", lr=1e-2, epochs=15, patience=0)
    trained = train_mil(bags, classes, 2, train, train[:0], options, CPU)
    scores, weights = trained.predict(bags, test.tolist())
    assert (scores.argmax(1) == classes[test]).mean() > 0.85
    assert all(one.sum() == pytest.approx(1, abs=1e-5) for one in weights)


def test_order_does_not_matter():
    pool, bags = pool_and_bags(2)
    order = torch.tensor([3, 0, 6, 5, 1, 2, 4])
    pooled, weights = pool(bags)
    shuffled, shuffled_weights = pool(bags[:, order])
    torch.testing.assert_close(pooled, shuffled)
    torch.testing.assert_close(weights[:, order], shuffled_weights)


def test_what_fills_up_a_bag_does_not_count():
    pool, bags = pool_and_bags(3)
    filled = torch.cat([bags, torch.full((3, 4, 12), 1e3)], dim=1)
    is_there = torch.arange(11).expand(3, -1) < 7
    pooled, weights = pool(filled, is_there)
    torch.testing.assert_close(pooled, pool(bags)[0])
    assert (weights[:, 7:] == 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(3))


def test_one_instance_gets_all_attention():
    pool, bags = pool_and_bags(4)
    pooled, weights = pool(bags[:, :1])
    assert weights.tolist() == [[1.0]] * 3
    torch.testing.assert_close(pooled, bags[:, 0])


def test_fifty_thousand_tiles_in_bfloat16_stay_finite():
    torch.manual_seed(0)
    network = AttentionMIL(24, 2, (16,), 8).bfloat16()
    with torch.no_grad():
        logits, weights = network(30 * torch.randn(1, 50_000, 24, dtype=torch.bfloat16))
    assert torch.isfinite(logits).all()
    assert torch.isfinite(weights).all()
    assert float(weights.sum()) == pytest.approx(1, abs=1e-3)


def needles(count: int, seed: int) -> tuple[list[np.ndarray], np.ndarray, list[int]]:
    """Returns bags of noise; every second one holds an instance that stands out, and where it is."""
    generator = np.random.default_rng(seed)
    bags, places = [], []
    for number in range(count):
        bag = generator.normal(size=(generator.integers(3, 9), 10)).astype(np.float32)
        places.append(int(generator.integers(len(bag))))
        if number % 2:
            bag[places[-1], :3] += 4
        bags.append(bag)
    return bags, np.arange(count) % 2, places


def test_attention_finds_the_needle():
    bags, classes, places = needles(90, 0)
    train, val, test = np.arange(0, 50), np.arange(50, 60), np.arange(60, 90)
    options = MilOptions(projection="16", attention=8, optimizer="adam", lr=1e-2, epochs=10, patience=5, min_epochs=10)
    trained = train_mil(bags, classes, 2, train, val, options, CPU)
    scores, attention = trained.predict(bags, test.tolist())
    assert (scores.argmax(1) == classes[test]).mean() > 0.9
    hits = [weights.argmax() == places[i] for i, weights in zip(test, attention, strict=True) if classes[i]]
    assert np.mean(hits) > 0.9
    for i, row, weights in zip(test, scores, attention, strict=True):
        alone, (own,) = trained.predict(bags, [i])
        np.testing.assert_allclose(alone[0], row, atol=1e-6)
        np.testing.assert_allclose(own, weights, atol=1e-6)
        assert len(weights) == len(bags[i])


def test_training_stops_early_and_keeps_the_best_epoch():
    bags, _, _ = needles(30, 1)
    noise = np.random.default_rng(0).integers(0, 2, 30)
    options = MilOptions(projection="8", attention=4, optimizer="adam", lr=0.02, epochs=40, patience=3, min_epochs=4)
    trained = train_mil(bags, noise, 2, np.arange(20), np.arange(20, 30), options, CPU)
    assert trained.num_epochs < 30, "labels are noise: the best epoch is an early one"
    with pytest.raises(UserError, match="--patience.*val"):
        train_mil(bags, noise, 2, np.arange(20), np.arange(0), options, CPU)


def test_training_is_repeatable():
    bags, classes, _ = needles(12, 2)
    options = MilOptions(projection="8", attention=4, epochs=3, patience=0)
    trained = [train_mil(bags, classes, 2, np.arange(12), np.arange(0), options, CPU) for _ in range(2)]
    np.testing.assert_array_equal(*(one.predict(bags, [0])[0] for one in trained))


def one_by_one(bags, classes, train, val, options: MilOptions) -> tuple[AttentionMIL, list[int]]:
    """Trains as :func:`train_mil` should, in the plainest way: every bag by itself, the optimiser in single tensors."""
    torch.manual_seed(options.seed)
    network = AttentionMIL(10, 2, options.widths, options.attention, options.relu, options.dropout)
    steps = {"adam": torch.optim.Adam, "sgd": lambda *a, **k: torch.optim.SGD(*a, momentum=0.9, **k)}[options.optimizer]
    optimizer = steps(network.parameters(), lr=options.lr, weight_decay=options.weight_decay, foreach=False)
    order, losses = np.random.default_rng(options.seed), []

    def loss(bag: int) -> torch.Tensor:
        logits, _ = network(torch.tensor(bags[bag])[None])
        return torch.nn.functional.cross_entropy(logits, torch.tensor([classes[bag]]))

    for _ in range(options.epochs):
        network.train()
        for bag in order.permutation(train):
            optimizer.zero_grad()
            loss(bag).backward()
            optimizer.step()
        network.eval()
        losses.append(np.mean([loss(bag).item() for bag in val]))
    return network, losses


@pytest.mark.parametrize("how", [{"optimizer": "sgd", "lr": 0.01, "weight_decay": 0.005}, {"optimizer": "adam", "lr": 0.005}])
def test_training_gives_the_numbers_of_the_plainest_way(how):
    bags, classes, _ = needles(40, 4)
    train, val = np.arange(28), np.arange(28, 40)
    how |= {"projection": "16,8", "relu": True, "dropout": 0.3, "attention": 8, "balanced": False, "standardise": False}
    options = MilOptions(epochs=6, patience=6, **how)
    with torch.random.fork_rng():
        network, losses = one_by_one(bags, classes, train, val, options)
    trained = train_mil(bags, classes, 2, train, val, replace(options, patience=0), CPU)
    for expected, parameter in zip(network.parameters(), trained.network.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, atol=2e-6, rtol=1e-4)
    assert train_mil(bags, classes, 2, train, val, options, CPU).num_epochs == 1 + int(np.argmin(losses))


def test_bags_are_scored_by_networks_that_have_not_seen_them():
    bags, classes, _ = needles(18, 5)
    splits = folds(classes, np.arange(18), 3, 0, 0.25)
    options = MilOptions(projection="8", attention=4, epochs=3, patience=2, min_epochs=1)
    for split, seed, one in zip(
        splits, range(3), train_splits(bags, classes, 2, splits, range(3), options, CPU, 1), strict=True
    ):
        assert (np.isnan(one.scores[:, 0]) == (split == "train")).all()
        train, val = np.flatnonzero(split == "train"), np.flatnonzero(split == "val")
        alone = train_mil(bags, classes, 2, train, val, replace(options, seed=seed), CPU)
        asked = np.flatnonzero(split != "train")
        np.testing.assert_array_equal(one.scores[asked], alone.predict(bags, asked.tolist())[0])
    (whole,) = train_splits(bags, classes, 2, splits[:1], [0], options, CPU)
    assert np.isfinite(whole.scores).all(), "a single network scores every bag"


@pytest.mark.slow
@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_shown_with_and_without_a_terminal(is_terminal, monkeypatch, capsys):
    monkeypatch.setattr(progress_module, "SECONDS_BETWEEN_LINES", 0.2)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    slow = (time.sleep(0.5) or letter for letter in "abc")  # lines come while nothing is ready, too
    assert list(progress(slow, 3, "training")) == ["a", "b", "c"]
    said = capsys.readouterr().err
    assert ("0/3 [" in said, "1/3 [" in said, "training" in said) == (not is_terminal or "0/3 [" in said, True, True)
    assert len(said.splitlines()) >= 5 or is_terminal


def test_work_of_an_earlier_run_is_no_speed(monkeypatch):
    meter = Meter(100, "image")
    meter.begin_at(90)
    monkeypatch.setattr(meter, "_begun", meter._begun - 10)
    meter.update(5, "7 images/s")
    assert "95/100" in meter.line() and "[00:10<00:10" in meter.line() and meter.line().endswith("7 images/s]")


def test_bags_of_a_step_are_independent_of_each_other():
    """One step of plain SGD with three bags goes where the mean of their three gradients points."""
    bags, classes, _ = needles(6, 3)
    three = [0, 1, 2]
    bags = [bags[i] for i in three]
    options = {"projection": "8", "attention": 4, "optimizer": "adam", "epochs": 1, "patience": 0, "dropout": 0.0}
    options |= {"balanced": False, "standardise": False}
    start = train_mil(bags, classes, 2, np.arange(3), np.arange(0), MilOptions(lr=1e-30, bags=3, **options), CPU).network
    losses = [
        torch.nn.functional.cross_entropy(start(torch.from_numpy(bag)[None])[0], torch.tensor([classes[i]]))
        for i, bag in enumerate(bags)
    ]
    sum(losses).backward()
    after = train_mil(bags, classes, 2, np.arange(3), np.arange(0), MilOptions(lr=1e-3, bags=3, **options), CPU).network
    for before, now in zip(start.parameters(), after.parameters(), strict=True):
        clear = before.grad.abs() > 1e-6
        torch.testing.assert_close((now - before)[clear], -1e-3 * before.grad.sign()[clear], atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"offsets": [0, 3, 3, 7]}, "bag 1"),
        ({"offsets": [0, 3, 5, 6]}, "offsets from 0 to the 7 instances · got 0 to 6"),
        ({"offsets": [0, 3, 5.5, 7]}, "whole offsets"),
        ({"offsets": [0, 3, np.nan, 7]}, "whole offsets"),
        ({"offsets": [[0, 3, 5, 7]]}, r"got shapes \(7, 2\), \(1, 4\)"),
        ({"offsets": 3}, r"got shapes \(7, 2\), \(\)"),
        ({"offsets": ["a", "b", "c", "d"]}, "numbers in offsets.*<U1"),
        ({"labels": [0, 1, 2]}, "got 2"),
        ({"labels": [0, 1, np.nan]}, "got nan"),
        ({"labels": [[0], [1], [0]]}, r"\(3, 1\)"),
        ({"labels": 1}, r"got shapes \(7, 2\), \(4,\), \(\)"),
        ({"labels": ["no", "yes", "no"]}, "numbers in labels.*<U3"),
        ({"labels": np.array([0, 1, None])}, "bags.npz: Object arrays"),
        ({"patients": ["P", "Q"]}, r"\(3,\) and \(2,\)"),
        ({"instances": np.ones((7, 2), complex)}, "numbers in instances.*complex"),
        ({"instances": np.full((7, 2), 1e300)}, "infinity in bag 0"),
        ({"instances": np.ones(7)}, r"got shapes \(7,\)"),
        ({"nan": 4}, "infinity in bag 1"),
        ({"labels": None}, "no labels"),
    ],
)
def test_wrong_files_of_bags_are_refused(tmp_path, change, said):
    instances = np.ones((7, 2), np.float32)
    if "nan" in change:
        instances[change.pop("nan"), 1] = np.nan
    arrays = {"instances": instances, "offsets": [0, 3, 5, 7], "labels": [0, 1, 0], **change}
    np.savez(tmp_path / "bags.npz", **{name: values for name, values in arrays.items() if values is not None})
    with pytest.raises(UserError, match=said):
        read_arrays(tmp_path / "bags.npz")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"projection": "64,x"}, "'64,x'"),
        ({"projection": "²"}, "'²'"),
        ({"dropout": 1.0}, "--dropout.*1"),
        ({"epochs": 0}, "--epochs.*0"),
        ({"lr": float("inf")}, "--lr.*inf"),
        ({"weight_decay": -0.5}, "--weight-decay.*-0.5"),
        ({"weight_decay": float("nan")}, "--weight-decay.*nan"),
        ({"seed": -1}, "--seed.*-1"),
    ],
)
def test_wrong_options_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        MilOptions(**options)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"text", "array"])
def test_a_file_that_is_no_npz_is_refused(tmp_path, content):
    file = tmp_path / "bags.npz"
    if content == "array":
        with open(file, "wb") as stream:
            np.save(stream, np.ones(3))
    else:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"an .npz file of bags · got .*bags.npz"):
        read_arrays(file)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_defaults_find_a_planted_instance_whatever_the_seed(seed):
    """Features far from zero mean and unit variance, as of random weights: one odd instance of ten decides."""
    generator = np.random.default_rng(0)
    bags = [(generator.normal(size=(10, 12)) * 0.05 + 3).astype(np.float32) for _ in range(30)]
    for bag in bags[1::2]:
        bag[4, :4] += 0.25
    classes, test = np.arange(30) % 2, list(range(20, 30))
    trained = train_mil(bags, classes, 2, np.arange(12), np.arange(12, 20), MilOptions(seed=seed), CPU)
    scores = trained.predict(bags, test)[0][:, 1]
    assert scores[1::2].min() > scores[::2].max()
