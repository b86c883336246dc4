"""Teaches a small ViT the labels of a data set, token by token, on cases that few-shot trainings never see.

    python benchmarks/teach.py --dataset 520 --plans nnUNetPlansFive --minutes 12 --out taught.safetensors

A stand-in for a strong encoder: its tokens carry information that few cases cannot teach. It learns from all training cases of
fold 0 but the first ``--few`` in the order in which benchmarks/tokens.py takes them, so trainings with at most that many may
use it. Three of four crops lie around a voxel of a class that is drawn evenly among those of a case; the loss weighs a class by
the root of its rarity, and the output layer starts at the frequencies. At the end the dense probe, which learns from ``--few``
cases and is judged on the validation cases, compares the ViT with a random one and with raw pixels. ``--rgb`` says what the ViT
is shown; with ``--steps`` several that are taught differently have equal chances. ``nnUNet_dino_precision=bfloat16`` is faster
where the processor can.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokens import load_cases, make_trainer, shares_of_labels, shuffled
from torch import Tensor, nn

from nnunet_dino.backbones.adapted import RANDOM, AdaptedBackbone
from nnunet_dino.backbones.image_encoder import load_backbone
from nnunet_dino.backbones.rgb_names import NEIGHBOURS, REPEAT, RGB
from nnunet_dino.probes import DenseOptions, DenseProbe
from nnunet_dino.probes.dense_cases import find_cases

SLICES, SIDE_PX = 16, 64
WARM_UP = 50
AROUND_A_CLASS = 0.75
Voxels = list[Tensor]  # of every class of a case that has some: their d h w


def teach(arguments: argparse.Namespace) -> None:
    """Trains until the time is over, saves timm's state of the ViT, and probes it."""
    trainer = make_trainer(arguments, arguments.seed)
    arguments.cases = 10**9
    order = shuffled(trainer.do_split()[0])
    cases = load_cases(trainer, sorted(order[arguments.few :]), argparse.Namespace(tokens="none"))
    voxels = [[torch.nonzero(labels == label) for label in labels[labels > 0].unique()] for _, labels, _ in cases]
    num_labels, rng = len(trainer.label_manager.all_labels), np.random.default_rng(arguments.seed)
    encoder = trainer.network.slice_encoder.train()
    vit = encoder.backbone.backbone.vit.float()
    vit.set_grad_checkpointing(False)
    for name, parameter in vit.named_parameters():
        if "gamma" in name:
            nn.init.ones_(parameter)
    layer, weight = nn.Linear(encoder.backbone.embed_dim, num_labels), torch.ones(num_labels)
    with torch.no_grad():
        frequency = torch.stack([draw(cases, voxels, rng, num_labels, arguments)[1].mean((0, 1, 2)) for _ in range(30)])
        frequency = frequency.mean(0).clamp(min=1e-5)
        weight = frequency.rsqrt() / frequency.sqrt().sum()
        layer.bias.copy_((frequency * weight).log())
    optimizer = torch.optim.AdamW([*vit.parameters(), *layer.parameters()], 1e-3, weight_decay=0.02)
    started, step = time.time(), 0
    while (done := step / arguments.steps if arguments.steps else (time.time() - started) / 60 / arguments.minutes) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / WARM_UP) * (1.01 - done)
        images, truth = draw(cases, voxels, rng, num_labels, arguments)
        predicted = layer(encoder.encode(images)[-1]).log_softmax(-1)
        loss = -(truth * weight * predicted).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vit.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0:
            organ = truth[..., 1:].amax(-1) > 0.5
            right = (predicted.argmax(-1) == truth.argmax(-1))[organ].float().mean()
            print(f"{done:.0%} step {step} loss {loss.item():.4f}, organ cells right {right.item():.2f}", flush=True)
    save_file({name: value.contiguous() for name, value in vit.state_dict().items()}, arguments.out)
    print(f"{step} steps, saved {arguments.out}", flush=True)
    probe(arguments, order[: arguments.few])


