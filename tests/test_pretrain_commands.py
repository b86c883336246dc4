"""``nnunet-dino pretrain`` as a user gives it: begins, goes on, refuses, is killed, hands its weights on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import blosc2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pretrain_data import CONFIGURATION, DATASET, SMALL, blob, write_preprocessed
from stock import PHANTOM, Workspace

from nnunet_dino import load_backbone
from nnunet_dino._errors import UserError
from nnunet_dino.cli.main import main
from nnunet_dino.pretrain import report
from nnunet_dino.pretrain import run as whole_run
from nnunet_dino.pretrain.monitor import warnings_of
from nnunet_dino.pretrain.recipe import RECIPES, Recipe, get_recipe
from nnunet_dino.pretrain.step import Engine

SCRATCH = get_recipe("scratch")
NUMBER = DATASET[7:10]
SETTINGS = [word for change in SMALL for word in ("--set", change)]
BASE = [NUMBER, "-c", CONFIGURATION, "--backbone", "dinov3_tiny", "--workers", "0", "--device", "cpu"]


@pytest.fixture
def root(nnunet_folders: Path) -> Path:
    write_preprocessed(nnunet_folders / "nnUNet_preprocessed")
    return nnunet_folders


@pytest.fixture(autouse=True)
def without_curves(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Leaves the curves out of pages, which take most of the time, but where they are the subject."""
    if "curves" not in request.node.name:
        monkeypatch.setattr(report, "_plots", lambda recipe, history: [])


def command(folder: Path, *more: str, recipe: str = "scratch") -> str:
    """Runs the command in this process and returns what it printed."""
    words = ["pretrain", *BASE, "--recipe", recipe, *SETTINGS, "-o", str(folder), *more]
    done = CliRunner().invoke(main, words, standalone_mode=False)
    if done.exception:
        raise done.exception
    return done.output


@pytest.mark.parametrize("backbone", ["dinov2_tiny", "timm:vit_tiny_patch16_224"])
@pytest.mark.parametrize("start", ["random", "pretrained"])
def test_a_transformer_of_another_family_is_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: str, start: str
) -> None:
    monkeypatch.setenv("nnUNet_dino_weights", "random")
    folder = tmp_path / "run"
    words = ["pretrain", *BASE, "--recipe", "scratch", *SETTINGS, "--set", f"start={start}", "-o", str(folder)]
    words += ["--backbone", backbone]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert "required a DINOv3 with patches of 16 pixels: dinov3_vits16, " in done.output
    assert f"got {backbone}" in done.output
    assert not folder.exists()


def weights(folder: Path, part: str = "student") -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)[part]


def are_equal(a: Path, b: Path) -> bool:
    return all(torch.equal(value, weights(b)[name]) for name, value in weights(a).items())


@pytest.mark.slow
def test_it_trains_is_interrupted_goes_on_and_is_what_it_would_have_been(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = root / "whole", root / "parts"
    assert "finished" in command(whole)
    assert {"pretraining.json", "checkpoint.pt", "teacher.safetensors", "report.html", "report.json"} <= set(os.listdir(whole))
    step = Engine.step

    def until_the_fifth(self: Engine, batch: object, number: int) -> dict[str, float]:
        if number == 4:
            raise KeyboardInterrupt
        return step(self, batch, number)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "step", until_the_fifth)
        with pytest.raises(BaseException):  # noqa: B017 (click turns the interruption into an exception of its own)
            command(parts)
    assert not (parts / "teacher.safetensors").exists()
    assert "goes on at step 3 of 6" in command(parts)
    assert are_equal(whole, parts)
    assert "finished already" in command(parts)
    encoder = load_backbone(parts / "teacher.safetensors")
    assert encoder.name == "dinov3_tiny"
    record = json.loads((parts / "pretraining.json").read_text())
    assert (len(record["cases"]["train"]), len(record["cases"]["held_out"])) == (5, 1)
    assert record["licence"].startswith("random")


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_checkpoint(root: Path) -> None:
    whole, killed = root / "whole", root / "killed"
    more = ["--set", "iterations=400", "--set", "checkpoint_every=2", "--set", "export_every=400"]
    words = ["pretrain", *BASE, "--recipe", "scratch", *SETTINGS, "-o", str(killed), *more]
    process = subprocess.Popen([Path(sys.executable).parent / "nnunet-dino", *words])  # a fork may not compute gradients
    until = time.monotonic() + 120
    while not (killed / "checkpoint.pt").exists():
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = torch.load(killed / "checkpoint.pt", weights_only=True)["step"]
    assert done % 2 == 0
    output = run_until(killed, done + 3, more)
    assert f"goes on at step {done} of 400" in output
    run_until(whole, done + 3, more)
    assert are_equal(whole, killed)


