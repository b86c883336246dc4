"""What of a backbone is written into checkpoints, and what is verified when they are read."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from small_nets import TINY, planned, small_unet, volume, write_weights

from nnunet_dino._errors import UserError
from nnunet_dino.backbones import weights
from nnunet_dino.backbones.adapted import RECORD_KEY, decode_record, encode_record
from nnunet_dino.backbones.catalogue import get_spec
from nnunet_dino.backbones.rgb import IMAGENET
from nnunet_dino.backbones.vit import Backbone
from nnunet_dino.networks.unet import PLAIN_UNET, DINOv3UNet
from nnunet_dino.nnunet.pretrained import load_pretrained

RECORD = f"slice_encoder.backbone.{RECORD_KEY}"
PRETRAINED = {"weights": "pretrained", "gate_start": 0.3}


@pytest.fixture
def weights_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "weights"
    write_weights(folder, seed=1)
    monkeypatch.setenv("nnUNet_dino_weights", str(folder))
    monkeypatch.setenv("nnUNet_dino_store", str(tmp_path / "store"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return folder


def backbone_keys(state: dict[str, torch.Tensor]) -> list[str]:
    return [key for key in state if key.startswith("slice_encoder.backbone.") and key != RECORD]


@pytest.mark.parametrize("adaptation", ["frozen", "lora"])
def test_weights_from_a_file_are_left_out_and_come_back(weights_folder: Path, adaptation: str) -> None:
    network = small_unet(adaptation=adaptation, **PRETRAINED).eval()
    state = network.state_dict()
    assert all(".lora_" in key for key in backbone_keys(state))
    assert decode_record(state[RECORD]) == (TINY, weights.load(TINY).digest)
    torch.manual_seed(3)
    other = small_unet(adaptation=adaptation, **PRETRAINED).eval()
    x = volume()
    assert not torch.equal(network(x), other(x))
    other.load_state_dict(state)
    assert torch.equal(network(x), other(x))


def test_the_weights_of_the_file_are_the_ones_used(weights_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_dino_precision", "float32")
    reference = Backbone(get_spec(TINY)).eval()
    reference.vit.load_state_dict(weights.load(TINY).state)
    images = volume()[:, 0, :3].contiguous()
    images = torch.nn.functional.interpolate(images, (48, 32), mode="bilinear")
    network = small_unet(**PRETRAINED)
    for ours, theirs in zip(network.slice_encoder.backbone(images), reference(images).patch_maps, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dino", [{"weights": "random"}, {**PRETRAINED, "adaptation": "full"}])
def test_random_and_trained_weights_are_written_in_full(weights_folder: Path, dino: dict) -> None:
    network = small_unet(**dino)
    state = network.state_dict()
    assert RECORD not in state
    assert len(backbone_keys(state)) == len(list(network.slice_encoder.backbone.parameters()))


def test_a_full_checkpoint_needs_no_weights(weights_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = small_unet(**PRETRAINED, adaptation="full").eval()
    monkeypatch.setenv("nnUNet_dino_weights", str(weights_folder.parent))
    network = small_unet(**PRETRAINED, adaptation="full").eval()
    with pytest.raises(UserError, match=f"required the weights of {TINY} · got none"):
        network(volume())
    network.load_state_dict(trained.state_dict())
    assert torch.equal(network(volume()), trained(volume()))


def test_a_full_checkpoint_in_a_frozen_network_stays_full(weights_folder: Path) -> None:
    random = small_unet(weights="random")
    network = small_unet(**PRETRAINED)
    network.load_state_dict(random.state_dict())
    assert backbone_keys(network.state_dict()) == backbone_keys(random.state_dict())


def test_missing_weights_name_backbone_digest_and_command(weights_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = small_unet(**PRETRAINED).state_dict()
    digest = weights.load(TINY).digest
    monkeypatch.setenv("nnUNet_dino_weights", str(weights_folder.parent))
    network = small_unet(**PRETRAINED)
    with pytest.raises(UserError, match=f"required the weights of {TINY} with digest {digest} · got none"):
        network.load_state_dict(state)


def test_other_weights_are_refused(weights_folder: Path) -> None:
    state = small_unet(**PRETRAINED).state_dict()
    wanted = weights.load(TINY).digest
    write_weights(weights_folder, seed=2)
    got = weights.load(TINY).digest
    assert wanted != got
    with pytest.raises(UserError, match=f"digest {wanted} · got {got}"):
        small_unet(**PRETRAINED).load_state_dict(state)


def test_another_backbone_is_refused(weights_folder: Path) -> None:
    state = small_unet(**PRETRAINED).state_dict()
    state[RECORD] = encode_record("dinov3_vitl16", weights.load(TINY).digest)
    with pytest.raises(UserError, match=f"backbone {TINY} · got dinov3_vitl16"):
        small_unet(**PRETRAINED).load_state_dict(state)


def test_keys_that_do_not_belong_are_still_an_error(weights_folder: Path) -> None:
    state = small_unet(**PRETRAINED).state_dict()
    with pytest.raises(RuntimeError, match="something_else"):
        small_unet(**PRETRAINED).load_state_dict({**state, "slice_encoder.backbone.something_else": torch.zeros(2)})
    del state["neck.mix.weight"]
    with pytest.raises(RuntimeError, match="neck.mix.weight"):
        small_unet(**PRETRAINED).load_state_dict(state)


def test_reduced_precision_is_the_same_after_loading(weights_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_dino_precision", "bfloat16")
    network = small_unet(**PRETRAINED).eval()
    before = network(volume())
    assert network.slice_encoder.backbone.backbone.vit.cls_token.dtype is torch.bfloat16
    assert network.slice_encoder.backbone.backbone.vit.rope.periods.dtype is torch.float32
    network.load_state_dict(network.state_dict())
    assert torch.equal(before, network(volume()))


def test_loading_between_predictions_in_inference_mode(weights_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net loads one fold after the other into the same network."""
    monkeypatch.setenv("nnUNet_dino_precision", "bfloat16")
    network = small_unet(**PRETRAINED).eval()
    with torch.inference_mode():
        before = network(volume())
    network.load_state_dict(network.state_dict())
    with torch.inference_mode():
        assert torch.equal(before, network(volume()))


def test_a_large_frozen_run_saves_a_tenth_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted for the real shapes of ViT-L on nnU-Net's largest stock U-Net, without allocating them."""
    kwargs = planned(PLAIN_UNET, 3)
    features = [32, 64, 128, 256, 320, 320]
    kwargs.update(
        n_stages=6,
        features_per_stage=features,
        kernel_sizes=[[3] * 3] * 6,
        strides=[[1] * 3] + [[2] * 3] * 5,
        n_conv_per_stage=[2] * 6,
        n_conv_per_stage_decoder=[2] * 5,
    )
    with torch.device("meta"):
        network = DINOv3UNet(1, 3, True, unet=PLAIN_UNET, dino={"backbone": "dinov3_vitl16", "weights": "random"}, **kwargs)
    backbone = network.slice_encoder.backbone
    full = saved_bytes(network)
    backbone.weights_are_random, backbone.digest = False, "0" * 64
    slim = saved_bytes(network)
    assert full - slim == 303_128_576 * 4
    assert slim < 0.1 * full


def saved_bytes(network: torch.nn.Module) -> int:
    """nnU-Net's state dicts hold many tensors under several names; torch writes each once, as ``named_parameters`` lists it."""
    names = {name for name, _ in network.named_parameters()}
    return sum(tensor.nbytes for name, tensor in network.state_dict().items() if name in names)


UNIT_RANGE = {"channels": [{"mean": mean, "std": std} for mean, std in zip(*IMAGENET, strict=True)]}
OWN = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.1))


def what_the_backbone_sees(network: DINOv3UNet, image: torch.Tensor) -> torch.Tensor:
    """Returns ``(b·d) 3 h w``."""
    seen: list[torch.Tensor] = []
    hook = network.slice_encoder.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(image)
    hook.remove()
    return torch.cat(seen)


def mean_seen(network: DINOv3UNet) -> list[float]:
    """Returns what red, green and blue of 0.6 are shown as."""
    return what_the_backbone_sees(network, torch.full((2, 3, 6, 20, 12), 0.6)).mean((0, 2, 3)).tolist()


