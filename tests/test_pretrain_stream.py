"""What a pretraining sees: cases, crops, masks, and that a position decides everything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import blosc2
import numpy as np
import pytest
import torch
from pretrain_data import CONFIGURATION, DATASET, blob, small, write_preprocessed

from nnunet_dino.backbones.adapted import AdaptedBackbone
from nnunet_dino.backbones.rgb import ChannelView
from nnunet_dino.networks.slices import SliceEncoder
from nnunet_dino.pretrain import crops
from nnunet_dino.pretrain.crops import Box, Crop, body_of, draw_crop, draw_scene, render, scene_size, with_other_intensities
from nnunet_dino.pretrain.slices import Case, find_cases
from nnunet_dino.pretrain.stream import Batch, Stream, batches


@pytest.fixture
def cases(nnunet_folders: Path) -> list[Case]:
    write_preprocessed(nnunet_folders / "nnUNet_preprocessed")
    return find_cases([DATASET], CONFIGURATION, "nnUNetPlans", small())


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("global_views", "local_views", "masks"))


class TestCrops:
    def test_a_box_shows_its_pixels_and_a_mirrored_one_mirrors_them(self) -> None:
        drawn = torch.arange(7 * 9.0).view(1, 7, 9)
        box = Box(top=2, left=3, height=4, width=4)
        assert torch.equal(render(drawn, Crop(box, False), 4), drawn[:, 2:6, 3:7])
        assert torch.equal(render(drawn, Crop(box, True), 4), drawn[:, 2:6, 3:7].flip(2))

    def test_a_larger_view_of_a_box_has_the_same_corners_and_the_same_mirror(self) -> None:
        pixels = torch.rand(2, 20, 24)
        for flipped in (False, True):
            student, gram = (render(pixels, Crop(Box(3, 5, 12, 9), flipped), edge) for edge in (16, 48))
            for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
                assert torch.allclose(student[:, row, column], gram[:, row, column], atol=0.12)
            assert torch.equal(gram[:, 0, 0], pixels[:, 3, 13 if flipped else 5])

    @pytest.mark.parametrize("size", [(40, 56), (20, 9), (300, 310)])
    @pytest.mark.parametrize("aspect", [1.0, 2.0, 0.4])
    def test_no_crop_leaves_its_slice(self, size: tuple[int, int], aspect: float) -> None:
        rng = np.random.default_rng(0)
        body = rng.random(size) < 0.5
        for _ in range(50):
            scene = draw_scene(rng, body, scene_size(size, 64, (0.32, 1.0), 8, aspect))
            assert scene is not None
            for area in ((0.32, 1.0), (0.05, 0.32)):
                (top, left, height, width), _ = draw_crop(rng, scene, area, True)
                assert 0 <= scene.top <= top < top + height <= scene.top + scene.height <= size[0]
                assert 0 <= scene.left <= left < left + width <= scene.left + scene.width <= size[1]

    def test_a_scene_is_square_in_millimetres_and_shows_the_token_stride(self) -> None:
        assert scene_size((500, 500), 64, (0.64, 0.64), 8, 1.0) == (40, 40)  # 64 px at a stride of 8 show 32 px, 0.8 of 40
        assert scene_size((500, 500), 64, (0.64, 0.64), 8, 2.0) == (20, 40)  # pixels twice as high as wide
        assert scene_size((500, 500), 64, (0.64, 0.64), 8, 0.5) == (40, 20)
        assert scene_size((30, 500), 64, (0.64, 0.64), 8, 1.0) == (30, 30)

    def test_crops_have_the_areas_that_were_asked_for(self) -> None:
        rng = np.random.default_rng(0)
        shares = [
            crop.box.height * crop.box.width / 40_000
            for crop in (draw_crop(rng, Box(0, 0, 200, 200), (0.05, 0.32), True) for _ in range(300))
        ]
        assert 0.045 < min(shares) < 0.06 < 0.31 < max(shares) < 0.33

    def test_air_is_no_scene_and_damage_is(self) -> None:
        rng = np.random.default_rng(0)
        air = torch.full((1, 20, 24), -0.9) + 0.01 * torch.rand(1, 20, 24)
        assert draw_scene(rng, body_of(air), (10, 10)) is None
        air[0, 8:14, 8:14] = 1
        assert body_of(air).sum() == 36
        assert draw_scene(rng, body_of(air), (10, 10)) is not None
        assert body_of(torch.full((1, 5, 6), torch.nan)).all()

    def test_intensities_change_by_the_deviation_of_their_channel(self) -> None:
        rng = np.random.default_rng(0)
        pixels = torch.zeros(2, 30, 40)
        changed = with_other_intensities(rng, pixels, (1.0, 10.0), scale=0, shift=0.5, noise=0)
        assert changed[1].unique().item() == pytest.approx(10 * changed[0].unique().item(), rel=1e-5)
        assert abs(changed[0, 0, 0]) <= 0.5


class TestStream:
    def test_a_step_is_the_same_whenever_and_by_whomever_it_is_asked_for(self, cases: list[Case]) -> None:
        stream = Stream(cases, small())
        wanted = [stream[step] for step in range(6)]
        assert same(Stream(cases, small())[4], wanted[4])
        assert not same(wanted[3], wanted[4])
        assert not same(Stream(cases, small("scratch", "seed=1"))[4], wanted[4])
        for workers in (0, 2):
            for step, batch in enumerate(batches(Stream(cases, small()), 2, 6, workers), 2):
                assert same(batch, wanted[step])

    def test_processes_share_a_batch(self, cases: list[Case]) -> None:
        whole = Stream(cases, small())[3]
        parts = [Stream(cases, small(), rank, 2)[3] for rank in range(2)]
        assert whole.names == [name for part in parts for name in part.names]
        for name, num_views in (("global_views", 2), ("local_views", 2), ("masks", 2)):
            views = [getattr(part, name).unflatten(0, (num_views, 2)) for part in parts]
            assert torch.equal(getattr(whole, name), torch.cat(views, dim=1).flatten(0, 1))
        assert parts[0].rope_scales == parts[1].rope_scales

    def test_cases_are_drawn_once_each(self, cases: list[Case]) -> None:
        stream = Stream(cases, small())
        names = [name.split("[")[0] for step in range(3) for name in stream[step].names]
        assert sorted(names[:6]) == sorted(names[6:]) == sorted(case.title for case in cases)

    def test_half_of_the_global_crops_have_masks_of_exact_size(self, cases: list[Case]) -> None:
        batch = Stream(cases, small("scratch", "mask_share=0.5", "mask_ratio=0.1,0.5", "air_is_predicted=true"))[0]
        assert sorted(batch.masks.flatten(1).sum(dim=1).tolist()) == [0] * 4 + [3, 4, 6, 8]
        assert torch.equal(batch.predicted, batch.masks)

    def test_masked_air_is_predicted_only_where_the_recipe_says_so(self, cases: list[Case]) -> None:
        batch = Stream(cases, small("scratch", "mask_share=1", "mask_ratio=1,1", "intensity_share=0"))[0]
        assert batch.masks.all()
        brightest = torch.nn.functional.max_pool2d(batch.global_views[:, 0], 16)
        assert (brightest[batch.predicted] > -1).all()
        assert (brightest[~batch.predicted] <= -0.8).all()
        assert 0 < (~batch.predicted).sum() < batch.predicted.sum()

    def test_several_sizes_are_drawn_alike_by_all_processes(self, cases: list[Case]) -> None:
        recipe = small("scratch", "global_px=64,96", "local_px=32,48", "size_shares=0.5,0.5")
        edges = [[Stream(cases, recipe, rank, 2)[step].global_views.shape[-1] for step in range(12)] for rank in range(2)]
        assert edges[0] == edges[1]
        assert set(edges[0]) == {64, 96}

    def test_the_gram_teacher_gets_the_global_crops_larger(self, cases: list[Case]) -> None:
        recipe = small("sharpen", "size_shares=1", "gram_scale=2", "intensity_share=0", "frozen_backbone=0")
        batch = Stream(cases, recipe)[0]
        assert batch.gram_views is not None
        assert batch.gram_views.shape == (8, 3, 128, 128)
        smaller = torch.nn.functional.avg_pool2d(batch.gram_views, 2)
        assert torch.nn.functional.cosine_similarity(smaller.flatten(), batch.global_views.flatten(), dim=0) > 0.98

    @pytest.mark.parametrize("rgb", ["repeat", "windows", "neighbours"])
    def test_crops_are_shown_as_the_slice_encoder_shows_slices(
        self, nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch, rgb: str
    ) -> None:
        monkeypatch.setattr(crops, "ASPECTS", (1.0, 1.0))
        schemes = ("RescaleTo01Normalization", "ZScoreNormalization")
        folder = write_preprocessed(nnunet_folders / "nnUNet_preprocessed", shape=(2, 6, 40, 48), schemes=schemes)
        recipe = replace(small(), rgb=rgb, flips=False, intensity_share=0.0, global_area=(1.0, 1.0))
        case = find_cases([DATASET], CONFIGURATION, "nnUNetPlans", recipe)[0]
        sample = Stream([case], recipe).sample(0, 80, 32)  # 80 px at a stride of 8 show 40: the whole height
        volume = torch.from_numpy(np.asarray(blosc2.open(str(folder / "case_00.b2nd"))[:]))
        seen: list[torch.Tensor] = []

        class Eye(AdaptedBackbone):
            def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
                seen.append(images)
                return tuple(images[:, :, ::16, ::16] for _ in range(4))

        source = case.source
        SliceEncoder(Eye("dinov3_tiny", "random"), source.channels, source.token_stride_px, source.pixel_aspect, rgb)(
            volume[None]
        )
        index = int(sample.name.split("[")[1].rstrip("]"))
        slices = [images[index] for images in seen]
        assert len(slices) == source.num_images(rgb)
        for view in sample.global_views:
            inside = view[:, :, 2:-2]  # where interpolation does not know that the crop ends
            assert any(
                torch.allclose(shown[:, :, left + 2 : left + 78], inside, atol=1e-5)
                for shown in slices
                for left in range(0, 17, 2)
            )

    def test_plans_for_coarser_tokens_count(self, nnunet_folders: Path) -> None:
        planned = {"network_class_name": "none", "arch_kwargs": {"dino": {"token_stride_px": 16}}}
        write_preprocessed(nnunet_folders / "nnUNet_preprocessed", architecture=planned)
        (case, *_) = find_cases([DATASET], CONFIGURATION, "nnUNetPlans", small())
        assert case.source.token_stride_px == 16
        assert "one token per 16 mm" in case.source.plane

    def test_channels_that_arrive_as_they_are_become_standardised(self, nnunet_folders: Path) -> None:
        write_preprocessed(nnunet_folders / "nnUNet_preprocessed", schemes=("RescaleTo01Normalization",))
        (case, *_) = find_cases([DATASET], CONFIGURATION, "nnUNetPlans", small())
        assert case.source.channels == (ChannelView(mean=pytest.approx(0.449), std=pytest.approx(0.226)),)
        assert blob(0, (1, 6, 40, 48)).shape == (1, case.num_slices(), 40, 48)
