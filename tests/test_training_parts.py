"""Schedules, saving, budgets and starting from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from small_nets import planned, small_unet, volume, write_weights

from nnunet_dino._errors import UserError
from nnunet_dino.networks.options import DinoOptions
from nnunet_dino.networks.unet import PLAIN_UNET, build_stock_unet
from nnunet_dino.nnunet.memory import backbone_outputs
from nnunet_dino.nnunet.pretrained import load_pretrained
from nnunet_dino.nnunet.schedules import EpochSchedule, cosine, linear, polynomial


def optimizer_of(*learning_rates: float) -> torch.optim.SGD:
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": lr} for lr in learning_rates])


def test_polynomial_schedule_is_nnunets() -> None:
    ours, theirs = optimizer_of(0.01), optimizer_of(0.01)
    schedule, reference = EpochSchedule(ours, polynomial, 7), PolyLRScheduler(theirs, 0.01, 7)
    for epoch in range(7):
        schedule.step(epoch)
        reference.step(epoch)
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12)


def test_groups_keep_their_ratio() -> None:
    optimizer = optimizer_of(0.01, 0.001)
    schedule = EpochSchedule(optimizer, linear, 10)
    schedule.step(5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.005, 0.0005])
    schedule.step(0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.001])


def test_cosine_is_torchs() -> None:
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(theirs := optimizer_of(1.0), T_max=9)
    for epoch in range(9):
        assert cosine(epoch / 9) == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-9)
        theirs.step()
        reference.step()


def test_budget_grows_with_what_is_trained() -> None:
    costs = [
        backbone_outputs(DinoOptions("dinov3_vitb16", adaptation=adaptation), (64, 192, 160), 1, 2)
        for adaptation in ("frozen", "lora", "full")
    ]
    assert costs == sorted(costs) and len(set(costs)) == 3
    assert backbone_outputs(DinoOptions("dinov3_vitb16"), (64, 192, 160), 4, 2) > costs[0]


def checkpoint(path: Path, network: torch.nn.Module) -> str:
    torch.save({"network_weights": network.state_dict()}, path)
    return str(path)


def test_a_stock_checkpoint_starts_the_convolutional_part(tmp_path: Path) -> None:
    stock = build_stock_unet(PLAIN_UNET, 1, 5, True, planned(PLAIN_UNET, 3))
    network = small_unet(gate_start=0.0)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    taken = load_pretrained(network, checkpoint(tmp_path / "stock.pth", stock))
    theirs = stock.state_dict()
    for key, value in network.state_dict().items():
        if key.startswith(("encoder.", "decoder.")) and ".seg_layers." not in key:
            assert key in taken and torch.equal(value, theirs[key]), key
        else:
            assert key not in taken and torch.equal(value, before[key]), key


def test_a_dino_checkpoint_starts_everything_but_the_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_weights(tmp_path / "weights", seed=1)
    monkeypatch.setenv("nnUNet_dino_weights", str(tmp_path / "weights"))
    source = small_unet(weights="pretrained", adaptation="lora")
    torch.nn.init.ones_(source.token_head.seg_layers[0].weight)
    network = small_unet(weights="pretrained", adaptation="lora")
    load_pretrained(network, checkpoint(tmp_path / "lora.pth", source))
    for (key, ours), theirs in zip(network.state_dict().items(), source.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs) == (".seg_layers." not in key or key.endswith("bias")), key
    assert network.slice_encoder.backbone.digest == source.slice_encoder.backbone.digest


def test_a_fully_tuned_network_starts_from_a_frozen_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_weights(tmp_path / "weights", seed=1)
    monkeypatch.setenv("nnUNet_dino_weights", str(tmp_path / "weights"))
    source = small_unet(weights="pretrained").eval()
    network = small_unet(weights="pretrained", adaptation="full").eval()
    load_pretrained(network, checkpoint(tmp_path / "frozen.pth", source))
    assert torch.equal(network.neck.mix.weight, source.neck.mix.weight)
    monkeypatch.setenv("nnUNet_dino_precision", "float32")
    for ours, theirs in zip(network.slice_encoder(volume()), source.slice_encoder(volume()), strict=True):
        torch.testing.assert_close(ours, theirs)


LORA = {"adaptation": "lora", "lora": {"rank": 4, "alpha": 12.0}}
ADAPTATIONS = {
    "frozen": {},
    "full": {"adaptation": "full"},
    "lora": LORA,
    "fewer targets": {"adaptation": "lora", "lora": {"rank": 4, "alpha": 12.0, "targets": ["qkv"]}},
    "another scale": {"adaptation": "lora", "lora": {"rank": 4, "alpha": 24.0}},
    "another rank": {"adaptation": "lora", "lora": {"rank": 2, "alpha": 3.0}},
}


@pytest.mark.parametrize("weights", ["pretrained", "random"])
@pytest.mark.parametrize(("before", "after"), [(a, b) for a in ("frozen", "full", "lora") for b in ADAPTATIONS])
def test_every_adaptation_starts_from_every_other(
    before: str, after: str, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The tokens are those of the network that was trained, with its adapters, and a checkpoint of the new one holds them."""
    write_weights(tmp_path / "weights", seed=1)
    monkeypatch.setenv("nnUNet_dino_weights", str(tmp_path / "weights"))
    monkeypatch.setenv("nnUNet_dino_precision", "float32")
    source = small_unet(weights=weights, **ADAPTATIONS[before]).eval()
    for parameter in source.slice_encoder.backbone.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05)
    network, again = (small_unet(weights=weights, **ADAPTATIONS[after]).eval() for _ in range(2))
    load_pretrained(network, checkpoint(tmp_path / "source.pth", source))
    again.load_state_dict(network.state_dict())
    for start in (network, again):
        for ours, theirs in zip(start.slice_encoder(volume()), source.slice_encoder(volume()), strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=2e-4)
    assert ("its adapters merged into the backbone" in capsys.readouterr().out) == (before == "lora" != after)


