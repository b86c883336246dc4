"""What a pretraining would take, from a few timed steps."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import torch

from nnunet_dino.backbones.precision import backbone_dtype
from nnunet_dino.backbones.spec import PATCH_PX
from nnunet_dino.backbones.vit import NUM_PREFIX_TOKENS
from nnunet_dino.pretrain.distributed import rank, world_size
from nnunet_dino.pretrain.recipe import Recipe
from nnunet_dino.pretrain.slices import Split
from nnunet_dino.pretrain.step import Engine
from nnunet_dino.pretrain.stream import NUM_GLOBAL, Stream, batches
from nnunet_dino.pretrain.student import SelfSupervisedViT

NUM_STEPS = 20
WARM_UP = 2

KEPT_PER_TOKEN = {(False, False): 86, (False, True): 47, (True, False): 124, (True, True): 69}
"""Bytes that autograd keeps per token, block and unit of width: without or with a gate in the MLP, in float32 or bfloat16."""

KEPT_IF_RECOMPUTED = 4
COPIES_OF_LOGITS = 4


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


def memory_of(model: SelfSupervisedViT, recipe: Recipe, num_slices: int, in_bfloat16: bool) -> tuple[int, int]:
    """Returns by arithmetic how many bytes a process needs: what stays, and what one step adds.

    Stays: weights, gradients and two moments of the student, teacher, Gram teacher, float32. A step adds what the backward pass
    needs of every token and block, and logits with their logarithms, targets and gradients.

    Args:
        model: The student.
        recipe: The recipe.
        num_slices: Slices of a step in this process.
        in_bfloat16: Whether blocks compute in bfloat16.
    """
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    stays = 4 * num_parameters * (5 + bool(recipe.gram_weight))
    blocks = model.backbone.blocks
    patches, local_patches = ((max(edges) // PATCH_PX) ** 2 for edges in (recipe.global_px, recipe.local_px))
    num_tokens = NUM_GLOBAL * (patches + NUM_PREFIX_TOKENS) + recipe.num_local * (local_patches + NUM_PREFIX_TOKENS)
    is_gated = hasattr(blocks[0].mlp, "fc1_g")
    per_block = KEPT_PER_TOKEN[is_gated, in_bfloat16]
    kept = per_block + len(blocks) * KEPT_IF_RECOMPUTED if recipe.recompute else len(blocks) * per_block
    logits: float = (NUM_GLOBAL + recipe.num_local) * recipe.prototypes
    logits += NUM_GLOBAL * recipe.mask_share * sum(recipe.mask_ratio) / 2 * patches * recipe.patch_prototypes
    step = num_slices * (num_tokens * kept * blocks[0].norm1.normalized_shape[0] + 4 * COPIES_OF_LOGITS * logits)
    copies_of_weights = 2 * num_parameters if in_bfloat16 else 0
    return stays, int(step) + copies_of_weights


def _memory(engine: Engine) -> str:
    in_bfloat16 = backbone_dtype(engine.device) is torch.bfloat16
    stays, step = memory_of(engine.student, engine.recipe, engine.recipe.batch // world_size(), in_bfloat16)
    if engine.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(engine.device)
        whole = torch.cuda.get_device_properties(engine.device).total_memory
        where = "the GPU"
    else:
        peak, whole = psutil.Process().memory_info().rss, psutil.virtual_memory().total
        where = "this machine"
    arithmetic = f"{(stays + step) / 2**30:.3g} GiB by arithmetic, {stays / 2**30:.3g} of them for weights and optimiser"
    return f"{peak / 2**30:.3g} GiB now in a process, {arithmetic}; {where} has {whole / 2**30:.3g} GiB"
