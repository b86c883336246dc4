"""Two reports on the same inputs: DeLong's test and drawn patients."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from nnunet_dino._errors import UserError
from nnunet_dino.probes.comparison import compare_probes
from nnunet_dino.probes.paired import delong_p, paired_difference


def scores_of(seed: int = 0, count: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns truth and two sets of scores with ties, of which the second is better."""
    generator = np.random.default_rng(seed)
    targets = (np.arange(count) % 3 == 0).astype(float)
    return targets, *(np.round(targets * gain + generator.normal(size=count), 1) for gain in (0.4, 1.6))


def delong_by_pairs(targets: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """DeLong's equations from the table of all pairs of a positive and a negative input."""
    kernels = []
    for scores in (first, second):
        gap = scores[targets == 1][:, None] - scores[targets == 0][None]
        kernels.append((gap > 0) + 0.5 * (gap == 0))
    m, n = kernels[0].shape
    s10 = np.cov([kernel.mean(1) for kernel in kernels])
    s01 = np.cov([kernel.mean(0) for kernel in kernels])
    contrast = np.array([1, -1])
    variance = contrast @ (s10 / m + s01 / n) @ contrast
    return float(2 * norm.sf(abs(kernels[0].mean() - kernels[1].mean()) / np.sqrt(variance)))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_delong_by_ranks_is_delong_by_pairs(seed):
    assert delong_p(*scores_of(seed)) == pytest.approx(delong_by_pairs(*scores_of(seed)), rel=1e-9)


def test_scores_that_rank_alike_have_no_p():
    targets, first, _ = scores_of()
    assert np.isnan(delong_p(targets, first, 2 * first + 1))


def test_drawn_patients_agree_with_delong_where_inputs_are_independent():
    targets, first, second = scores_of(3, 300)
    found = paired_difference(targets, first, second * 0.4 + first * 0.6, np.arange(300).astype(str), 4000, 0)
    half_width = (found.difference.high - found.difference.low) / 2
    z = norm.isf(found.p_delong / 2)
    assert half_width == pytest.approx(1.96 * found.difference.value / z, rel=0.1)


def test_ten_copies_of_a_patient_do_not_make_a_difference_surer():
    targets, first, second = scores_of(4, 45)
    mixed, patients = first + 0.25 * second, np.arange(45).astype(str)
    once = paired_difference(targets, first, mixed, patients, 2000, 0)
    copied = paired_difference(*(np.repeat(values, 10) for values in (targets, first, mixed, patients)), 2000, 0)
    assert copied.p_delong < once.p_delong / 5  # takes the copies for new patients
    assert copied.p_bootstrap == pytest.approx(once.p_bootstrap, abs=1e-12)


def write_predictions(folder: Path, targets, scores, more: str = "") -> str:
    folder.mkdir()
    rows = [f"i{n},p{n // 2},test,{int(t)},{s:.6g}" for n, (t, s) in enumerate(zip(targets, scores, strict=True))]
    (folder / "predictions.csv").write_text("\n".join(["id,patient,split,sick,score sick", *rows, "x,px,train,1,0.3"]) + more)
    return str(folder)


def test_a_report_says_which_probe_beats_which(tmp_path):
    targets, first, second = scores_of(count=200)
    folders = [write_predictions(tmp_path / name, targets, scores) for name, scores in (("a", first), ("b", second))]
    compare_probes(folders, str(tmp_path / "out"), num_rounds=500, echo=lambda text: None)
    found = json.loads((tmp_path / "out/report.json").read_text())["differences"][0]
    assert found["p_delong"] == pytest.approx(delong_by_pairs(targets, first, second), rel=1e-6)
    assert f"sick: {folders[1]} beats {folders[0]}" in (tmp_path / "out/report.md").read_text()
    assert "200 inputs are of 100 patients" in (tmp_path / "out/report.md").read_text()


def test_reports_on_other_inputs_or_with_other_truths_are_refused(tmp_path):
    targets, first, second = scores_of()
    a = write_predictions(tmp_path / "a", targets, first)
    fewer = write_predictions(tmp_path / "fewer", targets[:-1], second[:-1])
    other = write_predictions(tmp_path / "other", 1 - targets, second)
    with pytest.raises(UserError, match="i59 in"):
        compare_probes([a, fewer], str(tmp_path / "out"))
    with pytest.raises(UserError, match="same sick of every input .* another one of i0"):
        compare_probes([a, other], str(tmp_path / "out"))
    with pytest.raises(UserError, match="each once"):
        compare_probes([a, a], str(tmp_path / "out"))
    with pytest.raises(UserError, match="got .*nothing"):
        compare_probes([a, str(tmp_path / "nothing")], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_several_labels_count_by_their_mean_area():
    rng = np.random.default_rng(7)
    targets = (rng.random((80, 3)) < 0.4).astype(float)
    first, second = targets * 0.5 + rng.normal(size=(80, 3)), targets + rng.normal(size=(80, 3))
    found = paired_difference(targets, first, second, np.arange(80).astype(str), 200, 0)
    assert found.first == pytest.approx(roc_auc_score(targets, first, average="macro"), abs=1e-12)
    assert found.second == pytest.approx(roc_auc_score(targets, second, average="macro"), abs=1e-12)
    assert found.difference.value == pytest.approx(found.second - found.first, abs=1e-12)
    assert np.isnan(found.p_delong)


def test_every_encoder_has_a_row_with_its_cost(tmp_path):
    targets, first, second = scores_of(count=60)
    folders = [
        write_predictions(tmp_path / name, targets, scores) for name, scores in (("a", first), ("b", second), ("c", first))
    ]
    for folder, backbone in zip(folders, ("dinov3_tiny", "timm:convnext_atto"), strict=False):
        facts = {"backbone": backbone, "preprocessing": {"size_px": 64}}
        Path(folder, "report.json").write_text(json.dumps({"store": facts}), encoding="utf-8")
    with pytest.raises(UserError, match="--time: required a device of this machine.* got 'gpu'"):
        compare_probes(folders, str(tmp_path / "out"), num_rounds=200, time_on="gpu")
    compare_probes(folders, str(tmp_path / "out"), num_rounds=200, echo=lambda text: None, time_on="cpu")
    text = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith(f"| {tmp_path}")]
    (a, b, c), others = rows[:3], rows[3:]
    assert a[1:3] == ["dinov3_tiny", "64"] and a[4:7] == ["first", "–", "0.9 M"] and float(a[7]) > 0
    assert b[1:3] == ["timm:convnext_atto", "64"] and b[6] == "3.4 M" and float(b[7]) > 0
    assert c[1:3] == ["–", "–"] and c[6:] == ["–", "–"]
    assert a[3] == f"{roc_auc_score(targets, first):.3f}" and b[3] == f"{roc_auc_score(targets, second):.3f}"
    assert b[4] == others[0][4]  # of one label the mean is that label
