"""The demo's folder, stages and progress; and, slow, the whole of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from stock import run_command

from nnunet_dino._errors import UserError
from nnunet_dino.cli.main import main
from nnunet_dino.demo import run as demo_run
from nnunet_dino.demo.children import StageFailed, last_lines, run_stage
from nnunet_dino.demo.folder import MARKER, DemoFolder, DemoOptions
from nnunet_dino.demo.plans import add_demo_configuration
from nnunet_dino.demo.stages import Stage, make_stages, num_validation

SMALL = DemoOptions(num_cases=5, num_epochs=5, num_test=2)
ROOT = Path(__file__).parents[1]


def python_stage(code: str, **changes) -> Stage:
    """A stage that runs a line of Python."""
    facts = {"name": "one", "title": "first", "total": 3, "unit": "step", "num_done": lambda log: log.count("step")}
    return Stage(command=(sys.executable, "-c", code), **{**facts, **changes})


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# -- the folder ----------------------------------------------------------------------------------------------------------------


def test_finished_stages_are_remembered(tmp_path: Path) -> None:
    folder = DemoFolder.open(tmp_path / "a" / "demo", SMALL)
    assert folder.seconds == {}
    folder.finish("data", 1.23)
    folder.finish("plan", 61.07)
    assert DemoFolder.open(tmp_path / "a" / "demo", SMALL).seconds == {"data": 1.2, "plan": 61.1}


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(
    "content", ["", "not json", '{"made_by": "somebody else", "options": {"seed": 1}, "seconds": {}}', "[1, 2]"]
)
def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path, content: str, fresh: bool) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    if content:
        (tmp_path / MARKER).write_text(content)
    before = tree(tmp_path)
    with pytest.raises(UserError, match=f"got {tmp_path}, which holds other things"):
        DemoFolder.open(tmp_path, SMALL, fresh)
    assert tree(tmp_path) == before


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("mine")
    with pytest.raises(UserError, match=f"got the file {tmp_path / 'demo'}"):
        DemoFolder.open(tmp_path / "demo", SMALL, fresh=True)
    assert (tmp_path / "demo").read_text() == "mine"


def test_other_options_are_refused_and_fresh_starts_anew(tmp_path: Path) -> None:
    folder = DemoFolder.open(tmp_path, SMALL)
    folder.raw.mkdir(parents=True)
    (folder.raw / "dataset.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("put here later")
    folder.finish("data", 2)
    with pytest.raises(UserError, match="cases 5, .* got cases 7, .* --fresh"):
        DemoFolder.open(tmp_path, DemoOptions(num_cases=7, num_test=2))
    assert (folder.raw / "dataset.json").exists()

    anew = DemoFolder.open(tmp_path, DemoOptions(num_cases=7, num_test=2), fresh=True)
    assert anew.seconds == {}
    assert not folder.raw.exists()
    assert (tmp_path / "notes.txt").read_text() == "put here later"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not stop this user")
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=f"got {tmp_path / 'demo'}: Permission denied"):
        DemoFolder.open(tmp_path / "demo", SMALL)


def test_a_place_below_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=f"got {tmp_path / 'file' / 'demo'}: Not a directory"):
        DemoFolder.open(tmp_path / "file" / "demo", SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_cases": 4}, "at least 5.*got 4"), ({"num_test": 0}, "at least 1 · got 0"), ({"seed": -3}, "0 or more · got -3")],
)
def test_impossible_numbers_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DemoOptions(**options)


def test_only_the_children_see_the_demo_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", "/elsewhere")
    environment = DemoFolder.open(tmp_path, SMALL).environment()
    assert environment["nnUNet_raw"] == str(tmp_path / "nnUNet_raw")
    assert environment["PATH"] == os.environ["PATH"]
    assert os.environ["nnUNet_raw"] == "/elsewhere"


# -- the stages ----------------------------------------------------------------------------------------------------------------


def test_both_networks_are_trained_and_predicted_alike(tmp_path: Path) -> None:
    folder = DemoFolder.open(tmp_path, SMALL)
    stages = {stage.name: stage for stage in make_stages(folder, "cpu")}
    assert list(stages) == [
        "plan",
        "train-stock",
        "train-dinov3",
        "predict-stock",
        "predict-dinov3",
        "compare",
        "compare-unseen",
    ]
    for task in ("train", "predict"):
        stock, ours = stages[f"{task}-stock"].command, stages[f"{task}-dinov3"].command
        different = [(one, other) for one, other in zip(stock, ours, strict=True) if one != other]
        assert different[-1] == ("nnUNetTrainer_5epochs", "nnUNetTrainerDINOv3Tiny_5epochs")
        assert len(different) == (1 if task == "train" else 2)  # and where predictions go
    assert stages["train-stock"].command[stages["train-stock"].command.index("-device") + 1] == "cpu"


@pytest.mark.parametrize(("num_cases", "expected"), [(5, 1), (6, 2), (20, 4), (23, 5)])
def test_number_of_validation_cases_is_that_of_nnunets_split(num_cases: int, expected: int) -> None:
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    split = generate_crossval_split([f"case_{index:03d}" for index in range(num_cases)])
    assert num_validation(num_cases) == expected == len(split[0]["val"])


def test_the_demo_configuration_has_a_quarter_of_the_features_and_a_smaller_patch(tmp_path: Path) -> None:
    architecture = {
        "network_class_name": "some.Network",
        "arch_kwargs": {"n_stages": 3, "features_per_stage": [32, 64, 128], "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]]},
        "_kw_requires_import": [],
    }
    full = {"data_identifier": "data", "patch_size": [16, 56, 56], "batch_size": 2, "architecture": architecture}
    file = tmp_path / "nnUNetPlans.json"
    file.write_text(json.dumps({"plans_name": "nnUNetPlans", "configurations": {"3d_fullres": full}}))
    add_demo_configuration(file)
    add_demo_configuration(file)
    resolved = PlansManager(str(file)).get_configuration("3d_demo")
    assert resolved.network_arch_init_kwargs == {**architecture["arch_kwargs"], "features_per_stage": [8, 16, 32]}
    assert (resolved.patch_size, resolved.data_identifier) == ([12, 48, 48], "data")
    assert json.loads(file.read_text())["configurations"]["3d_fullres"] == full


def test_output_goes_into_the_log_and_what_comes_after_follows(tmp_path: Path) -> None:
    log, called = tmp_path / "logs" / "one.txt", []
    stage = python_stage("import os; print('step', os.environ['COLOUR'])", after=lambda: called.append(log.read_text()))
    run_stage(stage, {**os.environ, "COLOUR": "blue"}, log)
    assert called == ["step blue\n"]


def test_a_failing_command_is_reported_with_its_last_lines_and_its_log(tmp_path: Path) -> None:
    log, called = tmp_path / "one.txt", []
    stage = python_stage("print('line\\n' * 40); raise SystemExit('no space left')", after=lambda: called.append(1))
    with pytest.raises(StageFailed, match=r"exit code 1(?s:.*)no space left(?s:.*)one\.txt") as failure:
        run_stage(stage, dict(os.environ), log)
    assert str(failure.value).count("line") < 20
    assert called == []


def test_progress_bars_of_a_command_are_not_its_last_lines() -> None:
    assert (
        last_lines("one\n\n 10%|█  | 1/8 [00:01<00:07,  1.0it/s]\n 10%|█ | 1/8 [00:02<00:14, 2.0s/it]\ntwo  \n")
        == "    one\n    two"
    )


def test_an_interruption_ends_the_command_too(tmp_path: Path) -> None:
    code = f"""
