"""Trains a network on tokens that know nothing, something or everything, and prints its validation Dice on the way.

    python benchmarks/tokens.py --dataset 520 --plans nnUNetPlansFive --tokens know --sigma 1 --seeds 1 2 3
    python benchmarks/tokens.py --table runs/tokens.jsonl

The trainer, its optimiser, loss, schedule and training step are the real ones; only the data are simpler: whole preprocessed
cases in memory, random patches of which every second holds foreground, changed in intensity alone, because the tokens of a
case are computed once. Tokens:

    none     the stock network
    random   a random ViT
    taught   a ViT that benchmarks/teach.py taught on cases that are not used here; its file is --vit
    know     the share of every label in a token's cell, in a fixed random code, with noise of --sigma in every dimension

nnU-Net's folders must be set and the data set planned and preprocessed. It uses one thread unless
OMP_NUM_THREADS says otherwise. With --bfloat16 the network computes in bfloat16, as nnU-Net's does in float16 on a GPU,
which takes a third to half of the time where the processor can.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from short_trainers.seeded import in_bfloat16
from torch import Tensor, nn

from nnunet_dino.backbones.catalogue import get_spec
from nnunet_dino.backbones.weights import load_file
from nnunet_dino.networks.options import DinoOptions
from nnunet_dino.nnunet.discovery.registry import resolve
from nnunet_dino.probes.dense_cells import cell_shares

ITERATIONS_PER_EPOCH = 50
CODE_SEED = 7
PROBE_STEPS, PROBE_BATCH = 1500, 4096
PROBE_CASES = 20  # tokens of all cases at once would take more memory than the training
Case = tuple[Tensor, Tensor, list[Tensor]]  # image c d h w, labels d h w, maps d gh gw e


class GivenTokens(nn.Module):
    """Stands in for a slice encoder and returns the maps it was given last."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.backbone, self.reuse = encoder.backbone, encoder.reuse
        self.maps: list[Tensor] = []

    def forward(self, _: Tensor) -> list[Tensor]:
        return self.maps

    def project(self, _: Tensor, neck: nn.Module) -> Tensor:
        return neck(self.maps)


def make_trainer(arguments: argparse.Namespace, seed: int) -> Any:
    """Returns an initialised trainer of the wanted network, optimiser, start and length."""
    _seed(seed)
    suffix = "_Adam1en3" if arguments.optimizer == "adamw" else ""
    base: Any = resolve(("nnUNetTrainerPrior" if arguments.tokens == "none" else "nnUNetTrainerDINOv3Tiny") + suffix)

    class Trainer(base):
        prior = arguments.prior
        short_run_epochs = arguments.iterations // ITERATIONS_PER_EPOCH

        def do_split(self) -> tuple[list[str], list[str]]:
            training, validation = super().do_split()
            chosen = shuffled(training)[arguments.skip : arguments.skip + arguments.cases]
            return sorted(chosen), sorted(validation)[: arguments.validation_cases]

        def print_to_log_file(self, *_: Any, **__: Any) -> None:
            pass

    if arguments.tokens != "none":
        options = {"token_stride_px": arguments.stride, **json.loads(arguments.dino)}
        Trainer.dino = DinoOptions.from_plans({**base.dino.to_plans(), **options})
    folder = Path(str(nnUNet_preprocessed), maybe_convert_to_dataset_name(arguments.dataset))
    plans = load_json(str(folder / f"{arguments.plans}.json")) | {"continue_training": False}
    configuration = plans["configurations"][arguments.configuration]
    configuration |= {"batch_size": arguments.batch_size}
    configuration |= {"patch_size": arguments.patch} if arguments.patch else {}
    kwargs = configuration["architecture"]["arch_kwargs"]
    kwargs["features_per_stage"] = [features // arguments.narrow for features in kwargs["features_per_stage"]]
    trainer = Trainer(plans, arguments.configuration, 0, load_json(str(folder / "dataset.json")), torch.device("cpu"))
    _seed(seed)
    trainer.initialize_from_scratch()
    return trainer


def shuffled(cases: list[str]) -> list[str]:
    """Returns ``cases`` in an order whose beginning is taken where few are wanted: twenty at random by name, the others."""
    order = random.Random(0).sample(sorted(cases), len(cases))
    return sorted(order[:20]) + order[20:]


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def load_cases(trainer: Any, names: list[str], arguments: argparse.Namespace) -> list[Case]:
    """Loads preprocessed cases, padded so that the network takes them whole, with their tokens."""
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, list(names))
    divisor = np.prod(trainer.configuration_manager.network_arch_init_kwargs["strides"], axis=0)
    cases = []
    for name in names:
        data, segmentation, *_ = dataset.load_case(name)
        image, labels = torch.from_numpy(data[:].astype(np.float32)), torch.from_numpy(segmentation[0].astype(np.int64))
        size = [
            max(s + -s % m, p) for s, m, p in zip(labels.shape, divisor, trainer.configuration_manager.patch_size, strict=True)
        ]
        pad = [v for want, have in zip(size[::-1], labels.shape[::-1], strict=True) for v in (0, want - have)]
        image, labels = F.pad(image, pad, value=float(image.min())), F.pad(labels.clamp(min=0), pad)
        cases.append((image, labels, tokens(trainer, image, labels, arguments)))
    return cases


