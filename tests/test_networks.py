"""Of the flagship, what the contract of all networks does not ask."""

from __future__ import annotations

import pytest
import torch
from small_nets import small_unet, volume

from nnunet_dino._errors import UserError
from nnunet_dino.networks.unet import build_stock_unet


def test_with_open_gates_it_is_another_network() -> None:
    network = small_unet(gate_start=0.5)
    closed = small_unet(gate_start=0.0)
    closed.load_state_dict({k: v if "gate" not in k else torch.zeros_like(v) for k, v in network.state_dict().items()})
    assert not torch.allclose(network(volume()), closed(volume()), atol=1e-3)


def test_chunks_do_not_change_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = small_unet().slice_encoder
    whole = encoder(volume())
    for num_tokens in (30, 5):  # several slices at a time; less than one slice has
        monkeypatch.setattr("nnunet_dino.networks.slices.CHUNK_TOKENS_ON_CPU", num_tokens)
        for one, many in zip(whole, encoder(volume()), strict=True):
            torch.testing.assert_close(one, many, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("target", ["qkv", "proj", "fc1", "fc2"])
def test_lora_changes_the_tokens_through_every_target(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's fused attention path would bypass an adapter of ``qkv``."""
    monkeypatch.setenv("nnUNet_dino_precision", "float32")
    encoder = small_unet(adaptation="lora", lora={"rank": 2, "alpha": 8.0, "targets": [target]}).slice_encoder.eval()
    for name, parameter in encoder.named_parameters():
        if name.endswith(("gamma_1", "gamma_2")):  # at their start value of 1e-5 a block changes next to nothing
            parameter.data.fill_(1)
    before = encoder(volume())
    adapters = [p for name, p in encoder.named_parameters() if ".lora_B" in name]
    assert len(adapters) == 4
    for parameter in adapters:
        torch.nn.init.normal_(parameter)
    assert not torch.allclose(before[-1], encoder(volume())[-1], atol=1e-3)


def test_only_nnunets_own_networks_can_be_extended() -> None:
    with pytest.raises(UserError, match="my.own.UNet"):
        build_stock_unet("my.own.UNet", 1, 3, False, {})
