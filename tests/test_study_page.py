"""The page of a study, from results on disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from compare_tree import DATASET, Tree, moving

from nnunet_dino.reports import Table, table_csv, table_latex
from nnunet_dino.study import jobs_of, read_study
from nnunet_dino.study.page import write_study_report

OTHER = "Dataset009_Spleen"
TRAINERS = ["nnUNetTrainer", "nnUNetTrainerDINOv3S", "nnUNetTrainerDINOv3L"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of two data sets and three trainers, two folds each, on 3 cases and on all; one result is missing."""
    tree = Tree(tmp_path / "home", num_cases=14)
    tree.use(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tree.add(TRAINERS[0], moving(tree.cases, [3, 2] * 7))
    tree.add(TRAINERS[1], moving(tree.cases, [1, 2, 1, 1, 3, 1, 1] * 2))
    tree.add(TRAINERS[2], moving(tree.cases, [1, 0] * 7))
    splits = [
        {"train": [c for c in tree.cases if c not in tree.cases_of_fold(f)], "val": tree.cases_of_fold(f)} for f in (0, 1)
    ]
    tree.write_json(tree.preprocessed / DATASET / "dataset.json", tree.description)
    tree.write_json(tree.preprocessed / DATASET / "splits_final.json", splits)
    for root in (tree.raw, tree.preprocessed, tree.results):
        shutil.copytree(root / DATASET, root / OTHER)
    study = tmp_path / "study"
    few = study / "subsets" / "cases3_seed0" / "nnUNet_results"
    for dataset in (DATASET, OTHER):
        for trainer, source in ((TRAINERS[0], TRAINERS[0]), (TRAINERS[1], TRAINERS[0])):
            name = "{}__nnUNetPlans__3d_fullres"
            shutil.copytree(tree.results / DATASET / name.format(source), few / dataset / name.format(trainer))
    shutil.rmtree(few / OTHER / f"{TRAINERS[1]}__nnUNetPlans__3d_fullres" / "fold_1")
    content = {"datasets": [905, 9], "trainers": TRAINERS, "folds": [0, 1], "cases": [3, "all"], "metrics": ["hd95", "dsc_agg"]}
    tree.write_json(study / "study.yaml", content)
    page = study / "compare" / f"{DATASET}__all" / "report.html"
    page.parent.mkdir(parents=True)
    page.touch()
    return study


def table(folder: Path, title: str) -> pd.DataFrame:
    name = next(file for file in (folder / "report" / "tables").glob("*.csv") if file.stem[3:] == title)
    return pd.read_csv(name, index_col=0)


@pytest.mark.slow
def test_test_sets_are_on_the_page(folder: Path) -> None:
    model = f"{TRAINERS[0]}__nnUNetPlans__3d_fullres"
    score = folder / "score" / f"{DATASET}__all"
    score.mkdir(parents=True)
    summary = {"result": model, "label": ["mean", "1"], "dice_mean": [0.71, 0.8], "dice_sd": [0.02, 0.1]}
    metrics = {"result": model, "metric": "hd95", "title": "HD95, mm", "lower_is_better": True, "case": ["a", "b", "a"]}
    pd.DataFrame(summary).to_csv(score / "summary.csv", index=False)
    pd.DataFrame(metrics | {"label": ["mean", "mean", "1"], "value": [3.0, 5.0, 99.0]}).to_csv(
        score / "metrics.csv", index=False
    )
    write_study_report(jobs_of(read_study(folder)), folder)
    sets = table(folder, "test-sets")
    assert sets["Measure"].tolist() == ["Dice ↑", "HD95, mm ↓"] and sets.index.tolist() == [DATASET] * 2
    assert sets[TRAINERS[0]].tolist() == ["0.710 ± 0.020", "4.000 ± 1.414"] and set(sets[TRAINERS[1]]) == {"–"}
    assert f"[{DATASET}](../score/{DATASET}__all/report.html)" in (folder / "report" / "report.md").read_text()


@pytest.mark.slow
def test_the_page_says_what_the_files_say(folder: Path) -> None:
    write_study_report(jobs_of(read_study(folder)), folder)
    text = (folder / "report" / "report.md").read_text()
    raw = pd.read_csv(folder / "report" / "folds.csv")
    results = json.loads(
        (
            folder.parent / "home/results" / OTHER / f"{TRAINERS[2]}__nnUNetPlans__3d_fullres/fold_1/validation/summary.json"
        ).read_text()
    )
    chosen = raw[(raw.task == OTHER) & (raw.cases == "all") & raw.result.str.startswith(TRAINERS[2]) & (raw.fold == 1)]
    assert float(chosen[chosen.label == "nnunet"].dice_mean.iloc[0]) == pytest.approx(results["foreground_mean"]["Dice"])
    means = table(folder, "mean-dice-of-every-task")
    assert list(means.columns) == TRAINERS
    assert means.loc["Mean rank ↓"].tolist() == ["3.00", "2.00", "1.00"]
    differences = table(folder, "difference-to-the-baseline")
    assert set(differences["In words"]) == {"better"}
    single, adjusted = (float(str(differences.iloc[0][column]).strip("< ")) for column in ("Wilcoxon p", "p (Holm over tasks)"))
    assert adjusted >= single
    assert f"[{DATASET}](../compare/{DATASET}__all/report.html)" in text
    assert "critical-difference" in text and f"learning-{DATASET}" in text
    assert "Dataset009_Spleen: folds of 7, 7 cases; five folds of the Decathlon's 41 cases have 9, 8, 8, 8, 8." in text
    assert "(1)" in table(folder, "3-training-cases-choice-0-mean-dice-of-every-task").loc[OTHER, TRAINERS[1]]
    assert "Empty masks" in text and "HD95, mm ↓" in text
    curve = table(folder, "learning-curves")
    assert set(curve["Training cases"]) == {3, 7}


def test_a_study_without_results_has_a_page_too(folder: Path) -> None:
    shutil.rmtree(folder / "subsets")
    for dataset in (DATASET, OTHER):
        shutil.rmtree(folder.parent / "home" / "results" / dataset)
    write_study_report(jobs_of(read_study(folder)), folder)
    text = (folder / "report" / "report.md").read_text()
    assert "0 of 24 trainings are validated." in text and "nothing is validated yet" in text


def test_tables_as_csv_and_latex() -> None:
    made = Table("T", ["Task", "a_b, %"], [["x & y", "0.9 ± 0.1"]], "", 1)
    assert table_csv(made) == 'Task,"a_b, %"\nx & y,0.9 ± 0.1\n'
    assert table_latex(made).splitlines()[2] == r"Task & a\_b, \% \\"
    assert table_latex(made).splitlines()[4] == r"x \& y & 0.9 $\pm$ 0.1 \\"
