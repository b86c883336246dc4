"""What a pretraining would take, from a few timed steps."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import torch

from nnunet_dino.pretrain.distributed import rank, world_size
from nnunet_dino.pretrain.slices import Split
from nnunet_dino.pretrain.step import Engine
from nnunet_dino.pretrain.stream import Stream, batches

NUM_STEPS = 20
WARM_UP = 2


def estimate(engine: Engine, split: Split, backbone: str, num_workers: int, say: Callable[[str], None]) -> None:
    """Times steps and says slices, iterations, memory and hours.

    Args:
        engine: At its start.
        split: The cases.
        backbone: Its name.
        num_workers: Processes that prepare batches.
        say: Prints a line.
    """
    recipe = engine.recipe
    num_slices = sum(case.num_slices() for case in split.train)
    say(
        f"{backbone}, recipe {recipe.name}: {num_slices} slices of {len(split.train)} cases; {len(split.held_out)} cases "
        "held out, "
        f"{len(split.excluded)} excluded"
    )
    stream = Stream(split.train, recipe, rank(), world_size())
    waits, start = 0.0, time.perf_counter()
    before = start
    for step, batch in enumerate(batches(stream, 0, NUM_STEPS + WARM_UP, num_workers)):
        waits += time.perf_counter() - before
        engine.step(batch.to(engine.device), step)
        if step + 1 == WARM_UP:
            waits, start = 0.0, time.perf_counter()
        before = time.perf_counter()
    seconds = (time.perf_counter() - start) / NUM_STEPS
    shown = recipe.iterations * recipe.batch
    hours = seconds * recipe.iterations / 3600
    say(
        f"{recipe.iterations} iterations of {recipe.batch} slices show every slice {shown / num_slices:.3g} times on "
        "average, crops "
        f"of {', '.join(map(str, recipe.global_px))} px at one token per {recipe.token_stride_px} px"
    )
    say(f"{seconds:.3g} s a step, {100 * waits / NUM_STEPS / seconds:.1f} % of it waiting for data: {hours:.3g} hours")
    say(f"memory: {_memory(engine)}")


def _memory(engine: Engine) -> str:
    models = [engine.student, engine.teacher, *([engine.gram_teacher] if engine.gram_teacher else [])]
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in models]
    fixed = 4 * (3 * counts[0] + sum(counts))  # gradients and two moments beside the weights
    if engine.device.type == "cuda":
        peak, whole = (
            torch.cuda.max_memory_allocated(engine.device),
            torch.cuda.get_device_properties(engine.device).total_memory,
        )
        where = f"of {whole / 2**30:.3g} GiB of the GPU"
    else:
        peak, whole = psutil.Process().memory_info().rss, psutil.virtual_memory().total
        where = f"of {whole / 2**30:.3g} GiB of this machine"
    return f"{peak / 2**30:.3g} GiB at most in a process {where}; weights, gradients and optimiser {fixed / 2**30:.3g} GiB"
