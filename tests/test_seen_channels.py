"""Which channels the transformer sees; the convolutions see all."""

from __future__ import annotations

import pytest
import torch

from nnunet_dino._errors import UserError
from nnunet_dino.networks.options import DinoOptions, build_slice_encoder
from nnunet_dino.nnunet.slice_view import fit_to_plans

OPTIONS = {"backbone": "dinov3_tiny", "weights": "random"}
CONFIGURATION = {
    "patch_size": [4, 32, 48],
    "spacing": [3.0, 1.0, 1.0],
    "normalization_schemes": ["CTNormalization", "ZScoreNormalization"],
}


def test_the_transformer_sees_what_it_is_told_and_nothing_else() -> None:
    encoder = build_slice_encoder(DinoOptions(**OPTIONS, sees=(1,)), 3).eval()
    volume = torch.randn(2, 3, 4, 32, 48)
    other = volume.clone()
    other[:, [0, 2]] += 1
    maps = encoder(volume)
    assert all(torch.equal(a, b) for a, b in zip(maps, encoder(other), strict=True))
    other[:, 1] += torch.randn(4, 32, 48)
    assert not torch.equal(maps[0], encoder(other)[0])


def test_the_order_counts_and_equals_that_of_an_input_in_that_order() -> None:
    torch.manual_seed(0)
    chosen = build_slice_encoder(DinoOptions(**OPTIONS, sees=(2, 0)), 3).eval()
    plain = build_slice_encoder(DinoOptions(**OPTIONS), 2).eval()
    state = {key: value for key, value in chosen.state_dict().items() if "options_record" not in key}
    plain.load_state_dict(state)
    volume = torch.randn(2, 3, 4, 32, 48)
    assert all(torch.equal(a, b) for a, b in zip(chosen(volume), plain(volume[:, [2, 0]]), strict=True))


def test_plans_say_what_is_seen_and_trainers_take_it() -> None:
    planned = {**CONFIGURATION, "architecture": {"arch_kwargs": {"dino": {"sees": [1]}}}}
    assert fit_to_plans(DinoOptions(**OPTIONS), planned, {}).sees == (1,)
    assert fit_to_plans(DinoOptions(**OPTIONS), CONFIGURATION, {}).sees == ()
    options = fit_to_plans(DinoOptions(**OPTIONS, sees=(1,)), CONFIGURATION, {})
    assert DinoOptions.from_plans({**options.to_plans(), "sees": [1]}) == options


@pytest.mark.parametrize("sees", [(2,), (5, 0)])
def test_a_channel_that_is_not_there_is_refused(sees: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=f"from 0 to 1 · got {sees[0]}"):
        fit_to_plans(DinoOptions(**OPTIONS, sees=sees), CONFIGURATION, {})
    with pytest.raises(UserError, match=f"from 0 to 1 · got {sees[0]}"):
        build_slice_encoder(DinoOptions(**OPTIONS, sees=sees), 2)


@pytest.mark.parametrize("sees", [(-1,), (0, 0), ("1",)])
def test_positions_that_are_none_are_refused(sees: tuple) -> None:
    with pytest.raises(UserError, match=r"dino.sees: required positions .* got \["):
        DinoOptions(**OPTIONS, sees=sees)
