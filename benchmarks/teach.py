"""Teaches a small ViT the labels of a data set, token by token, on cases that few-shot trainings never see.

    python benchmarks/teach.py --dataset 520 --plans nnUNetPlansFive --minutes 12 --out taught.pt

A stand-in for a strong encoder: its tokens carry information that few cases cannot teach. It learns from all training cases of
fold 0 but the first ``--few`` in the order in which benchmarks/tokens.py takes them, so trainings with at most that many may
use it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from tokens import load_cases, make_trainer, shares_of_labels, shuffled
from torch import nn

SLICES, SIDE_PX = 8, 64
WARM_UP = 50


def teach(arguments: argparse.Namespace) -> None:
    """Trains until the time is over and saves timm's state of the ViT."""
    trainer = make_trainer(arguments, arguments.seed)
    arguments.cases = 10**9
    others = shuffled(trainer.do_split()[0])[arguments.few :]
    cases = load_cases(trainer, sorted(others), argparse.Namespace(tokens="none"))
    encoder, num_labels = trainer.network.slice_encoder.train(), len(trainer.label_manager.all_labels)
    vit = encoder.backbone.backbone.vit.float()
    for name, parameter in vit.named_parameters():
        if "gamma" in name:
            nn.init.ones_(parameter)
    layer = nn.Linear(encoder.backbone.embed_dim, num_labels)
    optimizer = torch.optim.AdamW([*vit.parameters(), *layer.parameters()], 1e-3, weight_decay=0.02)
    rng, started, step = np.random.default_rng(arguments.seed), time.time(), 0
    while (done := (time.time() - started) / 60 / arguments.minutes) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / WARM_UP) * (1.01 - done)
        patches, targets = zip(*(draw(cases, rng) for _ in range(2)), strict=True)
        truth = shares_of_labels(torch.cat(targets), num_labels, arguments.stride)
        predicted = layer(encoder(torch.stack(patches))[-1]).log_softmax(-1)
        loss = -(truth * predicted).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vit.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0:
            organ = truth[..., 1:].amax(-1) > 0.5
            right = (predicted.argmax(-1) == truth.argmax(-1))[organ].float().mean()
            print(f"{done:.0%} step {step} loss {float(loss):.4f}, organ cells right {float(right):.2f}", flush=True)
    torch.save(vit.state_dict(), arguments.out)


def draw(cases: list, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns a stack of slices ``c d h w`` and its labels; two of three stacks hold foreground."""
    image, labels, _ = cases[rng.integers(len(cases))]
    d, h, w = labels.shape
    depths = np.flatnonzero((labels > 0).flatten(1).any(1).numpy()) if rng.random() < 2 / 3 else np.arange(d)
    at = int(np.clip(rng.choice(depths) - SLICES // 2, 0, d - SLICES))
    y, x = rng.integers(0, h - SIDE_PX + 1), rng.integers(0, w - SIDE_PX + 1)
    part = (..., slice(at, at + SLICES), slice(y, y + SIDE_PX), slice(x, x + SIDE_PX))
    shown = image[part] * float(rng.uniform(0.85, 1.15)) + float(rng.uniform(-0.15, 0.15))
    return shown + torch.randn_like(shown) * float(rng.uniform(0, 0.1)), labels[part]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=int, default=520)
    parser.add_argument("--plans", default="nnUNetPlans")
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--stride", type=int, default=4, help="pixels per token")
    parser.add_argument("--dino", default='{"adaptation": "full"}', help="options of the DINOv3 side, as JSON")
    parser.add_argument("--few", type=int, default=20, help="cases kept for trainings")
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    fixed = {"tokens": "random", "optimizer": "adamw", "prior": False, "iterations": 50, "cases": 20, "validation_cases": 1}
    parser.set_defaults(**fixed, batch_size=2, patch=None, narrow=2)
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    os.environ["nnUNet_results"] = tempfile.mkdtemp()
    teach(arguments)


if __name__ == "__main__":
    main()