def run_until(folder: Path, steps: int, more: list[str]) -> str:
    """Runs the command up to a checkpoint after ``steps`` steps, and interrupts it there."""
    step = Engine.step

    def until(self: Engine, batch: object, number: int) -> dict[str, float]:
        if number == steps + 1:
            raise UserError("interrupted by the test")
        return step(self, batch, number)

    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "step", until)
        patch.setattr("click.echo", said.append)
        with pytest.raises(UserError, match="interrupted by the test"):
            command(folder, *more)
    return "\n".join(map(str, said))


@pytest.mark.slow
def test_the_next_stage_takes_transformer_and_heads(root: Path) -> None:
    command(root / "first")
    more = ["--from", str(root / "first"), "--set", "size_shares=1", "--set", "frozen_backbone=0", "--set", "lr=0"]
    heads = [
        "--set",
        "unit_prototypes=true",
        "--set",
        "head_batch_norm=true",
        "--set",
        "head_layers=1",
        "--set",
        "iterations=1",
    ]
    command(root / "second", *more, *heads, recipe="sharpen")
    assert all(torch.equal(value, weights(root / "first", "teacher")[n]) for n, value in weights(root / "second").items())
    record = json.loads((root / "second" / "pretraining.json").read_text())
    assert record["start"]["source"] == "step 6 of first"
    with pytest.raises(UserError, match=r"other head_hidden · add --set head_hidden=24"):
        command(root / "third", *more, *heads, "--set", "head_hidden=25", recipe="sharpen")
    with pytest.raises(UserError, match=r"required the one of .*dinov3_tiny · got 'dinov3_tiny_swiglu'"):
        command(root / "third", *more, *heads, "--backbone", "dinov3_tiny_swiglu", recipe="sharpen")
    assert not (root / "third").exists()


@pytest.mark.slow
def test_excluded_cases_are_not_seen_and_the_record_says_so(root: Path) -> None:
    (root / "test.txt").write_text(f"case_01\n\n{DATASET}/case_04  # of the test set\n")
    command(root / "run", "--exclude", str(root / "test.txt"), "--holdout", "2")
    cases = json.loads((root / "run" / "pretraining.json").read_text())["cases"]
    assert cases["excluded"] == [f"{DATASET}/case_01", f"{DATASET}/case_04"]
    assert (len(cases["train"]), len(cases["held_out"])) == (2, 2)
    everything = [title for part in cases.values() for title in part]
    assert sorted(everything) == [f"{DATASET}/case_{index:02d}" for index in range(6)]


@pytest.mark.slow
def test_plan_says_what_it_takes_and_writes_nothing(root: Path) -> None:
    output = command(root / "run", "--plan")
    for part in ("30 slices of 5 cases", "6 iterations of 4 slices", "s a step", "GiB", "hours"):
        assert part in output
    assert not (root / "run").exists()


@pytest.mark.slow
def test_a_damaged_slice_is_skipped_and_named_and_three_steps_of_them_end_the_run(root: Path) -> None:
    folder = root / "nnUNet_preprocessed" / DATASET / f"nnUNetPlans_{CONFIGURATION}"
    volume = blob(7, (1, 6, 40, 48))
    volume[:, :, 10:30, 10:40] = np.nan
    (folder / "case_00.b2nd").unlink()
    blosc2.asarray(volume, urlpath=str(folder / "case_00.b2nd"))
    output = command(root / "once", "--set", "batch=2", "--holdout", "2")
    assert "skipped, a loss or gradient was not finite; slices: Dataset810_Blobs/case_00[" in output
    assert json.loads((root / "once" / "report.json").read_text())["history"][-1]["step"] == 6
    with pytest.raises(UserError, match=r"3 steps in a row, up to \d, with others; slices: Dataset810_Blobs/case_00"):
        command(root / "never", "--set", "batch=8", "--holdout", "2")


