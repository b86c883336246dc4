"""What ``import nnunet_dino`` offers, and a backbone outside any network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoints import REFERENCES, as_meta, canonical_state, reference, reference_spec, small_spec
from safetensors.torch import save_file

import nnunet_dino
from nnunet_dino import LoraOptions, load_backbone
from nnunet_dino._errors import UserError
from nnunet_dino.backbones import weights
from nnunet_dino.backbones.catalogue import CATALOGUE

NAMES = {"DinoOptions", "LoraOptions", "compare_results", "load_backbone", "open_store"}


def test_the_public_names_are_there_and_listed() -> None:
    assert NAMES | {"__version__"} == set(nnunet_dino.__all__)
    assert set(dir(nnunet_dino)) >= NAMES
    for name in NAMES:
        assert getattr(nnunet_dino, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'load_backbon'"):
        nnunet_dino.load_backbon  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, json, nnunet_dino; dir(nnunet_dino); print(json.dumps(list(sys.modules)))"
    modules = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert {"torch", "nnunetv2", "timm", "numpy", "click"}.isdisjoint(modules)


def test_the_networks_have_short_dotted_paths() -> None:
    from nnunet_dino import networks

    for name in ("DINOv3UNet", "TokensOnly", "MedDINOv3"):
        assert getattr(networks, name).__name__ == name


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file with the weights of a small backbone, of which there is nothing else on this machine."""
    for spec in (small_spec("small"), small_spec("twin")):
        monkeypatch.setitem(CATALOGUE, spec.name, spec)
    monkeypatch.delenv(weights.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setenv(weights.STORE_VARIABLE, str(tmp_path / "store"))
    torch.save(as_meta(canonical_state()), tmp_path / "small_pretrain.pth")
    return tmp_path / "small_pretrain.pth"


@pytest.mark.parametrize("name", REFERENCES)
def test_files_give_the_tokens_of_the_reference_implementation(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = reference(name)
    monkeypatch.setitem(CATALOGUE, "reference", reference_spec(content))
    monkeypatch.setenv("nnUNet_dino_precision", "float32")
    torch.save(content["checkpoint"], tmp_path / "file.pth")
    backbone = load_backbone(tmp_path / "file.pth", name="reference")
    tokens = backbone(content["image"])
    for kind in ("patch_maps", "class_tokens", "register_tokens"):
        for ours, theirs in zip(getattr(tokens, kind), content[kind], strict=True):
            assert ours.shape == theirs.shape
            assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_names_files_and_folders_give_the_same(small: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    save_file(canonical_state(), tmp_path / "store" / "small.safetensors")
    (tmp_path / "folder").mkdir()
    save_file(canonical_state(), tmp_path / "folder" / "model.safetensors")
    (tmp_path / "folder" / "config.json").write_text("{}")
    digests = {
        load_backbone("small").digest,
        load_backbone(str(small)).digest,
        load_backbone(tmp_path / "folder", name="small").digest,
    }
    assert digests == {weights.digest_of(canonical_state())}


@pytest.mark.parametrize(("adaptation", "trained"), [("frozen", 0), ("lora", 3 * 2 * 2), ("full", None)])
def test_what_is_trained(adaptation: str, trained: int | None, small: Path) -> None:
    backbone = load_backbone(small, adaptation, lora=LoraOptions(rank=2))
    backbone.train()
    names = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    assert trained is None or len(names) == trained
    tokens = backbone(torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)))
    assert [tuple(tensor.shape) for tensor in tokens.patch_maps] == [(2, 24, 2, 3)] * 2
    assert tokens.class_tokens[-1].requires_grad == (adaptation != "frozen")
    assert bool(names) == (adaptation != "frozen")


def test_random_weights_are_asked_for_by_name(small: Path) -> None:
    assert load_backbone("small", weights="random").digest is None
    with pytest.raises(UserError, match=r"missing weights: required the weights of small · got none in .*weights fetch small"):
        load_backbone("small")


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("smal", {}, r"or a file or folder of weights · got 'smal'; did you mean 'small'\? · check the path"),
        ("random", {}, r"required one of dinov3_vits16, .* · got 'random'"),
        ("FILE", {"weights": "random"}, r"required one of dinov3_vits16, .* · got '.*copy\.pth'"),
        ("FILE", {}, r"got .*copy\.pth, which fits small and twin · add name='small', or another"),
        ("FILE", {"name": "dinov3_tiny"}, r"required the tensors of dinov3_tiny · got .*copy\.pth with"),
        ("FILE", {"name": "smal"}, r"unknown name: required one of .* · got 'smal'; did you mean 'small'"),
        ("small", {"adaptation": "frosen"}, r"got 'frosen'; did you mean 'frozen'"),
        ("small", {"weights": "pretraned"}, r"got 'pretraned'; did you mean 'pretrained'"),
    ],
)
def test_wrong_arguments_are_named(source: str, options: dict[str, str], said: str, small: Path) -> None:
    copy = small.rename(small.with_name("copy.pth"))
    with pytest.raises(UserError, match=said):
        load_backbone(copy if source == "FILE" else source, **options)


@pytest.mark.parametrize("shape", [(3, 32, 48), (2, 1, 32, 48), (2, 3, 33, 48), (2, 3, 0, 48)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...], small: Path) -> None:
    with pytest.raises(UserError, match=f"images: required n x 3 x h x w .* · got {' x '.join(map(str, shape))} ·"):
        load_backbone(small)(torch.zeros(shape))
