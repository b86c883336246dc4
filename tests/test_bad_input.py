"""Bad input to the stock commands: one line that names the file and the remedy, exit code 2, nothing written."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stock import PHANTOM, Workspace, run_command

pytestmark = pytest.mark.slow

TRAINER = "nnUNetTrainerDINOv3TinySmoke"
FULL = "3d_fullres"


class Copy:
    """A copy of the planned phantom that a test may spoil."""

    def __init__(self, planned: Workspace, folder: Path) -> None:
        self.raw, self.preprocessed, self.results = (folder / part for part in ("raw", "preprocessed", "results"))
        for part, name in ((self.raw, "nnUNet_raw"), (self.preprocessed, "nnUNet_preprocessed")):
            shutil.copytree(planned.folder / name / PHANTOM, part / PHANTOM)
        self.results.mkdir()
        names = {"nnUNet_raw": self.raw, "nnUNet_preprocessed": self.preprocessed, "nnUNet_results": self.results}
        self.env = {**planned.environment, **{name: str(path) for name, path in names.items()}, "nnUNet_n_proc_DA": "0"}

    @property
    def data(self) -> Path:
        return self.preprocessed / PHANTOM

    def change_plans(self, change: Callable[[dict[str, Any]], object], name: str = "nnUNetPlans") -> None:
        plans = json.loads((self.data / f"{name}.json").read_text())
        change(plans)
        (self.data / f"{name}.json").write_text(json.dumps(plans))

    def refused(self, *args: object, **env: str) -> str:
        """Runs a command that must be refused, and returns its one line; asserts that nothing was written."""
        before = self.files()
        code, output = run_command(args, {**self.env, **env})
        assert code == 2 and "Traceback" not in output, output[-3000:]
        assert self.files() == before
        last = output.strip().splitlines()[-1]
        assert last.startswith("nnunet-dino: error: ") and "required" in last
        return last

    def files(self) -> list[Path]:
        return sorted(path for part in (self.preprocessed, self.results) for path in part.rglob("*"))

    def train(self, *options: object, trainer: str = TRAINER, configuration: str = FULL, fold: object = 0, **env: str) -> str:
        device = () if "-device" in options else ("-device", "cpu")
        return self.refused("nnUNetv2_train", 801, configuration, fold, "-tr", trainer, *device, *options, **env)


@pytest.fixture
def copy(planned_phantom: Workspace, tmp_path: Path) -> Copy:
    return Copy(planned_phantom, tmp_path)


def full(plans: dict[str, Any]) -> dict[str, Any]:
    return plans["configurations"][FULL]


def with_our_network(plans: dict[str, Any]) -> dict[str, Any]:
    """Puts our network into the plans, as our planners do, and returns its dino entry."""
    architecture = full(plans)["architecture"]
    dino = {"backbone": "dinov3_tiny", "weights": "random"}
    architecture["arch_kwargs"].update(dino=dino, unet=architecture["network_class_name"])
    architecture["network_class_name"] = "nnunet_dino.networks.DINOv3UNet"
    return dino


# -- plans -------------------------------------------------------------------------------------------------------------------

PLANS = {
    "uneven patch": (lambda p: full(p).update(patch_size=[8, 39, 48]), r"multiples of \[.*got \[8, 39, 48\]"),
    "two axes": (lambda p: full(p).update(patch_size=[40, 48]), r"axes of the convolutions \(Conv3d\).*got \[40, 48\]"),
    "text for numbers": (lambda p: full(p).update(patch_size=["a", "b", "c"]), "patch_size of configuration 3d_fullres"),
    "no architecture": (lambda p: full(p).pop("architecture"), "required 'architecture' in configuration 3d_fullres"),
    "no normalisation": (lambda p: full(p).pop("normalization_schemes"), "required 'normalization_schemes'"),
    "no strides": (lambda p: full(p)["architecture"]["arch_kwargs"].pop("strides"), "KeyError: 'strides'"),
    "no configurations": (lambda p: p.update(configurations=[]), r"required configurations · got \[\]"),
    "circle": (lambda p: full(p).update(inherits_from=FULL), "got '3d_fullres'"),
    "foreign network": (lambda p: full(p)["architecture"].update(network_class_name="my.own.UNet"), "got my.own.UNet"),
}


@pytest.mark.parametrize("case", PLANS)
def test_plans_that_no_network_can_be_built_from(copy: Copy, case: str) -> None:
    change, said = PLANS[case]
    copy.change_plans(change)
    assert re.search(said, copy.train())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("3d_fulres", "2d, 3d_fullres, .*nnUNetPlans has · got '3d_fulres'; did you mean '3d_fullres'"),
        ("2d_896", "got '2d_896'.*nnUNetv2_plan_experiment -d 801 -pl nnUNetPlannerDINOv3L"),
    ],
)
def test_a_configuration_that_the_plans_do_not_have(copy: Copy, name: str, said: str) -> None:
    assert re.search(said, copy.train(configuration=name))


def test_a_cascade_without_its_first_stage(copy: Copy) -> None:
    line = copy.train(configuration="3d_cascade_fullres")
    assert "predicted_next_stage" in line and "nnUNetv2_train 801 3d_lowres 0" in line
    line = copy.train(trainer="nnUNetTrainerDINOv3Tiny_TokensOnly", configuration="3d_cascade_fullres")
    assert "TokensOnly: required a configuration without a first stage" in line


STOCK_TRAINER = {
    "unknown key": (lambda dino: dino.update(bakbone=1), "got 'bakbone'; did you mean 'backbone'"),
    "unknown backbone": (lambda dino: dino.update(backbone="dinov3_vitx"), "dinov3_vitx"),
    "no backbone": (lambda dino: dino.clear(), "required 'backbone' in the dino entry"),
    "not a record": (lambda dino: dino.update(lora=3), "dino entry"),
    "missing weights": (lambda dino: dino.update(weights="pretrained"), "dinov3_tiny"),
}


@pytest.mark.parametrize("case", STOCK_TRAINER)
def test_our_network_in_plans_under_a_stock_trainer(copy: Copy, case: str) -> None:
    change, said = STOCK_TRAINER[case]
    copy.change_plans(lambda plans: change(with_our_network(plans)))
    assert said in copy.train(trainer="nnUNetTrainer")


@pytest.mark.parametrize("case", ["unknown key", "not a record"])
def test_our_network_in_plans_under_our_trainer(copy: Copy, case: str) -> None:
    """Which takes of its entry little but must not be silent of what nobody would understand."""
    change, said = STOCK_TRAINER[case]
    copy.change_plans(lambda plans: change(with_our_network(plans)))
    assert said in copy.train()


def test_options_of_ours_beside_a_stock_network(copy: Copy) -> None:
    copy.change_plans(lambda plans: full(plans)["architecture"]["arch_kwargs"].update(dino={"token_stride_px": 16}))
    assert re.search(r"required a network of nnunet-dino with a dino entry · got \S+PlainConvUNet with", copy.train())


@pytest.mark.parametrize("stock_trainer", [False, True])
@pytest.mark.parametrize("configuration", ["2d", FULL])
def test_preprocessed_data_of_another_spacing(copy: Copy, configuration: str, stock_trainer: bool) -> None:
    """Plans that were edited or moved, and data of another spacing in the folder that they share."""

    def double_the_spacing(plans: dict[str, Any]) -> None:
        entry = plans["configurations"][configuration]
        entry["spacing"] = [2 * mm for mm in entry["spacing"]]
        if stock_trainer:
            with_our_network(plans)

    copy.change_plans(double_the_spacing)
    line = copy.train(configuration=configuration, trainer="nnUNetTrainer" if stock_trainer else TRAINER)
    assert re.search(r"required .* × 20 × 24 voxels.*\(. × 2 × 2 mm\).* · got 8 × 40 × 48 voxels \(3 × 1 × 1 mm\) in", line)


def test_preprocessed_data_of_another_normalisation(copy: Copy) -> None:
    """Plans that were copied and edited, whose data the plans that they were copied from made."""
    shutil.copy(copy.data / "nnUNetPlans.json", copy.data / "mine.json")
    copy.change_plans(lambda plans: plans.update(plans_name="mine") or full(plans).update(preprocessor_name="Other"), "mine")
    line = copy.train("-p", "mine")
    assert re.search(r"required those of mine · got \S+nnUNetPlans_3d_fullres, which nnUNetPlans makes.*-plans_name mine", line)


# -- data and machine --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trainer", "name", "meant"),
    [
        (TRAINER, "nnUNet_dino_precison", "nnUNet_dino_precision"),
        ("nnUNetTrainer", "NNUNET_DINO_WEIGHTS", "nnUNet_dino_weights"),
    ],
)
def test_a_variable_that_nobody_reads(copy: Copy, trainer: str, name: str, meant: str) -> None:
    copy.change_plans(with_our_network)
    assert f"got {name}; did you mean {meant!r}?" in copy.train(trainer=trainer, **{name: "float32"})


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there(copy: Copy, device: str) -> None:
    if {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}[device]():
        pytest.skip(f"this machine has {device}")
    assert f"-device {device}: required" in copy.train("-device", device)


def test_preprocessed_data_that_are_gone(copy: Copy) -> None:
    identifier = "nnUNetPlans_3d_fullres"
    shutil.rmtree(copy.data / identifier)
    line = copy.train()
    assert str(copy.data / identifier) in line and "nnUNetv2_preprocess -d 801" in line


SPLITS = {
    "{": "valid JSON",
    "null": "JSON list · got None",
    "[1]": "got 1 in fold 0",
    '[{"train": ["phantom_000"], "val": []}]': "in fold 0",
    '[{"train": ["phantom_000"], "val": ["nobody"]}]': "'nobody'",
}


@pytest.mark.parametrize("text", SPLITS)
def test_broken_splits(copy: Copy, text: str) -> None:
    (copy.data / "splits_final.json").write_text(text)
    line = copy.train()
    assert SPLITS[text] in line and "splits_final.json" in line


def test_too_few_cases_for_folds(copy: Copy) -> None:
    (copy.data / "splits_final.json").unlink(missing_ok=True)
    for file in (copy.data / "nnUNetPlans_3d_fullres").iterdir():
        if not file.name.startswith("phantom_000"):
            file.unlink()
    assert "required at least 5 cases for 5 folds · got 1" in copy.train()


def test_no_labels_and_foreign_plans(copy: Copy) -> None:
    file = copy.data / "dataset.json"
    description = json.loads(file.read_text())
    file.write_text(json.dumps({**description, "labels": {"background": 0}}))
    assert "required labels beside background" in copy.train()
    file.write_text(json.dumps(description))
    foreign = shutil.copytree(copy.data, copy.data.with_name("Dataset809_Foreign"))
    (foreign / "dataset.json").write_text(json.dumps({**description, "labels": {"background": 0, "spleen": 1}}))
    args = ("nnUNetv2_train", 809, FULL, 0, "-tr", TRAINER, "-device", "cpu")
    assert f"got plans of {PHANTOM}" in copy.refused(*args)


def test_folders_unset_or_not_writable(copy: Copy, tmp_path: Path) -> None:
    assert "nnUNet_results is not set" in copy.train(nnUNet_results="")
    file = tmp_path / "file"
    file.write_text("not a folder")
    assert str(file) in copy.train(nnUNet_results=str(file / "results"))


def test_missing_and_wrong_weights(copy: Copy, tmp_path: Path) -> None:
    pretrained = "nnUNetTrainerDINOv3TinyPretrainedSmoke"
    hub = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path), "nnUNet_dino_store": str(tmp_path)}
    assert "dinov3_tiny" in copy.train(trainer=pretrained, nnUNet_dino_weights=str(tmp_path), **hub)
    nowhere = tmp_path / "nowhere.safetensors"
    assert str(nowhere) in copy.train(trainer=pretrained, nnUNet_dino_weights=str(nowhere), **hub)
    broken = tmp_path / "dinov3_tiny.safetensors"
    broken.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert str(broken) in copy.train(trainer=pretrained, nnUNet_dino_weights=str(broken), **hub)


def test_unknown_names(copy: Copy) -> None:
    line = copy.train(trainer="nnUNetTrainerDINOv3Tyni")
    assert "'nnUNetTrainerDINOv3Tyni'; did you mean 'nnUNetTrainerDINOv3Tiny'" in line
    line = copy.refused("nnUNetv2_plan_experiment", "-d", 801, "-pl", "nnUNetPlannerDINOv3XL")
    assert "'nnUNetPlannerDINOv3XL'; did you mean 'nnUNetPlannerDINOv3L'" in line


# -- planning ----------------------------------------------------------------------------------------------------------------

PLANNING = {
    "fingerprint missing": ("fingerprint", None, "nnUNetv2_extract_fingerprint -d 801"),
    "fingerprint empty": ("fingerprint", "", "dataset_fingerprint.json: required valid JSON"),
    "fingerprint broken": ("fingerprint", "{", "dataset_fingerprint.json: required valid JSON"),
    "fingerprint null": ("fingerprint", "null", "dataset_fingerprint.json: required a JSON dict"),
    "fingerprint without cases": ("fingerprint", "{}", "required spacings of every case"),
    "description null": ("description", "null", "dataset.json"),
    "description broken": ("description", "{", "dataset.json"),
}


@pytest.mark.parametrize("case", PLANNING)
def test_what_plans_cannot_be_made_of(copy: Copy, case: str) -> None:
    which, text, said = PLANNING[case]
    path = copy.data / "dataset_fingerprint.json" if which == "fingerprint" else copy.raw / PHANTOM / "dataset.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    assert said in copy.refused("nnUNetv2_plan_experiment", "-d", 801, "-pl", "nnUNetPlannerDINOv3Tiny")


@pytest.mark.parametrize(("name", "shown"), [("x" * 200, "of 200 bytes"), ("a__b", "'a__b'"), ("a/b", "'a/b'")])
def test_names_that_plans_cannot_have(copy: Copy, name: str, shown: str) -> None:
    args = ("-d", 801, "-pl", "nnUNetPlannerDINOv3Tiny", "-overwrite_plans_name", name)
    assert shown in copy.refused("nnUNetv2_plan_experiment", *args)


# -- checkpoints -------------------------------------------------------------------------------------------------------------


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def spoil(good: Path, bad: Path, how: str) -> None:
    if how == "empty":
        bad.write_bytes(b"")
    elif how == "truncated":
        bad.write_bytes(good.read_bytes()[:-2000])
    elif how == "text":
        bad.write_text("not a checkpoint")
    elif how == "list":
        torch.save([1, 2], bad)
    elif how == "other network":
        content = torch.load(good, weights_only=False)
        torch.save({**content, "network_weights": {"weight": torch.zeros(3, 2)}}, bad)
    elif how == "no weights":
        torch.save({"network_weights": {3: "x"}}, bad)
    elif how == "payload":
        torch.save({"network_weights": {"weight": Payload(bad.with_name("executed"))}}, bad)


@pytest.fixture(scope="module")
def trained(our_fold: tuple) -> Path:
    """A folder with the model of a short training."""
    return our_fold[0].parent


@pytest.mark.parametrize("how", ["empty", "truncated", "text", "list", "other network"])
@pytest.mark.parametrize("command", ["--c", "--val", "predict"])
def test_checkpoints_that_stock_commands_cannot_load(copy: Copy, trained: Path, command: str, how: str) -> None:
    folder = shutil.copytree(trained, copy.results / PHANTOM / trained.name)
    checkpoint = folder / "fold_0" / "checkpoint_final.pth"
    spoil(trained / "fold_0" / "checkpoint_final.pth", checkpoint, how)
    if command == "predict":
        args = (
            "-d",
            801,
            "-i",
            copy.raw / PHANTOM / "imagesTs",
            "-o",
            copy.results.with_name("out"),
            "-c",
            FULL,
            "-tr",
            TRAINER,
        )
        args = ("nnUNetv2_predict", *args, "-f", 0, "-device", "cpu", "-npp", 0, "-nps", 0)
    else:
        args = ("nnUNetv2_train", 801, FULL, 0, "-tr", TRAINER, "-device", "cpu", command)
    code, output = run_command(args, copy.env)
    last = output.strip().splitlines()[-1]
    assert code == 2 and "Traceback" not in output, output[-3000:]
    assert str(checkpoint) in last and "required" in last and "got" in last


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has cuda")
def test_prediction_on_a_device_that_is_not_there(copy: Copy, trained: Path) -> None:
    shutil.copytree(trained, copy.results / PHANTOM / trained.name)
    places = ("-i", copy.raw / PHANTOM / "imagesTs", "-o", copy.results.with_name("out"))
    model = ("-d", 801, "-c", FULL, "-tr", TRAINER, "-f", 0)
    code, output = run_command(("nnUNetv2_predict", *places, *model, "-device", "cuda", "-npp", 0, "-nps", 0), copy.env)
    assert code == 2 and "Traceback" not in output, output[-3000:]
    assert "-device: required a device that this machine has" in output.strip().splitlines()[-1]


@pytest.mark.parametrize("how", ["absent", "empty", "truncated", "text", "list", "no weights", "payload"])
def test_a_file_that_is_no_checkpoint_to_start_from(copy: Copy, trained: Path, tmp_path: Path, how: str) -> None:
    bad = tmp_path / "start.pth"
    spoil(trained / "fold_0" / "checkpoint_final.pth", bad, how)
    line = copy.train("-pretrained_weights", bad, fold=1)
    assert f"{bad}: required a checkpoint of nnU-Net · got" in line
    assert not (tmp_path / "executed").exists()
