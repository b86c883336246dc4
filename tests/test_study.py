"""Studies: what they are made of, what is refused, what they cost to ask; the run itself is in test_study_run.py."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from nnunet_dino._errors import UserError
from nnunet_dino.cli.main import main
from nnunet_dino.nnunet import presets
from nnunet_dino.study import jobs_of, read_study
from nnunet_dino.study.check import check, check_space
from nnunet_dino.study.jobs import Subset
from nnunet_dino.study.options import size_of
from nnunet_dino.study.ranks import ranks_of
from nnunet_dino.study.splits import departures
from nnunet_dino.study.states import num_epochs
from nnunet_dino.study.steps import command_of
from nnunet_dino.study.subsets import choose, write_subset

DATASET = "Dataset801_SmallPhantom"
NUM_CASES = 11


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnU-Net's folders with one data set, planned and preprocessed as far as names go, and a study of it."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    description = {"labels": {"background": 0, "organ": 1}, "file_ending": ".nii.gz", "channel_names": {"0": "CT"}}
    for root in ("nnUNet_raw", "nnUNet_preprocessed"):
        (tmp_path / root / DATASET).mkdir()
        (tmp_path / root / DATASET / "dataset.json").write_text(json.dumps({**description, "numTraining": NUM_CASES}))
    for case in range(NUM_CASES):
        for folder, name in (("imagesTr", f"case_{case:02d}_0000"), ("labelsTr", f"case_{case:02d}")):
            touch(tmp_path / "nnUNet_raw" / DATASET / folder / f"{name}.nii.gz")
        touch(preprocessed(tmp_path) / "gt_segmentations" / f"case_{case:02d}.nii.gz")
        touch(preprocessed(tmp_path) / "data" / f"case_{case:02d}.pkl", b"properties")
    plans = {"configurations": {"3d_fullres": {"data_identifier": "data", "spacing": [3, 1, 2], "patch_size": [4, 8, 16]}}}
    (preprocessed(tmp_path) / "nnUNetPlans.json").write_text(json.dumps(plans))
    write(tmp_path)
    return tmp_path


def preprocessed(home: Path) -> Path:
    return home / "nnUNet_preprocessed" / DATASET


def touch(file: Path, content: bytes = b"") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def checkpoint(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"network_weights": {}}, file)


def write(home: Path, **changes: object) -> Path:
    content = {"datasets": [801], "trainers": ["nnUNetTrainer", "nnUNetTrainerDINOv3S"], "device": "cpu", **changes}
    (home / "study").mkdir(exist_ok=True)
    (home / "study" / "study.yaml").write_text(json.dumps(content))
    return home / "study"


def checked(folder: Path) -> None:
    check(jobs_of(read_study(folder)), folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainers": ["nnUNetTrainerDINOv3X"]}, "trainers: .*'nnUNetTrainerDINOv3X'; did you mean 'nnUNetTrainerDINOv3"),
        ({"datasets": ["Dataset801_SmalPhantom"]}, "'Dataset801_SmalPhantom'.*did you mean 'Dataset801_SmallPhantom'"),
        ({"plans": {"nnUNetPlans": "ExperimentPlaner"}}, "plans: .*'ExperimentPlaner'; did you mean 'ExperimentPlanner'"),
        ({"metrics": ["hd59"]}, "'hd59'; did you mean 'hd95'"),
        ({"baseline": "nnUNetTraner"}, "baseline: .*'nnUNetTraner'; did you mean 'nnUNetTrainer'"),
        ({"device": "gpu"}, "device: required one of cuda, cpu, mps · got 'gpu'"),
        ({"trainer": ["nnUNetTrainer"]}, "got 'trainer'; did you mean 'trainers'"),
        ({"folds": 3}, r"folds: required a list such as \[3\] · got 3"),
        ({"cases": [0]}, "cases: required whole numbers from 1 · got 0"),
        ({"folds": [1, 1]}, "folds: required each once · got 1, 1"),
        ({"resources": {"huge": {}}}, "resources: .*'huge'"),
        ({"resources": {"stock": {"disk_gb": 1e9}}}, "GB for 10 trainings in .* · got .* GB free"),
        ({"test_sets": {"801": {"images": "nowhere", "labels": "nowhere"}}}, "test_sets, Dataset801.*got nowhere"),
    ],
)
def test_a_wrong_study_is_refused_in_one_line(home: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        folder = write(home, **changes)
        checked(folder)
        check_space(jobs_of(read_study(folder)), folder)


def test_a_label_that_is_missing_on_one_side_is_named(home: Path) -> None:
    (home / "nnUNet_raw" / DATASET / "labelsTr" / "case_03.nii.gz").unlink()
    with pytest.raises(UserError, match="none for case_03 in .*labelsTr"):
        checked(home / "study")


def test_results_of_other_plans_are_refused(home: Path) -> None:
    model = home / "nnUNet_results" / DATASET / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    model.mkdir(parents=True)
    plans = json.loads((preprocessed(home) / "nnUNetPlans.json").read_text())
    (model / "plans.json").write_text(json.dumps(plans))
    checked(home / "study")
    plans["configurations"]["3d_fullres"]["spacing"] = [3, 2, 2]
    (model / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(UserError, match=r"trained with spacing \[3, 2, 2\] where the plans have \[3, 1, 2\]"):
        checked(home / "study")


def test_without_snakemake_one_line_says_how_to_get_it(home: Path, monkeypatch, capsys) -> None:
    from nnunet_dino.study import engine

    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="2"):
        main(["study", "run", "-o", str(home / "study")])
    assert "pip install 'nnunet-dino[study]'" in capsys.readouterr().err
    assert not (home / "study" / "locks").exists()


def test_init_writes_a_study_that_is_read_and_leaves_nothing_of_a_wrong_one(home: Path, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["study", "init", str(home / "new"), "-d", "801", "-tr", "nnUNetTrainr"])
    assert "did you mean 'nnUNetTrainer'" in capsys.readouterr().err
    assert not list((home / "new").iterdir())
    with pytest.raises(SystemExit, match="0"):
        main(["study", "init", str(home / "new"), "-d", "801", "-f", "0,1", "--cases", "3,all"])
    assert "8 trainings, " in capsys.readouterr().out
    study = read_study(home / "new")
    assert (study.folds, study.cases) == ((0, 1), (3, "all"))
    with pytest.raises(SystemExit, match="2"):
        main(["study", "init", str(home / "new"), "-d", "801"])
    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        main(["study", "init", str(home / "other"), "-d", "801"])
    assert "Trainers: nnUNetTrainer, nnUNetTrainerDINOv3L, as no -tr says others" in capsys.readouterr().out


def test_hours_are_read_from_logs_else_from_the_stated_rates(home: Path) -> None:
    from nnunet_dino.study.states import hours_of

    folder = write(home, trainers=["nnUNetTrainer_50epochs", "nnUNetTrainer"], folds=[0, 1])
    assert hours_of(jobs_of(read_study(folder)), folder) == (2 * 1050 * 60 / 3600, 0)
    log = home / "nnUNet_results" / DATASET / "nnUNetTrainer_50epochs__nnUNetPlans__3d_fullres/fold_0/training_log_1.txt"
    log.parent.mkdir(parents=True)
    log.write_text("Epoch time: 8.0 s\nEpoch time: 10.0 s\nEpoch time: 9.0 s\n")
    assert hours_of(jobs_of(read_study(folder)), folder) == (2 * (50 * 9 + 1000 * 60) / 3600, 2)


def test_sizes_and_lengths_are_read_from_names() -> None:
    assert size_of("nnUNetTrainerDINOv3SPlus_LoRA_50epochs") == "DINOv3SPlus"
    assert size_of("nnUNetTrainerDINOv3S") == "DINOv3S"
    assert size_of("nnUNetTrainerNoMirroring") == "stock"
    assert [size.name for size in presets.SIZES if size_of(f"nnUNetTrainer{size.name}_FT") != size.name] == []
    assert [num_epochs(name) for name in ("nnUNetTrainer", "nnUNetTrainer_1epoch", "nnUNetTrainer_50epochs")] == [1000, 1, 50]


def test_a_training_goes_on_or_is_validated_or_is_left_alone(home: Path) -> None:
    folder = home / "study"
    jobs = jobs_of(read_study(folder))
    name = f"{DATASET}__nnUNetTrainer__nnUNetPlans__3d_fullres__all__fold0"
    output = jobs.trainings[name].output(folder)
    job = jobs.job("train", name)
    assert command_of(jobs, job, folder)[0][-2:] == ["-device", "cpu"]
    checkpoint(output / "checkpoint_latest.pth")
    assert command_of(jobs, job, folder)[0][-1] == "--c"
    checkpoint(output / "checkpoint_final.pth")
    assert command_of(jobs, job, folder)[0][-1] == "--val"
    touch(output / "validation" / "summary.json", b"{}")
    assert command_of(jobs, job, folder) is None


def test_what_a_killed_training_did_not_write_to_its_end_is_not_taken(home: Path, capsys) -> None:
    folder = home / "study"
    jobs = jobs_of(read_study(folder))
    name = f"{DATASET}__nnUNetTrainer__nnUNetPlans__3d_fullres__all__fold0"
    output = jobs.trainings[name].output(folder)
    for file in ("checkpoint_best.pth", "checkpoint_latest.pth", "checkpoint_final.pth"):
        checkpoint(output / file)
    touch(output / "validation" / "summary.json", b'{"mean": ')
    assert command_of(jobs, jobs.job("train", name), folder)[0][-1] == "--val"
    for cut in ("checkpoint_final.pth", "checkpoint_latest.pth"):
        touch(output / cut, (output / cut).read_bytes()[:-30])
        assert command_of(jobs, jobs.job("train", name), folder)[0][-1] == "--c"
        assert not (output / cut).exists() and (output / f"{cut}.cut").exists()
        assert f"{cut} was not written to its end" in capsys.readouterr().out
    touch(preprocessed(home) / "data" / "case_03.pkl")
    assert command_of(jobs, jobs.job("preprocess", f"{DATASET}__nnUNetPlans"), folder)[0][0] == "nnUNetv2_preprocess"


def test_the_log_of_a_killed_job_has_all_that_it_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = home / "bin" / "nnUNetv2_train"
    command.parent.mkdir()
    command.write_text(
        f"#!{sys.executable}\nimport os, signal\nprint('Training done.')\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    name = f"{DATASET}__nnUNetTrainer__nnUNetPlans__3d_fullres__all__fold0"
    step = [Path(sys.executable).parent / "nnunet-dino", "study", "step", "train", name]
    killed = subprocess.run(step, cwd=home / "study", capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert "Training done." in (home / "study" / "logs" / "train" / f"{name}.txt").read_text()


def test_what_is_planned_and_preprocessed_is_not_made_again(home: Path) -> None:
    jobs = jobs_of(read_study(home / "study"))
    touch(preprocessed(home) / "dataset_fingerprint.json")
    for kind, name in (
        ("fingerprint", DATASET),
        ("plan", f"{DATASET}__nnUNetPlans"),
        ("preprocess", f"{DATASET}__nnUNetPlans"),
    ):
        assert command_of(jobs, jobs.job(kind, name), home / "study") is None
    (preprocessed(home) / "data" / "case_03.pkl").unlink()
    words, _ = command_of(jobs, jobs.job("preprocess", f"{DATASET}__nnUNetPlans"), home / "study")
    assert words[:3] == ["nnUNetv2_preprocess", "-d", "801"]


def test_subsets_are_nested_and_leave_the_users_split_alone(home: Path) -> None:
    folder = write(home, cases=[3, 5, "all"], seeds=[0, 1], folds=[0, 4])
    jobs = jobs_of(read_study(folder))
    own = [{"train": [f"case_{i:02d}" for i in range(11) if i % 5 != f], "val": [f"case_{f:02d}"]} for f in range(5)]
    splits = preprocessed(home) / "splits_final.json"
    splits.write_text(json.dumps(own))
    before = splits.read_bytes(), splits.stat().st_mtime_ns
    for subset in jobs.subsets:
        write_subset(jobs, DATASET, subset, folder)
    assert before == (splits.read_bytes(), splits.stat().st_mtime_ns)
    made = {}
    for subset in jobs.subsets[:-1]:
        target = subset.root("nnUNet_preprocessed", folder) / DATASET
        made[subset] = json.loads((target / "splits_final.json").read_text())
        assert (target / "data" / "case_03.pkl").is_file()
    for fold in range(5):
        for seed in (0, 1):
            few, more = (set(made[Subset(number, seed)][fold]["train"]) for number in (3, 5))
            assert len(few) == 3 and len(more) == 5 and few < more < set(own[fold]["train"])
            assert made[Subset(3, seed)][fold]["val"] == own[fold]["val"]
    assert made[Subset(5, 0)] != made[Subset(5, 1)]
    with pytest.raises(UserError, match="training cases of fold 0 of .* · got 10"):
        write_subset(jobs, DATASET, Subset(10, 0), folder)


def test_splits_are_nnunets_own(home: Path) -> None:
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    jobs = jobs_of(read_study(home / "study"))
    write_subset(jobs, DATASET, Subset(), home / "study")
    names = np.sort([f"case_{case:02d}" for case in range(NUM_CASES)]).tolist()
    assert json.loads((preprocessed(home) / "splits_final.json").read_text()) == generate_crossval_split(names)
    assert choose(names, 11, DATASET, 0, 0) == names


def test_fold_sizes_of_the_decathlon(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset009_Spleen"
    folder.mkdir()
    sizes = [9, 8, 8, 8, 8]
    (folder / "splits_final.json").write_text(json.dumps([{"train": [], "val": ["x"] * n} for n in sizes]))
    assert departures(folder) == []
    (folder / "splits_final.json").write_text(json.dumps([{"train": [], "val": ["x"] * n} for n in sizes[:4]]))
    assert "folds of 9, 8, 8, 8 cases" in departures(folder)[0]


def test_a_patient_in_training_and_validation_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset221_AutoPETII_2023"
    folder.mkdir()
    a, b, c = (f"PETCT_{patient}_2003-NA-{number}" for patient, number in [("0a1f", 1), ("0a1f", 2), ("77be", 1)])
    for training, validation, torn in [([a, b], [c], False), ([a, c], [b], True), (["liver_1"], ["liver_2"], False)]:
        (folder / "splits_final.json").write_text(json.dumps([{"train": training, "val": validation}]))
        assert [("1 patients, among them PETCT_0a1f" in text) for text in departures(folder)] == [True] * torn


def test_ranks_and_critical_difference_are_demsars() -> None:
    """J. Demšar 2006: four results on fourteen tasks differ from 1.25 on (section 3.2.2); Friedman's formula (3.2.1)."""
    scores = pd.DataFrame(np.random.default_rng(3).random((14, 4)), columns=list("abcd"))
    scores["a"] += 1
    ranks = ranks_of(scores)
    mean = sum(pd.Series(stats.rankdata(-row), index=scores.columns) for row in scores.to_numpy()) / 14
    assert ranks.critical == pytest.approx(1.25, abs=0.01)
    assert ranks.mean.to_dict() == pytest.approx(mean.to_dict())
    statistic = 12 * 14 / (4 * 5) * ((mean**2).sum() - 4 * 5**2 / 4)
    assert ranks.friedman_p == pytest.approx(stats.chi2.sf(statistic, 3))
    assert ranks.mean.index[0] == "a" and ranks.mean["a"] == 1
    assert ranks.groups == [(1, 3)]  # the others are noise


