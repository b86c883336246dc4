"""Times a step of pretraining against its matrix products at the processor's measured peak, in seconds of processor time.

    python benchmarks/pretraining_step.py dinov3_vits16 --recipe adapt --set batch=2 --set prototypes=512 …

Random weights and random crops of the recipe's sizes; nothing is read or written.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nnunet_dino.backbones.precision import backbone_dtype
from nnunet_dino.backbones.spec import PATCH_PX
from nnunet_dino.pretrain.recipe import Recipe, get_recipe
from nnunet_dino.pretrain.start import start_from_weights
from nnunet_dino.pretrain.step import Engine
from nnunet_dino.pretrain.stream import Batch

NUM_STEPS = 3
EDGE = 1536


def seconds_of(work: Callable[[], object], repeats: int) -> float:
    """Returns processor seconds per call, after one that is not counted."""
    work()
    start = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - start) / repeats


def random_batch(recipe: Recipe) -> Batch:
    """Returns crops of noise; half of the global ones have a third of their patches masked."""
    edge, small = recipe.global_px[0], recipe.local_px[0]
    grid = edge // PATCH_PX
    masks = torch.zeros(2 * recipe.batch, grid, grid, dtype=torch.bool)
    masks[::2, : grid // 3] = True
    return Batch(
        global_views=torch.randn(2 * recipe.batch, 3, edge, edge),
        local_views=torch.randn(recipe.num_local * recipe.batch, 3, small, small),
        gram_views=torch.randn(2 * recipe.batch, 3, 2 * edge, 2 * edge) if recipe.gram_weight else None,
        masks=masks,
        predicted=masks,
        rope_scales=(1.0, 1.0),
        names=[""] * recipe.batch,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("backbone")
    parser.add_argument("--recipe", default="adapt")
    parser.add_argument("--set", action="append", default=[], dest="changes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = get_recipe(options.recipe, [*options.changes, "start=random"])
    engine = Engine(start_from_weights(options.backbone, recipe).model, recipe, torch.device("cpu"))
    batch = random_batch(recipe)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # it knows no fused attention of processors
        engine.step(batch, 0)
    step_s = seconds_of(lambda: engine.step(batch, 1), NUM_STEPS)
    dtype = backbone_dtype(engine.device)
    matrix = torch.randn(EDGE, EDGE, dtype=dtype)
    peak = 2 * EDGE**3 / seconds_of(lambda: matrix @ matrix, NUM_STEPS)
    products_s = counter.get_total_flops() / peak
    gigaflop = counter.get_total_flops() / 1e9
    print(f"{options.backbone}, {recipe.name}, batch {recipe.batch}: {step_s:.2f} s a step, {gigaflop:.0f} GFLOP")
    share = 100 * products_s / step_s
    print(f"matrix products in {dtype} at {peak / 1e9:.1f} GFLOP/s: {products_s:.2f} s, {share:.0f} % of the step")


if __name__ == "__main__":
    main()
