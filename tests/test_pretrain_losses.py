"""The objective of pretraining against closed forms, torch in float64, and lightly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss
from lightly.models.utils import update_momentum
from lightly.utils.scheduler import cosine_schedule

from nnunet_dino.pretrain.losses import dino_loss, gram_loss, ibot_loss, koleo_loss
from nnunet_dino.pretrain.masks import block_mask, masked_counts
from nnunet_dino.pretrain.schedules import Schedule
from nnunet_dino.pretrain.sinkhorn import sinkhorn_targets
from nnunet_dino.pretrain.teacher import follow, resized

TAU, K = 0.1, 7


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class TestSinkhorn:
    @pytest.mark.parametrize("iterations", [1, 3, 20])
    def test_rows_sum_to_one(self, iterations: int) -> None:
        assert sinkhorn_targets(randn(6, K), 0.05, iterations).sum(dim=1).tolist() == pytest.approx([1] * 6, abs=1e-5)

    def test_prototypes_share_the_rows_in_the_end(self) -> None:
        assert sinkhorn_targets(randn(21, K), 0.5, 100).sum(dim=0).tolist() == pytest.approx([3] * K, abs=1e-4)

    @pytest.mark.parametrize(("rows", "iterations"), [(6, 3), (20, 1), (3, 10)])
    def test_is_the_plain_version_for_small_logits(self, rows: int, iterations: int) -> None:
        logits = randn(rows, K)
        plain = (logits.double() / 0.5).exp()
        for _ in range(iterations):
            plain = plain / plain.sum(dim=0) / K
            plain = plain / plain.sum(dim=1, keepdim=True) / rows
        assert torch.allclose(sinkhorn_targets(logits, 0.5, iterations).double(), plain * rows, atol=1e-6)

    def test_constant_logits_give_uniform_targets_and_constants_change_nothing(self) -> None:
        assert torch.allclose(sinkhorn_targets(torch.full((5, K), 3.0), 0.04), torch.full((5, K), 1 / K), atol=1e-6)
        logits = randn(5, K)
        assert torch.allclose(sinkhorn_targets(logits + 8, 0.1), sinkhorn_targets(logits, 0.1), atol=1e-4)

    def test_stays_finite_where_exponentials_overflow(self) -> None:
        targets = sinkhorn_targets(randn(6, K) * 80, 0.04)
        assert targets.isfinite().all()
        assert targets.sum(dim=1).tolist() == pytest.approx([1] * 6, abs=1e-4)

    def test_no_rows_give_no_targets(self) -> None:
        assert sinkhorn_targets(torch.zeros(0, K), 0.04).shape == (0, K)


class TestDino:
    def test_equal_logits_cost_the_logarithm_of_their_number(self) -> None:
        targets = sinkhorn_targets(randn(6, K), 0.1).unflatten(0, (2, 3))
        assert dino_loss(torch.full((4, 3, K), 2.0), targets, TAU).item() == pytest.approx(math.log(K))

    def test_one_hot_targets_are_cross_entropy(self) -> None:
        logits, classes = randn(4, 3, K), torch.tensor([[0, 5, 2]])
        expected = F.cross_entropy((logits / TAU).flatten(0, 1), classes.repeat(4, 1).flatten())
        assert dino_loss(logits, F.one_hot(classes, K).float(), TAU).item() == pytest.approx(expected.item(), rel=1e-6)

    def test_pairs_of_the_same_crop_are_left_out(self) -> None:
        logits, targets = randn(2, 3, K), sinkhorn_targets(randn(6, K, seed=1), 0.1).unflatten(0, (2, 3))
        swapped = dino_loss(logits[[1, 0]], targets, TAU, True)
        cross = [dino_loss(logits[[a]], targets[[b]], TAU) for a, b in ((0, 1), (1, 0))]
        same = [dino_loss(logits[[a]], targets[[a]], TAU) for a in (0, 1)]
        assert dino_loss(logits, targets, TAU, True).item() == pytest.approx(sum(cross).item() / 2, rel=1e-6)
        assert swapped.item() == pytest.approx(sum(same).item() / 2, rel=1e-6)

    def test_agrees_with_lightly_where_both_take_a_softmax_around_no_centre(self) -> None:
        student, teacher = randn(2, 5, K), randn(2, 5, K, seed=1)
        theirs = DINOLoss(K, warmup_teacher_temp=0.07, teacher_temp=0.07, warmup_teacher_temp_epochs=0, student_temp=TAU)
        expected = theirs(list(teacher), list(student), epoch=0)
        assert dino_loss(student, (teacher / 0.07).softmax(-1), TAU, True).item() == pytest.approx(expected.item(), rel=1e-5)


class TestIbot:
    def test_crops_masked_alike_give_the_mean_cross_entropy_and_half_of_them_half(self) -> None:
        logits, classes = randn(6, K), torch.tensor([0, 5, 2, 1, 1, 6])
        weights, mean = torch.full((6,), 1 / 3), F.cross_entropy(logits / TAU, classes).item()
        targets = F.one_hot(classes, K).float()
        assert ibot_loss(logits, targets, weights, 2, TAU).item() == pytest.approx(mean, rel=1e-6)
        assert ibot_loss(logits, targets, weights, 4, TAU).item() == pytest.approx(mean / 2, rel=1e-6)

    def test_agrees_with_lightly_where_both_take_a_softmax_around_no_centre(self) -> None:
        mask = torch.tensor([[True, False, True, True], [False, True, False, False]])
        student, teacher = randn(4, K), randn(4, K, seed=1)
        theirs = IBOTPatchLoss(K, teacher_temp=0.07, student_temp=TAU)
        expected = theirs(teacher_out=teacher, student_out=student, mask=mask[:, None])
        ours = ibot_loss(student, (teacher / 0.07).softmax(-1), torch.tensor([1 / 3, 1 / 3, 1 / 3, 1.0]), 2, TAU)
        assert ours.item() == pytest.approx(expected.item(), rel=1e-5)

    def test_nothing_masked_costs_nothing(self) -> None:
        assert ibot_loss(torch.zeros(0, K), torch.zeros(0, K), torch.zeros(0), 4, TAU).item() == 0


def polygon(corners: int) -> torch.Tensor:
    angles = 2 * math.pi * torch.arange(corners) / corners
    return torch.stack([angles.cos(), angles.sin()], dim=1)


class TestKoleo:
    @pytest.mark.parametrize("corners", [3, 5, 8])
    def test_regular_polygons(self, corners: int) -> None:
        expected = -math.log(2 * math.sin(math.pi / corners))
        assert koleo_loss(polygon(corners)).item() == pytest.approx(expected, abs=1e-5)

    def test_duplicates_are_finite_and_opposite_points_are_neighbours(self) -> None:
        assert koleo_loss(torch.ones(4, 2)).item() == pytest.approx(17.54, abs=0.01)
        assert koleo_loss(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).item() == pytest.approx(-math.log(2), abs=1e-6)

    def test_is_free_of_scale_and_is_that_of_lightly(self) -> None:
        tokens = randn(6, 5)
        assert koleo_loss(tokens * 9).item() == pytest.approx(koleo_loss(tokens).item(), rel=1e-5)
        assert koleo_loss(tokens).item() == pytest.approx(KoLeoLoss()(tokens).item(), rel=1e-5)

    def test_its_gradient_separates_the_closest_pair(self) -> None:
        tokens = torch.tensor([[1.0, 0.0], [0.96, 0.28], [-1.0, 0.1]], requires_grad=True)
        koleo_loss(tokens).backward()
        before, after = (F.normalize(t.detach(), dim=1) for t in (tokens, tokens - 0.01 * tokens.grad))
        assert after[0] @ after[1] < before[0] @ before[1]


class TestGram:
    def test_equal_rotated_and_rescaled_features_cost_nothing(self) -> None:
        tokens = randn(2, 5, 3)
        rotation, _ = torch.linalg.qr(randn(3, 3, seed=1))
        for other in (tokens, tokens @ rotation, tokens * 7):
            assert gram_loss(tokens, other).item() == pytest.approx(0, abs=1e-12)

    def test_orthogonal_against_constant(self) -> None:
        assert gram_loss(torch.eye(5)[None], torch.ones(1, 5, 3)).item() == pytest.approx(4 / 5)

    def test_no_gradient_reaches_the_teacher(self) -> None:
        student, teacher = randn(2, 5, 3).requires_grad_(), randn(2, 5, 3, seed=1).requires_grad_()
        gram_loss(student, teacher).backward()
        assert student.grad is not None
        assert teacher.grad is None

    def test_a_finer_ramp_becomes_the_ramp(self) -> None:
        fine = torch.arange(12).add(0.5).div(2).expand(1, 2, 8, 12)
        inner = resized(fine, (4, 6))[0, 0, :, 1:-1]
        assert torch.allclose(inner, torch.arange(6).add(0.5)[1:-1].expand(4, 4), atol=1e-5)
        assert resized(fine, (8, 12)) is fine


class TestFollowing:
    def test_extremes_and_many_steps(self) -> None:
        student, teacher = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
        start = teacher.weight.detach().clone()
        follow(teacher, student, 1.0)
        assert torch.equal(teacher.weight, start)
        for _ in range(5):
            follow(teacher, student, 0.9)
        share = 1 - 0.9**5
        assert torch.allclose(teacher.weight, (1 - share) * start + share * student.weight, atol=1e-6)
        follow(teacher, student, 0.0)
        assert torch.equal(teacher.weight, student.weight)

    def test_is_that_of_lightly_and_leaves_buffers(self) -> None:
        student, ours, theirs = (torch.nn.BatchNorm1d(3) for _ in range(3))
        student.weight.data += 1
        student.running_mean += 1
        follow(ours, student, 0.7)
        update_momentum(student, theirs, 0.7)
        assert torch.allclose(ours.weight, theirs.weight)
        assert ours.running_mean.tolist() == [0, 0, 0]


class TestSchedule:
    def test_ends_length_and_tail(self) -> None:
        schedule = Schedule(peak=4, end=1, start=2, warmup=4, cosine=5)
        values = [schedule(step) for step in range(12)]
        assert values[:5] == [2, 2.5, 3, 3.5, 4]
        assert values[8:] == pytest.approx([1] * 4)
        assert values[4:9] == sorted(values[4:9], reverse=True)

    def test_leading_steps_are_zero(self) -> None:
        assert [Schedule(4, 4, 0, 2, 0, frozen=3)(step) for step in range(5)] == [0, 0, 0, 4, 4]

    @pytest.mark.parametrize(("length", "peak", "end"), [(10, 1.0, 0.0), (7, 0.99, 1.0)])
    def test_the_cosine_is_that_of_lightly(self, length: int, peak: float, end: float) -> None:
        schedule = Schedule(peak, end, cosine=length)
        expected = [cosine_schedule(step, length, peak, end) for step in range(length)]
        assert [schedule(step) for step in range(length)] == pytest.approx(expected)


class TestMasks:
    @pytest.mark.parametrize("grid", [(3, 5), (8, 8), (2, 3), (16, 7)])
    def test_counts_are_exact_and_reproducible(self, grid: tuple[int, int]) -> None:
        size = math.prod(grid)
        for count in range(size + 1):
            mask = block_mask(np.random.default_rng(count), grid, count)
            assert mask.shape == grid
            assert mask.sum() == count
            assert (mask == block_mask(np.random.default_rng(count), grid, count)).all()

    def test_half_of_the_crops_hide_counts_from_the_lowest_to_the_highest(self) -> None:
        counts = masked_counts(np.random.default_rng(0), 10, 100, 0.5, (0.1, 0.5))
        assert sorted(counts.tolist()) == [0] * 5 + [18, 26, 34, 42, 50]
        assert masked_counts(np.random.default_rng(1), 10, 100, 0.5, (0.1, 0.5)).tolist() != counts.tolist()

    def test_masks_are_blocks(self) -> None:
        mask = block_mask(np.random.default_rng(0), (20, 20), 120)
        neighbours = (mask[:, 1:] & mask[:, :-1]).sum() / mask.sum()
        assert neighbours > 0.7  # of 120 of 400 tokens at random it would be 0.3
