"""The flagship against the stock network, and what may not leak between slices or into training."""

from __future__ import annotations

import pytest
import torch
from small_nets import FEATURES, planned, small_unet, volume

from nnunet_dino._errors import UserError
from nnunet_dino.networks.unet import PLAIN_UNET, RESIDUAL_UNET, TokensOnly, build_stock_unet


def step(network: torch.nn.Module, x: torch.Tensor) -> None:
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    outputs = network(x)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    sum(output.square().mean() for output in outputs).backward()
    optimizer.step()


@pytest.mark.parametrize("unet", [PLAIN_UNET, RESIDUAL_UNET])
@pytest.mark.parametrize("num_axes", [2, 3])
def test_with_gates_at_zero_it_is_the_stock_network(unet: str, num_axes: int) -> None:
    network = small_unet(unet, num_axes, deep_supervision=True, gate_start=0.0)
    stock = build_stock_unet(unet, 1, 3, True, planned(unet, num_axes))
    shared = {key: value for key, value in network.state_dict().items() if key.startswith(("encoder.", "decoder."))}
    stock.load_state_dict(shared)
    x = volume() if num_axes == 3 else volume()[:, :, 0]
    for ours, theirs in zip(network(x), stock(x), strict=True):
        assert torch.equal(ours, theirs)


def test_with_open_gates_it_is_another_network() -> None:
    network = small_unet(gate_start=0.5)
    closed = small_unet(gate_start=0.0)
    closed.load_state_dict({k: v if "gate" not in k else torch.zeros_like(v) for k, v in network.state_dict().items()})
    assert not torch.allclose(network(volume()), closed(volume()), atol=1e-3)


@pytest.mark.parametrize(("num_axes", "sizes"), [(3, [(6, 20, 12), (6, 10, 6)]), (2, [(20, 12), (10, 6)])])
def test_deep_supervision_returns_every_resolution(num_axes: int, sizes: list[tuple[int, ...]]) -> None:
    network = small_unet(num_axes=num_axes, deep_supervision=True)
    x = volume() if num_axes == 3 else volume()[:, :, 0]
    assert [tuple(output.shape) for output in network(x)] == [(2, 3, *size) for size in sizes]
    network.decoder.deep_supervision = False
    assert tuple(network(x).shape) == (2, 3, *x.shape[2:])


def test_a_slice_sees_only_itself() -> None:
    encoder = small_unet().slice_encoder
    x = volume()
    changed = x.clone()
    changed[1, :, 4] += 1
    before, after = encoder(x), encoder(changed)
    for old, new in zip(before, after, strict=True):
        differs = (old != new).flatten(1).any(1)
        assert differs.nonzero().flatten().tolist() == [1 * x.shape[2] + 4]


def test_mirrored_slices_give_mirrored_tokens() -> None:
    encoder = small_unet().slice_encoder
    x = volume()
    for straight, mirrored in zip(encoder(x), encoder(x.flip(2)), strict=True):
        assert torch.equal(straight.unflatten(0, (2, 6)).flip(1).flatten(0, 1), mirrored)


def test_chunks_do_not_change_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = small_unet().slice_encoder
    whole = encoder(volume())
    for num_tokens in (30, 5):  # several slices at a time; less than one slice has
        monkeypatch.setattr("nnunet_dino.networks.slices.CHUNK_TOKENS_ON_CPU", num_tokens)
        for one, many in zip(whole, encoder(volume()), strict=True):
            torch.testing.assert_close(one, many, rtol=0.02, atol=0.02)


def test_one_hot_channels_of_a_cascade_bypass_the_transformer() -> None:
    network = small_unet(input_channels=3, num_image_channels=1)
    x = volume(channels=3)
    changed = x.clone()
    changed[:, 1:] += 1
    for old, new in zip(network.slice_encoder(x), network.slice_encoder(changed), strict=True):
        assert torch.equal(old, new)
    assert not torch.equal(network(x), network(changed))


