"""Slices, channels, resampling and precision, against drawings and formulas."""

from __future__ import annotations

import pytest
import torch

from nnunet_dino._errors import UserError
from nnunet_dino.backbones.precision import backbone_dtype
from nnunet_dino.networks.channels import channels_to_images, num_images
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
