"""What tells early whether a pretraining goes well, measured on slices of cases that it does not see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_dino._errors import UserError
from nnunet_dino.pretrain.recipe import Recipe
from nnunet_dino.pretrain.slices import Case
from nnunet_dino.pretrain.step import Engine
from nnunet_dino.pretrain.stream import Stream
from nnunet_dino.pretrain.student import SelfSupervisedViT

NUM_SLICES = 128
AT_ONCE = 32


class _Seen(NamedTuple):
    class_tokens: Tensor
    patches: Tensor
    logits: Tensor


class Monitor:
    """Fixed crops of held-out cases, and what the start weights make of them.

    Args:
        cases: The held-out cases.
        recipe: The recipe of the run.
        engine: At the start of the run.

    Raises:
        UserError: A held-out case cannot be read, or all of them are damaged.
    """

    def __init__(self, cases: Sequence[Case], recipe: Recipe, engine: Engine) -> None:
        plain = replace(recipe, flips=False, intensity_share=0.0, num_local=0)
        stream = Stream(cases, plain)
        edge = recipe.global_px[0]
        views = [stream.sample(position, edge, edge).global_views[0] for position in range(NUM_SLICES)]
        whole = [view for view in views if view.isfinite().all()]
        if not whole:
            raise UserError(
                "held-out cases: required slices of finite numbers for the monitors · got none in "
                f"{', '.join(c.title for c in cases)} "
                "· leave damaged cases out with --exclude, or hold out more with --holdout"
            )
        self.images = torch.stack(whole)
        self.engine = engine
        self.start_gram = _gram(self._seen(engine.teacher).patches)

    def measure(self, temperature: float) -> dict[str, float]:
        """Returns the measurements of the present teacher.

        ``rank_class``, ``rank_patch``: effective ranks (RankMe, arXiv 2210.02885) of class tokens and of mean patch tokens.
        ``entropy``: of the sharpened teacher over its largest value. ``used_prototypes``: how many are the first of some slice.
        ``patch_cosine``, ``class_patch_cosine``: mean cosine of two patches of one image, and of class token and patch.
        ``patch_deviation``: of normalised patch tokens over positions. ``gram_to_start``: cosine of the matrices of cosines now
        and at the start.
        """
        seen = self._seen(self.engine.teacher)
        probabilities = (seen.logits / temperature).softmax(dim=-1)
        patches = F.normalize(seen.patches, dim=-1)
        gram = _gram(seen.patches)
        num_patches = patches.shape[1]
        off_diagonal = (gram.sum(dim=(1, 2)) - num_patches) / (num_patches * (num_patches - 1))
        class_cosine = torch.einsum("ne,npe->np", F.normalize(seen.class_tokens, dim=-1), patches)
        return {
            "rank_class": effective_rank(seen.class_tokens),
            "rank_patch": effective_rank(seen.patches.mean(dim=1)),
            "entropy": float(torch.special.entr(probabilities).sum(dim=-1).mean()) / math.log(probabilities.shape[1]),
            "used_prototypes": float(len(probabilities.argmax(dim=-1).unique())),
            "patch_cosine": float(off_diagonal.mean()),
            "patch_deviation": float(patches.std(dim=1).mean() * math.sqrt(patches.shape[2])),
            "class_patch_cosine": float(class_cosine.mean()),
            "gram_to_start": float(F.cosine_similarity(gram.flatten(1), self.start_gram.flatten(1)).mean()),
        }

    @torch.no_grad()
    def _seen(self, model: SelfSupervisedViT) -> _Seen:
        with self.engine.autocast():
            parts = [model.tokens(part.to(self.engine.device)) for part in self.images.split(AT_ONCE)]
            classes = torch.cat([part.class_tokens for part in parts])
            logits = model.dino_head(classes)
        return _Seen(classes.float(), torch.cat([part.patches for part in parts]).float(), logits.float())


def effective_rank(tokens: Tensor) -> float:
    """Returns ``exp`` of the entropy of the normalised singular values of ``n e`` (RankMe, eq. 2)."""
    values = torch.linalg.svdvals(tokens.double().cpu())
    shares = values / values.sum().clamp(min=1e-12) + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))


def _gram(patches: Tensor) -> Tensor:
    patches = F.normalize(patches, dim=-1)
    return patches @ patches.mT


def warnings_of(history: Sequence[dict[str, float]], recipe: Recipe, num_skipped: int) -> list[str]:
    """Returns in words what looks wrong.

    Args:
        history: Rows of measurements, each with its ``step``.
        recipe: The recipe of the run.
        num_skipped: Steps that were left out.
    """
    found = []
    losses = [row for row in history if "loss_dino" in row]
    monitors = [row for row in history if "rank_class" in row]
    settled = recipe.steps(max(recipe.warmup, recipe.temperature_warmup))
    if losses and losses[-1]["step"] > settled and dino_over_log_k(losses[-1], recipe) > 0.98:
        found.append(
            f"The loss of class tokens stands at {dino_over_log_k(losses[-1], recipe):.3f} of the logarithm of the number of "
            "prototypes: the student predicts nothing yet. Lower lr or the number of prototypes, or take a larger batch; "
            "check that "
            "the slices are not all alike."
        )
    if monitors:
        last = monitors[-1]
        if last["entropy"] < 0.05 or last["used_prototypes"] < 4 or last["rank_class"] < 4:
            found.append(
                f"The teacher collapses: {last['used_prototypes']:.0f} prototypes in use for {NUM_SLICES} slices, effective "
                "rank of "
                f"class tokens {last['rank_class']:.1f}. Lower lr, lengthen the warm-up of the temperature, or take fewer "
                "prototypes."
            )
        if last["patch_cosine"] > 0.95 or last["patch_cosine"] > monitors[0]["patch_cosine"] + 0.3:
            found.append(
                f"Patches of one image become alike: mean cosine {last['patch_cosine']:.2f}, at first "
                f"{monitors[0]['patch_cosine']:.2f}. Dense features may be worse than earlier ones: take an earlier export, "
                "or go on "
                "with the recipe sharpen."
            )
    found += _warnings_of_probe([row for row in history if "probe" in row])
    if num_skipped:
        found.append(
            f"{num_skipped} steps were left out because a loss or a gradient was not finite; the log names their slices."
        )
    waits = [row["waiting"] for row in losses[-5:]]
    if waits and sum(waits) / len(waits) > 0.05:
        found.append(f"{100 * sum(waits) / len(waits):.0f} % of the time goes by waiting for data: give more --workers.")
    return found


def _warnings_of_probe(rows: Sequence[dict[str, float]]) -> list[str]:
    if not rows:
        return []
    found, last, best = [], rows[-1]["probe"], best_probe(rows)
    if last < rows[0]["probe_start"]:
        found.append(
            f"The dense probe says {last:.3f}; the start weights have {rows[0]['probe_start']:.3f}. So far this pretraining "
            "makes the patch tokens worse for the data it is monitored on."
        )
    if last < 0.95 * best["probe"]:
        found.append(
            f"The dense probe falls: {last:.3f} now, {best['probe']:.3f} at step {best['step']:.0f}, whose weights are kept as "
            "best.safetensors."
        )
    return found


def best_probe(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Returns the row of the export that was best on the dense probe; the start weights are none."""
    return max(rows[1:] or rows, key=lambda row: row["probe"])


def dino_over_log_k(row: dict[str, float], recipe: Recipe) -> float:
    """Returns the loss of class tokens over the one of a student that predicts nothing."""
    num_pairs = 2 + 2 * recipe.num_local
    share = (2 + recipe.local_weight * 2 * recipe.num_local) / num_pairs
    return row["loss_dino"] / (share * math.log(recipe.prototypes))


def ibot_over_log_k(row: dict[str, float], recipe: Recipe) -> float:
    """Returns the loss of masked patches over the one of a student that predicts nothing."""
    share = int(2 * recipe.batch * recipe.mask_share) / (2 * recipe.batch)
    return row["loss_ibot"] / (share * math.log(recipe.patch_prototypes)) if share else 0.0