def tokens(trainer: Any, image: Tensor, labels: Tensor, arguments: argparse.Namespace) -> list[Tensor]:
    """Returns the maps of a case, each ``d gh gw e``."""
    if arguments.tokens == "none":
        return []
    encoder = trainer.network.slice_encoder
    if arguments.tokens != "know":
        with torch.no_grad():
            return [m.float() for m in encoder(image[None])]
    num_labels, width = len(trainer.label_manager.all_labels), encoder.backbone.embed_dim
    code = torch.randn(num_labels, width, generator=torch.Generator().manual_seed(CODE_SEED))
    code = F.normalize(code, dim=-1) * width**0.5
    known = shares_of_labels(labels, num_labels, arguments.stride) @ code
    return [F.layer_norm(known + arguments.sigma * torch.randn(known.shape), (width,))] * encoder.num_maps


def shares_of_labels(labels: Tensor, num_labels: int, stride: int) -> Tensor:
    """Returns ``d gh gw labels``: the share of every label in the cells of ``stride`` pixels, given labels ``d h w``."""
    height, width = labels.shape[1:]
    return cell_shares(labels, [(label,) for label in range(num_labels)], (-(-height // stride), -(-width // stride)))


def linear_probe(training: list[Case], validation: list[Case], num_labels: int, stride: int) -> list[float]:
    """Returns the mean Dice of every label by a linear layer on single tokens, trained to convergence."""

    def flat(maps: list[Tensor]) -> Tensor:
        return torch.cat(maps, dim=-1).flatten(0, 2)

    x = torch.cat([flat(maps) for _, _, maps in training])
    shares = torch.cat([shares_of_labels(labels, num_labels, stride).flatten(0, 2) for _, labels, _ in training])
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    kept = (shares[:, 0] < 1) | (torch.rand(len(x)) < 0.2)  # most of the background says the same
    x, shares = (x[kept] - mean) / deviation, shares[kept]
    layer = nn.Linear(x.shape[1], num_labels)
    optimizer = torch.optim.AdamW(layer.parameters(), 1e-2, weight_decay=1e-3)
    for _ in range(PROBE_STEPS):
        some = torch.randint(len(x), (PROBE_BATCH,))
        predicted, truth = layer(x[some]).log_softmax(-1), shares[some]
        overlap = 2 * (predicted.exp() * truth).sum(0) / (predicted.exp().sum(0) + truth.sum(0) + 1e-5)
        loss = -(truth * predicted).sum(-1).mean() - overlap[1:].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def predict(labels: Tensor, maps: list[Tensor]) -> Tensor:
        with torch.no_grad():
            logits = layer((flat(maps) - mean) / deviation).view(*maps[0].shape[:3], -1).permute(3, 0, 1, 2)[None]
        size = [labels.shape[0], *(side * stride for side in maps[0].shape[1:3])]
        upsampled = F.interpolate(logits, size, mode="trilinear")[0].argmax(0)
        return upsampled[:, : labels.shape[1], : labels.shape[2]]

    return mean_dice(((predict(labels, maps), labels) for _, labels, maps in validation), num_labels)


def mean_dice(pairs: Iterable[tuple[Tensor, Tensor]], num_labels: int) -> list[float]:
    """Returns the mean Dice of every foreground label over (predicted, true) cases that have it."""
    dice: dict[int, list[float]] = defaultdict(list)
    for predicted, labels in pairs:
        for label in range(1, num_labels):
            a, b = predicted == label, labels == label
            if b.any():
                dice[label].append(2 * float((a & b).sum()) / float(a.sum() + b.sum()))
    return [statistics.mean(dice[label]) for label in range(1, num_labels)]


def batch(trainer: Any, cases: list[Case], rng: np.random.Generator, stride: int) -> tuple[dict[str, Any], list[Tensor]]:
    """Draws a batch of patches aligned with the token grid; every second one is centred on foreground."""
    patch = np.array(trainer.configuration_manager.patch_size)
    images, targets, maps = [], [], []
    for number in range(trainer.batch_size):
        image, labels, tokens = cases[rng.integers(len(cases))]
        room = np.array(labels.shape) - patch
        corner = rng.integers(0, room + 1)
        if number % 2:
            present = np.unique(labels[labels > 0])
            voxels = torch.nonzero(labels == rng.choice(present)) if len(present) else []
            if len(voxels):
                corner = np.clip(voxels[rng.integers(len(voxels))].numpy() - rng.integers(patch // 4, patch * 3 // 4), 0, room)
        corner[1:] -= corner[1:] % stride
        d, h, w = (slice(int(c), int(c + p)) for c, p in zip(corner, patch, strict=True))
        cell_h, cell_w = (slice(axis.start // stride, -(-axis.stop // stride)) for axis in (h, w))
        shown = image[:, d, h, w] * float(rng.uniform(0.8, 1.2)) + float(rng.uniform(-0.2, 0.2))
        images.append(shown + torch.randn_like(shown) * float(rng.uniform(0, 0.15)))
        targets.append(labels[None, d, h, w].float())
        maps.append([m[d, cell_h, cell_w] for m in tokens])
    target, scales = torch.stack(targets), trainer._get_deep_supervision_scales()
    target = [F.interpolate(target, [round(s * f) for s, f in zip(patch, scale, strict=True)]) for scale in scales]
    return {"data": torch.stack(images), "target": target}, [torch.cat(m) for m in zip(*maps, strict=True)]


def evaluate(trainer: Any, cases: list[Case]) -> list[float]:
    """Returns the mean Dice of every label over ``cases``, each predicted whole."""
    network = trainer.network.eval()
    trainer.set_deep_supervision_enabled(False)

    def predict(image: Tensor, maps: list[Tensor]) -> Tensor:
        if maps:
            network.slice_encoder.maps = maps
        with torch.no_grad():
            return network(image[None])[0].argmax(0)

    pairs = ((predict(image, maps), labels) for image, labels, maps in cases)
    dice = mean_dice(pairs, len(trainer.label_manager.all_labels))
    trainer.set_deep_supervision_enabled(True)
    network.train()
    return dice


def compute_in_bfloat16(trainer: Any) -> None:
    """Lets the network compute in bfloat16; steps with gradients that are no numbers are left out."""
    network, optimizer = trainer.network, trainer.optimizer

    def leave_out(*_: Any) -> None:
        if not all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None):
            optimizer.zero_grad()
            trainer.left_out += 1

    network.to(memory_format=torch.channels_last_3d)
    network.forward, trainer.left_out = in_bfloat16(network.forward), 0
    optimizer.register_step_pre_hook(leave_out)


class Movement:
    """How far each part of a network has moved, as a share of the norm that nnU-Net would start such layers with."""

    def __init__(self, network: nn.Module) -> None:
        self.start = {n: p.detach().clone() for n, p in network.named_parameters() if p.requires_grad and p.ndim > 1}
        self.parts = {n: self._parts_of("projections" if "injections" in n else n.split(".")[0]) for n in self.start}

    @staticmethod
    def _parts_of(part: str) -> list[str]:
        return [part] if part in ("encoder", "decoder") else [part, "token path"]

    def now(self, network: nn.Module) -> dict[str, float]:
        """Returns root mean squares over the matrices of every part, and of what only a network with tokens has."""
        squares: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for name, p in network.named_parameters():
            if name in self.start:
                fan_in = p[0].numel()
                for part in self.parts[name]:
                    squares[part][0] += float((p.detach() - self.start[name]).square().sum())
                    squares[part][1] += p.numel() * 2 / fan_in
        return {part: (moved / norm) ** 0.5 for part, (moved, norm) in squares.items()}


def run(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Trains once and returns the record."""
    trainer = make_trainer(arguments, seed)
    rng = np.random.default_rng(seed)
    if arguments.tokens == "taught":
        state = load_file(arguments.vit, get_spec("dinov3_tiny")).state
        trainer.network.slice_encoder.backbone.backbone.vit.load_state_dict(state)
    training, validation = (load_cases(trainer, names, arguments) for names in trainer.do_split())
    network, probe = trainer.network.train(), None
    if arguments.tokens != "none":
        probe = linear_probe(training[:PROBE_CASES], validation, len(trainer.label_manager.all_labels), arguments.stride)
        network.slice_encoder = GivenTokens(network.slice_encoder)
    if arguments.bfloat16:
        compute_in_bfloat16(trainer)
    movement, curve, moved, started = Movement(network), {}, {}, time.process_time()
    for iteration in range(arguments.iterations):
        trainer.lr_scheduler.step(iteration // ITERATIONS_PER_EPOCH)
        patches, maps = batch(trainer, training, rng, arguments.stride)
        if maps:
            network.slice_encoder.maps = maps
        trainer.train_step(patches)
        if iteration + 1 == 100:
            moved = movement.now(network)
        if iteration + 1 in {arguments.iterations // 4, arguments.iterations // 2, arguments.iterations}:
            curve[iteration + 1] = evaluate(trainer, validation)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    settings = {
        k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items() if k not in ("seeds", "out", "table")
    }
    settings |= {"seconds": time.process_time() - started, "left_out": getattr(trainer, "left_out", 0), "commit": commit}
    return {**settings, "seed": seed, "curve": curve, "moved": moved, "probe": probe}


def table(file: Path) -> str:
    """Returns the medians over seeds of all records in ``file`` as a Markdown table."""
    groups: dict[str, list[dict]] = defaultdict(list)
    same = ("dataset", "cases", "skip", "tokens", "sigma", "dino", "optimizer", "prior", "narrow", "bfloat16", "iterations")
    for line in file.read_text().splitlines():
        record = {"bfloat16": False, "skip": 0, **json.loads(line)}  # records of earlier commits do not say
        sigma = record["sigma"] if record["tokens"] == "know" else "–"
        groups[" | ".join(str({**record, "sigma": sigma}[key]) for key in same)].append(record)
    head = [*same, "seeds", "mean Dice: median (range)", "moved in 100 steps"]
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, records in groups.items():
        cells = []
        for at in records[0]["curve"]:
            means = [statistics.mean(r["curve"][at]) for r in records]
            cells.append(f"{at}: {statistics.median(means):.3f} ({min(means):.3f}–{max(means):.3f})")
        parts = {part: statistics.median(r["moved"][part] for r in records) for part in records[0]["moved"]}
        probes = [statistics.mean(r["probe"]) for r in records if r.get("probe")]
        cells.append(f"probe {statistics.median(probes):.3f}" if probes else "probe –")
        moved = ", ".join(f"{part} {value:.3f}" for part, value in parts.items())
        rows.append(f"| {name} | {len(records)} | {' · '.join(cells)} | {moved} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=int, default=520)
    parser.add_argument("--plans", default="nnUNetPlans")
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--patch", type=int, nargs=3, help="d h w; default as planned")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--narrow", type=int, default=2, help="divide the planned features of every stage by this")
    parser.add_argument("--tokens", choices=["none", "random", "taught", "know"], default="none")
    parser.add_argument("--sigma", type=float, default=1.0)
    parser.add_argument("--vit", type=Path, help="weights of a taught dinov3_tiny")
    parser.add_argument("--stride", type=int, default=4, help="pixels per token")
    parser.add_argument("--dino", default="{}", help="further options of the DINOv3 side, as JSON")
    parser.add_argument("--optimizer", choices=["sgd", "adamw"], default="sgd")
    parser.add_argument("--prior", action="store_true")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--cases", type=int, default=5)
    parser.add_argument("--skip", type=int, default=0, help="leave out this many cases first, to train on others")
    parser.add_argument("--validation-cases", type=int, default=12)
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--out", type=Path, default=Path("tokens.jsonl"))
    parser.add_argument("--table", type=Path, help="print the records in this file")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(arguments.table))
        return
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    os.environ["nnUNet_results"] = tempfile.mkdtemp()
    for seed in arguments.seeds:
        record = run(arguments, seed)
        with arguments.out.open("a") as out:
            out.write(json.dumps(record) + "\n")
        means = {at: round(statistics.mean(dice), 3) for at, dice in record["curve"].items()}
        means |= {"probe": round(statistics.mean(record["probe"]), 3)} if record["probe"] else {}
        moved = {part: round(share, 3) for part, share in record["moved"].items()}
        start = "prior" if arguments.prior else "nnU-Net's start"
        print(arguments.tokens, arguments.dino, arguments.optimizer, start, seed, means, moved, flush=True)


if __name__ == "__main__":
    main()
