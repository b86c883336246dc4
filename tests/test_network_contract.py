"""Every network keeps the contract; what only one of them promises is beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from network_contract import NUM_CLASSES, NetworkContract, images, pretended_cuda
from small_nets import TINY, planned
from torch import nn

from nnunet_dino.backbones.catalogue import CATALOGUE, get_spec
from nnunet_dino.networks import DINOv3UNet, MedDINOv3, TokensOnly
from nnunet_dino.networks.unet import PLAIN_UNET, RESIDUAL_UNET, build_stock_unet

RANDOM_TINY = {"backbone": TINY, "weights": "random"}


class TestDINOv3UNet(NetworkContract):
    unet = PLAIN_UNET
    backbone = TINY

    def build(self, num_axes: int, input_channels: int = 1, deep_supervision: bool = False, **dino: object) -> nn.Module:
        options = {**RANDOM_TINY, "backbone": self.backbone, "neck_width": 10, "gate_start": 0.5, **dino}
        arguments = planned(self.unet, num_axes)
        return DINOv3UNet(input_channels, NUM_CLASSES, deep_supervision, unet=self.unet, dino=options, **arguments)

    def test_with_gates_at_zero_it_is_the_stock_network(self, num_axes: int) -> None:
        network = self.build(num_axes, 4, deep_supervision=True, gate_start=0.0)
        stock = build_stock_unet(self.unet, 4, NUM_CLASSES, True, planned(self.unet, num_axes))
        shared = {key: value for key, value in network.state_dict().items() if key.startswith(("encoder.", "decoder."))}
        stock.load_state_dict(shared)
        x = images(num_axes, 4)
        for ours, theirs in zip(network(x), stock(x), strict=True):
            assert torch.equal(ours, theirs)

    def test_the_convolutions_start_as_the_stock_network_initialises(self, num_axes: int) -> None:
        torch.manual_seed(5)
        stock = build_stock_unet(self.unet, 1, NUM_CLASSES, False, planned(self.unet, num_axes)).state_dict()
        torch.manual_seed(5)
        ours = self.build(num_axes).state_dict()
        assert all(torch.equal(ours[key], value) for key, value in stock.items())

    def test_the_neck_makes_no_float32_copy_of_all_maps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("nnUNet_dino_precision", "bfloat16")
        network = self.build(3).train()
        mixed: list[torch.dtype] = []
        network.neck.mix.register_forward_pre_hook(lambda _, arguments: mixed.append(arguments[0].dtype))
        with pretended_cuda(network, monkeypatch):
            network(torch.empty(2, 1, 6, 32, 48, device="cuda"))
        assert mixed == [torch.bfloat16]


@pytest.mark.slow
class TestDINOv3UNetResidual(TestDINOv3UNet):
    unet = RESIDUAL_UNET


@pytest.mark.slow
class TestDINOv3UNetOfDINOv2(TestDINOv3UNet):
    """Learned positions, patches of 14 pixels."""

    backbone = "dinov2_tiny"


@pytest.mark.slow
class TestDINOv3UNetOfEVA02(TestDINOv3UNet):
    """Rotary and learned positions, no registers, SwiGLU."""

    backbone = "timm:eva02_tiny_patch14_224"


class TestDINOv3UNetOfFlexiCT(TestDINOv3UNet):
    """Rotary positions, patches of 8 pixels, one channel, no bias of queries."""

    backbone = "flexict_2d"

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        row = get_spec("flexict_2d")
        overrides = {**row.overrides, "embed_dim": 48, "depth": 4, "num_heads": 2}
        monkeypatch.setitem(CATALOGUE, "flexict_2d", replace(row, taps=(0, 1, 2, 3), embed_dim=48, overrides=overrides))


class TestTokensOnly(NetworkContract):
    sees_labels = False

    def build(self, num_axes: int, input_channels: int = 1, deep_supervision: bool = False, **dino: object) -> nn.Module:
        options = {**RANDOM_TINY, "token_stride_px": 16, **dino}
        arguments = planned(PLAIN_UNET, num_axes, num_more_stages=2)  # more stages than taps
        return TokensOnly(input_channels, NUM_CLASSES, deep_supervision, dino=options, **arguments)


class TestMedDINOv3(NetworkContract):
    axes = (2,)
    supervises_deeply = False
    sees_labels = False

    def build(self, num_axes: int, input_channels: int = 1, deep_supervision: bool = False, **dino: object) -> nn.Module:
        options = {**RANDOM_TINY, "token_stride_px": 16, **dino}
        return MedDINOv3(input_channels, NUM_CLASSES, deep_supervision, dino=options, **planned(PLAIN_UNET, num_axes))
