"""Weights that are damaged, of other models or dangerous: one line with file and remedy, and nothing written."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from checkpoints import WIDTH, as_hugging_face, as_meta, canonical_state, isolate, rope_periods, small_spec
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import Tensor

from nnunet_dino._errors import UserError
from nnunet_dino.backbones import weights
from nnunet_dino.backbones.catalogue import CATALOGUE
from nnunet_dino.backbones.weights import releases
from nnunet_dino.backbones.weights.loading import NAME_KEY
from nnunet_dino.cli.main import main

STATE = canonical_state()
INDEX = "model.safetensors.index.json"
DEEP = "[" * 100_000


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    isolate(monkeypatch, tmp_path, "small")


def refused(*arguments: object) -> str:
    """Runs a command that must be refused in one line that ends in a remedy; returns the line."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="nnunet-dino")
    assert (result.exit_code, result.stdout) == (2, ""), result.exception
    assert result.stderr.startswith("nnunet-dino: error: ")
    assert result.stderr.count("\n") == 1
    assert result.stderr.count(" · ") >= 2
    return result.stderr


# Files: name, how it is written, what is said.


class Dangerous:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


def put(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def pickled(protocol: int) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(pickle.dumps({"weights": Dangerous(path.parent / "mark")}, protocol))


def saved(content: object, **how: Any) -> Callable[[Path], object]:
    return lambda path: torch.save(content, path, **how)


def cut(write: Callable[[Path], object]) -> Callable[[Path], object]:
    def write_and_cut(path: Path) -> None:
        write(path)
        path.write_bytes(path.read_bytes()[:-500])

    return write_and_cut


def safetensors(tensors: dict[str, Tensor], **metadata: str) -> Callable[[Path], object]:
    return lambda path: save_file(tensors, path, metadata)


def meta(change: dict[str, Tensor]) -> Callable[[Path], object]:
    return saved(as_meta(STATE) | change)


def hugging_face(change: dict[str, Tensor]) -> Callable[[Path], object]:
    return saved(as_hugging_face(STATE) | change)


BIAS, QUERY = "blocks.1.attn.qkv.bias", "layer.1.attention.q_proj.weight"
DAMAGED = "a truncated or damaged PyTorch file · get the file again"
FILES = {
    "empty": (put(b""), "an empty file"),
    "zeros": (put(bytes(4096)), "a file of zeros"),
    "html": (put(b"\n<!DOCTYPE html><html>Please log in</html>"), "a web page"),
    "denied": (put(b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"), "a web page"),
    "pointer": (put(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n"), "a git-lfs pointer"),
    "json": (put(b'{"model_type": "dinov3_vit"}'), "a JSON text"),
    "text": (put(b"hello, these are no weights"), "a file of unknown kind (it begins with b'hello, t')"),
    "absent": (lambda path: None, "no such file · check the path"),
    "code": (lambda path: torch.save({"a": Dangerous(path.parent / "mark")}, path), "a file with pickled code ("),
    "pickle, protocol 2": (pickled(2), "mkdir), which is never run here · ask for a file with tensors only"),
    "pickle, protocol 4": (pickled(4), "a file with pickled code ("),
    "cut": (cut(saved(as_meta(STATE))), DAMAGED),
    "cut legacy": (cut(saved(as_meta(STATE), _use_new_zipfile_serialization=False)), DAMAGED),
    "cut safetensors": (cut(safetensors(STATE)), "a truncated or damaged safetensors file ("),
    "list": (saved([torch.ones(3)]), "holds a list and no tensors by name"),
    "training": (saved({"epoch": 3, "stuff": {}}), "entries that are no tensors (epoch, stuff)"),
    "part-00001-of-00002": (saved(as_meta(STATE)), "one of several parts of a model · name their folder"),
    "statistics": (safetensors(STATE, nnunet_dino_statistics="mean 0.5"), "JSON in nnunet_dino_statistics of"),
    "training without": (saved({"epoch": 3, "network_weights": {}}), "holds a dict and no tensors by name"),
    "dinov3_vitx16_pretrain_lvd1689m-deadbeef.pth": (saved(as_meta(STATE)), "not with deadbeef as its name says"),
    "part.distcp": (put(b"\x80"), "a sharded checkpoint of a training in several processes · run `python -m torch.distributed"),
    "two networks": (
        saved({f"{name}.{key}": tensor for name in ("a", "b.c") for key, tensor in as_meta(STATE).items()}),
        "with 2: under a., b.c. · save the one that is meant",
    ),
    "adapters": (
        saved({f"{key}.lora_A.default.weight": tensor for key, tensor in as_meta(STATE).items()}),
        "required the scale of the adapters to merge them",
    ),
    "only a record": (saved({"slice_encoder.backbone.weights_record": torch.zeros(3)}), "holds its digest, not its weights"),
    "convnext": (saved({"downsample_layers.0.0.weight": torch.ones(3)}), "with a ConvNeXt, no vision transformer"),
    "no registers": (
        saved({key: tensor for key, tensor in as_meta(STATE).items() if key != "storage_tokens"}),
        "24 wide with 3 blocks, 2 heads, patches of 16 pixels, 0 registers, 3 channels",
    ),
    "sparse": (meta({"norm.bias": torch.ones(WIDTH).to_sparse()}), "a sparse_coo tensor for norm.bias"),
    "without values": (meta({"norm.bias": torch.ones(WIDTH, device="meta")}), "a tensor without values (device meta)"),
    "enormous": (meta({"norm.bias": torch.ones(1).expand(10**9)}), "1000000000 numbers for norm.bias, more than the file"),
    "escape": (meta({"norm\x1b[2J": torch.ones(2)}), r"a tensor with the odd name 'norm\x1b[2J'"),
    "integer": (meta({"norm.bias": torch.ones(WIDTH, dtype=torch.int64)}), "got int64 for norm.bias in"),
    "bool": (meta({"norm.bias": torch.ones(WIDTH, dtype=torch.bool)}), "got bool for norm.bias in"),
    "complex": (meta({"norm.bias": torch.ones(WIDTH, dtype=torch.complex64)}), "got complex64 for norm.bias in"),
    "float8": (meta({"norm.bias": torch.ones(WIDTH).to(torch.float8_e4m3fn)}), "got float8_e4m3fn for norm.bias in"),
    "float8 safetensors": (safetensors(STATE | {"norm.bias": torch.ones(WIDTH).to(torch.float8_e5m2)}), "got float8_e5m2"),
    "complex periods": (meta({"rope_embed.periods": rope_periods().to(torch.complex64)}), "got complex64 for rope_embed"),
    "other base": (meta({"rope_embed.periods": rope_periods() * 2}), "required rope periods 1 … 21.54 for small · got 2 …"),
    "other heads": (meta({"rope_embed.periods": torch.ones(5)}), "required 3 rope periods (2 heads) for small · got 5 in"),
    "nan": (meta({"norm.bias": torch.full((WIDTH,), torch.nan)}), "got NaN or infinity for norm.bias in"),
    **{
        f"bias of shape {shape}": (meta({BIAS: torch.zeros(shape), f"{BIAS}_mask": torch.ones(shape)}), said)
        for shape, said in (
            ((), f"in three parts for {BIAS} · got shape () in"),
            ((1,), f"in three parts for {BIAS} · got shape (1,) in"),
            ((2,), f"in three parts for {BIAS} · got shape (2,) in"),
            ((4,), f"in three parts for {BIAS} · got shape (4,) in"),
            ((3, 24), f"in three parts for {BIAS} · got shape (3, 24) in"),
            ((3,), "2 of wrong shape: blocks.1.attn.qkv.bias 1 instead of 24"),
        )
    },
    "mask of another shape": (meta({f"{BIAS}_mask": torch.ones(71)}), "required shape (72,) for blocks.1.attn.qkv.bias_mask"),
    "unlike query": (hugging_face({QUERY: torch.ones(WIDTH, 7)}), "required three matrices of one shape for layer.1.attention"),
    "scalar query": (hugging_face({QUERY: torch.tensor(1.0)}), "required three matrices of one shape for layer.1.attention"),
    "key bias": (saved(as_hugging_face(STATE, key_bias=0.25)), "got up to 0.25 in layer.0.attention.k_proj.bias of"),
    "two names": (
        saved(as_hugging_face(STATE) | as_hugging_face(STATE, "model.layer")),
        "got both 'layer.0.norm1.weight' and 'model.layer.0.norm1.weight' in",
    ),
    "two biases": (
        meta({"blocks.0.attn.q_bias": torch.ones(WIDTH)}),
        "got both 'blocks.0.attn.q_bias' and 'blocks.0.attn.qkv.bias' in",
    ),
    "unknown format": (saved({"encoder.weight": torch.ones(3, 5)}), "with 1 tensors ('encoder.weight' …)"),
    "another size": (saved(as_meta(STATE) | {"norm.weight": torch.ones(25)}), "norm.weight 25 instead of 24"),
    "dinov3_vitl16_pretrain_sat493m.pth": (saved(as_meta(STATE)), "which says sat493m: trained on satellite images"),
    "other backbone": (safetensors(STATE, **{NAME_KEY: "dinov3_tiny"}), "which holds dinov3_tiny · take the file of small"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    write, said = FILES[name]
    path = tmp_path / name.replace(" ", "_")
    write(path)
    line = refused("weights", "import", path, "--as", "small")
    assert said in line
    assert str(path) in line
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "mark").exists()


# Model folders: config.json, index of parts, what is said of which file.


def index(weight_map: object) -> str:
    return json.dumps({"weight_map": weight_map})


def config(**more: object) -> str:
    return json.dumps({"model_type": "dinov3_vit", **more})


FOLDERS = {
    "config: another model": (config(model_type="dinov2"), None, "required model_type dinov3_vit for small · got dinov2"),
    "config: no model": (config(model_type=None), None, "required model_type dinov3_vit for small · got None"),
    "config: patch size": (config(patch_size=14), None, "required patch_size 16 for small · got 14"),
    "config: activation": (config(hidden_act="relu"), None, "required hidden_act gelu for small · got relu"),
    "config: heads": (config(num_attention_heads=3), None, "required num_attention_heads 2 for small · got 3"),
    "config: rope": (config(rope_theta=10000.0), None, "required rope_theta 100.0 for small · got 10000.0"),
    "config: rope of transformers": (
        config(rope_parameters={"rope_theta": 10.0}),
        None,
        "required rope_theta 100.0 for small · got 10",
    ),
    "config: rope of timm": (
        config(model_args={"rope_temperature": 10.0}),
        None,
        "required rope_theta 100.0 for small · got 10",
    ),
    "config: norm": (config(layer_norm_eps=0.1), None, "required layer_norm_eps 1e-05 for small · got 0.1"),
    "config: satellite": (config(pretrained_cfg={"tag": "sat493m"}), None, "which says sat493m: trained on satellite images"),
    "config: deep": (DEEP, None, "config.json: a damaged config.json"),
    "config: list": ("[1]", None, "config.json: a damaged config.json (a list)"),
    "config: bytes": (b"\xff\xfe{", None, "config.json: a damaged config.json"),
    "index: deep": (config(), DEEP, f"{INDEX}: a damaged index of parts"),
    "index: none": (config(), "{}", f"{INDEX}: a damaged index of parts"),
    **{
        f"index: {odd!r}": (config(), index(odd), f"{INDEX}: a damaged index of parts (weight_map: ")
        for odd in (None, "text", [1], {}, 3)
    },
    **{
        f"index: part {odd!r}": (config(), index({"norm.bias": odd}), f"{INDEX}: an index that names")
        for odd in (None, 3, [1], "", "/etc/passwd", "../secret.safetensors", "..", "a/b", "a\\b")
    },
    "index: lost part": (config(), index({"norm.bias": "part.safetensors"}), f"{INDEX}: an index whose part part.safetensors"),
    "index: long part": (config(), index({"norm.bias": "x" * 5000}), "an unreadable file (File name too long)"),
    "index: lost tensor": (config(), index({"norm.odd": "all.safetensors"}), f"{INDEX}: parts without norm.odd and 0 more"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_bad_model_folder_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    config_text, index_text, said = FOLDERS[name]
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(as_hugging_face(STATE), folder / "model.safetensors")
    save_file(as_hugging_face(STATE), tmp_path / "secret.safetensors")
    (folder / "config.json").write_bytes(config_text if isinstance(config_text, bytes) else config_text.encode())
    if index_text is not None:
        (folder / "model.safetensors").rename(folder / "all.safetensors")
        (folder / INDEX).write_text(index_text)
    line = refused("weights", "import", folder, "--as", "small")
    assert said in line
    assert str(folder) in line
    assert not (tmp_path / "cache").exists()


SATELLITE = "dinov3-vitl16-pretrain-sat493m"


@pytest.mark.parametrize("folder", [SATELLITE, f"models--facebook--{SATELLITE}/snapshots/a1"])
def test_a_clone_of_the_satellite_model_is_refused(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir(parents=True)
    save_file(as_hugging_face(STATE), tmp_path / folder / "model.safetensors")
    assert "which says sat493m" in refused("weights", "import", tmp_path / folder / "model.safetensors", "--as", "small")


def test_the_satellite_release_is_refused_under_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "renamed.pth"
    torch.save(as_meta(STATE), file)
    monkeypatch.setitem(releases.SATELLITE, releases.first_digits(file), "small")
    assert "trained on satellite images" in refused("weights", "verify", file, "--as", "small")


def test_good_configurations_are_accepted(tmp_path: Path) -> None:
    for number, text in enumerate(
        ("{}", config(patch_size=16, hidden_act="gelu", rope_theta=100), '{"architecture": "vit_small_patch16_dinov3"}')
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_file(as_hugging_face(STATE), folder / "model.safetensors")
        (folder / "config.json").write_text(text)
        assert weights.load("small", folder).digest == weights.digest_of(STATE)


def test_paths_that_cannot_be(tmp_path: Path) -> None:
    assert "an unreadable file (File name too long)" in refused("weights", "import", tmp_path / ("x" * 5000))
    (tmp_path / "nothing").mkdir()
    assert "nothing: a folder without model.safetensors," in refused("weights", "verify", tmp_path / "nothing")
    for verb in ("import", "verify"):
        line = refused("weights", verb, tmp_path / "x", "--as", "smal")
        assert "unknown --as: required one of dinov3_vits16, " in line
        assert "got 'smal'; did you mean 'small'?" in line


@pytest.mark.skipif(os.name != "posix", reason="such names are POSIX's")
def test_a_name_that_is_no_text_is_said(tmp_path: Path) -> None:
    torch.save(as_meta(STATE), tmp_path / "plain.pth")
    path = (tmp_path / "plain.pth").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.pth"))
    assert f"got {tmp_path}/?.pth: a name that is no UTF-8 text" in refused("weights", "import", path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_random_damage_ends_in_weights_or_in_one_line(kind: str, tmp_path: Path) -> None:
    """The header is hit more often than the numbers."""
    path = tmp_path / "mutated"
    if kind == "safetensors":
        save_file(as_hugging_face(STATE), path)
    else:
        torch.save(as_meta(STATE), path, _use_new_zipfile_serialization=kind == "zip")
    original, rng = path.read_bytes(), random.Random(0)
    headers = {"zip": (len(original) - 9000, len(original)), "legacy": (0, 9000), "safetensors": (0, 4000)}
    for _ in range(60):
        mutated = bytearray(original)
        for _ in range(rng.choice((1, 1, 3, 10))):
            position = rng.randrange(*headers[kind]) if rng.random() < 0.8 else rng.randrange(len(original))
            mutated[position] = rng.randrange(256)
        path.write_bytes(mutated)
        try:
            weights.load_file(path, CATALOGUE["small"])
        except UserError as error:
            assert str(path) in str(error)
            assert str(error).count(" · ") >= 2


# Places: a bad file beside good ones, folders that may not be read, what an interruption left.


def test_one_bad_file_does_not_end_the_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(CATALOGUE, "twin", small_spec("twin"))
    folder = tmp_path / "folder"
    folder.mkdir()
    torch.save(as_meta(STATE), folder / "small_pretrain.pth")
    (folder / "small.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{damaged")
    torch.save(as_meta(STATE), folder / "twin_pretrain.pth")
    monkeypatch.setenv(weights.ENVIRONMENT_VARIABLE, str(folder))
    result = CliRunner().invoke(main, ["weights", "list"])
    assert result.exit_code == 0
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if line}
    assert "cannot be used: weights: required a DINOv3 vision transformer" in rows["small"]
    assert "small.safetensors: a truncated or damaged safetensors file" in rows["small"]
    assert rows["twin"].endswith(str(folder / "twin_pretrain.pth"))


def test_a_damaged_download_is_fetched_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    snapshots = tmp_path / "hub" / "models--timm--small_mirror" / "snapshots" / "abc"
    snapshots.mkdir(parents=True)
    (snapshots.parents[1] / "refs").mkdir()
    (snapshots.parents[1] / "refs" / "main").write_text("abc")
    (snapshots / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{damaged")
    with pytest.raises(UserError, match=r"damaged safetensors file .*`nnunet-dino weights fetch` replaces one"):
        weights.load("small")

    def download(repository: str, name: str, force_download: bool = False, **_: Any) -> str:
        assert force_download
        save_file(STATE, snapshots / name)
        return str(snapshots / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    result = CliRunner().invoke(main, ["weights", "fetch", "small"])
    assert result.exit_code == 0
    assert f"digest: {weights.digest_of(STATE)}" in result.stdout
    assert "downloading again: weights: required" in result.stderr


@pytest.fixture
def ordinary_user() -> Iterator[Path]:
    """A folder for an ordinary user, whom folder modes stop; root becomes one for a while."""
    if os.name != "posix":
        pytest.skip("file modes are POSIX's")
    CliRunner().invoke(main, ["weights", "list"])  # imports what may lie where only root can read
    folder = Path(tempfile.mkdtemp())
    is_root = os.geteuid() == 0
    if is_root:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if is_root:
            os.seteuid(0)
        for path in (folder, *folder.iterdir()):
            path.chmod(0o700)
        shutil.rmtree(folder)


def test_places_that_may_not_be_read_are_named(ordinary_user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(ordinary_user / "hub"))
    file, closed = ordinary_user / "file.pth", ordinary_user / "closed"
    torch.save(as_meta(STATE), file)
    closed.mkdir()
    closed.chmod(0)
    monkeypatch.setenv(weights.STORE_VARIABLE, str(closed))
    assert f"got {closed}" in refused("weights", "import", file, "--as", "small")
    result = CliRunner().invoke(main, ["weights", "list"])
    assert result.exit_code == 0
    assert f"required places that can be read · got {closed}" in result.stdout
    with pytest.raises(UserError, match=rf"got {closed}.*: Permission denied · change its permissions"):
        weights.ensure_local("small")
    monkeypatch.setenv(weights.ENVIRONMENT_VARIABLE, str(closed / "x.pth"))
    assert f"got {closed / 'x.pth'}: Permission denied" in refused("weights", "list")
    file.chmod(0)
    assert f"got {file}: an unreadable file (Permission denied)" in refused("weights", "verify", file)
    closed.chmod(0o500)
    monkeypatch.delenv(weights.ENVIRONMENT_VARIABLE)
    file.chmod(0o600)
    assert f"could not save {closed / 'small.safetensors'}" in refused("weights", "import", file, "--as", "small")
