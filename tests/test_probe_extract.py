"""Stores: the same bits whatever happened on the way, and clear words where something is wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner, Result
from probe_inputs import TINY, asymmetric_volume, files_of, write_pictures
from safetensors.torch import load_file, save_file
from stock import run_command

from nnunet_dino._errors import UserError
from nnunet_dino.backbones import weights
from nnunet_dino.backbones.rgb import IMAGENET_MEAN, IMAGENET_STD
from nnunet_dino.cli.main import main
from nnunet_dino.features.encoder import FrozenEncoder, default_batch, pick_device
from nnunet_dino.features.store.reader import FeatureStore

COMMAND = [Path(sys.executable).with_name("nnunet-dino")]
SETTINGS = {weights.ENVIRONMENT_VARIABLE: "random", "nnUNet_dino_precision": "float32", "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)


def extract(*arguments: object) -> Result:
    words = ["extract", *map(str, arguments), "--backbone", TINY, "--size", "32", "--device", "cpu"]
    return CliRunner().invoke(main, words, prog_name="nnunet-dino")


def fails(*arguments: object) -> str:
    """Runs an extraction that must fail in the agreed way and returns its one line."""
    result = extract(*arguments)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert result.stderr.startswith("nnunet-dino: error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("in") / "pictures"
    write_pictures(folder, 11)
    return folder


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory) -> Path:
    """A store made in one go, three pictures per file."""
    store = tmp_path_factory.mktemp("out") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(weights.ENVIRONMENT_VARIABLE, "random")
        patch.setenv("nnUNet_dino_precision", "float32")
        result = extract(pictures, "-o", store, "--per-file", 3, "--batch", 2)
    assert result.exit_code == 0, result.output
    return store


def test_features_are_those_of_timm(pictures, whole):
    """Class token and patch mean of timm's own forward pass on pictures prepared by hand."""
    from PIL import Image

    with torch.random.fork_rng():
        torch.manual_seed(0)
        from nnunet_dino.backbones.catalogue import get_spec
        from nnunet_dino.backbones.vit import Backbone

        vit = Backbone(get_spec(TINY), random=True).vit.eval()
    ids, found = FeatureStore(whole).vectors("both")
    assert ids == [f"p{i:03d}.png" for i in range(11)]
    for row in (0, 7, 10):
        grey = torch.from_numpy(np.array(Image.open(pictures / ids[row]))).float()[None, None] / 255
        height = round(32 * 40 / 56)
        small = torch.nn.functional.interpolate(grey, (height, 32), mode="bilinear", antialias=True)
        square = torch.nn.functional.pad(small, (0, 0, (32 - height) // 2, 32 - height - (32 - height) // 2))
        normal = (square.expand(1, 3, 32, 32) - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(
            3, 1, 1
        )
        with torch.no_grad():
            tokens = vit.forward_features(normal)[0]
        expected = torch.cat([tokens[0], tokens[5:].mean(0)])
        np.testing.assert_allclose(found[row], expected.numpy(), atol=2e-5)


def test_grey_is_colour_with_equal_channels():
    encoder = FrozenEncoder(TINY, torch.device("cpu"))
    grey = torch.rand(2, 1, 32, 48)
    for one, three in zip(encoder(grey), encoder(grey.repeat(1, 3, 1, 1)), strict=True):
        torch.testing.assert_close(one, three)


def test_the_index_says_where_everything_is(whole, pictures):
    index = pd.read_csv(whole / "index.csv")
    assert index["id"].tolist() == [f"p{i:03d}.png" for i in range(11)]
    assert index["path"].tolist() == [str(pictures / name) for name in index["id"]]
    assert index["file"].tolist() == [f"features/{i // 3:06d}.safetensors" for i in range(11)]
    assert index["row"].tolist() == [i % 3 for i in range(11)]
    assert set(index["shape"]) == {"40 × 56"}
    assert set(index["weights"]) == {FrozenEncoder(TINY, torch.device("cpu")).digest}
    tensors = load_file(whole / index["file"][4])
    np.testing.assert_array_equal(tensors["class_token"][1], FeatureStore(whole).vectors("class")[1][4])


def test_one_two_and_three_parts_give_the_same_store(pictures, whole, tmp_path):
    for parts in (2, 3):
        store = tmp_path / f"{parts}"
        for part in reversed(range(1, parts + 1)):
            result = extract(pictures, "-o", store, "--per-file", 3, "--batch", 2, "--shard", f"{part}/{parts}")
            assert result.exit_code == 0, result.output
            assert ("left to other shards" in result.stdout) == (part > 1)
        assert files_of(store) == files_of(whole)


def test_torchrun_says_which_part(pictures, whole, tmp_path, monkeypatch):
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        extract(pictures, "-o", tmp_path / "s", "--per-file", 3, "--batch", 2)
    assert files_of(tmp_path / "s") == files_of(whole)


def test_what_is_there_is_not_done_again(pictures, whole, tmp_path):
    assert extract(pictures, "-o", tmp_path / "s", "--per-file", 3, "--batch", 2, "--shard", "2/2").exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s" / "features").iterdir()}
    assert len(before) == 2
    assert extract(pictures, "-o", tmp_path / "s", "--per-file", 3, "--batch", 2).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert files_of(tmp_path / "s") == files_of(whole)


def test_an_unfinished_store_is_not_read(pictures, tmp_path):
    extract(pictures, "-o", tmp_path / "s", "--per-file", 3, "--shard", "1/2")
    with pytest.raises(UserError, match="2 of 4 files are missing"):
        FeatureStore(tmp_path / "s")


@pytest.mark.slow
def test_kill_in_the_middle_and_run_again(tmp_path, monkeypatch):
    """SIGKILL after the first file is there; the finished store equals one that was never interrupted."""
    write_pictures(tmp_path / "in", 60)
    words = ("extract", "in", "--backbone", TINY, "--size", "64", "--per-file", "2", "-o")
    monkeypatch.chdir(tmp_path)
    begun = subprocess.Popen([*COMMAND, *words, "cut"], stderr=subprocess.DEVNULL)
    while begun.poll() is None and len(list((tmp_path / "cut").glob("features/*.safetensors"))) < 2:
        time.sleep(0.002)
    begun.send_signal(signal.SIGKILL)
    begun.wait()
    done = len(list((tmp_path / "cut").glob("features/*.safetensors")))
    assert 2 <= done < 30, "killed in the middle"
    for name in ("cut", "whole"):
        assert run_command(["nnunet-dino", *words, name], SETTINGS)[0] == 0
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


@pytest.mark.parametrize(
    "option, value, kind",
    [("--tissue", "biopsy", "slides"), ("--min-tissue", 0.5, "slides"), ("--plane", "coronal", "volumes")],
)
def test_an_option_of_another_kind_of_input_is_refused(tmp_path, option, value, kind):
    write_pictures(tmp_path / "in", 2)
    result = extract(tmp_path / "in", "-o", tmp_path / "s", option, value)
    assert result.exit_code == 2 and not (tmp_path / "s").exists()
    assert f"{option}: required {kind} · got images · leave it out, or say with --kind what they are" in result.stderr


def test_unreadable_files_are_listed_and_the_rest_is_done(tmp_path):
    names = write_pictures(tmp_path / "in", 6)
    good = (tmp_path / "in" / names[1]).read_bytes()
    (tmp_path / "in" / names[1]).write_bytes(good[: len(good) // 2])
    (tmp_path / "in" / names[4]).write_text("no picture")
    result = extract(tmp_path / "in", "-o", tmp_path / "s", "--per-file", 3)
    assert result.exit_code == 1
    assert "2 of 6 could not be read" in result.stdout
    assert f"{names[4]}: cannot identify" in result.stdout
    store = FeatureStore(tmp_path / "s")
    ids, vectors = store.vectors()
    assert ids == [names[i] for i in (0, 2, 3, 5)] and vectors.shape == (4, 256)
    assert store.failed["id"].tolist() == [names[1], names[4]]

    (tmp_path / "in" / names[1]).write_bytes(good)
    write_pictures(tmp_path / "other", 6)
    (tmp_path / "in" / names[4]).write_bytes((tmp_path / "other" / names[4]).read_bytes())
    assert extract(tmp_path / "in", "-o", tmp_path / "s", "--per-file", 3).exit_code == 0, "the reason is gone: done now"
    assert extract(tmp_path / "in", "-o", tmp_path / "fresh", "--per-file", 3).exit_code == 0
    assert files_of(tmp_path / "s") == files_of(tmp_path / "fresh")


def test_a_store_of_something_else_is_not_continued(pictures, whole, tmp_path, monkeypatch):
    import shutil

    store = shutil.copytree(whole, tmp_path / "s")
    before = files_of(store)
    options = (pictures, "-o", store, "--per-file", 3)
    assert "required the --window it was begun with" in fails(*options, "--window", "lung")
    assert "required the --dtype it was begun with" in fails(*options, "--dtype", "float16")
    assert "required the --features it was begun with, class_token, patch_mean · got class_token ·" in fails(
        *options, "--features", "class"
    )
    assert "required the --per-file it was begun with, 3 · got 4 ·" in fails(*options[:3], "--per-file", 4)
    assert "required the --mean and --std it was begun with, imagenet · got" in fails(
        *options, "--mean", 0, 0, 0, "--std", 1, 1, 1
    )
    assert "--per-slice: required volumes · got images" in fails(*options, "--per-slice")
    (tmp_path / "more").mkdir()
    write_pictures(tmp_path / "more", 12)
    assert "p011.png" in fails(tmp_path / "more", "-o", store, "--per-file", 3)
    state = {
        name: value + 0.01
        for name, value in FrozenEncoder(TINY, torch.device("cpu"))._backbone.backbone.vit.state_dict().items()
    }
    state = {name: value for name, value in state.items() if not name.endswith(("periods", "k_bias"))}
    save_file(state, tmp_path / f"{TINY}.safetensors")
    monkeypatch.setenv(weights.ENVIRONMENT_VARIABLE, str(tmp_path / f"{TINY}.safetensors"))
    assert "weights it was begun with" in fails(*options)
    assert files_of(store) == before


def test_a_store_without_any_features_is_begun_anew(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    words = (tmp_path / "a.png", "-o", tmp_path / "store")
    assert extract(*words).exit_code == 1
    store = FeatureStore(tmp_path / "store")
    assert store.facts.dtype == "float32" and len(store.good) == 0
    write_pictures(tmp_path / "pictures", 1)
    (tmp_path / "a.png").write_bytes(next((tmp_path / "pictures").iterdir()).read_bytes())
    result = extract(*words, "--dtype", "float16")
    assert result.exit_code == 0, result.output
    store = FeatureStore(tmp_path / "store")
    assert store.facts.dtype == "float16" and len(store.good) == 1


def test_a_store_goes_on_with_other_inputs(tmp_path):
    """Two new pictures, sorted before and between the old ones, one removed, one broken and then dropped."""
    from PIL import Image

    folder, store = tmp_path / "in", tmp_path / "store"
    names = write_pictures(folder, 7)
    (folder / "p099.png").write_text("broken")
    assert "p099.png" in extract(folder, "-o", store, "--per-file", 3).output
    before = dict(zip(*FeatureStore(store).vectors(), strict=True))
    written = {path: path.stat().st_mtime_ns for path in (store / "features").iterdir()}
    for name in ("a.png", "p003x.png"):
        Image.fromarray(np.full((40, 56), 90, np.uint8)).save(folder / name)
    (folder / names[1]).unlink()
    (folder / "p099.png").unlink()
    assert "--update" in fails(folder, "-o", store, "--per-file", 3)
    assert FeatureStore(store).facts.num_items == 8, "nothing is changed without --update"
    assert extract(folder, "-o", store, "--per-file", 3, "--update").exit_code == 0
    ids, vectors = FeatureStore(store).vectors()
    assert ids == sorted({*names, "a.png", "p003x.png"} - {names[1]})
    for name, vector in zip(ids, vectors, strict=True):
        if name in before:
            np.testing.assert_array_equal(vector, before[name])
    np.testing.assert_array_equal(vectors[ids.index("a.png")], vectors[ids.index("p003x.png")])
    assert {path for path, time in written.items() if path.stat().st_mtime_ns != time} == set()
    fresh = tmp_path / "fresh"
    assert extract(folder, "-o", fresh).exit_code == 0
    np.testing.assert_allclose(FeatureStore(fresh).vectors()[1], vectors, atol=1e-5)
    again = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    assert extract(folder, "-o", store, "--per-file", 3).exit_code == 0
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == again


def test_a_folder_of_other_files_is_left_alone(pictures, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.docx").write_text("precious")
    assert "holds other files" in fails(pictures, "-o", tmp_path / "s")
    assert files_of(tmp_path / "s") == {"thesis.docx": b"precious"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--shard", "0/2"), "'0/2'"),
        (("--shard", "3/2"), "'3/2'"),
        (("--features", "cls"), "'cls'.*'class'"),
        (("--dtype", "bfloat16"), "'bfloat16'"),
        (("--batch", 0), "--batch.*got 0"),
        (("--device", "gpu"), "--device.*'gpu'"),
        (("--window", "chest"), "'chest'"),
        (("--plane", "top"), "'top'"),
        (("--tissue", "skin"), "'skin'"),
        (("--mpp", -1), "--mpp.*-1"),
    ],
)
def test_wrong_options_are_one_line(pictures, tmp_path, options, said):
    import re

    words = ["extract", str(pictures), "-o", str(tmp_path / "s"), "--backbone", TINY, *map(str, options)]
    result = CliRunner().invoke(main, words, prog_name="nnunet-dino")
    assert result.exit_code == 2
    assert re.search(said, result.stderr), result.stderr
    assert not (tmp_path / "s").exists()


def test_volumes_are_the_mean_of_their_slices(tmp_path):
    (tmp_path / "in").mkdir()
    for number, code in enumerate(("LPS", "PIR")):
        sitk.WriteImage(asymmetric_volume(code=code), str(tmp_path / "in" / f"v{number}.nii.gz"))
    result = extract(tmp_path / "in", "-o", tmp_path / "s", "--per-slice", "--batch", 4, "--window", "0,700")
    assert result.exit_code == 0, result.output
    store = FeatureStore(tmp_path / "s")
    _, vectors = store.vectors("mean")
    bags = store.bags("mean")
    assert [bag.features.shape for bag in bags] == [(6, 128), (6, 128)]
    np.testing.assert_allclose(vectors[0], bags[0].features.mean(0), atol=1e-6)
    np.testing.assert_array_equal(bags[0].features, bags[1].features)
    assert bags[0].coordinates is None
    assert store.index["spacing_mm"].tolist() == ["2.5 × 1.5 × 1"] * 2


def test_patch_maps_are_kept_whole(pictures, tmp_path):
    extract(pictures, "-o", tmp_path / "s", "--features", "map", "--dtype", "float16")
    store = FeatureStore(tmp_path / "s")
    found = store.patch_map("p003.png")
    assert (found.shape, found.dtype) == ((128, 2, 2), np.float16)
    mean = FeatureStore(tmp_path / "s")
    with pytest.raises(UserError, match="'mean'.*with map"):
        mean.vectors("mean")


def test_the_patch_mean_is_that_of_tokens_which_show_the_image(tmp_path):
    """Three times as wide as high: two of six rows of tokens show the picture; of another picture two more are half padding."""
    write_pictures(tmp_path / "flat", 2, size=(32, 96))
    write_pictures(tmp_path / "odd", 2, size=(40, 96))
    for name, rows in (("flat", slice(2, 4)), ("odd", slice(1, 5))):
        for which in ("mean", "map"):
            words = ["extract", str(tmp_path / name), "-o", str(tmp_path / name / which), "--features", which, "--size", "96"]
            assert CliRunner().invoke(main, [*words, "--backbone", TINY, "--device", "cpu"]).exit_code == 0
        means = FeatureStore(tmp_path / name / "mean").vectors("mean")[1]
        maps = FeatureStore(tmp_path / name / "map")
        for identifier, mean in zip(maps.good["id"], means, strict=True):
            np.testing.assert_allclose(mean, maps.patch_map(identifier)[:, rows].mean((1, 2)), atol=1e-5)


SATELLITE = ((0.430, 0.411, 0.296), (0.213, 0.156, 0.143))


def test_pixels_are_standardised_as_the_weights_say_or_the_user(pictures, tmp_path, monkeypatch):
    """A model folder with the statistics of satellite images, a copy of it in the store, and two options are one."""
    torch.manual_seed(0)
    state = FrozenEncoder(TINY, torch.device("cpu"))._backbone.backbone.vit.state_dict()
    save_file(state, tmp_path / "tiny.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    facts = {"image_mean": SATELLITE[0], "image_std": SATELLITE[1]}
    (folder / "preprocessor_config.json").write_text(json.dumps(facts))
    monkeypatch.setenv("nnUNet_dino_store", str(tmp_path / "store"))
    monkeypatch.delenv(weights.ENVIRONMENT_VARIABLE)
    assert CliRunner().invoke(main, ["weights", "import", str(folder), "--as", TINY]).exit_code == 0
    options = ("--mean", *map(str, SATELLITE[0]), "--std", *map(str, SATELLITE[1]))
    ways = {"folder": (folder, ()), "stored": (None, ()), "asked": (tmp_path / "tiny.safetensors", options)}
    ways["plain"] = (tmp_path / "tiny.safetensors", ())
    norms, vectors = {}, {}
    for name, (place, extra) in ways.items():
        monkeypatch.setenv(weights.ENVIRONMENT_VARIABLE, str(place or ""))
        result = extract(pictures, "-o", tmp_path / name, *extra)
        assert result.exit_code == 0, result.stderr
        norms[name] = FeatureStore(tmp_path / name).facts.preprocessing["norm"]
        vectors[name] = FeatureStore(tmp_path / name).vectors()[1]
    assert norms["plain"] == "imagenet"
    assert norms["folder"] == norms["stored"] == norms["asked"] == {"mean": list(SATELLITE[0]), "std": list(SATELLITE[1])}
    np.testing.assert_array_equal(vectors["folder"], vectors["asked"])
    np.testing.assert_array_equal(vectors["folder"], vectors["stored"])
    assert np.abs(vectors["folder"] - vectors["plain"]).max() > 0.01
    line = fails(pictures, "-o", tmp_path / "bad", "--mean", 0, 0, 0, "--std", 1, 0, 1)
    assert "three deviations above 0 of --mean and --std" in line


@pytest.mark.slow
def test_two_extractions_with_other_sizes_started_together(pictures, tmp_path, monkeypatch):
    """One of the two ends well, the other is refused, and everything in the store is of the first."""
    monkeypatch.chdir(tmp_path)
    words = ("extract", str(pictures), "--backbone", TINY, "-o")
    both = [
        subprocess.Popen([*COMMAND, *words, "s", "--size", size], stderr=subprocess.PIPE, text=True) for size in ("32", "64")
    ]
    said = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], said
    refused = [process.returncode for process in both].index(2)
    assert "required the --size it was begun with" in said[refused] and said[refused].count("\n") == 1
    assert FeatureStore(tmp_path / "s").facts.preprocessing["size_px"] == (64, 32)[refused]
    assert run_command(["nnunet-dino", *words, "alone", "--size", ("64", "32")[refused]], SETTINGS)[0] == 0
    assert files_of(tmp_path / "s") == files_of(tmp_path / "alone")


def test_what_a_store_does_not_have_is_named(whole):
    store = FeatureStore(whole)
    with pytest.raises(UserError, match="single slices or tiles.*whole images"):
        store.bags("mean")
    with pytest.raises(UserError, match="'map'"):
        store.patch_map("p000.png")
    with pytest.raises(UserError, match="'clas'.*'class'"):
        store.vectors("clas")
    with pytest.raises(UserError, match=r"store.json|no_store"):
        FeatureStore(whole.parent / "no_store")


def test_features_that_are_not_finite_are_named(whole, tmp_path):
    import shutil

    from safetensors import safe_open

    store = shutil.copytree(whole, tmp_path / "s")
    file = store / "features" / "000001.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    tensors["class_token"][2, 5] = float("nan")
    save_file(tensors, file, metadata)
    said = r"000001\.safetensors: .*NaN or infinity for p005\.png · remove this file of features \(not the input\)"
    with pytest.raises(UserError, match=said):
        FeatureStore(store).vectors("class")


def test_sizes_of_batches():
    assert (default_batch(224), default_batch(512), default_batch(2048)) == (81, 15, 1)


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="'tpu9'"):
        pick_device("tpu9")
