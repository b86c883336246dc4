"""``nnunet-dino probe dense`` as a person types it, on small preprocessed cases."""

from __future__ import annotations

import json
import re
from pathlib import Path

import blosc2
import numpy as np
import pytest
import torch
from checkpoints import as_meta, canonical_state, small_spec
from click.testing import CliRunner, Result
from dense_data import DATASET, SHAPE, write_labelled
from safetensors.torch import save_file

from nnunet_dino.backbones import weights
from nnunet_dino.backbones.catalogue import CATALOGUE, get_spec
from nnunet_dino.backbones.vit import Backbone
from nnunet_dino.backbones.weights import digest_of
from nnunet_dino.cli.main import main
from nnunet_dino.probes.dense_backbones import open_backbones

SHORT = ("--cases", "1,4", "--rounds", 20, "--pictures", 1, "--device", "cpu", "-k", 5)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnU-Net's folder of preprocessed data, empty, and no weights on this machine."""
    monkeypatch.delenv(weights.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setenv(weights.STORE_VARIABLE, str(tmp_path / "store"))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "pre"))
    return tmp_path


def dense(place: Path, *words: object) -> Result:
    command = ["probe", "dense", "-d", DATASET[7:10], "-c", "3d_fullres", "-o", place / "report", *SHORT, *words]
    return CliRunner().invoke(main, [*map(str, command)], prog_name="nnunet-dino")