def test_adapters_of_an_unknown_scale_are_not_merged(tmp_path: Path) -> None:
    state = small_unet(**LORA).state_dict()
    del state["slice_encoder.options_record"]
    torch.save({"network_weights": state}, tmp_path / "old.pth")
    with pytest.raises(UserError, match="old.pth: required the scale of its adapters"):
        load_pretrained(small_unet(), str(tmp_path / "old.pth"))


def test_random_weights_in_a_checkpoint_are_taken_over(tmp_path: Path) -> None:
    source, network = small_unet(), small_unet()
    load_pretrained(network, checkpoint(tmp_path / "random.pth", source))
    for ours, theirs in zip(network.slice_encoder(volume()), source.slice_encoder(volume()), strict=True):
        assert torch.equal(ours, theirs)


def test_a_backbone_in_the_file_replaces_the_one_from_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights have no digest any more, so the next checkpoint must hold them."""
    write_weights(tmp_path / "weights", seed=1)
    monkeypatch.setenv("nnUNet_dino_weights", str(tmp_path / "weights"))
    source, network = small_unet(weights="random"), small_unet(weights="pretrained")
    load_pretrained(network, checkpoint(tmp_path / "random.pth", source))
    again = small_unet(weights="pretrained")
    again.load_state_dict(network.state_dict())
    for ours, theirs in zip(again.slice_encoder(volume()), source.slice_encoder(volume()), strict=True):
        assert torch.equal(ours, theirs)


def test_bad_checkpoints_to_start_from(tmp_path: Path) -> None:
    network = small_unet()
    with pytest.raises(UserError, match="nowhere.pth: required a checkpoint of nnU-Net · got no such file"):
        load_pretrained(network, str(tmp_path / "nowhere.pth"))
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(UserError, match="text.pth"):
        load_pretrained(network, str(tmp_path / "text.pth"))
    other = planned(PLAIN_UNET, 3)
    other["features_per_stage"] = [5, 6, 8]
    wide = build_stock_unet(PLAIN_UNET, 1, 3, True, other)
    with pytest.raises(UserError, match=r"required shape \(4, 1, 3, 3, 3\).*got \(5, 1, 3, 3, 3\)"):
        load_pretrained(network, checkpoint(tmp_path / "wide.pth", wide))
    flat = small_unet(neck_width=11)
    with pytest.raises(UserError, match="got .*11"):
        load_pretrained(network, checkpoint(tmp_path / "flat.pth", flat))