def test_tasks_that_are_not_whole_are_left_out_of_ranks() -> None:
    scores = pd.DataFrame({"a": [0.9, 0.8, np.nan], "b": [0.7, 0.6, 0.9]})
    ranks = ranks_of(scores)
    assert (ranks.num_tasks, ranks.mean.to_dict(), ranks.friedman_p) == (2, {"a": 1, "b": 2}, None)


@pytest.mark.slow
def test_five_hundred_trainings_are_listed_in_less_than_ten_seconds(home: Path) -> None:
    trainers = ["nnUNetTrainer"] + [f"nnUNetTrainerDINOv3{size}" for size in ("S", "B", "L", "HPlus")]
    folder = write(home, trainers=trainers, cases=[1, 2, 3, 4, "all"], seeds=[0, 1, 2, 3, 4], folds=[0, 1, 2, 3, 4])
    assert len(jobs_of(read_study(folder)).trainings) == 525
    command = Path(sys.executable).with_name("nnunet-dino")
    for words in (["status"], ["run", "--dry-run"]):
        before = resource.getrusage(
            resource.RUSAGE_CHILDREN
        ).ru_utime  # processor time: other work on the machine does not count
        done = subprocess.run([command, "study", *words, "-o", folder], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "525" in done.stdout
        assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 10
