"""What the plans tell of how slices are shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nnunetv2.preprocessing.normalization.default_normalization_schemes import CTNormalization, RGBTo01Normalization
from torch import Tensor

from nnunet_dino._errors import UserError
from nnunet_dino.backbones.rgb import channels_to_images, standardised, windows_to_images
from nnunet_dino.networks.options import DinoOptions
from nnunet_dino.nnunet.slice_view import describe_plane, fit_to_plans

FOREGROUND = {"mean": 60.0, "std": 40.0, "percentile_00_5": -90.0, "percentile_99_5": 900.0}


def fitted(*schemes: str, spacing: tuple[float, ...] = (3.0, 1.0, 1.0), rgb: str = "repeat") -> DinoOptions:
    configuration = {"normalization_schemes": schemes, "spacing": spacing, "patch_size": [8] * len(spacing)}
    intensities = {str(channel): FOREGROUND for channel in range(len(schemes))}
    return fit_to_plans(DinoOptions("dinov3_tiny", weights="random", rgb=rgb), configuration, intensities)


def test_what_has_zero_mean_and_unit_variance_arrives_as_it_is() -> None:
    for view in fitted("ZScoreNormalization", "CTNormalization").channels:
        assert (view.mean, view.std, view.windows) == (0, 1, ())


def test_natural_images_arrive_as_timm_would_show_them() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (3, 5, 6)).astype(np.float32)
    seen = RGBTo01Normalization(False, {}).run(picture.copy())
    options = fitted(*["RGBTo01Normalization"] * 3, spacing=(1.0, 1.0))
    (shown,) = channels_to_images(standardised(torch.from_numpy(seen)[None], options.channels))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(shown[0], (torch.from_numpy(picture) / 255 - mean) / std)


def test_unnormalised_channels_are_standardised_by_the_foreground() -> None:
    (view,) = fitted("NoNormalization").channels
    assert (view.mean, view.std) == (60, 40)


def unit(image: Tensor) -> Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return image * std + mean


def test_windows_of_ct_are_in_hounsfield_units() -> None:
    hu = np.array([[[-500.0, -90.0, 40.0, 240.0, 405.0, 2000.0]]], np.float32)
    seen = torch.from_numpy(CTNormalization(False, FOREGROUND).run(hu.copy()))[None]
    (shown,) = windows_to_images(seen, [view.windows for view in fitted("CTNormalization", rgb="windows").channels])
    wide, soft, liver = unit(shown[0])[:, 0]
    torch.testing.assert_close(wide, torch.tensor([0, 0, 130 / 990, 330 / 990, 0.5, 1]))
    torch.testing.assert_close(soft, torch.tensor([0, 0, 130 / 330, 1, 1, 1]))
    torch.testing.assert_close(liver, torch.tensor([0, 0, 85 / 150, 1, 1, 1]))


def test_windows_of_other_images_are_percentiles() -> None:
    (view,) = fitted("ZScoreNormalization", rgb="windows").channels
    values = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    shares = [float(((values > low) & (values < high)).float().mean()) for low, high in view.windows]
    assert shares == pytest.approx([0.99, 0.8, 0.5], abs=0.01)


def test_pixels_are_square_in_millimetres() -> None:
    assert fitted("CTNormalization", spacing=(5.0, 7.8, 5.2)).pixel_aspect == pytest.approx(1.5)
    assert fitted("CTNormalization", spacing=(7.8, 5.2)).pixel_aspect == pytest.approx(1.5)


def test_the_plane_is_named() -> None:
    plans, options = {"transpose_forward": [1, 0, 2]}, fitted("CTNormalization")
    said = describe_plane(plans, {"spacing": [1.0, 3.0, 2.0]}, options.token_stride_px, options.rgb)
    assert "axis 1" in said and "coronal" in said and "3 × 2 mm" in said and "per 16 mm" in said
    assert "channel" not in said
    said = describe_plane(plans, {"spacing": [1.0, 3.0, 2.0]}, options.token_stride_px, options.rgb, (2, 0))
    assert said.endswith("image channels seen: 2, 0")


def test_a_slice_of_a_2d_configuration_has_no_neighbours() -> None:
    with pytest.raises(UserError, match="got a 2D configuration · use repeat or windows"):
        fitted("CTNormalization", spacing=(1.0, 1.0), rgb="neighbours")


def test_an_unknown_mapping_is_refused() -> None:
    with pytest.raises(UserError, match="'neighbors'; did you mean 'neighbours'"):
        DinoOptions("dinov3_tiny", rgb="neighbors")
