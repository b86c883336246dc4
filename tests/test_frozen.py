"""The lean forward pass of a frozen backbone against timm's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nnunet_dino.backbones.catalogue import get_spec
from nnunet_dino.backbones.vit import Backbone


def build(name: str, taps_are_normalised: bool = True) -> Backbone:
    """A random backbone in which every block counts: at their start value of 1e-5 blocks change next to nothing."""
    torch.manual_seed(0)
    backbone = Backbone(get_spec(name), random=True, taps_are_normalised=taps_are_normalised).eval()
    with torch.no_grad():
        for key, parameter in backbone.named_parameters():
            if key.endswith(("gamma_1", "gamma_2")):
                parameter.fill_(0.5)
    return backbone


def images() -> Tensor:
    return torch.randn(3, 3, 48, 80, generator=torch.Generator().manual_seed(1))


def everything(output: object) -> Tensor:
    tokens = [*output.class_tokens, *(r for r in output.register_tokens), *(m for m in output.patch_maps)]
    return torch.cat([part.flatten().float() for part in tokens])


@pytest.mark.parametrize("taps_are_normalised", [True, False])
@pytest.mark.parametrize("name", ["dinov3_tiny", "dinov3_vits16plus"])
def test_in_float32_every_bit_is_timms(name: str, taps_are_normalised: bool) -> None:
    backbone = build(name, taps_are_normalised)
    with torch.no_grad():
        expected = everything(backbone(images()))
    assert expected.abs().max() > 0.1
    assert torch.equal(everything(backbone.encode_frozen(images())), expected)


@pytest.mark.parametrize("name", ["dinov3_tiny", "dinov3_vits16plus"])
def test_in_bfloat16_it_errs_no_more_than_timm(name: str) -> None:
    backbone = build(name)
    with torch.no_grad():
        exact = everything(backbone(images()))
        low = backbone.bfloat16()
        low.vit.rope.periods = low.vit.rope.periods.float()
        theirs, ours = everything(low(images().bfloat16())), everything(low.encode_frozen(images().bfloat16()))
    errors = [((found - exact).norm() / exact.norm()).item() for found in (theirs, ours)]
    assert 0 < errors[1] < max(1.25 * errors[0], 0.01) < 0.03


def test_results_are_the_callers_own() -> None:
    backbone = build("dinov3_tiny")
    first = backbone.encode_frozen(images())
    kept = everything(first).clone()
    backbone.encode_frozen(-images())
    assert torch.equal(everything(first), kept)