def test_four_channels_are_shown_in_two_images() -> None:
    network = small_unet(input_channels=4)
    assert network.slice_encoder.num_maps == 8
    x = volume(channels=4)
    for channel in range(4):
        changed = x.clone()
        changed[:, channel] += 1
        assert any(not torch.equal(a, b) for a, b in zip(network.slice_encoder(x), network.slice_encoder(changed), strict=True))


def test_frozen_stays_frozen() -> None:
    network = small_unet(gate_start=0.3).train()
    network(volume())
    before = {name: p.clone() for name, p in network.slice_encoder.named_parameters()}
    step(network, volume())
    for name, parameter in network.slice_encoder.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name]), name
    assert not network.slice_encoder.backbone.training
    assert network.encoder.training


@pytest.mark.parametrize("adaptation", ["frozen", "lora", "full"])
def test_every_trained_parameter_gets_a_gradient(adaptation: str) -> None:
    """DistributedDataParallel stops with an error where one does not."""
    network = small_unet(deep_supervision=True, adaptation=adaptation, gate_start=0.3).train()
    outputs = network(volume())
    sum(output.square().mean() for output in outputs).backward()
    assert [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None] == []
    trained = {name for name, p in network.slice_encoder.named_parameters() if p.requires_grad}
    if adaptation == "frozen":
        assert trained == set()
    if adaptation == "lora":
        assert trained and all(".lora_" in name for name in trained)
    if adaptation == "full":
        assert len(trained) == len(list(network.slice_encoder.parameters()))


def test_taps_that_are_not_normalised_leave_no_unused_parameter() -> None:
    network = small_unet(deep_supervision=True, adaptation="full", taps_are_normalised=False, gate_start=0.3).train()
    sum(output.square().mean() for output in network(volume())).backward()
    assert [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None] == []


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


def test_tokens_only_makes_every_skip_from_tokens() -> None:
    dino = {"backbone": "dinov3_tiny", "weights": "random"}
    with pytest.raises(UserError, match="got 2 label channels"):
        TokensOnly(3, 3, dino={**dino, "num_image_channels": 1}, **planned(PLAIN_UNET, 3))
    network = TokensOnly(1, 3, True, dino=dino, **planned(PLAIN_UNET, 3))
    x = volume()
    assert [tuple(output.shape) for output in network(x)] == [(2, 3, 6, 20, 12), (2, 3, 6, 10, 6)]
    assert network.encoder.output_channels == FEATURES
    sum(output.square().mean() for output in network(x)).backward()
    assert [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None] == []


def test_convolutional_part_has_nnunets_initialisation() -> None:
    network = small_unet()
    for name, parameter in network.named_parameters():
        if name.startswith(("encoder.", "decoder.")) and name.endswith("conv.bias"):
            assert torch.count_nonzero(parameter) == 0, name


def test_unknown_options_are_refused() -> None:
    with pytest.raises(UserError, match="token_stride'; did you mean 'token_stride_px'"):
        small_unet(token_stride=8)
    with pytest.raises(UserError, match="dinov3_vitx16"):
        small_unet(backbone="dinov3_vitx16")
    with pytest.raises(UserError, match="'fro zen'; did you mean 'frozen'"):
        small_unet(adaptation="fro zen")
    with pytest.raises(UserError, match="got 7"):
        small_unet(num_image_channels=7)
    with pytest.raises(UserError, match="my.own.UNet"):
        small_unet_of("my.own.UNet")


def small_unet_of(path: str) -> None:
    build_stock_unet(path, 1, 3, False, {})


def test_buffers_are_kept_out_of_ddp() -> None:
    network = small_unet()
    assert {name for name, _ in network.named_buffers()} <= set(network._ddp_params_and_buffers_to_ignore)
    assert not {name for name, _ in network.named_parameters()} & set(network._ddp_params_and_buffers_to_ignore)
