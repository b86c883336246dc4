"""MedDINOv3's network, and its published trainer's checkpoints, against a reference transformer and a decoder by formula."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_nets import planned, small_unet
from torch import Tensor, nn

from nnunet_dino._errors import UserError
from nnunet_dino.backbones.catalogue import CATALOGUE
from nnunet_dino.networks.meddinov3 import MedDINOv3
from nnunet_dino.networks.meddinov3_checkpoint import is_published, load_published
from nnunet_dino.networks.unet import PLAIN_UNET

# What MedDINOv3's own code saved, and the logits that it computes: one file a size, also those beside the checkout.
FOLDERS = Path(__file__).parent / "fixtures", Path(__file__).parents[2] / "shared" / "fixtures"
NETWORKS = sorted({path.name: path for folder in FOLDERS for path in folder.glob("meddinov3_network*.pt")}.values())
# A DINOv3-trainer checkpoint without qkv bias, an image, and the patch maps that Meta's own code computes for it.
REFERENCE = Path(__file__).parent / "fixtures" / "meddinov3_teacher.pt"
NUM_CLASSES = 5


def small_meddinov3(input_channels: int = 1, num_classes: int = NUM_CLASSES, **dino: Any) -> MedDINOv3:
    options = {"backbone": "dinov3_tiny", "weights": "random", "adaptation": "full", "token_stride_px": 16, **dino}
    return MedDINOv3(input_channels, num_classes, dino=options, **planned(PLAIN_UNET, 2))


def published_decoder_shapes(width: int, num_classes: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(4):
        narrow = width // 2
        shapes[f"up_projection.decode.{i}.0.weight"] = (width, narrow, 2, 2)
        shapes[f"up_projection.decode.{i}.0.bias"] = (narrow,)
        shapes[f"up_projection.decode.{i}.1.weight"] = (narrow,)
        shapes[f"up_projection.decode.{i}.1.bias"] = (narrow,)
        width = narrow
    return {
        **shapes,
        "up_projection.decode.4.weight": (num_classes, width, 1, 1),
        "up_projection.decode.4.bias": (num_classes,),
    }


def published_vit_b_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of ``vit_base(n_storage_tokens=4, qkv_bias=False, mask_k_bias=True, layerscale_init=1e-5)``."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, 768),
        "storage_tokens": (1, 4, 768),
        "mask_token": (1, 768),
        "patch_embed.proj.weight": (768, 3, 16, 16),
        "patch_embed.proj.bias": (768,),
        "rope_embed.periods": (16,),
        "norm.weight": (768,),
        "norm.bias": (768,),
    }
    for i in range(12):
        block = {"attn.qkv.weight": (2304, 768), "attn.proj.weight": (768, 768), "attn.proj.bias": (768,)}
        block |= {"mlp.fc1.weight": (3072, 768), "mlp.fc1.bias": (3072,), "mlp.fc2.weight": (768, 3072), "mlp.fc2.bias": (768,)}
        block |= {f"norm{n}.{name}": (768,) for n in (1, 2) for name in ("weight", "bias")}
        block |= {f"ls{n}.gamma": (768,) for n in (1, 2)}
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    return {f"dino_encoder.{name}": shape for name, shape in shapes.items()}


def decode_by_formula(tokens: Tensor, state: dict[str, Tensor]) -> Tensor:
    x = tokens
    for i in range(4):
        conv, norm = f"up_projection.decode.{i}.0", f"up_projection.decode.{i}.1"
        x = F.conv_transpose2d(x, state[f"{conv}.weight"], state[f"{conv}.bias"], stride=2)
        x = F.layer_norm(x.movedim(1, -1), x.shape[1:2], state[f"{norm}.weight"], state[f"{norm}.bias"], eps=1e-6).movedim(
            -1, 1
        )
        x = F.gelu(x)
    return F.conv2d(x, state["up_projection.decode.4.weight"], state["up_projection.decode.4.bias"])


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The reference, its size as a backbone of the catalogue, and a checkpoint as the published trainer would write it."""
    content = torch.load(REFERENCE, weights_only=True)
    overrides = {"embed_dim": 128, "depth": 3, "num_heads": 2}
    spec = replace(CATALOGUE["dinov3_tiny"], name="reference", taps=tuple(content["taps"]), overrides=overrides)
    monkeypatch.setitem(CATALOGUE, "reference", spec)
    monkeypatch.setenv("nnUNet_dino_precision", "float32")
    teacher = content["checkpoint"]["teacher"]
    vit = {f"dino_encoder.{k.removeprefix('backbone.')}": v for k, v in teacher.items() if k.startswith("backbone.")}
    generator = torch.Generator().manual_seed(3)
    shapes = published_decoder_shapes(len(spec.taps) * 128, NUM_CLASSES)
    decoder = {key: torch.randn(shape, generator=generator) * 0.1 for key, shape in shapes.items()}
    return {**content, "published": {**vit, **decoder}}


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_logits_are_those_of_their_own_network(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = torch.load(path, weights_only=True)
    config = content["config"]
    overrides = {key: config[key] for key in ("embed_dim", "depth", "num_heads")} | {"num_reg_tokens": config["num_registers"]}
    spec = replace(
        CATALOGUE["meddinov3_vitb16"],
        name="theirs",
        taps=tuple(content["taps"]),
        embed_dim=config["embed_dim"],
        overrides=overrides,
    )
    monkeypatch.setitem(CATALOGUE, "theirs", spec)
    monkeypatch.setenv("nnUNet_dino_precision", "float32")
    assert (config["norm_eps"], config["rope_dtype"]) == (spec.norm_eps, spec.rope_dtype)
    image, expected = content["image"], content["logits"]
    for adaptation in ("full", "frozen"):
        network = small_meddinov3(image.shape[1], config["num_classes"], backbone="theirs", adaptation=adaptation).eval()
        load_published(network, content["checkpoint"]["network_weights"])
        with torch.no_grad():
            torch.testing.assert_close(network(image), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_a_published_checkpoint_gives_what_the_reference_computes(reference: dict[str, Any]) -> None:
    network = small_meddinov3(3, backbone="reference").eval()
    load_published(network, reference["published"])
    expected = decode_by_formula(torch.cat(reference["patch_maps"], dim=1), reference["published"])
    torch.testing.assert_close(network(reference["image"]), expected, rtol=1e-5, atol=1e-5)


def test_every_tensor_of_a_published_checkpoint_is_used(reference: dict[str, Any]) -> None:
    report = load_published(small_meddinov3(backbone="reference"), reference["published"])
    dropped = {key for key, _ in report.dropped}
    assert dropped == {"dino_encoder.mask_token", "dino_encoder.rope_embed.periods"}
    assert {*report.used, *dropped} == set(reference["published"])
    assert all(name.endswith(("q_bias", "v_bias")) for name in report.filled)


def test_the_published_size_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_dino_weights", str(tmp_path))
    shapes = {**published_vit_b_shapes(), **published_decoder_shapes(4 * 768, NUM_CLASSES)}
    state = {key: torch.zeros(1).expand(shape) for key, shape in shapes.items()}
    periods = 100.0 ** (torch.arange(16) / 16)
    state["dino_encoder.rope_embed.periods"] = periods.bfloat16().float()
    network = small_meddinov3(backbone="meddinov3_vitb16", weights="pretrained")
    report = load_published(network, state)
    assert len(report.used) + len(report.dropped) == len(shapes)
    assert sum(p.numel() for p in network.decoder.parameters()) == sum(
        math.prod(shape) for key, shape in shapes.items() if key.startswith("up_projection")
    )
    assert not any(bool(p.any()) for p in network.parameters())


def test_names_of_other_checkpoints_are_not_taken_for_published_ones(reference: dict[str, Any]) -> None:
    assert is_published(reference["published"])
    assert not is_published(small_meddinov3().state_dict())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"dino_encoder.norm.weight": None}, "1 missing: norm.weight"),
        ({"up_projection.decode.2.1.bias": None}, r"without up_projection\.decode\.2\.1\.bias"),
        ({"dino_encoder.storage_tokens": None}, r"without dino_encoder\.storage_tokens · it is of another trainer"),
        ({"input_adapter.weight": torch.zeros(3, 3)}, r"with input_adapter\.weight · it is of another trainer"),
        ({"dino_encoder.adapter.weight": torch.zeros(3, 3)}, "unexpected: adapter.weight 3x3"),
        (
            {"up_projection.decode.4.bias": torch.zeros(7)},
            r"required shape \(5,\) for up_projection\.decode\.4\.bias · got \(7,\)",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_changes_nothing(reference: dict[str, Any], change: dict[str, Any], match: str) -> None:
    network = small_meddinov3(backbone="reference")
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    state = {key: tensor for key, tensor in {**reference["published"], **change}.items() if tensor is not None}
    with pytest.raises(UserError, match=match):
        load_published(network, state, "old.pth")
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


def test_a_published_checkpoint_is_refused_by_another_network(reference: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"old\.pth: required a checkpoint of DINOv3UNet · .* use -tr nnUNetTrainerMedDINOv3B"):
        load_published(small_unet(), reference["published"], "old.pth")


def test_every_block_has_the_same_stochastic_depth_rate() -> None:
    blocks = small_meddinov3(drop_path=0.2).slice_encoder.backbone.backbone.vit.blocks
    rates = [(block.drop_path1.drop_prob, block.drop_path2.drop_prob) for block in blocks]
    assert rates == [(0.2, 0.2)] * 4


def test_stochastic_depth_acts_in_training_only() -> None:
    network = small_meddinov3(drop_path=0.5)
    x = torch.randn(2, 1, 48, 80)
    assert not torch.equal(network.train()(x), network(x))
    assert torch.equal(network.eval()(x), network(x))


def test_the_decoder_starts_as_nnunet_initialises() -> None:
    conv = small_meddinov3().decoder.stages[0][0]
    fan_in = conv.weight.shape[1] * 2 * 2  # torch counts a transposed convolution's second axis
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (1 + 0.01**2) / fan_in), rel=0.01)
    assert not conv.bias.any()


def test_deep_supervision_can_be_set_and_changes_nothing() -> None:
    network = small_meddinov3().eval()
    x = torch.randn(2, 1, 48, 80)
    before = network(x)
    network.decoder.deep_supervision = True
    assert torch.equal(network(x), before)


@pytest.mark.parametrize("size", [[48, 80], [37, 53]])
def test_counted_outputs_are_those_of_the_convolutions(size: list[int]) -> None:
    network = small_meddinov3().eval()
    counted = []
    for module in network.decoder.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(lambda _, __, output: counted.append(output[0].numel()))
    network(torch.randn(2, 1, *size))
    assert network.compute_conv_feature_map_size(size) == sum(counted)


def test_plans_of_volumes_are_refused() -> None:
    with pytest.raises(UserError, match="required a 2D configuration · got Conv3d · use -c 2d or 2d_896"):
        MedDINOv3(1, 3, dino={"backbone": "dinov3_tiny", "weights": "random"}, **planned(PLAIN_UNET, 3))
