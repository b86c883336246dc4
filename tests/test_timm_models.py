"""Transformers of timm beside DINOv3: in the catalogue and by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import timm
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file

from nnunet_dino import load_backbone
from nnunet_dino._errors import UserError
from nnunet_dino.backbones import weights
from nnunet_dino.backbones.catalogue import CATALOGUE, get_spec
from nnunet_dino.cli.main import main
from nnunet_dino.features.store.reader import open_store

NAMES = (
    "timm:vit_small_patch8_224",
    "timm:vit_small_patch14_reg4_dinov2",
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


@pytest.mark.slow
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
        ("timm:cait_xxs24_224", "required a model with a square map of features · got .*, which gives 197x192"),
        ("timm:vit_tiny_patch16_224.nobody", "required weights that timm has of vit_tiny_patch16_224: augreg_in21k"),
        ("dinov2", "timm:NAME is any model of timm"),
    ],
)
def test_names_that_are_none(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        get_spec(name)


@pytest.mark.slow
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
    code, output = extract("timm:vit_base_patch16_siglip_224", 64, "--features", "class")
    assert code == 2 and "which has no class token · got class" in output
    assert extract("timm:vit_base_patch16_siglip_224", 32, "--features", "mean")[0] == 0
    facts = open_store(tmp_path / "22432").facts
    assert facts.preprocessing["norm"] == {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    assert facts.preprocessing["interpolation"] == "bicubic"
    code, output = extract("timm:mixer_s32_224", 256)
    assert code == 2 and "--size: required 224, the only one that timm:mixer_s32_224 takes · got 256" in output


# Of every family a small one, in an own folder with its configuration; sizes, statistics and resizing differ.
FAMILIES = {
    "vit_tiny_patch16_224": {"crop_pct": 0.9, "interpolation": "bicubic"},
    "eva02_tiny_patch14_224": {"crop_pct": 1.0, "interpolation": "bilinear", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]},
    "resnet10t": {"crop_pct": 0.95, "interpolation": "bilinear", "input_size": [3, 160, 160]},
    "convnext_atto": {"crop_pct": 0.875, "crop_mode": "squash", "interpolation": "bicubic", "input_size": [3, 192, 192]},
    "swin_tiny_patch4_window7_224": {"crop_pct": 0.9, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3},
}


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, [*words], prog_name="nnunet-dino")
    return result.exit_code, result.output


def picture(folder: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (211, 260, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    return folder / "picture.png"


def model_folder(folder: Path, architecture: str, **facts: Any) -> torch.nn.Module:
    """Writes a random model as timm's ``save_for_hf`` does, and returns it."""
    torch.manual_seed(0)
    model = timm.create_model(architecture, pretrained=False, num_classes=0).eval()
    folder.mkdir(parents=True, exist_ok=True)
    shown = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "license": "mit", **facts}
    content = {"architecture": architecture, "num_classes": 0, "pretrained_cfg": shown}
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    save_file(model.state_dict(), folder / "model.safetensors")
    return model


