"""The doctor, the checks of nnU-Net's folders, and planning without the hook."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from nnunet_dino import _nnunet_folders as folders
from nnunet_dino._errors import UserError
from nnunet_dino.backbones import weights as weight_files
from nnunet_dino.cli import main as cli
from nnunet_dino.nnunet import classes
from nnunet_dino.nnunet import plan_dataset as plan
from nnunet_dino.nnunet.doctor import ask as probing
from nnunet_dino.nnunet.doctor import checks
from nnunet_dino.nnunet.doctor import probe as probe_text
from nnunet_dino.nnunet.doctor import report as doctor
from nnunet_dino.nnunet.doctor.finding import Check, Finding, Level

DATASET = "Dataset009_Spleen"


def report(checks_to_run: dict[str, Check]) -> tuple[int, list[str]]:
    lines: list[str] = []
    return doctor.run(lines.append, checks_to_run), lines


# -- the report --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("levels", "code", "verdict"),
    [
        (["ok", "note"], 0, "Training can start, 0 warnings."),
        (["ok", "warn"], 0, "Training can start, 1 warning."),
        (["FAIL", "warn", "FAIL", "warn"], 1, "Training could not start: 2 to mend, 2 warnings."),
    ],
)
def test_only_failures_make_the_exit_code_non_zero(levels: list, code: int, verdict: str) -> None:
    findings = [Finding(level, "text") for level in levels]
    got, lines = report({"section": lambda: findings})
    assert (got, lines[-1]) == (code, verdict)


def test_a_check_that_breaks_is_reported_and_the_next_one_runs() -> None:
    def breaks() -> Iterator[Finding]:
        yield Finding("ok", "before")
        raise KeyError("torn")

    code, lines = report({"one": breaks, "two": lambda: [Finding("FAIL", "after", "the remedy")]})
    assert code == 1
    assert lines == [
        "one",
        "  ok   before",
        "  warn this check broke: KeyError: 'torn'",
        "       -> report it with this whole page",
        "two",
        "  FAIL after",
        "       -> the remedy",
        "Training could not start: 1 to mend, 1 warning.",
    ]


# -- asking a fresh Python ---------------------------------------------------------------------------------------------------


@pytest.fixture
def probe(tmp_path: Path):
    """Returns a function that runs a text as a probe."""
    file = tmp_path / "probe.py"
    return lambda text: file.write_text(text) and probing.ask(file)


def test_answers_before_a_crash_are_kept_and_the_others_name_the_exit_code(probe) -> None:
    answers = probe("import os\nprint('chatter')\nprint('[\"torch\", \"2.9\"]', flush=True)\nos._exit(66)")
    assert answers.values == {"torch": "2.9"}
    assert answers.error("torch") == ""
    assert answers.error("timm") == "the process ended with exit code 66"


def test_an_error_is_told_from_an_answer(probe) -> None:
    answers = probe("import json\nprint(json.dumps(['torch', {'error': 'OSError: libfoo'}]))\nraise SystemExit('bye')")
    assert answers.error("torch") == "OSError: libfoo"
    assert answers.error("timm") == "bye"


def test_a_probe_that_hangs_is_left(probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "PATIENCE_S", 0.2)
    assert probe("import time; time.sleep(9)").error("torch") == "no answer within 0.2 s"


# -- the checks, on answers that were made up --------------------------------------------------------------------------------


def findings_of(check: Check, monkeypatch: pytest.MonkeyPatch, end: str = "Segmentation fault", **answers) -> list[Finding]:
    monkeypatch.setattr(checks, "ask", lambda: probing.Answers(answers, end))
    return list(check())


def test_a_broken_torchvision_is_a_failure_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    error = {"error": "RuntimeError: operator torchvision::nms does not exist"}
    found, _ = findings_of(checks.libraries, monkeypatch, torch="2.9", timm="1.0.22", peft="0.21", torchvision=error)
    assert found.level == "FAIL"
    assert "torchvision::nms does not exist" in found.text
    assert found.remedy.startswith("pip install --force-reinstall torch torchvision")


def test_libraries_that_work_together(monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings_of(checks.libraries, monkeypatch, torch="2.9", timm="1.0.22", peft="0.21", torchvision=True, backbone=True)
    assert [(f.level, f.text) for f in found] == [
        ("ok", "torch and torchvision are a matched pair"),
        ("ok", "a backbone is built with LoRA and encodes an image"),
    ]


def test_the_probe_builds_a_backbone_with_lora() -> None:
    assert probe_text.builds_a_backbone()


def test_a_crash_of_torch_is_a_failure_of_everything_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings_of(checks.libraries, monkeypatch)
    assert [f.level for f in found] == ["FAIL"] * 5
    assert all("Segmentation fault" in f.text for f in found)
    (found,) = findings_of(checks.devices, monkeypatch)
    assert found.level == "FAIL"


def test_devices_are_listed_with_the_precision_of_the_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = {"name": "cpu", "text": "2 threads", "dtype": "float32"}
    gpu = {"name": "cuda:0", "text": "V100", "dtype": "bfloat16"}
    found = findings_of(checks.devices, monkeypatch, devices=[gpu, cpu])
    assert [f.text for f in found] == ["cuda:0 · V100 · backbone in bfloat16", "cpu · 2 threads · backbone in float32"]
    found = findings_of(checks.devices, monkeypatch, devices=[cpu])
    assert (found[-1].level, "-device cpu" in found[-1].text) == ("note", True)


OURS = {"trainer": "nnunet_dino.trainers", "planner": "nnunet_dino.planners"}


@pytest.mark.parametrize(("hook", "way"), [(True, "the start-up hook"), (False, "nnUNet_extTrainer")])
def test_discovery_names_the_way_that_works(hook: bool, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, planner, *_ = findings_of(checks.discovery, monkeypatch, hook=hook, **OURS)
    assert trainer == Finding("ok", f"nnUNetv2_train finds our trainers · by {way}")
    assert planner == Finding("ok", f"nnUNetv2_plan_experiment finds our planners · by {way}")


def test_a_hook_that_is_switched_off_is_a_failure_with_both_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_dino_hook", "0")
    trainer, planner, *_ = findings_of(checks.discovery, monkeypatch, hook=False, trainer="", planner="")
    assert trainer.level == "FAIL"
    assert "nnUNet_dino_hook=0" in trainer.text
    assert "unset nnUNet_dino_hook" in trainer.remedy
    assert "nnunet-dino trainers-path" in trainer.remedy
    assert (planner.level, planner.remedy) == ("note", "nnunet-dino plan -d 9 does the same without it")


def test_trainers_that_do_not_load_are_a_failure_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    error = {"error": "UserError: No module named 'timm'"}
    found = findings_of(checks.discovery, monkeypatch, hook=True, trainer=error, planner=error)
    assert [f.level for f in found[:2]] == ["FAIL", "FAIL"]
    assert "No module named 'timm'" in found[0].text


def test_commands_of_another_environment_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "nnUNetv2_train"
    command.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    *_, found = findings_of(checks.discovery, monkeypatch, hook=True, **OURS)
    assert found.level == "warn"
    assert str(command) in found.text


@pytest.mark.parametrize(
    ("found", "levels"),
    [
        ({"dinov3_vits16": "/w/s.pth", "dinov3_vitb16": ""}, ["ok", "note"]),
        ({"dinov3_vits16": "", "dinov3_vitb16": ""}, ["warn"]),
        ({"dinov3_vits16": "error: two files", "dinov3_vitb16": "/w/b.pth"}, ["warn", "ok"]),
    ],
)
def test_missing_weights_never_fail(found: dict, levels: list, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [f.level for f in findings_of(checks.weights, monkeypatch, random=False, weights=found)] == levels


def test_random_weights_by_request_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = findings_of(checks.weights, monkeypatch, random=True, weights={"dinov3_vits16": ""})
    assert (found.level, found.remedy) == ("warn", "unset nnUNet_dino_weights")


def test_versions_are_held_against_the_declared_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"nnunetv2": "2.6.4", "torch": "2.9.0+cpu", "torchvision": "0.24.0", "timm": "1.0.22", "peft": "0.19"}
    requires = ["nnunetv2>=2.7,<3", "torch", "timm<1.0.23,>=1.0.21", "tqdm", 'pytest; extra == "dev"']

    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(checks.metadata, "distribution", lambda name: SimpleNamespace(version="0.1.0", requires=requires))
    monkeypatch.setattr(checks.metadata, "version", version)
    failures = {f.text: f.remedy for f in checks.versions() if f.level == "FAIL"}
    assert failures == {
        "nnunetv2 2.6.4 · required <3,>=2.7": 'pip install "nnunetv2<3,>=2.7"',
        "dynamic-network-architectures is not installed": 'pip install "dynamic-network-architectures"',
        "tqdm is not installed": 'pip install "tqdm"',
    }


def test_a_store_that_cannot_be_read_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The question is asked in this process: of a fresh one, root could read everything."""

    def refuse(name: str) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(weight_files, "locate", refuse)
    (found, *_) = findings_of(checks.weights, monkeypatch, random=False, weights=probe_text.weights())
    assert found.level == "warn" and "Permission denied" in found.text and str(tmp_path) in found.text