def foreign_folder(root: Path) -> None:
    (root / "run").mkdir()
    (root / "run" / "thesis.tex").write_text("x")


def other_channels(root: Path) -> None:
    schemes = ("ZScoreNormalization",) * 2
    write_preprocessed(root / "nnUNet_preprocessed", "Dataset811_Two", shape=(2, 6, 40, 48), schemes=schemes)


def other_axes(root: Path) -> None:
    write_preprocessed(root / "nnUNet_preprocessed", "Dataset812_Flat", patch_size=[40, 48])


def other_case(root: Path) -> None:
    folder = root / "nnUNet_preprocessed" / DATASET / f"nnUNetPlans_{CONFIGURATION}"
    for index in range(6):
        (folder / f"case_{index:02d}.b2nd").unlink()
        blosc2.asarray(blob(0, (2, 6, 40, 48)), urlpath=str(folder / f"case_{index:02d}.b2nd"))


def air(root: Path) -> None:
    folder = root / "nnUNet_preprocessed" / DATASET / f"nnUNetPlans_{CONFIGURATION}"
    for index in range(6):
        (folder / f"case_{index:02d}.b2nd").unlink()
        blosc2.asarray(np.full((1, 6, 40, 48), -1, np.float32), urlpath=str(folder / f"case_{index:02d}.b2nd"))


def no_cases(root: Path) -> None:
    for file in (root / "nnUNet_preprocessed" / DATASET / f"nnUNetPlans_{CONFIGURATION}").iterdir():
        file.unlink()


def other_weights(root: Path) -> None:
    from safetensors.torch import save_file

    save_file({"reg_token": torch.zeros(1, 4, 96)}, root / "other.safetensors")


def exclusions(text: str) -> Callable[[Path], None]:
    return lambda root: (root / "list.txt").write_text(text) and None


def nothing(root: Path) -> None:
    """Changes nothing."""


BAD: list[tuple[Callable[[Path], None], list[str], str]] = [
    (foreign_folder, [], r"-o: .*thesis\.tex and no pretraining\.json"),
    (nothing, ["813"], r"unknown data set.*'813'"),
    (nothing, ["-c", "2d"], r"configuration: required one of 3d_fullres.*'2d'"),
    (nothing, ["-p", "nnUNetPlan"], r"-p: required .*nnUNetPlan\.json .*did you mean 'nnUNetPlans'"),
    (no_cases, [], r"required preprocessed cases .*got none · run: nnUNetv2_preprocess -d 810"),
    (other_channels, ["811"], r"equally many channels · got 1 in Dataset810_Blobs and 2 in Dataset811_Two"),
    (other_axes, ["812"], r"equally many axes of the patch \(2D or 3D\) · got 3 in Dataset810_Blobs and 2 in Dataset812_Flat"),
    (other_case, [], r"required 1 channels as in its plans · got an array of 2 x 6 x 40 x 48"),
    (air, [], r"required some with more than air · got 60 in a row"),
    (nothing, ["--backbone", "dinov3_vits"], r"unknown --backbone: .*'dinov3_vits'"),
    (other_weights, ["--backbone", "{root}/other.safetensors", "--set", "start=pretrained"], r"wrong weights"),
    (nothing, ["--from", "{root}/none"], r"--from: required the folder of a pretraining · got .*none"),
    (nothing, ["--set", "batches=4"], r"--set: required a known key · got 'batches=4'; did you mean 'batch'"),
    (nothing, ["--set", "batch"], r"--set: required KEY=VALUE · got 'batch'"),
    (nothing, ["--set", "batch=four"], rf"--set batch: required a whole number, such as {SCRATCH.batch} · got 'four'"),
    (nothing, ["--set", "lr=nan"], r"--set lr: required a number.* · got 'nan'"),
    (nothing, ["--set", "flips=yes"], r"--set flips: required true or false.* · got 'yes'"),
    (nothing, ["--set", "momentum=1.2"], r"momentum: required 0 to 1 · got 1\.2"),
    (nothing, ["--set", "global_px=100"], r"global_px: required multiples of 16 · got 100"),
    (nothing, ["--set", "global_px=64,96"], r"required equally many entries · got 2, 1 and 1"),
    (nothing, ["--set", "mask_ratio=0.5,0.1"], r"mask_ratio: required a smallest and a largest value · got 0\.5,0\.1"),
    (
        nothing,
        ["--set", "prototypes=4096"],
        r"prototypes: required at most 2000 for .*4.* · got 4096 · set prototypes to 512",
    ),
    (nothing, ["--set", "gram_teacher=ema"], r"gram_weight: required with a gram_teacher and not without · got 0 and 'ema'"),
    (nothing, ["--set", "gram_teacher=emma"], r"gram_teacher: required one of none, start, ema · got 'emma'"),
    (nothing, ["--set", "frozen_backbone=6"], r"required fewer than the 6 iterations · got 6"),
    (exclusions("case_1\n"), ["--exclude", "{root}/list.txt"], r"--exclude: .*got 'case_1' in line 1 of .*did you mean"),
    (nothing, ["--exclude", "{root}/list.txt"], r"--exclude: .*list\.txt: No such file"),
    (nothing, ["--holdout", "6"], r"--holdout: required from 1 to all but one of the 6 cases.* · got 6"),
    (nothing, ["--device", "tpu"], r"--device: .*'tpu'"),
    (nothing, ["--monitor", "810"], r"required .*labels|dataset\.json"),
]