@pytest.mark.slow
@pytest.mark.parametrize("architecture", FAMILIES)
def test_features_are_those_of_timm_with_its_own_transform(architecture: str, tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model", architecture, **FAMILIES[architecture])
    image = picture(tmp_path)
    shown = timm.data.resolve_data_config(pretrained_cfg={"input_size": [3, 224, 224], **FAMILIES[architecture]})
    with torch.no_grad():
        expected = model.forward_features(timm.data.create_transform(**shown)(Image.open(image))[None])
    words = ["extract", str(image), "--backbone", str(tmp_path / "model"), "--fit", "own", "--device", "cpu"]
    code, output = run(*words, "--features", "map", "-o", str(tmp_path / "map"))
    assert code == 0, output
    assert "Licence of the weights: mit" in output
    store = open_store(tmp_path / "map")
    assert store.facts.licence == "mit"
    assert store.facts.preprocessing["size_px"] == shown["input_size"][-1]
    assert store.facts.preprocessing["own"] == {"crop_pct": shown["crop_pct"], "crop_mode": shown["crop_mode"]}
    found = torch.from_numpy(store.patch_map("picture.png"))
    if expected.ndim == 3:
        prefix = model.num_prefix_tokens
        assert run(*words, "-o", str(tmp_path / "both"))[0] == 0
        vector = open_store(tmp_path / "both").vectors("both")[1][0]
        wanted = torch.cat([expected[0, 0], expected[0, prefix:].mean(0)])
        torch.testing.assert_close(torch.from_numpy(vector), wanted, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.flatten(1).T, expected[0, prefix:], rtol=0, atol=1e-5)
    else:
        wanted = expected[0].movedim(2, 0) if architecture.startswith("swin") else expected[0]
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
        code, output = run(*words, "--features", "class", "-o", str(tmp_path / "class"))
        assert code == 2 and "which has no class token" in output and not (tmp_path / "class").exists()


def test_grey_pictures_and_scans_are_resized_as_timm_does_as_well(tmp_path: Path) -> None:
    model_folder(tmp_path / "model", "convnext_atto", **FAMILIES["convnext_atto"])
    grey = Image.open(picture(tmp_path)).convert("L")
    grey.save(tmp_path / "grey.png")
    grey.convert("RGB").save(tmp_path / "colour.png")
    sitk.WriteImage(sitk.GetImageFromArray(np.asarray(grey)[None].repeat(2, 0).astype(np.int16)), tmp_path / "scan.nii.gz")
    words = ["--backbone", str(tmp_path / "model"), "--fit", "own", "--device", "cpu", "--window", "0,255"]
    for name in ("grey.png", "colour.png", "scan.nii.gz"):
        code, output = run("extract", str(tmp_path / name), *words, "-o", str(tmp_path / f"of {name}"))
        assert code == 0, output
    found = {name: open_store(tmp_path / f"of {name}").vectors("mean")[1][0] for name in ("grey.png", "colour.png")}
    np.testing.assert_array_equal(found["grey.png"], found["colour.png"])
    scan = open_store(tmp_path / "of scan.nii.gz").vectors("mean")[1][0]
    np.testing.assert_allclose(scan, found["grey.png"], atol=0.05)


def test_a_repository_of_the_hub_is_read_from_its_cache_and_only_asked_for_by_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, name = picture(tmp_path), "hf-hub:owner/pathology"
    words = ["extract", str(image), "--backbone", name, "-o", str(tmp_path / "store"), "--device", "cpu", "--size", "64"]
    code, output = run(*words)
    assert code == 2
    assert f"run `nnunet-dino weights fetch {name}`; if it is gated, ask for access at https://huggingface.co/owner/" in output
    asked: list[str] = []

    def refused(repository: str, file: str) -> None:
        asked.append(f"{repository}/{file}")
        error = OSError("gated")
        error.response = SimpleNamespace(status_code=403)
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refused)
    code, output = run("weights", "fetch", name)
    assert code == 2 and asked == ["owner/pathology/open_clip_config.json"]
    assert "HTTP 403" in output and "ask for access at https://huggingface.co/owner/pathology, then `hf auth login`" in output
    cache = tmp_path / "hub" / "models--owner--pathology"
    model_folder(cache / "snapshots" / "1", "vit_tiny_patch16_224", license="cc-by-nc-4.0")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("1", encoding="utf-8")
    code, output = run(*words)
    assert code == 0, output
    assert "hf-hub:owner/pathology (digest " in output and "Licence of the weights: cc-by-nc-4.0" in output


def test_a_file_of_dinov3_may_be_named_in_place_of_a_backbone(tmp_path: Path) -> None:
    image, spec = picture(tmp_path), get_spec("dinov3_tiny")
    torch.manual_seed(0)
    model = timm.create_model(spec.timm_model, num_classes=0, **spec.overrides)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    for source in ("weights.safetensors", "nothing.safetensors"):
        words = ["--backbone", str(tmp_path / source), "-o", str(tmp_path / "store"), "--size", "64", "--device", "cpu"]
        code, output = run("extract", str(image), *words)
        assert code == (0 if source.startswith("weights") else 2), output
    assert "required one of dinov3_vits16" in output and "or a file or folder of weights · got" in output
    assert open_store(tmp_path / "store").facts.backbone == "dinov3_tiny"


