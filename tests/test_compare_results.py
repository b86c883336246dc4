"""What is compared with what, what is refused, and what the sentences say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from compare_tree import Tree, moving
from scipy import stats

from nnunet_dino._errors import UserError
from nnunet_dino.compare import Entry, Facts, compare_results, formatting
from nnunet_dino.compare.comparison import choose_baselines, compare_entries
from nnunet_dino.compare.records import Pictures
from nnunet_dino.compare.statistics import Difference, SignedRank

NO_PICTURES = Pictures({}, {}, "none")


def entry(identifier: str, scores: dict[str, list[float]], tmp_path, **more) -> Entry:
    trainer, plans, configuration = identifier.split("__")
    table = pd.DataFrame(scores, index=[f"case_{i:02d}" for i in range(len(next(iter(scores.values()))))])
    names = {key: f"organ {key}" for key in scores}
    return Entry(identifier, table, (), ".nii.gz", names, tmp_path, trainer, plans, configuration, **more)


def pairs(tmp_path, *identifiers: str, baseline: str | None = None) -> dict[str, str]:
    entries = [entry(name, {"1": [0.5]}, tmp_path) for name in identifiers]
    return {entries[i].identifier: entries[j].identifier for i, j in choose_baselines(entries, baseline)}


STOCK_2D, STOCK_3D = "nnUNetTrainer__nnUNetPlans__2d", "nnUNetTrainer__nnUNetPlans__3d_fullres"
DINO_2D, DINO_3D = "nnUNetTrainerDINOv3S__nnUNetPlans__2d", "nnUNetTrainerDINOv3S__nnUNetPlans__3d_fullres"


def test_each_result_meets_the_stock_trainer_of_its_configuration(tmp_path):
    assert pairs(tmp_path, DINO_2D, DINO_3D, STOCK_2D, STOCK_3D) == {DINO_2D: STOCK_2D, DINO_3D: STOCK_3D}


def test_stock_results_without_a_partner_meet_each_other(tmp_path):
    assert pairs(tmp_path, DINO_3D, STOCK_2D, STOCK_3D) == {DINO_3D: STOCK_3D, STOCK_2D: STOCK_3D}
    assert pairs(tmp_path, STOCK_2D, STOCK_3D) == {STOCK_2D: STOCK_3D}


def test_training_length_and_plans_decide_between_stock_results(tmp_path):
    short, long = "nnUNetTrainer_5epochs__nnUNetPlans__3d_fullres", STOCK_3D
    ours = "nnUNetTrainerDINOv3S_5epochs__nnUNetPlans__3d_fullres"
    assert pairs(tmp_path, long, short, ours)[ours] == short
    large = "nnUNetTrainer__nnUNetResEncUNetLPlans__3d_fullres"
    ours = "nnUNetTrainerDINOv3S__nnUNetResEncUNetLPlans__3d_fullres"
    assert pairs(tmp_path, large, STOCK_3D, ours)[ours] == large
    ours = "nnUNetTrainerDINOv3S__nnUNetDINOv3Plans__3d_fullres"
    assert pairs(tmp_path, large, STOCK_3D, ours)[ours] == STOCK_3D


def test_without_a_stock_result_the_first_is_the_baseline(tmp_path):
    other = "nnUNetTrainerX__nnUNetPlans__2d"
    assert pairs(tmp_path, DINO_2D, DINO_3D, other) == {DINO_3D: DINO_2D, other: DINO_2D}


def test_without_a_stock_result_a_trainer_without_backbone_is_the_baseline(tmp_path):
    ours = entry(DINO_3D, {"1": [0.5]}, tmp_path, facts=Facts(backbone="dinov3_vits16"))
    own = entry("nnUNetTrainer_8x50__nnUNetPlans__3d_fullres", {"1": [0.5]}, tmp_path)
    assert choose_baselines([ours, own], None) == [(0, 1)]


def test_a_named_baseline(tmp_path):
    assert pairs(tmp_path, STOCK_3D, DINO_3D, baseline=DINO_3D) == {STOCK_3D: DINO_3D}
    assert pairs(tmp_path, STOCK_2D, STOCK_3D, DINO_2D, DINO_3D, baseline="nnUNetTrainerDINOv3S") == {
        STOCK_2D: DINO_2D,
        STOCK_3D: DINO_3D,
    }
    with pytest.raises(UserError, match=f"'nnUNetTrainerDINOv3S__nnUNetPlans__3d'; did you mean '{DINO_3D}'"):
        pairs(tmp_path, STOCK_3D, DINO_3D, baseline="nnUNetTrainerDINOv3S__nnUNetPlans__3d")


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Tree:
    made = Tree(tmp_path)
    made.use(monkeypatch)
    return made


def test_numbers_of_a_comparison(tree):
    tree.add("nnUNetTrainer", moving(tree.cases, [2, 2, 3, 2, 4, 2, 3, 3]))
    tree.add("nnUNetTrainerDINOv3S", moving(tree.cases, [1, 3, 1, 2, 1, 1, 1, 1]))
    comparison = compare_results(905)
    (pair,) = comparison.pairs
    delta = (pair.entry.dice["1"] - pair.baseline.dice["1"]).to_numpy()
    liver = pair.classes["1"]
    assert liver.mean == pytest.approx(delta.mean())
    assert (liver.num_better, liver.num_worse, liver.num_equal) == (6, 1, 1)
    nonzero = np.round(delta, 9)[np.round(delta, 9) != 0]
    assert liver.test.p == pytest.approx(stats.wilcoxon(nonzero, method=stats.PermutationMethod()).pvalue)
    assert liver.test.p == pytest.approx(2 * 4 / 2**7), "ranks 2 2 2 5 5 5 7, of which one 2 is negative"
    assert pair.classes["2"].num_pairs == 7, "case 3 has no spleen"
    assert pair.mean.num_pairs == 8
    assert pair.mean.p_holm is None, "one comparison"
    assert pair.classes["2"].p_holm == pytest.approx(2 * pair.classes["2"].test.p) == pytest.approx(2 / 2**5)
    assert liver.p_holm == pytest.approx(max(liver.test.p, 2 / 2**5)), "Holm: the larger of two p values counts once"
    assert [entry.name for entry in comparison.entries] == ["nnUNetTrainer", "nnUNetTrainerDINOv3S"]


def test_different_cases_are_refused_and_named(tree):
    tree.add("nnUNetTrainer", folds=(0, 1))
    tree.add("nnUNetTrainerDINOv3S", folds=(0,))
    with pytest.raises(UserError, match=r"4 cases that not all results have \(case_01, case_03, case_05, case_07\)") as caught:
        compare_results(905)
    assert "nnUNetTrainerDINOv3S has 4 (fold 0); nnUNetTrainer has 8 (folds 0, 1)" in str(caught.value)
    comparison = compare_results(905, common=True)
    assert comparison.cases == tree.cases[::2]
    assert any("Only the 4 cases" in warning and "nnUNetTrainer: 4 of 8" in warning for warning in comparison.warnings)
    assert compare_results(905, folds=[0]).warnings == []


def test_no_shared_case_is_refused_even_with_common(tree):
    tree.add("nnUNetTrainer", folds=(0,))
    tree.add("nnUNetTrainerDINOv3S", folds=(1,))
    with pytest.raises(UserError, match=r"8 cases .*case_00.*no case is shared"):
        compare_results(905, common=True)


def test_other_labels_are_refused(tmp_path):
    entries = [entry(STOCK_3D, {"1": [0.5]}, tmp_path), entry(DINO_3D, {"1": [0.5], "2": [0.4]}, tmp_path)]
    with pytest.raises(UserError, match=f"got 1 in {STOCK_3D} and 1, 2 in {DINO_3D}"):
        compare_entries(entries, title="T", pictures=NO_PICTURES)


def test_other_splits_and_other_lengths_are_warned_of(tmp_path):
    first = entry(
        STOCK_3D, {"1": [0.5, 0.6]}, tmp_path, fold_of={"case_00": "0", "case_01": "1"},
        facts=Facts(num_epochs=1000, num_iterations=250, device="cpu"),
    )  # fmt: skip
    second = entry(
        DINO_3D, {"1": [0.6, 0.5]}, tmp_path, fold_of={"case_00": "1", "case_01": "1"},
        facts=Facts(num_epochs=5, num_iterations=250, device="A GPU"),
    )  # fmt: skip
    comparison = compare_entries([first, second], title="T", pictures=NO_PICTURES)
    assert "1 case(s), such as case_00" in comparison.warnings[0]
    assert "5 epochs of 250 iterations against 1000 epochs of 250 iterations" in comparison.warnings[1]
    assert "different devices" in comparison.notes[0] and "A GPU" in comparison.notes[0]


def test_another_optimiser_is_warned_of(tmp_path):
    scores = {"1": [0.5, 0.6]}
    facts = [Facts(optimizer=name) for name in ("SGD", "AdamW", None)]
    names = [STOCK_3D, DINO_3D, DINO_3D.replace("DINOv3", "DINOv3Other")]
    entries = [entry(name, scores, tmp_path, facts=fact) for name, fact in zip(names, facts, strict=True)]
    comparison = compare_entries(entries, title="T", pictures=NO_PICTURES)
    assert list(comparison.warnings) == [
        f"{DINO_3D} was trained with AdamW, {STOCK_3D} with SGD: what differs is not the network alone.",
    ]


def test_another_start_is_warned_of(tmp_path):
    scores = {"1": [0.5, 0.6]}
    facts = [Facts(starts_at_class_frequencies=start) for start in (False, True)]
    entries = [entry(name, scores, tmp_path, facts=fact) for name, fact in zip([STOCK_3D, DINO_3D], facts, strict=True)]
    (warning,) = compare_entries(entries, title="T", pictures=NO_PICTURES).warnings
    assert warning.startswith(f"The output biases of {DINO_3D} started at the class frequencies, those of {STOCK_3D} did not.")


def test_random_weights_are_said_plainly(tmp_path):
    scores = {"1": [0.5, 0.6, 0.7]}
    comparison = compare_entries(
        [entry(STOCK_3D, scores, tmp_path), entry(DINO_3D, scores, tmp_path, facts=Facts(weights="random"))],
        title="T",
        pictures=NO_PICTURES,
    )
    assert formatting.shown_name(comparison.pairs[0].entry) == f"{DINO_3D} (random weights)"
    assert "Random weights" in comparison.warnings[0] and DINO_3D in comparison.warnings[0]
    assert formatting.summary(comparison.pairs[0]).endswith("n = 3 cases: no difference in any case.")


def test_a_false_alarm_in_one_result_is_counted(tmp_path):
    nan = float("nan")
    clean = entry(STOCK_3D, {"1": [0.9, 0.8], "2": [nan, 0.5]}, tmp_path)
    alarm = entry(DINO_3D, {"1": [0.9, 0.8], "2": [0.0, 0.5]}, tmp_path)
    (pair,) = compare_entries([clean, alarm], title="T", pictures=NO_PICTURES).pairs
    assert pair.num_one_sided == 1
    assert pair.classes["2"].num_pairs == 1
    assert pair.case_differences["case_00"] == pytest.approx(-0.45)


def difference(mean: float, low: float, high: float, p: float | None, p_holm: float | None = None) -> Difference:
    test = SignedRank(p, 20, "exact") if p is not None else SignedRank(None, 3, reason="3 non-zero differences, 6 needed")
    return Difference(mean, low, high, 20, 12, 7, 1, test, p_holm)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ((0.012, -0.003, 0.025, 0.21), "no clear difference"),
        ((0.012, 0.003, 0.025, 0.01), "better"),
        ((-0.012, -0.025, -0.003, 0.01), "worse"),
        ((0.012, 0.003, 0.025, 0.01, 0.3), "unclear, as test and interval disagree"),
        ((0.012, -0.003, 0.025, 0.01), "unclear, as test and interval disagree"),
        ((0.012, 0.003, 0.025, None), "not testable (3 non-zero differences, 6 needed)"),
    ],
)
def test_verdicts(values, says):
    assert formatting.verdict(difference(*values)) == says


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (formatting.change(difference(0.012, -0.0031, 0.0249, 0.2)), "+0.012 [−0.003, +0.025]"),
        (formatting.signed(-0.0004), "0.000"),
        (formatting.signed(float("nan")), "–"),
        (formatting.p_value(0.00012), "< 0.001"),
        (formatting.p_value(0.0342), "0.034"),
        (formatting.p_value(0.214), "0.21"),
        (formatting.count(31_195_784), "31.2 M"),
        (formatting.count(345), "345"),
        (formatting.count(303_129_000), "303 M"),
        (formatting.size(1_873), "1.9 kB"),
        (formatting.seconds(11.04), "11.0 s"),
        (formatting.count(None), "–"),
        (formatting.mean_and_sd(0.8, float("nan")), "0.800"),
    ],
)
def test_numbers_in_words(text, expected):
    assert text == expected
