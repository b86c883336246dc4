"""Of the flagship, what the contract of all networks does not ask."""

from __future__ import annotations

import copy

import pytest
import torch
from small_nets import TINY, planned, small_unet, volume

from nnunet_dino._errors import UserError
from nnunet_dino.networks.tokens_only import TokensOnly
from nnunet_dino.networks.unet import PLAIN_UNET, RESIDUAL_UNET, build_stock_unet


def test_with_projections_that_do_not_start_at_zero_it_is_another_network() -> None:
    network = small_unet(gate_start=0.5)
    closed = small_unet()
    start = {k: torch.zeros_like(v) if k.startswith("injections.") else v for k, v in network.state_dict().items()}
    closed.load_state_dict(start)
    assert not torch.allclose(network(volume()), closed(volume()), atol=1e-3)


@pytest.mark.parametrize("unet", [PLAIN_UNET, RESIDUAL_UNET])
@pytest.mark.parametrize("num_axes", [2, 3])
def test_before_training_it_is_the_stock_network_bit_for_bit(unet: str, num_axes: int) -> None:
    network = small_unet(unet, num_axes, deep_supervision=True)
    stock = build_stock_unet(unet, 1, 3, True, planned(unet, num_axes))
    stock.load_state_dict({k: v for k, v in network.state_dict().items() if k.startswith(("encoder.", "decoder."))})
    x = volume() if num_axes == 3 else volume()[:, :, 0]
    assert all(torch.equal(*pair) for pair in zip(network(x), stock(x), strict=True))


def test_one_step_lets_tokens_speak_at_every_output_and_every_stage() -> None:
    network = small_unet(deep_supervision=True).train()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    sum(output.square().mean() for output in network(volume())).backward()
    optimizer.step()
    assert all(injection.project.weight.abs().max() > 0 for injection in network.injections)
    tokens = torch.randn(2, 10, 6, 3, 2)
    for logits, with_tokens in zip(outputs := network(volume()), network.token_head(outputs, tokens), strict=True):
        assert with_tokens.shape == logits.shape
        assert not torch.equal(logits, with_tokens)


def test_the_token_head_is_linear_and_can_be_left_out() -> None:
    head = small_unet().token_head
    torch.nn.init.normal_(head.seg_layers[0].weight)
    tokens = torch.randn(2, 10, 6, 3, 2)
    added = head(torch.zeros(2, 3, 6, 20, 12), tokens)
    at_tokens = torch.einsum("kc,bcdhw->bkdhw", head.seg_layers[0].weight.flatten(1), tokens)
    expected = torch.nn.functional.interpolate(at_tokens, (6, 20, 12), mode="trilinear", align_corners=False)
    torch.testing.assert_close(added, expected)
    assert small_unet(token_head=False).token_head is None


def test_chunks_do_not_change_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = small_unet().slice_encoder
    whole = encoder(volume())
    for num_tokens in (30, 5):  # several slices at a time; less than one slice has
        monkeypatch.setattr("nnunet_dino.networks.slices.CHUNK_TOKENS_ON_CPU", num_tokens)
        for one, many in zip(whole, encoder(volume()), strict=True):
            torch.testing.assert_close(one, many, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("target", ["qkv", "proj", "fc1", "fc2", "all-linear"])
def test_lora_changes_the_tokens_through_every_target(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's fused attention path would bypass an adapter of ``qkv``."""
    monkeypatch.setenv("nnUNet_dino_precision", "float32")
    encoder = small_unet(adaptation="lora", lora={"rank": 2, "alpha": 8.0, "targets": [target]}).slice_encoder.eval()
    for name, parameter in encoder.named_parameters():
        if name.endswith(("gamma_1", "gamma_2")):  # at their start value of 1e-5 a block changes next to nothing
            parameter.data.fill_(1)
    before = encoder(volume())
    adapters = [p for name, p in encoder.named_parameters() if ".lora_B" in name]
    assert len(adapters) == (16 if target == "all-linear" else 4)
    for parameter in adapters:
        torch.nn.init.normal_(parameter)
    assert not torch.allclose(before[-1], encoder(volume())[-1], atol=1e-3)


def test_only_nnunets_own_networks_can_be_extended() -> None:
    with pytest.raises(UserError, match="my.own.UNet"):
        build_stock_unet("my.own.UNet", 1, 3, False, {})


def test_the_encoder_of_tokens_alone_takes_an_image_as_nnunets_does() -> None:
    network = TokensOnly(1, 3, dino={"backbone": TINY, "weights": "random"}, **planned(PLAIN_UNET, 3)).eval()
    for one, other in zip(network.encoder(volume()), network.encode(volume())[0], strict=True):
        assert torch.equal(one, other)
    copied = copy.deepcopy(network)
    assert copied.encoder.slice_encoder is copied.slice_encoder
    assert not any(key.startswith("encoder.slice_encoder") for key in network.state_dict())