# -- nnU-Net's folders -------------------------------------------------------------------------------------------------------


@pytest.fixture
def nnunet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnU-Net's three folders with one data set, ready to be planned."""
    for name in folders.PURPOSE:
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    raw = tmp_path / "nnUNet_raw" / DATASET
    (raw / "labelsTr").mkdir(parents=True)
    (raw / "labelsTr" / "spleen_2.nii.gz").touch()
    (raw / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "spleen": 1}, "file_ending": ".nii.gz"}))
    preprocessed = tmp_path / "nnUNet_preprocessed" / DATASET
    preprocessed.mkdir()
    (preprocessed / "dataset_fingerprint.json").write_text('{"spacings": [[1]], "shapes_after_crop": [[1]]}')
    return tmp_path


def test_good_folders_pass(nnunet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LOW_DISK_GB", 0)
    assert [f.level for f in checks.folders()] == ["ok", "ok", "ok"]


def test_missing_folders_fail_with_the_command(nnunet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LOW_DISK_GB", 0)
    monkeypatch.delenv("nnUNet_preprocessed")
    monkeypatch.setenv("nnUNet_results", str(nnunet / "absent"))
    raw, preprocessed, results = checks.folders()
    assert raw.level == "ok"
    assert preprocessed.text == "nnUNet_preprocessed is not set (plans and preprocessed data)"
    assert preprocessed.remedy == (
        'export nnUNet_preprocessed="$HOME/nnUNet/nnUNet_preprocessed" && mkdir -p "$nnUNet_preprocessed"'
    )
    assert (results.level, results.remedy) == ("FAIL", f'mkdir -p "{nnunet / "absent"}"')


def test_a_folder_that_cannot_be_written_to_fails_except_for_raw(nnunet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dir: Path) -> None:
        raise PermissionError(dir)

    monkeypatch.setattr(checks, "LOW_DISK_GB", 0)
    monkeypatch.setattr(checks.tempfile, "TemporaryFile", refuse)
    assert [f.level for f in checks.folders()] == ["ok", "FAIL", "FAIL"]


def test_little_disk_is_a_warning(nnunet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda place: SimpleNamespace(free=3e9))
    found = list(checks.folders())
    assert [f.level for f in found] == ["ok", "warn", "warn"]
    assert found[2].text.endswith("3 GB free")


# -- planning without the hook -----------------------------------------------------------------------------------------------


class Planner:
    """Stands for one of our planners: notes what it is given and writes plans."""

    def __init__(self, dataset_name_or_id, gpu_memory_target_in_gb=8, preprocessor_name="", plans_name="own", **options):
        self.dataset, self.gpu, self.plans_identifier = dataset_name_or_id, gpu_memory_target_in_gb, plans_name

    def plan_experiment(self):
        folder = folders.require_folder("nnUNet_preprocessed") / self.dataset
        (folder / f"{self.plans_identifier}.json").write_text(str(self.gpu))


@pytest.fixture
def planner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "planner_class", lambda name: Planner)


@pytest.mark.usefixtures("planner")
def test_planning_hands_the_options_to_the_planner(nnunet: Path) -> None:
    file = plan.plan_dataset(9, "nnUNetPlannerDINOv3L", gpu_memory_target_gb=24.0, plans_name="mine")
    assert file == nnunet / "nnUNet_preprocessed" / DATASET / "mine.json"
    assert file.read_text() == "24.0"
    assert plan.plan_dataset(DATASET, "nnUNetPlannerDINOv3L").name == "own.json"


def drop(name: str):
    return lambda root: (root / name).unlink()


def write(name: str, text: str):
    return lambda root: (root / name).write_text(text)


def second_folder(root: Path) -> None:
    (root / "nnUNet_raw" / "Dataset009_Other").mkdir()


RAW = f"nnUNet_raw/{DATASET}"


@pytest.mark.parametrize(
    ("spoil", "arguments", "message"),
    [
        (None, {"dataset": 8}, r"unknown data set.*Dataset008_\*.*got 8, it has Dataset009_Spleen"),
        (None, {"dataset": "Dataset009_Spleem"}, "got 'Dataset009_Spleem'.*did you mean 'Dataset009_Spleen'"),
        (second_folder, {}, "data set 9.*got Dataset009_Other, Dataset009_Spleen"),
        (drop(f"{RAW}/dataset.json"), {}, "Dataset009_Spleen/dataset.json · it does not exist"),
        (write(f"{RAW}/dataset.json", "{"), {}, "required valid JSON · got Expecting property name"),
        (write(f"{RAW}/dataset.json", '{"numTraining": 3}'), {}, 'required "labels" .* got None'),
        (write(f"{RAW}/dataset.json", '{"labels": {"background": 0}}'), {}, r"got \{'background': 0\}"),
        (write(f"{RAW}/dataset.json", "[5]"), {}, r"required a JSON dict · got \[5\]"),
        (drop(f"{RAW}/labelsTr/spleen_2.nii.gz"), {}, "Dataset009_Spleen: required label images .*labelsTr · got none"),
        (None, {"planner": "nnUNetPlannerDINOv3X"}, "unknown planner.*got 'nnUNetPlannerDINOv3X'; did you mean"),
        (None, {"planner": "nnunetplannerdinov3l"}, "did you mean 'nnUNetPlannerDINOv3L'"),
        (None, {"gpu_memory_target_gb": -3.5}, "required more than 0 GB · got -3.5"),
        (None, {"gpu_memory_target_gb": float("nan")}, "required more than 0 GB · got nan"),
        (None, {"plans_name": "my__plans"}, "got 'my__plans'"),
        (
            drop(f"nnUNet_preprocessed/{DATASET}/dataset_fingerprint.json"),
            {},
            "dataset_fingerprint.json · it does not exist · run: nnUNetv2_extract_fingerprint -d 9",
        ),
    ],
)
@pytest.mark.usefixtures("planner")
def test_bad_input_to_planning_is_refused_and_nothing_written(nnunet: Path, spoil, arguments: dict, message: str) -> None:
    if spoil:
        spoil(nnunet)
    before = sorted(nnunet.rglob("*"))
    with pytest.raises(UserError, match=message):
        plan.plan_dataset(**{"dataset": 9, **arguments})
    assert sorted(nnunet.rglob("*")) == before


@pytest.mark.parametrize("name", ["nnUNet_raw", "nnUNet_preprocessed"])
def test_planning_needs_the_folders(nnunet: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(UserError, match=f"{name} is not set.*run: export {name}="):
        plan.plan_dataset(9)
    monkeypatch.setenv(name, str(nnunet / "absent"))
    with pytest.raises(UserError, match=f"{name}: required an existing folder · got '.*absent'"):
        plan.plan_dataset(9)


def test_labels_may_be_listed_in_the_description(nnunet: Path) -> None:
    raw = nnunet / RAW
    (raw / "labelsTr" / "spleen_2.nii.gz").unlink()
    listed = {"labels": {"background": 0, "spleen": [1, 2]}, "dataset": {"a": {"label": "b.nii.gz", "images": []}}}
    (raw / "dataset.json").write_text(json.dumps(listed))
    assert folders.require_labels(raw) == listed


# -- the verbs ---------------------------------------------------------------------------------------------------------------


def test_the_folder_for_external_trainers_holds_one_module() -> None:
    result = CliRunner().invoke(cli.main, ["trainers-path"])
    assert result.exit_code == 0
    assert [file.name for file in Path(result.output.strip()).glob("*.py")] == ["nnunet_dino_trainers.py"]


@pytest.mark.usefixtures("planner")
def test_the_verb_plan_takes_the_options_of_the_stock_command(nnunet: Path) -> None:
    options = ["-d", "9", "-pl", "nnUNetPlannerDINOv3L", "-gpu_memory_target", "24", "-overwrite_plans_name", "mine"]
    result = CliRunner().invoke(cli.main, ["plan", *options])
    assert result.output == f"plans written to {nnunet / 'nnUNet_preprocessed' / DATASET / 'mine.json'}\n"
    assert (nnunet / "nnUNet_preprocessed" / DATASET / "mine.json").read_text() == "24.0"


def test_the_verb_plan_ends_with_one_line(nnunet: Path) -> None:
    result = CliRunner().invoke(cli.main, ["plan", "-d", "77"])
    assert result.exit_code == 2
    assert "got '77'" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(("level", "code"), [("FAIL", 1), ("warn", 0)])
def test_the_verb_doctor_hands_the_exit_code_on(level: Level, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checks.CHECKS, "versions", lambda: [Finding(level, "a finding")])
    for section in list(checks.CHECKS)[1:]:
        monkeypatch.delitem(checks.CHECKS, section)
    result = CliRunner().invoke(cli.main, ["doctor"])
    assert result.exit_code == code
    assert f"{level} a finding" in result.output


@pytest.mark.parametrize("group", [[], ["weights"], ["probe"]])
def test_a_group_without_a_verb_shows_its_verbs(group: list[str]) -> None:
    result = CliRunner().invoke(cli.main, group)
    assert result.exit_code == 0
    assert result.output.startswith("Usage:") and "Commands:" in result.output


@pytest.mark.parametrize(("words", "meant"), [(["plam"], "plan"), (["weights", "lst"], "list"), (["probe", "kn"], "knn")])
def test_an_unknown_verb_is_answered_with_the_nearest(words: list[str], meant: str) -> None:
    result = CliRunner().invoke(cli.main, words)
    assert result.exit_code == 2
    assert f"got '{words[-1]}'; did you mean '{meant}'?" in result.stderr
    assert result.stderr.count("\n") == 1


def test_probes_need_no_folders_of_nnunet(monkeypatch):
    """Nothing of nnU-Net is set; without OpenSlide probing can start and slides cannot."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openslide" else find(name))
    said: list[str] = []
    quick = {name: check for name, check in checks.OF_PROBES.items() if name in ("versions", "slides")}
    assert doctor.run(said.append, quick, "Probing") == 0
    assert said[-1].startswith("Probing can start") and any("note openslide" in line for line in said)
    assert not {"nnU-Net folders", "discovery"} & {*checks.OF_PROBES}


def test_a_variable_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(checks.variables())
    monkeypatch.setenv("nnUNet_dino_cache", "1")
    (finding,) = checks.variables()
    assert (finding.level, finding.remedy) == ("FAIL", "unset nnUNet_dino_cache")
    assert "did you mean 'nnUNet_dino_cache_gb'?" in finding.text
    result = CliRunner().invoke(cli.main, ["weights", "list"])
    assert result.exit_code == 2 and "got nnUNet_dino_cache;" in result.stderr