VISION = {
    "vit_tiny_patch16_224": {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "linear"},
    "own": {"image_size": 64, "layers": 4, "width": 128, "head_width": 32, "patch_size": 16},
}


@pytest.mark.parametrize("tower", VISION)
def test_image_towers_are_those_of_open_clip(tower: str, tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    text = {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    model = open_clip.model.CLIP(16, VISION[tower], text, output_dict=True).eval()
    config = {"model_cfg": {"embed_dim": 16, "vision_cfg": VISION[tower], "text_cfg": text}, "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    torch.save(model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    spec = get_spec(str(tmp_path))
    assert spec.statistics is not None and spec.statistics[0] == (0.48145466, 0.4578275, 0.40821073)
    images = torch.randn(2, 3, spec.input_px, spec.input_px)
    with torch.no_grad():
        found = load_backbone(tmp_path)(images)
        if tower == "own":
            model.visual.output_tokens = True
            expected = model.visual(images)[1]
            torch.testing.assert_close(
                found.class_tokens[-1] @ model.visual.proj, model.encode_image(images)[0], rtol=0, atol=1e-5
            )
        else:
            expected = model.visual.trunk.forward_features(images)[:, 1:]
    torch.testing.assert_close(found.patch_maps[-1].flatten(2).movedim(1, 2), expected, rtol=0, atol=1e-5)


def test_strides_are_known_where_convolutions_round_up() -> None:
    spec = get_spec("timm:efficientnet_b1")  # trained with 240 pixels, of which its map has eight cells
    assert (spec.patch_px, spec.input_px, spec.takes_any_size) == (32, 256, True)


def test_a_convolutional_network_may_be_a_frozen_slice_encoder_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_dino_weights", "random")
    with pytest.raises(UserError, match="required frozen for timm:convnext_atto, no plain transformer · got lora"):
        load_backbone("timm:convnext_atto", "lora", weights="random")
    output = load_backbone("timm:convnext_atto", weights="random")(torch.randn(2, 3, 64, 96))
    assert output.patch_maps[0].shape == (2, 320, 2, 3) and output.class_tokens == ()


def test_flexict_is_its_authors_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights and features of `Flexi_CT_Backbone` of the public code, 48 wide, four blocks."""
    stored = load_file(Path(__file__).parent / "fixtures" / "flexict_2d.safetensors")
    prefix = "teacher."
    teacher = {key.removeprefix(prefix): tensor for key, tensor in stored.items() if key.startswith(prefix)}
    torch.save({"teacher": teacher}, tmp_path / "ct_2d_teacher.pth")
    row = get_spec("flexict_2d")
    small = replace(
        row, taps=(0, 1, 2, 3), embed_dim=48, overrides={**row.overrides, "embed_dim": 48, "depth": 4, "num_heads": 2}
    )
    monkeypatch.setitem(CATALOGUE, "flexict_2d", small)
    loaded = weights.load_file(tmp_path / "ct_2d_teacher.pth")
    assert loaded.names == ("flexict_2d",)
    assert {reason for _, reason in loaded.report.dropped} >= {"for volumes", "used in pretraining only"}
    assert "CC BY-NC-ND" in loaded.licence
    found = load_backbone(tmp_path / "ct_2d_teacher.pth")(stored["image"].expand(-1, 3, -1, -1))
    assert found.patch_maps[-1].shape == (2, 48, 5, 7)
    torch.testing.assert_close(found.class_tokens[-1], stored["class_token"], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.patch_maps[-1].flatten(2).movedim(1, 2), stored["patch_tokens"], rtol=0, atol=1e-5)
