"""Transformers of timm beside DINOv3: in the catalogue and by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

from nnunet_dino import load_backbone
from nnunet_dino._errors import UserError
from nnunet_dino.backbones import weights
from nnunet_dino.backbones.catalogue import get_spec
from nnunet_dino.cli.main import main
from nnunet_dino.features.store.reader import open_store

NAMES = (
    "timm:vit_tiny_patch16_224",
    "timm:vit_small_patch8_224",
    "timm:vit_small_patch14_reg4_dinov2",
    "timm:eva02_tiny_patch14_224",
    "timm:vit_base_patch16_siglip_224",
    "timm:vit_small_patch16_rope_mixed_224",
)


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("nnUNet_dino_store", "HF_HUB_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("nnUNet_dino_weights", raising=False)
    monkeypatch.setenv("nnUNet_dino_precision", "float32")


@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_those_of_timm_and_weights_go_through_a_file(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name.removeprefix("timm:"), pretrained=False, num_classes=7, dynamic_img_size=True).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    spec = get_spec(name)
    encoder = load_backbone(tmp_path / "model.safetensors", name=name)
    images = torch.randn(2, 3, 3 * spec.patch_px, 5 * spec.patch_px)
    with torch.no_grad():
        expected = model.forward_features(images)
        output = encoder(images)
    prefix = spec.num_prefix_tokens
    assert prefix == model.num_prefix_tokens
    patches = output.patch_maps[-1].flatten(2).movedim(1, 2)
    torch.testing.assert_close(patches, expected[:, prefix:], rtol=0, atol=1e-5)
    if prefix:
        torch.testing.assert_close(output.class_tokens[-1], expected[:, 0], rtol=0, atol=1e-5)
    else:
        assert output.class_tokens == ()


def test_an_imported_file_is_found_and_a_wrong_one_refused(tmp_path: Path) -> None:
    name = "timm:vit_tiny_patch16_224"
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    state = model.state_dict()
    save_file(state, tmp_path / "model.safetensors")
    words = ["weights", "import", str(tmp_path / "model.safetensors"), "--as", name]
    result = CliRunner().invoke(main, words, prog_name="nnunet-dino")
    assert result.exit_code == 0, result.output
    assert "head.weight" in result.output
    loaded = weights.load(name)
    assert loaded.digest == load_backbone(name).digest
    del state["blocks.3.attn.qkv.weight"]
    save_file(state, tmp_path / "wrong.safetensors")
    with pytest.raises(UserError, match=r"required the tensors of timm:vit_tiny.* blocks\.3\.attn\.qkv\.weight missing"):
        load_backbone(tmp_path / "wrong.safetensors", name=name)


def test_positions_of_another_grid_are_interpolated_as_timm_does(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_384", pretrained=False, num_classes=0)
    save_file(model.state_dict(), tmp_path / "large.safetensors")
    loaded = weights.load_file(tmp_path / "large.safetensors", get_spec("timm:vit_tiny_patch16_224"))
    assert loaded.state["pos_embed"].shape == (1, 1 + 14 * 14, 192)


def test_without_weights_the_message_says_where_they_are() -> None:
    with pytest.raises(UserError, match=r"huggingface.co/timm/vit_small_patch14_reg4_dinov2.lvd142m"):
        load_backbone("dinov2_vits14_reg")
    with pytest.raises(UserError, match=r"nnunet-dino weights fetch timm:vit_base_patch16_224.dino"):
        load_backbone("timm:vit_base_patch16_224.dino")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:vit_tiny_patch16_225", "did you mean 'vit_tiny_patch16_"),
        ("timm:resnet18", "required a vision transformer with maps of patch tokens"),
        ("timm:swin_tiny_patch4_window7_224", "required a vision transformer with maps of patch tokens"),
        ("timm:vit_tiny_patch16_224.nobody", "required weights that timm has of vit_tiny_patch16_224: augreg_in21k"),
        ("dinov2", "timm:NAME is any vision transformer of timm"),
    ],
)
def test_names_that_are_none(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        get_spec(name)


def test_features_of_a_model_with_its_own_patch_and_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_dino_weights", "random")
    pixels = np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")

    def extract(backbone: str, size: int, *more: str) -> tuple[int, str]:
        words = ["extract", str(tmp_path / "picture.png"), "-o", str(tmp_path / f"{backbone[-3:]}{size}"), "--device", "cpu"]
        result = CliRunner().invoke(main, [*words, "--backbone", backbone, "--size", str(size), *more], prog_name="nnunet-dino")
        return result.exit_code, result.output

    assert extract("dinov2_tiny", 70, "--features", "map")[0] == 0
    store = open_store(tmp_path / "iny70")
    assert store.facts.backbone == "dinov2_tiny"
    code, output = extract("dinov2_tiny", 64)
    assert code == 2 and "required a multiple of 14 · got 64" in output
    code, output = extract("timm:vit_base_patch16_siglip_224", 64)
    assert code == 2 and "which has no class token" in output
    assert extract("timm:vit_base_patch16_siglip_224", 32, "--features", "mean")[0] == 0
    facts = open_store(tmp_path / "22432").facts
    assert facts.preprocessing["norm"] == {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