import os, sys
from pathlib import Path
from nnunet_dino.demo.children import run_stage
from nnunet_dino.demo.stages import Stage
sleep = "import os, time; print('pid', os.getpid(), flush=True); time.sleep(60)"
stage = Stage("one", "first", (sys.executable, "-c", sleep), 1, "step", lambda log: 0)
run_stage(stage, dict(os.environ), Path({str(tmp_path)!r}, "log"))
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    log = tmp_path / "log"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    child = int(log.read_text().split()[1])
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(timeout=30) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


# -- running them --------------------------------------------------------------------------------------------------------------


def test_a_second_run_goes_on_where_the_first_one_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flag = tmp_path / "mended"
    report = "print('title\\n\\nmean Dice +0.010\\n')"
    codes = {
        "plan": f"open({str(tmp_path / 'ran')!r}, 'a').write('plan ')",
        "train": f"import os, sys; sys.exit(0 if os.path.exists({str(flag)!r}) else 'out of memory')",
        "compare": report,
        "compare-unseen": report,
    }
    stages = [python_stage(code, name=name, title=name) for name, code in codes.items()]
    monkeypatch.setattr(demo_run, "make_stages", lambda folder, device: stages)
    lines: list[str] = []
    assert demo_run.run_demo(tmp_path / "demo", SMALL, "cpu", say=lines.append) == 1
    assert "out of memory" in lines[-1]
    assert str(tmp_path / "demo" / "logs" / "train.txt") in lines[-1]

    flag.touch()
    lines.clear()
    assert demo_run.run_demo(tmp_path / "demo", SMALL, "cpu", say=lines.append) == 0
    assert (tmp_path / "ran").read_text() == "plan "
    assert lines[1:3] == ["[1/5] make phantoms: finished before", "[2/5] plan: finished before"]
    assert lines[-1].splitlines()[-1] == f"Report: {tmp_path / 'demo' / 'report' / 'report.html'}"
    assert "mean Dice +0.010" in lines[-1]
    assert "its weights are random" in lines[-1]


def test_the_verb_refuses_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    result = CliRunner().invoke(main, ["demo", "-o", str(tmp_path), "--device", "cpu"])
    assert result.exit_code == 2
    assert result.stderr.startswith("nnunet-dino: error: ")
    assert result.stderr.count("\n") == 1
    assert str(tmp_path) in result.stderr


@pytest.mark.slow
def test_the_whole_demo(tmp_path: Path) -> None:
    """Two real trainings of five epochs: some minutes on two cores."""
    args = ("nnunet-dino", "demo", "-o", tmp_path / "demo", "--cases", 5, "--test-cases", 2, "--device", "cpu")
    code, output = run_command(args, {}, timeout_seconds=3600)
    assert code == 0, output
    lines = output.splitlines()
    page = Path(lines[-1].removeprefix("Report: "))
    assert page == tmp_path / "demo" / "report" / "report.html"
    assert "nnUNetTrainerDINOv3Tiny_5epochs" in page.read_text()
    unseen = Path(lines[-2].removeprefix("Report of unseen cases: ")).read_text()
    assert "phantom_005" in unseen
    for trainer in ("nnUNetTrainer_5epochs", "nnUNetTrainerDINOv3Tiny_5epochs"):
        fold = tmp_path / "demo/nnUNet_results/Dataset999_Phantom" / f"{trainer}__nnUNetPlans__3d_demo" / "fold_0"
        dice = json.loads((fold / "validation" / "summary.json").read_text())["foreground_mean"]["Dice"]
        assert 0.1 < dice < 0.99  # one of the four organs at least, and not everything

    code, output = run_command(args, {}, timeout_seconds=120)
    assert code == 0
    assert output.count("finished before") == 8
