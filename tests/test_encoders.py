"""Slices, channels, resampling and precision, against drawings and formulas."""

from __future__ import annotations

import pytest
import torch

from nnunet_dino._errors import UserError
from nnunet_dino.backbones.precision import backbone_dtype
from nnunet_dino.backbones.rgb import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ChannelView,
    channels_to_images,
    num_images,
    standardised,
    windows_to_images,
    with_neighbours,
)
from nnunet_dino.networks.injection import resample
from nnunet_dino.networks.slices import fold_slices, token_grid, unfold_slices


@pytest.mark.parametrize(
    ("size", "stride", "grid"),
    [
        ((56, 40), 8, (7, 5)),
        ((56, 40), 16, (4, 3)),
        ((192, 160), 16, (12, 10)),
        ((20, 12), 8, (3, 2)),
        ((896, 768), 16, (56, 48)),
        ((9, 200), 8, (2, 44)),
    ],
)
def test_token_grid(size: tuple[int, int], stride: int, grid: tuple[int, int]) -> None:
    assert token_grid(size, stride) == grid


@pytest.mark.parametrize("size", [(20, 12), (56, 40), (37, 53), (9, 200), (250, 90), (192, 160)])
@pytest.mark.parametrize("stride", [8, 16])
def test_pixels_stay_square_within_half_a_patch(size: tuple[int, int], stride: int) -> None:
    seen = [16 * tokens for tokens in token_grid(size, stride)]
    long, short = (0, 1) if size[0] > size[1] else (1, 0)
    assert 0 <= seen[short] - size[short] * 16 / stride < 16
    assert abs(seen[long] - size[long] * seen[short] / size[short]) <= 8


@pytest.mark.parametrize(
    ("size", "aspect", "grid"),
    [((40, 40), 2.0, (10, 5)), ((40, 40), 0.5, (5, 10)), ((60, 40), 7.8 / 5.2, (11, 5)), ((40, 80), 2.0, (10, 10))],
)
def test_tokens_are_square_in_millimetres(size: tuple[int, int], aspect: float, grid: tuple[int, int]) -> None:
    assert token_grid(size, 8, aspect) == grid


def test_a_slice_is_shown_between_its_neighbours() -> None:
    volume = torch.tensor([[5.0, 7.0, 2.0], [10.0, 30.0, 20.0]]).view(1, 2, 3, 1, 1).expand(4, 2, 3, 5, 6)
    shown = fold_slices(with_neighbours(volume))[3:6, :, 4, 5].tolist()
    assert shown == [[5, 5, 7, 10, 10, 30], [5, 7, 2, 10, 30, 20], [7, 2, 2, 30, 20, 20]]
    red_green_blue = channels_to_images(fold_slices(with_neighbours(volume)))
    assert [image[4, :, 0, 0].tolist() for image in red_green_blue] == [[5, 7, 2], [10, 30, 20]]


def test_channels_are_standardised_before_they_are_shown() -> None:
    slices = torch.tensor([5.0, 7.0]).view(1, 2, 1, 1).expand(3, 2, 4, 5)
    views = [ChannelView(mean=1.0, std=2.0), ChannelView()]
    assert standardised(slices, views)[2, :, 3, 4].tolist() == [2, 7]
    tripled = slices.repeat_interleave(3, dim=1)
    assert standardised(tripled, views)[2, :, 3, 4].tolist() == [2, 2, 2, 7, 7, 7]
    assert standardised(slices, [ChannelView()] * 2) is slices


def test_a_window_is_black_below_and_white_above() -> None:
    channel = torch.tensor([-9.0, 0.0, 1.0, 9.0]).view(1, 1, 1, 4).expand(2, 1, 3, 4)
    (image,) = windows_to_images(channel, [((-2.0, 2.0), (0.0, 2.0), (0.5, 1.5))])
    unit = image * torch.tensor(IMAGENET_STD).view(3, 1, 1) + torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    expected = torch.tensor([[0, 0.5, 0.75, 1], [0, 0, 0.5, 1], [0, 0, 0.5, 1]])
    torch.testing.assert_close(unit[1, :, 2], expected)


def test_slices_are_folded_batch_first() -> None:
    volume = torch.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6)
    slices = fold_slices(volume)
    assert slices.shape == (8, 3, 5, 6)
    assert torch.equal(slices[1 * 4 + 2], volume[1, :, 2])
    assert torch.equal(unfold_slices(slices, batch=2, num_spatial_axes=3), volume)
    images = volume[:, :, 0]
    assert torch.equal(fold_slices(images), images)
    assert torch.equal(unfold_slices(images, batch=2, num_spatial_axes=2), images)


@pytest.mark.parametrize(
    ("channels", "shown"),
    [
        ([5.0], [[5, 5, 5]]),
        ([5.0, 7.0], [[5, 7, 6]]),
        ([5.0, 7.0, 2.0], [[5, 7, 2]]),
        ([5.0, 7.0, 2.0, 9.0], [[5, 7, 2], [9, 9, 9]]),
        ([5.0, 7.0, 2.0, 9.0, 1.0], [[5, 7, 2], [9, 1, 5]]),
    ],
)
def test_channels_are_shown_three_at_a_time(channels: list[float], shown: list[list[float]]) -> None:
    slices = torch.tensor(channels).view(1, -1, 1, 1).expand(4, -1, 2, 3)
    images = channels_to_images(slices)
    assert len(images) == num_images(len(channels)) == len(shown)
    for image, values in zip(images, shown, strict=True):
        assert image.shape == (4, 3, 2, 3)
        assert image[3, :, 1, 2].tolist() == values


def test_resampling_averages_to_coarse_and_interpolates_to_fine() -> None:
    drawn = torch.tensor([[1.0, 3.0, 5.0, 7.0], [2.0, 4.0, 6.0, 8.0]]).view(1, 1, 2, 4)
    assert resample(drawn, (1, 2)).flatten().tolist() == [2.5, 6.5]
    assert resample(drawn, (2, 4)) is drawn
    row = torch.tensor([0.0, 4.0]).view(1, 1, 1, 2)
    assert resample(row, (1, 4)).flatten().tolist() == [0.0, 1.0, 3.0, 4.0]
    mixed = resample(drawn, (1, 8))
    assert mixed.shape == (1, 1, 1, 8)
    assert mixed.flatten().tolist() == [1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 7.5]


def test_resampling_a_volume_follows_its_axes() -> None:
    tokens = torch.arange(4.0).view(1, 1, 4, 1, 1).expand(1, 2, 4, 3, 5)
    assert resample(tokens, (2, 6, 10))[0, 1, :, 4, 7].tolist() == [0.5, 2.5]


def test_precision_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for word, dtype in {"float32": torch.float32, "bfloat16": torch.bfloat16}.items():
        monkeypatch.setenv("nnUNet_dino_precision", word)
        assert backbone_dtype(torch.device("cpu")) is dtype
    monkeypatch.setenv("nnUNet_dino_precision", "float16")
    with pytest.raises(UserError, match="'float16'"):
        backbone_dtype(torch.device("cpu"))