def draw(
    cases: list, voxels: list[Voxels], rng: np.random.Generator, num_labels: int, arguments: argparse.Namespace
) -> tuple[Tensor, Tensor]:
    """Returns crops of slices, ``n c h w`` or ``n 3·c h w``, and the share of each label in their cells, ``n gh gw labels``."""
    images, targets = [], []
    for _ in range(SLICES):
        number = rng.integers(len(cases))
        image, labels, _ = cases[number]
        d, h, w = labels.shape
        at, y, x = rng.integers(d), rng.integers(h), rng.integers(w)
        if voxels[number] and rng.random() < AROUND_A_CLASS:
            some = voxels[number][rng.integers(len(voxels[number]))]
            at, y, x = some[rng.integers(len(some))].tolist()
        top = int(np.clip(y - rng.integers(SIDE_PX // 8, SIDE_PX * 7 // 8), 0, h - SIDE_PX))
        left = int(np.clip(x - rng.integers(SIDE_PX // 8, SIDE_PX * 7 // 8), 0, w - SIDE_PX))
        part = (slice(top, top + SIDE_PX), slice(left, left + SIDE_PX))
        slices = [max(at - 1, 0), at, min(at + 1, d - 1)] if arguments.rgb == NEIGHBOURS else [at]
        crop = image[(slice(None), slices, *part)].flatten(0, 1)
        shown = crop * float(rng.uniform(0.85, 1.15)) + float(rng.uniform(-0.15, 0.15))
        images.append(shown + torch.randn_like(shown) * float(rng.uniform(0, 0.1)))
        targets.append(labels[(at, *part)])
    return torch.stack(images), shares_of_labels(torch.stack(targets), num_labels, arguments.stride)


def probe(arguments: argparse.Namespace, few: list[str]) -> None:
    """Prints what the taught ViT, a random one and raw pixels know of the validation cases."""
    options = DenseOptions(token_stride_px=arguments.stride, blocks=arguments.blocks, sizes="5,all", rgb=arguments.rgb)
    found = find_cases(arguments.dataset, arguments.configuration, arguments.plans, 0, options)
    asked = DenseProbe(replace(found, training=tuple(few)), options)
    torch.manual_seed(arguments.seed)
    backbones = {
        "taught": load_backbone(arguments.out).backbone,
        "random": AdaptedBackbone("dinov3_tiny", RANDOM),
        "pixels": "pixels",
    }
    for title, backbone in backbones.items():
        for score in asked(backbone).scores:
            classes = {label.name: round(label.average_precision.value, 3) for label in score.classes}
            area, dice = score.average_precision, score.dice
            print(
                f"{title}, {score.method}, {score.num_cases} cases: AP {area.value:.3f} [{area.low:.3f}, {area.high:.3f}], "
                f"Dice {dice.value:.3f}, {classes}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=int, default=520)
    parser.add_argument("--plans", default="nnUNetPlans")
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--stride", type=int, default=4, help="pixels per token")
    parser.add_argument("--rgb", default=REPEAT, choices=RGB, help="how a slice becomes red, green and blue")
    parser.add_argument("--blocks", default="last", choices=["last", "all"], help="whose tokens are probed")
    parser.add_argument("--few", type=int, default=20, help="cases kept for trainings")
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--steps", type=int, help="so many steps instead of minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    fixed = {"tokens": "random", "optimizer": "adamw", "prior": False, "iterations": 50, "cases": 20, "validation_cases": 1}
    parser.set_defaults(**fixed, batch_size=2, patch=None, narrow=2)
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    os.environ["nnUNet_results"] = tempfile.mkdtemp()
    if arguments.out.exists():
        parser.error(f"--out: required a new file, got {arguments.out}, which is there")
    arguments.dino = json.dumps({"adaptation": "full", "rgb": arguments.rgb})
    teach(arguments)


if __name__ == "__main__":
    main()