@pytest.mark.parametrize(("spoil", "more", "message"), BAD, ids=[message[:40] for *_, message in BAD])
def test_bad_input_is_one_line_and_nothing_is_written(
    root: Path, spoil: Callable[[Path], None], more: list[str], message: str
) -> None:
    spoil(root)
    before = sorted(root.glob("run/*"))
    with pytest.raises(UserError, match=message) as caught:
        command(root / "run", *[word.format(root=root) for word in more])
    assert "\n" not in str(caught.value)
    left = [path for path in sorted(root.glob("run/*")) if path.name not in (".nnunet_dino.lock", "pretraining.json")]
    assert left == before


def test_an_unknown_recipe_and_a_missing_option_are_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"--recipe: required one of adapt, anchor, sharpen, scratch · got 'adopt'"):
        command(root / "run", recipe="adopt")
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", NUMBER])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "Missing option '-c'" in said


@pytest.mark.slow
def test_another_command_in_the_same_folder_is_refused_with_the_difference(root: Path) -> None:
    command(root / "run")
    before = (root / "run" / "checkpoint.pt").read_bytes()
    with pytest.raises(UserError, match=r"got another: batch 6 \(there 4\); lr 0\.5 \(there 0\.0015\)"):
        command(root / "run", "--set", "batch=6", "--set", "lr=0.5")
    with pytest.raises(UserError, match=r"train cases 4 \(there 5.*held out cases 2 \(there 1"):
        command(root / "run", "--holdout", "2")
    with pytest.raises(UserError, match=r"backbone dinov3_tiny_swiglu \(there dinov3_tiny\)"):
        command(root / "run", "--backbone", "dinov3_tiny_swiglu")
    assert (root / "run" / "checkpoint.pt").read_bytes() == before


def test_a_full_disk_at_a_checkpoint_keeps_the_last_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, calls = torch.save, []

    def second_time_full(state: object, path: str) -> None:
        calls.append(path)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        save(state, path)

    monkeypatch.setattr(torch, "save", second_time_full)
    with pytest.raises(UserError, match=r"could not save .*checkpoint\.pt · got .*No space left.*the last checkpoint is kept"):
        command(root / "run")
    monkeypatch.undo()
    assert torch.load(root / "run" / "checkpoint.pt", weights_only=True)["step"] == 3
    assert {path.name for path in (root / "run").iterdir() if "unfinished" in path.name} == set()


def test_recipes_are_frozen_and_come_back_from_their_record() -> None:
    from nnunet_dino.pretrain.recipe import recipe_from_json

    for name in RECIPES:
        recipe = get_recipe(name)
        assert recipe.name == name
        assert recipe_from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
        with pytest.raises(AttributeError):
            recipe.batch = 3  # type: ignore[misc]
    with pytest.raises(UserError, match=r"got one that differs in colour"):
        recipe_from_json({**get_recipe("adapt").to_json(), "colour": 1})