@pytest.mark.parametrize("adaptation", ["frozen", "lora", "full"])
def test_a_backbone_sees_the_statistics_of_its_file_wherever_its_checkpoint_goes(
    weights_folder: Path, monkeypatch: pytest.MonkeyPatch, adaptation: str
) -> None:
    """The file may have gone, or come back without its statistics."""
    options = {**PRETRAINED, **UNIT_RANGE, "adaptation": adaptation, "input_channels": 3}
    usual = mean_seen(small_unet(**options))
    assert usual == pytest.approx([(0.6 - mean) / std for mean, std in zip(*IMAGENET, strict=True)], abs=1e-2)
    write_weights(weights_folder, seed=1, nnunet_dino_statistics=json.dumps(dict(zip(("mean", "std"), OWN, strict=True))))
    trained = small_unet(**options)
    own = [(0.6 - mean) / std for mean, std in zip(*OWN, strict=True)]
    assert mean_seen(trained) == pytest.approx(own, abs=1e-2)
    write_weights(weights_folder, seed=1)
    network = small_unet(**options)
    network.load_state_dict(trained.state_dict())
    assert mean_seen(network) == pytest.approx(own, abs=1e-2)
    network.load_state_dict(small_unet(**options).state_dict())
    assert mean_seen(network) == pytest.approx(usual)


def test_what_is_normalised_or_seen_through_windows(weights_folder: Path) -> None:
    write_weights(weights_folder, seed=1, nnunet_dino_statistics=json.dumps(dict(zip(("mean", "std"), OWN, strict=True))))
    network = small_unet(**PRETRAINED)
    image = torch.full((2, 1, 6, 20, 12), 0.6)
    assert what_the_backbone_sees(network, image).mean((0, 2, 3)).tolist() == pytest.approx([0.6] * 3)
    windows = {"rgb": "windows", "channels": [{"windows": [[0, 1], [0, 2], [-1, 1]]}]}
    seen = what_the_backbone_sees(small_unet(**PRETRAINED, **windows), image)
    shares = (0.6, 0.3, 0.8)
    assert seen.mean((0, 2, 3)).tolist() == pytest.approx([(s - m) / d for s, m, d in zip(shares, *OWN, strict=True)], abs=1e-2)


def test_statistics_go_with_weights_that_start_another_training(
    weights_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_weights(weights_folder, seed=1, nnunet_dino_statistics=json.dumps(dict(zip(("mean", "std"), OWN, strict=True))))
    trained = small_unet(**PRETRAINED, adaptation="full")
    checkpoint = tmp_path / "checkpoint_final.pth"
    torch.save({"network_weights": trained.state_dict()}, checkpoint)
    write_weights(weights_folder, seed=1)
    started = small_unet(**PRETRAINED)
    assert started.slice_encoder.backbone.statistics == IMAGENET
    load_pretrained(started, str(checkpoint))
    assert started.slice_encoder.backbone.statistics == OWN
    monkeypatch.setenv("nnUNet_dino_weights", str(checkpoint))
    assert weights.load(TINY).statistics == OWN


def test_weights_under_adapters_that_were_set_trainable_are_written(weights_folder: Path) -> None:
    network = small_unet(**PRETRAINED, adaptation="lora")
    network.slice_encoder.backbone.backbone.vit.norm.requires_grad_(True)
    network(volume())
    state = network.state_dict()
    assert RECORD not in state and "slice_encoder.backbone.backbone.vit.norm.weight" in state


def test_weights_that_were_loaded_into_the_transformer_itself_are_written(weights_folder: Path) -> None:
    network = small_unet(**PRETRAINED).eval()
    other = Backbone(get_spec(TINY), random=True)
    network.slice_encoder.backbone.backbone.vit.load_state_dict(other.vit.state_dict())
    state = copy.deepcopy(network).state_dict()
    assert RECORD not in state
    loaded, of_the_file = small_unet(**PRETRAINED).eval(), small_unet(**PRETRAINED).eval()
    slim = of_the_file.state_dict()
    loaded.load_state_dict(state)
    assert torch.equal(loaded(volume()), network(volume()))
    loaded.load_state_dict(state), loaded.load_state_dict(slim)
    assert torch.equal(loaded(volume()), of_the_file(volume()))
