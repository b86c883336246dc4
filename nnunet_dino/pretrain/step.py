"""One step of optimisation."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_dino.backbones.precision import backbone_dtype
from nnunet_dino.networks.unet import keep_buffers_out_of_ddp
from nnunet_dino.pretrain.distributed import all_sum, gather_objects, gathered, rank, world_size
from nnunet_dino.pretrain.groups import BACKBONE, LAST_LAYER, parameter_groups
from nnunet_dino.pretrain.losses import dino_loss, gram_loss, ibot_loss, koleo_loss
from nnunet_dino.pretrain.recipe import Recipe
from nnunet_dino.pretrain.schedules import Schedule
from nnunet_dino.pretrain.stream import NUM_GLOBAL, Batch
from nnunet_dino.pretrain.student import SelfSupervisedViT, StudentOutput
from nnunet_dino.pretrain.teacher import Targets, follow, gram_patches, standing_copy, targets_of

PARTS = ("backbone", "dino_head", "ibot_head")


@dataclass
class Schedules:
    """The quantities that change over a run."""

    lr: Schedule
    last_layer_lr: Schedule
    backbone_lr: Schedule
    weight_decay: Schedule
    momentum: Schedule
    temperature: Schedule


def schedules_of(recipe: Recipe) -> Schedules:
    """Returns the schedules of a recipe."""
    warmup, total = recipe.steps(recipe.warmup), recipe.iterations

    def lr(frozen: int = 0) -> Schedule:
        peak = recipe.scaled_lr
        return Schedule(peak, peak * recipe.lr_end, 0.0, warmup, total - warmup, frozen)

    momenta = recipe.scaled_momentum(recipe.momentum), recipe.scaled_momentum(recipe.momentum_end)
    return Schedules(
        lr=lr(),
        last_layer_lr=lr(recipe.frozen_last_layer),
        backbone_lr=lr(recipe.frozen_backbone),
        weight_decay=Schedule(recipe.weight_decay, recipe.weight_decay_end, cosine=total),
        momentum=Schedule(*momenta, cosine=total),
        temperature=Schedule(
            recipe.teacher_temperature,
            recipe.teacher_temperature,
            recipe.teacher_temperature_start,
            recipe.steps(recipe.temperature_warmup),
        ),
    )


class Engine:
    """Student, teacher, Gram teacher and optimiser, and the step that changes them.

    Args:
        student: The network to train.
        recipe: How.
        device: Where.
        compiles: Compile the blocks of the transformers.

    Attributes:
        skipped: Steps that were left out because something was not finite.
        skipped_in_a_row: Those up to now without a good one between.
    """

    def __init__(self, student: SelfSupervisedViT, recipe: Recipe, device: torch.device, compiles: bool = False) -> None:
        self.recipe, self.device = recipe, device
        self.student = student.to(device).train()
        self.teacher = standing_copy(self.student)
        self.gram_teacher = standing_copy(self.student) if recipe.gram_weight else None
        if compiles:
            for model in (self.student, self.teacher, *([self.gram_teacher] if self.gram_teacher else [])):
                for block in model.backbone.blocks:
                    block.compile()
        self.schedules = schedules_of(recipe)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.student, recipe), lr=0.0, betas=(0.9, recipe.beta2), fused=True
        )
        self.parallel: nn.Module = self.student
        if world_size() > 1:
            keep_buffers_out_of_ddp(self.student)
            devices = [device] if device.type == "cuda" else None
            self.parallel = nn.parallel.DistributedDataParallel(self.student, devices)
        self.skipped = 0
        self.skipped_in_a_row = 0

    def step(self, batch: Batch, step: int) -> dict[str, float]:
        """Changes the weights by one batch and returns what is worth knowing of it.

        Where a loss or a gradient is not finite in any process, nothing changes in all of them.
        """
        recipe = self.recipe
        torch.manual_seed(_seed(recipe.seed, step))  # of drop path
        self._set_rates(step)
        temperature = self.schedules.temperature(step)
        with self.autocast():
            targets = targets_of(self.teacher, batch, temperature)
            output = self.parallel(batch)
            losses = self._losses(batch, output, targets)
        total = sum(getattr(recipe, f"{name}_weight") * loss for name, loss in losses.items())
        assert isinstance(total, Tensor)
        total.backward()
        norms = {part: self._clipped(part) for part in PARTS}
        metrics = {f"loss_{name}": loss.detach() for name, loss in losses.items()} | {"loss": total.detach()}
        metrics = {name: float(all_sum(value)) / world_size() for name, value in metrics.items()}
        metrics |= {f"gradient_{part}": float(norm) for part, norm in norms.items()}
        metrics |= {"lr": self.schedules.lr(step), "temperature": temperature}
        metrics["target_entropy"] = _entropy(targets.classes) / math.log(recipe.prototypes)
        if all(math.isfinite(value) for value in metrics.values()):
            self._advance(step)
            self.skipped_in_a_row = 0
        else:
            self.skipped += 1
            self.skipped_in_a_row += 1
        self.optimizer.zero_grad(set_to_none=True)
        return metrics

    def _advance(self, step: int) -> None:
        self.optimizer.step()
        follow(self.teacher, self.student, self.schedules.momentum(step))
        refresh = self.recipe.gram_refresh
        if self.recipe.gram_teacher == "ema" and (step + 1) % refresh == 0:
            assert self.gram_teacher is not None
            follow(self.gram_teacher, self.teacher, 0.0)

    def _set_rates(self, step: int) -> None:
        of_part = {BACKBONE: self.schedules.backbone_lr(step), LAST_LAYER: self.schedules.last_layer_lr(step)}
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr_factor"] * of_part.get(group["part"], self.schedules.lr(step))
            group["weight_decay"] = group["decay_factor"] * self.schedules.weight_decay(step)

    def _losses(self, batch: Batch, output: StudentOutput, targets: Targets) -> dict[str, Tensor]:
        recipe = self.recipe
        temperature = recipe.student_temperature
        num_same = NUM_GLOBAL * (NUM_GLOBAL - 1)
        num_local = NUM_GLOBAL * recipe.num_local
        weights = _patch_weights(batch.predicted)
        losses = {
            "dino": num_same / (num_same + num_local) * dino_loss(output.global_logits, targets.classes, temperature, True),
            "ibot": ibot_loss(output.patch_logits, targets.patches, weights, len(batch.masks), temperature),
        }
        if num_local:
            local = dino_loss(output.local_logits, targets.classes, temperature)
            losses["dino"] = losses["dino"] + recipe.local_weight * num_local / (num_same + num_local) * local
        if recipe.koleo_weight:
            spread = [koleo_loss(tokens, gathered(tokens.float()), rank() * len(tokens)) for tokens in output.class_tokens]
            losses["koleo"] = torch.stack(spread).sum()
        if self.gram_teacher is not None:
            losses["gram"] = gram_loss(output.patches, gram_patches(self.gram_teacher, batch))
        return losses

    def _clipped(self, part: str) -> Tensor:
        parameters = list(getattr(self.student, part).parameters())
        if part == "backbone":
            parameters.append(self.student.mask_token)
        return torch.nn.utils.clip_grad_norm_(parameters, self.recipe.clip)

    def autocast(self) -> Any:
        """Returns the context in which the networks compute: bfloat16 where the processor has it."""
        dtype = backbone_dtype(self.device)
        return torch.autocast(self.device.type, dtype) if dtype is torch.bfloat16 else nullcontext()

    def suspects(self, batch: Batch) -> list[str]:
        """Returns the slices of all processes whose pixels or class tokens are not finite; all slices if none stands out."""
        with torch.no_grad(), self.autocast():
            tokens = self.teacher.tokens(batch.global_views).class_tokens.float()
        finite = batch.global_views.flatten(1).isfinite().all(dim=1) & tokens.isfinite().all(dim=1)
        good = finite.unflatten(0, (NUM_GLOBAL, -1)).all(dim=0).tolist()
        bad = [name for name, is_good in zip(batch.names, good, strict=True) if not is_good]
        found = gather_objects((bad, batch.names))
        return [name for some, _ in found for name in some] or [name for _, names in found for name in names]


def _patch_weights(predicted: Tensor) -> Tensor:
    """Returns for every predicted patch one over the number of them in its crop."""
    counts = predicted.flatten(1).sum(dim=1, keepdim=True).clamp(min=1)
    return (1 / counts).expand(-1, predicted[0].numel())[predicted.flatten(1)]


def _entropy(probabilities: Tensor) -> float:
    """Returns the mean entropy per row."""
    return float(torch.special.entr(probabilities).sum(dim=-1).mean())


def _seed(seed: int, step: int) -> int:
    return (seed * 1_000_003 + step * world_size() + rank()) % 2**62
