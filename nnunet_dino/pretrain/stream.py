"""What each step sees, as a function of the seed and the position alone.

So an interrupted run goes on as if it had not been, with any number of workers and of processes::

    position  0 1 2 3 │ 4 5 6 7 │ 8 …      batch 4, two processes: step 1 shows positions 4 5 to the first and 6 7 to the second
    step         0    │    1    │ 2
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nnunet_dino._errors import UserError
from nnunet_dino.backbones.rgb import shown
from nnunet_dino.backbones.spec import PATCH_PX
from nnunet_dino.pretrain.crops import (
    Box,
    Crop,
    body_of,
    draw_crop,
    draw_scene,
    has_body,
    render,
    scene_size,
    with_other_intensities,
)
from nnunet_dino.pretrain.masks import block_mask, masked_counts
from nnunet_dino.pretrain.recipe import Recipe
from nnunet_dino.pretrain.slices import Case

NUM_GLOBAL = 2
TRIES, TRIES_PER_CASE = 60, 6
OF_SAMPLE, OF_MASK, OF_STEP, OF_EPOCH = range(4)


@dataclass
class Batch:
    """What one process sees in one step: ``b`` slices.

    Attributes:
        global_views: ``2·b 3 g g``: the first crop of every slice, then the second.
        local_views: ``l·b 3 s s``, crop by crop likewise.
        gram_views: The global crops, larger, for the Gram teacher; None without one.
        masks: Hidden patches of the global crops, ``2·b gh gw``.
        predicted: Those of them that are to be predicted, ``2·b gh gw``.
        rope_scales: Factor on the position coordinates of global and of local crops.
        names: Of the slices.
    """

    global_views: Tensor
    local_views: Tensor
    gram_views: Tensor | None
    masks: Tensor
    predicted: Tensor
    rope_scales: tuple[float, float]
    names: list[str]

    def to(self, device: torch.device) -> Batch:
        """Returns the batch on a device."""
        moved = {key: value.to(device, non_blocking=True) for key, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)


def generator(seed: int, *what: int) -> np.random.Generator:
    """Returns the source of chance for one purpose and position."""
    return np.random.default_rng(np.random.SeedSequence([seed, *what]))


class Stream(Dataset[Any]):
    """Batches by step.

    Args:
        cases: Cases to draw from; each is drawn once before any is drawn again.
        recipe: What is drawn.
        rank: Number of this process.
        world_size: Number of processes; divides the batch.
    """

    def __init__(self, cases: Sequence[Case], recipe: Recipe, rank: int = 0, world_size: int = 1) -> None:
        self.cases, self.recipe = cases, recipe
        self.num_own = recipe.batch // world_size
        self.first_own = rank * self.num_own
        self._air: set[tuple[Case, int]] = set()  # need not be read again
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.zeros(0, np.int64))

    def __getitem__(self, step: int) -> Batch | UserError:
        """Returns the batch of a step; an error as a value, since a worker would add its traceback."""
        try:
            return self._batch(step)
        except UserError as error:
            return error

    def _batch(self, step: int) -> Batch:
        recipe = self.recipe
        rng = generator(recipe.seed, OF_STEP, step)
        shares = np.array(recipe.size_shares) / sum(recipe.size_shares)
        size = int(rng.choice(len(shares), p=shares))
        global_px, local_px = recipe.global_px[size], recipe.local_px[size]
        scales = tuple(float(recipe.rope_rescale ** rng.uniform(-1, 1)) for _ in range(2))
        positions = [step * recipe.batch + self.first_own + index for index in range(self.num_own)]
        samples = [self.sample(position, global_px, local_px) for position in positions]
        has_gram = recipe.gram_weight > 0
        masks = self._masks(rng, positions, global_px // PATCH_PX)
        bodies = torch.stack([sample.has_body for sample in samples], dim=1).flatten(0, 1)
        return Batch(
            global_views=_joined([sample.global_views for sample in samples]),
            local_views=_joined([sample.local_views for sample in samples]),
            gram_views=_joined([sample.gram_views for sample in samples]) if has_gram else None,
            masks=masks,
            predicted=masks if recipe.air_is_predicted else masks & bodies,
            rope_scales=(scales[0], scales[1]),
            names=[sample.name for sample in samples],
        )

    def _masks(self, rng: np.random.Generator, positions: Sequence[int], edge: int) -> Tensor:
        recipe = self.recipe
        counts = masked_counts(rng, NUM_GLOBAL * recipe.batch, edge * edge, recipe.mask_share, recipe.mask_ratio)
        masks = [
            block_mask(
                generator(recipe.seed, OF_MASK, position, view),
                (edge, edge),
                counts[view * recipe.batch + position % recipe.batch],
            )
            for view in range(NUM_GLOBAL)
            for position in positions
        ]
        return torch.from_numpy(np.stack(masks))

    def _order_of(self, epoch: int) -> NDArray[np.int64]:
        if self._order[0] != epoch:
            self._order = epoch, generator(self.recipe.seed, OF_EPOCH, epoch).permutation(len(self.cases))
        return self._order[1]

    def sample(self, position: int, global_px: int, local_px: int) -> Sample:
        """Returns the crops of the slice at a position.

        Raises:
            UserError: A case cannot be read, or there is nothing but air.
        """
        recipe = self.recipe
        rng = generator(recipe.seed, OF_SAMPLE, position)
        found = self._find(rng, position, global_px)
        source = found.case.source
        global_crops, local_crops = (
            [draw_crop(rng, found.scene, area, recipe.flips) for _ in range(count)]
            for area, count in ((recipe.global_area, NUM_GLOBAL), (recipe.local_area, recipe.num_local))
        )
        image = int(rng.integers(source.num_images(recipe.rgb)))
        pixels = found.pixels
        if rng.random() < recipe.intensity_share:
            deviations = [view.std for view in source.channels]
            changes = recipe.intensity_scale, recipe.intensity_shift, recipe.noise
            pixels = with_other_intensities(rng, pixels, deviations, *changes)

        def show(of: Tensor, crops: Sequence[Crop], edge_px: int) -> Tensor:
            if not crops or not edge_px:
                return torch.zeros(0, 3, edge_px, edge_px)
            return shown(torch.stack([render(of, crop, edge_px) for crop in crops]), source.channels, recipe.rgb)[image]

        gram_px = PATCH_PX * round(global_px * recipe.gram_scale / PATCH_PX) if recipe.gram_weight else 0
        return Sample(
            global_views=show(pixels, global_crops, global_px),
            local_views=show(pixels, local_crops, local_px),
            gram_views=show(found.pixels, global_crops, gram_px),
            has_body=torch.stack([has_body(found.body, crop, global_px) for crop in global_crops]),
            name=f"{found.case.title}[{found.number}]",
        )

    def _find(self, rng: np.random.Generator, position: int, global_px: int) -> _Found:
        """Returns the slice at a position: of the case whose turn it is, the first of several that is more than air."""
        recipe = self.recipe
        epoch, place = divmod(position, len(self.cases))
        start = int(self._order_of(epoch)[place])
        for attempt in range(TRIES):
            case = self.cases[(start + attempt // TRIES_PER_CASE) % len(self.cases)]
            index = int(rng.integers(case.num_slices()))
            if (case, index) in self._air:
                continue
            pixels = case.read(index, recipe.rgb)
            body = body_of(pixels)
            source = case.source
            shown_as = source.token_stride_px, source.pixel_aspect
            scene = draw_scene(rng, body, scene_size(body.shape, global_px, recipe.global_area, *shown_as))
            if scene is not None:
                return _Found(case, index, pixels, body, scene)
            self._air.add((case, index))
        raise UserError(
            f"slices: required some with more than air · got {TRIES} in a row without, the last of {case.title} · leave such "
            "cases out with --exclude"
        )


class _Found(NamedTuple):
    case: Case
    number: int
    pixels: Tensor
    body: NDArray[np.bool_]
    scene: Box


class Sample(NamedTuple):
    """Crops of one slice: ``2 3 g g``, ``l 3 s s``, for the Gram teacher ``2 3 m m``; where the global ones show a body."""

    global_views: Tensor
    local_views: Tensor
    gram_views: Tensor
    has_body: Tensor
    name: str


def _joined(views: Sequence[Tensor]) -> Tensor:
    """Returns crops ``b`` times ``v 3 h w`` as ``(v·b) 3 h w``, the first crop of every slice first."""
    return torch.stack(list(views), dim=1).flatten(0, 1).contiguous()


def batches(stream: Stream, first: int, last: int, num_workers: int) -> Iterator[Batch]:
    """Yields the batches of steps ``first`` to ``last``, the end excluded, prepared in ``num_workers`` processes.

    Raises:
        UserError: A case cannot be read, or there is nothing but air.
    """
    loader = DataLoader(
        stream,
        batch_size=None,
        sampler=range(first, last),
        num_workers=num_workers,
        prefetch_factor=4 if num_workers else None,
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch
