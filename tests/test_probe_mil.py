"""Gated attention: its formula, another library, and that it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnunet_dino._errors import UserError
from nnunet_dino.probes.bags import read_arrays
from nnunet_dino.probes.mil import AttentionMIL, GatedAttentionPool
from nnunet_dino.probes.mil_training import MilOptions, train_mil

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
    found = [trained(bags[i]) for i in test]
    assert np.mean([scores.argmax() == classes[i] for i, (scores, _) in zip(test, found, strict=True)]) > 0.9
    hits = [weights.argmax() == places[i] for i, (_, weights) in zip(test, found, strict=True) if classes[i]]
    assert np.mean(hits) > 0.9


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
    scores = [train_mil(bags, classes, 2, np.arange(12), np.arange(0), options, CPU)(bags[0])[0] for _ in range(2)]
    np.testing.assert_array_equal(*scores)


def test_bags_of_a_step_are_independent_of_each_other():
    """One step of plain SGD with three bags goes where the mean of their three gradients points."""
    bags, classes, _ = needles(6, 3)
    three = [0, 1, 2]
    bags = [bags[i] for i in three]
    options = {"projection": "8", "attention": 4, "optimizer": "adam", "epochs": 1, "patience": 0, "balanced": False}
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
        ({"offsets": [0, 3, 5, 6]}, "offsets from .0. to .6."),
        ({"labels": [0, 1, 2]}, "got 2"),
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
    [({"projection": "64,x"}, "'64,x'"), ({"dropout": 1.0}, "--dropout.*1"), ({"epochs": 0}, "--epochs.*0")],
)
def test_wrong_options_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        MilOptions(**options)
