"""The demo: its folder, what it starts and ends; and, slow, the whole of it with short trainings."""

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
from stock import TRAINERS, run_command

from nnunet_dino._errors import UserError
from nnunet_dino.cli.main import main
from nnunet_dino.demo.commands import CommandFailed, Commands
from nnunet_dino.demo.dataset import add_demo_configuration
from nnunet_dino.demo.run import DATASET, DemoOptions, run_demo

SMALL = DemoOptions(num_cases=5, num_test=2, trainers=("nnUNetTrainerSmoke", "nnUNetTrainerDINOv3TinySmoke"))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("held", "fresh", "says"),
    [
        ("thesis.txt", False, "which holds thesis.txt"),
        ("thesis.txt", True, "which holds thesis.txt"),
        ("nnUNet_raw/Dataset001_Mine/dataset.json", True, "which holds Dataset001_Mine"),
        (f"nnUNet_raw/{DATASET}/dataset.json", False, "holds an earlier demo · add --fresh"),
    ],
)
def test_a_folder_in_use_is_left_alone(tmp_path: Path, held: str, fresh: bool, says: str) -> None:
    (tmp_path / held).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / held).write_text("years of work")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").write_text("read twice")
    before = tree(tmp_path)
    with pytest.raises(UserError, match=f"got {tmp_path}, .*{says}"):
        run_demo(tmp_path, SMALL, "cpu", fresh)
    assert tree(tmp_path) == before


def test_a_link_to_data_of_somebody_else_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / DATASET).mkdir(parents=True)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "nnUNet_raw").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="which holds nnUNet_raw"):
        run_demo(tmp_path / "demo", SMALL, "cpu", fresh=True)
    assert (tmp_path / "elsewhere" / DATASET).is_dir()


@pytest.mark.parametrize("held", ["demo", "demo/below"])
def test_a_file_in_the_way_is_named(tmp_path: Path, held: str) -> None:
    (tmp_path / "demo").write_text("mine")
    with pytest.raises(UserError, match=f"got (the file )?{tmp_path / held}"):
        run_demo(tmp_path / held, SMALL, "cpu", fresh=True)
    assert (tmp_path / "demo").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not stop this user")
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=f"got {tmp_path / 'demo'}: Permission denied"):
        run_demo(tmp_path / "demo", SMALL, "cpu")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit on file sizes")
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """A limit on file sizes fails as a full disk does: in the middle of a file."""
    code = """if True:
        import resource, sys
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        from nnunet_dino.cli.main import main
        main(["demo", "-o", sys.argv[1], "--device", "cpu", "--cases", "5", "--test-cases", "1"])
    """
    command = [sys.executable, "-B", "-c", code, tmp_path / "demo"]  # Python would cut its compiled modules off as well
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("nnunet-dino: error: -o: required a folder that can be written")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_cases": 4}, "from 5 · got 4"), ({"num_test": 0}, "from 1 · got 0"), ({"seed": -3}, "from 0 · got -3")],
)
def test_impossible_numbers_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DemoOptions(**options)


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


def commands(folder: Path, lines: list[str]) -> Commands:
    return Commands(folder / "logs", {**os.environ, "COLOUR": "blue"}, 1, lines.append)


def python(code: str) -> tuple[str, str, str]:
    return Path(sys.executable).name, "-c", code


def test_output_goes_into_the_log_and_the_lines_asked_for_to_the_user(tmp_path: Path) -> None:
    lines: list[str] = []
    code = "import os; print('Epoch 0'); print(os.environ['COLOUR'])"
    commands(tmp_path, lines).run("train stock", *python(code), show="Epoch ")
    assert (tmp_path / "logs" / "train-stock.txt").read_text() == "Epoch 0\nblue\n"
    assert lines[:2] == ["[1/1] train stock …", "      Epoch 0"]
    assert len(lines) == 3, "and how long it took"


def test_a_failing_command_is_reported_with_its_last_lines_and_its_log(tmp_path: Path) -> None:
    code = "print('line\\n' * 40); raise SystemExit('no such device')"
    with pytest.raises(CommandFailed, match=r"exit code 1(?s:.*)no such device(?s:.*)train-stock\.txt") as failure:
        commands(tmp_path, []).run("train stock", *python(code))
    assert str(failure.value).count("line\n") < 20


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_a_command_and_its_workers_end_with_the_demo(tmp_path: Path, number: signal.Signals) -> None:
    """The command starts a worker, as nnU-Net does to load data; both would run for ten minutes."""
    worker = "import time; time.sleep(600)"
    command = f"""if True:
        import os, subprocess, sys, time
        worker = subprocess.Popen([sys.executable, "-c", {worker!r}])
        print(os.getpid(), worker.pid, flush=True)
        time.sleep(600)
    """
    parent = f"""if True:
        import os
        from pathlib import Path
        from nnunet_dino.demo.commands import Commands
        Commands(Path({str(tmp_path)!r}) / "logs", os.environ, 1, lambda line: print(line, flush=True)).run(
            "train", *{python(command)!r}, show=""
        )
    """
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as demo:
        assert demo.stdout
        demo.stdout.readline()
        processes = [int(pid) for pid in demo.stdout.readline().split()]
        assert len(processes) == 2
        demo.send_signal(number)
        assert demo.wait(timeout=30) != 0
    deadline = time.monotonic() + 30
    while running := [pid for pid in processes if is_running(pid)]:
        assert time.monotonic() < deadline, f"still running: {running}"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def test_the_verb_refuses_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    result = CliRunner().invoke(main, ["demo", "-o", str(tmp_path), "--device", "cpu"])
    assert result.exit_code == 2
    assert result.stderr.startswith("nnunet-dino: error: ")
    assert result.stderr.count("\n") == 1
    assert str(tmp_path) in result.stderr


def run_in_a_fork(self: Commands, title: str, name: str, *arguments: object, show: str | None = None) -> None:
    """Does what ``Commands.run`` does, without a new Python for every command."""
    with self.step(title):
        # A fork that drew and measured once ended in "double free", so comparisons get a Python of their own.
        code, output = run_command([name, *arguments], self.environment, really="compare" in arguments)
    assert code == 0, output
    for line in output.splitlines():
        if show is not None and show in line:
            self.say(line)


@pytest.mark.slow
def test_the_whole_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command, with trainings of a few steps."""
    monkeypatch.setattr(Commands, "run", run_in_a_fork)
    monkeypatch.setenv("nnUNet_extTrainer", str(TRAINERS))
    monkeypatch.setenv("nnUNet_raw", "/elsewhere")
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    lines: list[str] = []
    assert run_demo(tmp_path / "demo", SMALL, "cpu", say=lines.append) == 0, "\n".join(lines)
    assert [line for line in lines if line.startswith("[8/8]")] == ["[8/8] compare unseen cases …"]
    assert sum("Epoch time:" in line for line in lines) == 4
    assert any("mean Dice" in line and "nnUNetTrainerDINOv3TinySmoke" in line for line in lines)
    page = Path(lines[-1].removeprefix("Report: "))
    assert page == tmp_path / "demo" / "report" / "report.html"
    assert "nnUNetTrainerDINOv3TinySmoke" in page.read_text()
    assert "phantom_005" in Path(lines[-2].removeprefix("Report of unseen cases: ")).read_text()
    assert os.environ["nnUNet_raw"] == "/elsewhere"
    for trainer in SMALL.trainers:
        fold = tmp_path / "demo/nnUNet_results" / DATASET / f"{trainer}__nnUNetPlans__3d_demo" / "fold_0"
        assert len(json.loads((fold / "validation" / "summary.json").read_text())["metric_per_case"]) == 1
