"""A study that is killed again and again ends as one that is not: Snakemake and nnU-Net's own commands, on phantoms."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stock import Workspace, run_command, write_phantoms

TRAINERS = ("nnUNetTrainerStillA", "nnUNetTrainerStillB")
TINY = {"stock": {"gpus": 0, "cpus": 1, "mem_gb": 1, "disk_gb": 0.1}}
BIN = Path(sys.executable).parent
# NNUNET_DINO_TEST_WHOLE_STUDY=1: two data sets, two folds and five kills, which take a quarter of an hour.
IS_WHOLE = bool(os.environ.get("NNUNET_DINO_TEST_WHOLE_STUDY"))
DATASETS = ("Dataset801_SmallPhantom", "Dataset803_Other")[: 2 if IS_WHOLE else 1]
FOLDS, NUM_KILLS = ([0, 1], 5) if IS_WHOLE else ([0], 1)


class Home:
    """A workspace with two planned data sets, and studies of them."""

    def __init__(self, folder: Path) -> None:
        self.space = Workspace(folder)
        for dataset in DATASETS:
            write_phantoms(self.space.raw(dataset))
            self.space.plan(dataset, "3d_fullres")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")},
            **self.space.environment,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "nnUNet_n_proc_DA": "0",
        }

    def study(self, name: str, **changes: object) -> Path:
        """Writes a study whose results lie in folders of their own."""
        results = self.space.folder / name / "results"
        results.mkdir(parents=True)
        self.environment["nnUNet_results"] = str(results)
        content = {
            "datasets": [int(name[7:10]) for name in DATASETS],
            "trainers": TRAINERS,
            "folds": FOLDS,
            "device": "cpu",
            "resources": TINY,
            **changes,
        }
        (self.space.folder / name / "study.yaml").write_text(json.dumps(content))
        return self.space.folder / name

    def start(self, folder: Path, *more: str, scripts: Path | None = None) -> subprocess.Popen:
        """Starts a study in a session of its own; its jobs are commands of ``scripts``, by default those that can be killed."""
        command = [BIN / "nnunet-dino", "study", "run", "-o", folder, "--cores", "2", *more]
        first = folder / "first.sh"  # what every shell of a job reads
        first.write_text(f"PATH={scripts or BIN}:$PATH")
        with (folder / "run.txt").open("a") as log:
            settings = {**self.environment, "BASH_ENV": str(first)}
            return subprocess.Popen(command, env=settings, stdout=log, stderr=log, start_new_session=True)

    def ask(self, *words: object) -> str:
        code, said = run_command(["nnunet-dino", "study", *words], self.environment)
        assert code == 0, said
        return said


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("study"))


@pytest.mark.slow
def test_a_study_that_is_killed_ends_as_one_that_is_not(home: Home, scripts: Path) -> None:
    whole = home.study("whole")
    assert home.start(whole, scripts=scripts).wait() == 0, (whole / "run.txt").read_text()[-4000:]
    home.ask("report", "-o", whole)
    killed = home.study("killed")
    dice = random.Random(4)
    for _ in range(NUM_KILLS):
        run = home.start(killed)
        time.sleep(dice.uniform(8, 25))
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        home.ask("status", "-o", killed)
        home.ask("report", "-o", killed)
    assert home.start(killed, scripts=scripts).wait() == 0, (killed / "run.txt").read_text()[-4000:]
    home.ask("report", "-o", killed)
    assert (killed / "report" / "folds.csv").read_text() == (whole / "report" / "folds.csv").read_text()
    rows = (whole / "report" / "folds.csv").read_text().count("StillA")
    assert rows == len(DATASETS) * len(FOLDS) * 6, "four labels, both means"
    for log in (killed / "logs" / "train").iterdir():
        text = log.read_text()
        ended = [part for part in text.split("$ nnUNet_preprocessed")[1:] if "Training done." in part]
        assert len(ended) == 1, f"{log} trained to the end {len(ended)} times"
    lines = [line for line in next((whole / "logs" / "train").iterdir()).read_text().splitlines() if line.startswith("$ ")]
    assert len(lines) == 1 and re.search(r"nnUNetv2_train Dataset80\d_\w+ 3d_fullres \d -tr nnUNetTrainerStill", lines[0])
    assert f"{len(DATASETS) * len(TRAINERS) * len(FOLDS)} done" in home.ask("status", "-o", whole)


@pytest.mark.slurm
def test_on_slurm_a_cancelled_job_goes_on_when_the_study_is_run_again(home: Home) -> None:
    """Needs a Slurm of one node: ``tests/slurm_node.sh``, as root."""
    folder = home.study("slurm", datasets=[801], trainers=TRAINERS[:1], folds=[0, 1])
    slurm = ("--profile", "slurm", "--", "--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "5")
    run = home.start(folder, *slurm)
    cancelled = ""
    while run.poll() is None:
        listed = subprocess.run(["squeue", "-h", "-o", "%i %T %k"], capture_output=True, text=True, check=True).stdout
        running = [line.split()[0] for line in listed.splitlines() if "RUNNING" in line and "fold1" in line]
        if running and not cancelled and (folder / "logs" / "train").is_dir():
            time.sleep(5)
            cancelled = running[0]
            subprocess.run(["scancel", cancelled], check=True)
        time.sleep(1)
    assert cancelled and run.returncode == 1
    assert "1 done      0 running      1 failed" in home.ask("status", "-o", folder)
    assert home.start(folder, *slurm).wait() == 0, (folder / "run.txt").read_text()[-4000:]
    assert "2 done      0 running      0 failed" in home.ask("status", "-o", folder)
    home.ask("report", "-o", folder)
    assert "2 of 2 trainings are validated." in (folder / "report" / "report.md").read_text()