def tiny_weights(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return Backbone(get_spec("dinov3_tiny"), random=True).vit.state_dict()


@pytest.mark.slow
def test_a_report_compares_files_runs_random_weights_and_pixels(place: Path) -> None:
    write_labelled(place / "pre")
    (place / "run").mkdir()
    record = json.dumps({"recipe": {"rgb": "windows"}})
    save_file(tiny_weights(1), place / "run" / "teacher.safetensors", {"nnunet_dino_pretraining": record})
    save_file(tiny_weights(2), place / "other.safetensors")
    named = ("pixels", "random:dinov3_tiny", f"mine={place / 'run'}", place / "other.safetensors")
    result = dense(place, *(word for name in named for word in ("--backbone", name)))
    assert result.exit_code == 0, result.output
    titles = ["pixels", "random:dinov3_tiny", "mine", f"{place.name}/other.safetensors"]
    assert f"mine: dinov3_tiny, weights with digest {digest_of(tiny_weights(1))[:12]}" in result.stdout
    numbers = json.loads((place / "report" / "report.json").read_text())
    assert [one["title"] for one in numbers["backbones"]] == titles
    assert numbers["test_cases"] == ["case_03", "case_05"] and len(numbers["training_cases"]) == 4
    by = {(one["title"], score["method"], score["num_cases"]): score for one in numbers["backbones"] for score in one["scores"]}
    assert len(by) == 4 * 2 * 2 and not any("rounds" in score for score in by.values())
    pixels = by["pixels", "linear", 4]
    assert pixels["average_precision"]["value"] > 0.7  # classes are grey values
    assert [label["absent"] for label in pixels["classes"]] == ["", "", "test"]
    assert pixels["classes"][2]["dice"]["value"] is None
    page = (place / "report" / "report.html").read_text()
    assert all(title in page for title in titles)
    assert "mine: the weights were pretrained with rgb: windows and see slices as repeat here" in page
    costs = {one["title"]: (one["num_parameters"], one["ms_per_slice"]) for one in numbers["backbones"]}
    assert costs["pixels"] == (None, None)
    assert {costs[title][0] for title in titles[1:]} == {get_spec("dinov3_tiny").num_parameters}
    text = (place / "report" / "report.md").read_text()
    for title in titles[1:]:
        assert 0 < costs[title][1] < 1000, costs
        assert re.search(rf"\| {re.escape(title)} +\| +0\.9 M \| +{costs[title][1]:.1f} \|", text), text
    assert re.search(r"\| pixels +\| +– \| +– \|", text) and "on cpu, at most 8 slices at a time, each of 5 × 7 tokens" in text
    said = " ".join(result.stdout.split())
    assert "Absent in the test cases, as no token has 30% of its cell of it: never." in said
    assert "The weights of random:dinov3_tiny are random" in said and "2 test patients" in said
    assert (place / "report" / "pictures" / "case-case_03.png").stat().st_size > 5000
    assert not list((place / "pre").rglob("splits_final.json"))


@pytest.mark.slow
def test_the_same_command_gives_the_same_numbers_and_the_same_weights_are_named(place: Path) -> None:
    write_labelled(place / "pre", labels={"background": 0, "both": [1, 2], "bar": [2], "ignore": 3}, num_channels=2)
    save_file(tiny_weights(1), place / "a.safetensors")
    save_file(tiny_weights(1), place / "b.safetensors")
    named = ("--backbone", place / "a.safetensors", "--backbone", place / "b.safetensors")
    first = dense(place, *named, "-c", "2d", "--blocks", "all", "--rgb", "windows")
    assert first.exit_code == 0, first.output
    assert "The same weights: " in first.stdout
    backbones = json.loads((place / "report" / "report.json").read_text())["backbones"]
    assert backbones[0]["scores"] == backbones[1]["scores"]
    again = dense(place, *named, "-c", "2d", "--blocks", "all", "--rgb", "windows")
    assert again.exit_code == 2 and "--overwrite" in again.stderr


@pytest.mark.parametrize(
    "words, said",
    [
        (("-d", 999), "required a folder Dataset999_.* got '999'"),
        (("-c", "3d_lowres"), "got '3d_lowres'"),
        (("-p", "nnUNetPlan"), "got no such file, there is nnUNetPlans; did you mean 'nnUNetPlans'"),
        (("-f", 5), "from 0 to 4.*got 5"),
        (("--cases", 5), "at most the 4 training cases of the fold · got 5"),
        (("--cases", "1,some"), "got '1,some'"),
        (("-k", 900_000), "got 900000"),
        (("--pictures", -1), "--pictures.*got -1"),
        (("--share", 0), "--share.*got 0"),
        (("--share", 1, "--stride", 16, "--slices", 1), "required (training|test) cases with one of .* in 1 of a token's cell"),
        (("--rgb", "grey"), "got 'grey'"),
        (("-c", "2d", "--rgb", "neighbours"), "neighbours · got a 2D configuration"),
        (("--backbone", "pixels"), "got 'pixels' 2 times"),
        (("--backbone", "dinov3_tinny"), "got 'dinov3_tinny'; did you mean 'dinov3_tiny'"),
        (("--backbone", "random:dinov4"), "got 'dinov4'"),
        (("--backbone", "dinov3_vits16={small}"), "dinov3_vits16.*small.safetensors"),
        (("--backbone", "{folder}"), "got .*empty: a folder without"),
        (("--device", "abacus"), "got 'abacus'"),
        (("-o", "{small}"), "got the file .*small.safetensors"),
    ],
)
def test_what_is_wrong_with_a_command_is_said_in_one_line(place: Path, words: tuple[object, ...], said: str) -> None:
    write_labelled(place / "pre")
    (place / "empty").mkdir()
    save_file(tiny_weights(1), place / "small.safetensors")
    places = {"small": place / "small.safetensors", "folder": place / "empty"}
    result = dense(place, "--backbone", "pixels", *(str(word).format(**places) for word in words))
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("nnunet-dino: error: ") and re.search(said, result.stderr), result.stderr
    assert result.stderr.count("\n") == 1 and not (place / "report").exists()


def no_backbone(place: Path) -> tuple[object, ...]:
    write_labelled(place / "pre")
    return ()


def no_labels(place: Path) -> tuple[object, ...]:
    write_labelled(place / "pre", has_labels=False)
    return ("--backbone", "pixels")


def no_cases(place: Path) -> tuple[object, ...]:
    for file in write_labelled(place / "pre").iterdir():
        file.unlink()
    return ("--backbone", "pixels")


def few_cases(place: Path) -> tuple[object, ...]:
    write_labelled(place / "pre", num_cases=4)
    return ("--backbone", "pixels")


def no_weights(place: Path) -> tuple[object, ...]:
    write_labelled(place / "pre")
    return ("--backbone", "dinov3_tiny")


def other_channels(place: Path) -> tuple[object, ...]:
    folder = write_labelled(place / "pre")
    blosc2.asarray(np.zeros((2, *SHAPE), np.float32), urlpath=str(folder / "case_00.b2nd"), mode="w")
    return ("--backbone", "pixels")


def damaged(place: Path) -> tuple[object, ...]:
    folder = write_labelled(place / "pre")
    (folder / "case_05_seg.b2nd").write_bytes(b"half a file")
    return ("--backbone", "pixels")


def twice_in_a_fold(place: Path) -> tuple[object, ...]:
    folder = write_labelled(place / "pre")
    split = [{"train": ["case_00", "case_01", "case_02", "case_04"], "val": ["case_03", "case_01"]}]
    (folder.parent / "splits_final.json").write_text(json.dumps(split))
    return ("--backbone", "pixels")


def unknown_in_a_fold(place: Path) -> tuple[object, ...]:
    folder = write_labelled(place / "pre")
    (folder.parent / "splits_final.json").write_text(json.dumps([{"train": ["case_00"], "val": ["case_77"]}]))
    return ("--backbone", "pixels")


@pytest.mark.parametrize(
    "prepare, said",
    [
        (no_backbone, "--backbone: required one or more · got none"),
        (no_labels, "case_0.: required labels in .* · got none"),
        (no_cases, "required preprocessed cases in .* · got none · run: nnUNetv2_preprocess -d 820"),
        (few_cases, "at least 5 cases for 5 folds · got 4"),
        (no_weights, "got dinov3_tiny, which is on no hub"),
        (other_channels, "case_00: required 1 channels .* got 2 x 5 x 40 x 56"),
        (damaged, "case_05: required a whole preprocessed case"),
        (twice_in_a_fold, "required every case once .* got 'case_01' twice"),
        (unknown_in_a_fold, "'case_77'"),
    ],
)
def test_what_is_wrong_with_the_data_is_said_in_one_line(place: Path, prepare, said: str) -> None:
    result = dense(place, *prepare(place))
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("nnunet-dino: error: ") and re.search(said, result.stderr), result.stderr
    assert result.stderr.count("\n") == 1 and not (place / "report").exists()


def test_of_a_file_that_fits_several_backbones_the_title_says_which(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_labelled(place / "pre")
    for spec in (small_spec("small"), small_spec("twin")):
        monkeypatch.setitem(CATALOGUE, spec.name, spec)
    torch.save(as_meta(canonical_state()), place / "copy.pth")
    result = dense(place, "--backbone", place / "copy.pth")
    assert result.exit_code == 2 and re.search(r"got .*copy\.pth, which fits small and twin · write small=", result.stderr)
    assert [one.description.split(",")[0] for one in open_backbones([f"twin={place / 'copy.pth'}"])] == ["twin"]
