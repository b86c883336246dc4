"""``nnunet-dino weights …`` as a person types it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from checkpoints import as_hugging_face, as_meta, canonical_state, isolate, small_spec
from click.testing import CliRunner, Result
from safetensors import safe_open
from safetensors.torch import save_file

from nnunet_dino import __version__
from nnunet_dino.backbones import weights
from nnunet_dino.backbones.catalogue import CATALOGUE
from nnunet_dino.backbones.weights import store as store_room
from nnunet_dino.cli.main import main

STATE = canonical_state()
DIGEST = weights.digest_of(STATE)


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    isolate(monkeypatch, tmp_path, "small")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "nnunet_dino" / "weights" / "small.safetensors"


@pytest.fixture
def meta_file(tmp_path: Path) -> Path:
    torch.save(as_meta(STATE), tmp_path / "meta.pth")
    return tmp_path / "meta.pth"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="nnunet-dino")


def fails(*arguments: object) -> str:
    """Runs a command that must fail in the agreed way and returns its one line."""
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("nnunet-dino: error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_import_writes_a_canonical_file_that_is_found(meta_file: Path, target: Path) -> None:
    result = run("weights", "import", meta_file)
    assert result.exit_code == 0, result.stderr
    assert f"stored: {target}" in result.stdout
    assert f"digest: {DIGEST}" in result.stdout
    assert [path.name for path in target.parent.iterdir()] == ["small.safetensors"]
    with safe_open(target, framework="pt") as file:
        assert {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()} == {  # noqa: SIM118
            name: tuple(tensor.shape) for name, tensor in STATE.items()
        }
        metadata = file.metadata()
    assert metadata["nnunet_dino_name"] == "small"
    assert metadata["nnunet_dino_digest"] == DIGEST
    assert metadata["source"] == "meta.pth"
    assert metadata["licence"] == f"of this file unknown; small as released: {CATALOGUE['small'].licence}"
    assert weights.locate("small") == target
    assert weights.load("small").digest == DIGEST


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_a_shared_store_can_be_read_by_the_group(meta_file: Path, target: Path) -> None:
    before = os.umask(0o027)
    try:
        run("weights", "import", meta_file)
    finally:
        os.umask(before)
    assert target.stat().st_mode & 0o777 == 0o640


def test_the_store_is_the_folder_that_the_variable_names(
    meta_file: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = meta_file.parent / "shared"
    folder.mkdir()
    monkeypatch.setenv(weights.ENVIRONMENT_VARIABLE, str(folder))
    assert run("weights", "import", meta_file).exit_code == 0
    assert (folder / "small.safetensors").is_file()
    assert not target.exists()
    monkeypatch.setenv(weights.ENVIRONMENT_VARIABLE, "random")
    monkeypatch.setenv(weights.STORE_VARIABLE, str(folder / "own"))
    assert "comes before the store; unset it" in run("weights", "import", meta_file).stdout
    assert (folder / "own" / "small.safetensors").is_file()


def test_import_of_the_same_weights_changes_nothing_and_of_others_needs_force(meta_file: Path, target: Path) -> None:
    run("weights", "import", meta_file)
    before = (target.stat().st_ino, target.read_bytes())
    hugging_face = meta_file.parent / "hf.safetensors"
    save_file(as_hugging_face(STATE), hugging_face)
    assert run("weights", "import", hugging_face).exit_code == 0
    assert (target.stat().st_ino, target.read_bytes()) == before

    other = meta_file.parent / "other.pth"
    torch.save(as_meta(canonical_state(seed=1)), other)
    message = fails("weights", "import", other, "--as", "small")
    assert f"got {target} with digest {DIGEST[:12]}" in message
    assert "--force" in message
    assert target.read_bytes() == before[1]
    assert run("weights", "import", other, "--force").exit_code == 0
    assert weights.load("small").digest == weights.digest_of(canonical_state(seed=1))


def test_a_name_is_asked_for_where_several_fit(meta_file: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOGUE, "twin", small_spec("twin"))
    message = fails("weights", "import", meta_file)
    assert f"got {meta_file}, which fits 2 · add --as small or --as twin" in message
    assert "fits: small or twin" in run("weights", "verify", meta_file).stdout
    assert not target.parent.exists()
    known = meta_file.with_name("twin_pretrain.pth")
    known.write_bytes(meta_file.read_bytes())
    assert run("weights", "import", known).exit_code == 0
    assert weights.locate("twin") == target.with_name("twin.safetensors")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_import_leaves_the_old_file(
    error: BaseException, meta_file: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("weights", "import", meta_file)
    before = everything_in(target.parent)

    def half(state: dict, path: str, metadata: dict) -> None:
        Path(path).write_bytes(b"half")
        raise error

    monkeypatch.setattr(store_room, "save_file", half)
    torch.save(as_meta(canonical_state(seed=1)), meta_file)
    result = run("weights", "import", meta_file, "--force")
    assert result.exit_code != 0
    if isinstance(error, OSError):
        assert "No space left on device" in result.stderr
        assert str(target) in result.stderr
    assert everything_in(target.parent) == before


def test_a_store_that_cannot_be_made_is_one_line(meta_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(weights.STORE_VARIABLE, str(meta_file / "inside"))
    assert f"could not save {meta_file / 'inside' / 'small.safetensors'} · got" in fails("weights", "import", meta_file)


def test_bad_files_change_nothing(meta_file: Path, target: Path) -> None:
    run("weights", "import", meta_file)
    before = everything_in(target.parent)
    bad = meta_file.with_name("bad.pth")
    bad.write_bytes(meta_file.read_bytes()[:-100])
    assert f"{bad}: a truncated or damaged PyTorch file" in fails("weights", "import", bad, "--force")
    torch.save(as_meta(STATE) | {"norm.bias": torch.ones(25)}, bad)
    assert f"required the tensors of small · got {bad} with 1 of wrong shape" in fails("weights", "import", bad, "--force")
    assert f"required the tensors of small · got {bad}" in fails("weights", "verify", bad)
    assert everything_in(target.parent) == before


def test_verify_says_what_a_file_holds(meta_file: Path) -> None:
    result = run("weights", "verify", meta_file, "--as", "small")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[:3] == [f"file: {meta_file}", "fits: small", "format: Meta"]
    assert "dropped: 3 times blocks.*.attn.qkv.bias_mask (applied to the bias)" in lines
    assert f"digest: {DIGEST}" in lines
    assert any(line.startswith("release: unknown") for line in lines)
    assert "the file fits small" in fails("weights", "verify", meta_file, "--as", "dinov3_vits16")


def test_list_shows_where_weights_are(meta_file: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("weights", "import", meta_file)
    rows = {line.split()[0]: line for line in run("weights", "list").stdout.splitlines() if line}
    assert set(CATALOGUE) <= set(rows)
    assert rows["small"].endswith(str(target))
    assert rows["dinov3_vitl16"].split()[1:4] == ["1024", "303.1", "M"]
    assert rows["dinov3_vitl16"].endswith("not found")
    assert rows["dinov3_tiny"].endswith("random weights only")
    monkeypatch.setenv(weights.ENVIRONMENT_VARIABLE, str(meta_file))
    rows = {line.split()[0]: line for line in run("weights", "list").stdout.splitlines() if line}
    assert rows["small"].endswith(str(meta_file))
    assert "not found (nnUNet_dino_weights names another" in rows["dinov3_vits16"]


def test_fetch_prints_path_digest_licence_and_pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "model.safetensors")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repository, name, **_: str(tmp_path / name))
    result = run("weights", "fetch", "small")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [
        f"file: {tmp_path / 'model.safetensors'}",
        f"digest: {DIGEST}",
        f"licence: {CATALOGUE['small'].licence}",
        "page: https://huggingface.co/timm/small_mirror (open mirror, same licence)",
        "page: https://huggingface.co/authors/small_asked (authors, access on request)",
    ]


def test_fetch_offline_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE=1" in fails("weights", "fetch", "small")
    assert "HF_HUB_OFFLINE=1" in fails("weights", "fetch", "hf-hub:owner/name")
    assert "did you mean 'dinov3_vitl16'" in fails("weights", "fetch", "dinov3_vitl")


def test_unknown_verbs_and_options() -> None:
    assert "got 'wieghts'; did you mean 'weights'?" in fails("wieghts")
    assert "got 'verfy'; did you mean 'verify'?" in fails("weights", "verfy", "x")
    assert "'--bogus' · see `nnunet-dino weights list --help`" in fails("weights", "list", "--bogus")
    assert "Missing argument 'NAME' · see `nnunet-dino weights fetch --help`" in fails("weights", "fetch")


def test_a_file_that_ends_early_is_not_called_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise EOFError("marshal data too short")

    monkeypatch.setattr(main.commands["doctor"], "callback", lambda **_: read())
    assert isinstance(run("doctor").exception, EOFError)


def test_help_and_version() -> None:
    for arguments in ((), ("--help",), ("weights",), ("weights", "-h")):
        result = run(*arguments)
        assert result.exit_code == 0
        assert result.stdout.startswith("Usage: nnunet-dino")
    assert run("--version").stdout == f"nnunet-dino, version {__version__}\n"


@pytest.mark.slow
def test_the_module_runs_in_its_own_process(tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_text("<html>log in</html>")
    command = [sys.executable, "-m", "nnunet_dino.cli.main", "weights", "verify", str(tmp_path / "page.pth")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("nnunet-dino: error: ")
    assert "page.pth: a web page" in result.stderr
    assert result.stderr.count("\n") == 1