def rows(**changes: list[float]) -> list[dict[str, float]]:
    """Measurements of a run that goes well, at three steps, with some of them changed."""
    good = {
        "loss_dino": [5.5, 4.5, 4.0],
        "waiting": [0.01] * 3,
        "rank_class": [20.0, 25.0, 30.0],
        "entropy": [0.9, 0.7, 0.6],
        "used_prototypes": [40.0, 60.0, 70.0],
        "patch_cosine": [0.6, 0.5, 0.5],
        "probe": [0.2, 0.3, 0.4],
        "probe_start": [0.2] * 3,
    } | changes
    return [
        {"step": step, **{name: values[index] for name, values in good.items()}} for index, step in enumerate((0, 900, 1800))
    ]


@pytest.mark.parametrize(
    ("changes", "skipped", "sign"),
    [
        ({"loss_dino": [5.54, 5.53, 5.5]}, 0, "predicts nothing yet"),
        ({"entropy": [0.9, 0.1, 0.01]}, 0, "collapses"),
        ({"used_prototypes": [40.0, 5.0, 2.0]}, 0, "collapses: 2 prototypes"),
        ({"patch_cosine": [0.3, 0.5, 0.7]}, 0, "become alike: mean cosine 0.70, at first 0.30"),
        ({"probe": [0.2, 0.4, 0.3]}, 0, "falls: 0.300 now, 0.400 at step 900"),
        ({"probe": [0.2, 0.15, 0.15]}, 0, "makes the patch tokens worse"),
        ({"waiting": [0.01, 0.2, 0.2]}, 0, "waiting for data"),
        ({}, 2, "2 steps were left out"),
    ],
)
def test_signs_of_failure_are_said_in_words(changes: dict[str, list[float]], skipped: int, sign: str) -> None:
    recipe: Recipe = get_recipe("scratch", ["prototypes=256"])
    assert warnings_of(rows(), recipe, 0) == []
    assert any(sign in warning for warning in warnings_of(rows(**changes), recipe, skipped))


@pytest.mark.slow
def test_the_page_has_curves_and_the_best_weights_are_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([0.2, 0.5, 0.3, 0.3])

    class Probe:
        def __init__(self, *_: object) -> None:
            """Takes what the real one takes."""

        def seen_in_training(self, train: object) -> list[str]:
            return ["Dataset810_Blobs/case_01"]

        def measure(self, engine: Engine) -> float:
            return next(answers)

    monkeypatch.setattr(whole_run, "FewLabelProbe", Probe)
    output = command(root / "run", "--monitor", NUMBER, "--set", "export_every=2")
    assert "1 cases that judge the probe are pretrained on (Dataset810_Blobs/case_01" in output
    page = (root / "run" / "report.html").read_text()
    assert page.count("<svg") + page.count("data:image/svg") >= 6
    assert "best 0.500 at step 2" in page
    assert "The dense probe falls: 0.300 now, 0.500 at step 2" in page
    best, last = (load_backbone(root / "run" / f"{name}.safetensors") for name in ("best", "teacher"))
    assert best.digest != last.digest


@pytest.mark.slow
def test_stock_training_takes_the_weights_and_its_checkpoint_names_them(planned_phantom: Workspace) -> None:
    run = planned_phantom.folder / "pretraining"
    more = [*BASE[3:], *SETTINGS, "--set", "export_every=3", "--set", "rgb=windows"]
    planned_phantom.run(
        "nnunet-dino",
        "pretrain",
        PHANTOM[7:10],
        "-c",
        CONFIGURATION,
        *more,
        "--recipe",
        "scratch",
        "--monitor",
        PHANTOM[7:10],
        "-o",
        run,
    )
    digest = load_backbone(run / "teacher.safetensors").digest
    assert "probe" in json.loads((run / "report.json").read_text())["history"][-1]
    assert (run / "best.safetensors").is_file()
    trainer = "nnUNetTrainerDINOv3TinyPretrainedSmoke"
    output = planned_phantom.train(PHANTOM, CONFIGURATION, 0, trainer, nnUNet_dino_weights=str(run / "teacher.safetensors"))
    assert "the weights were pretrained with rgb: windows and see slices as repeat here" in output
    checkpoint = planned_phantom.model(PHANTOM, trainer, CONFIGURATION) / "fold_0" / "checkpoint_final.pth"
    state = torch.load(checkpoint, weights_only=False)["network_weights"]
    record = json.loads(bytes(state["slice_encoder.backbone.weights_record"].tolist()).decode())
    assert record == {"backbone": "dinov3_tiny", "digest": digest}
