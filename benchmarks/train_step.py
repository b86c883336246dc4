"""Training steps of the stock network and of networks with a slice encoder, on the same patch, in turn.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --backbones S --adaptations frozen --rounds 11

A step is nnU-Net's: forward with deep supervision, Dice and cross-entropy, backward, clipping, SGD. Patch and network are
those that nnU-Net plans for the hippocampus unless told otherwise; weights are random. The share of the encoder is what a step
saves if the encoder's maps are given.
"""

from __future__ import annotations

import gc
import itertools
import statistics
from collections.abc import Callable
from typing import Any

import torch
from common import begin, finish, in_turns, median_ratio, parser, peak_mib
from networks import BACKBONES, deep_supervision_loss, flagship, stock, targets_like
from torch import Tensor, nn

MOMENTUM, LR, WEIGHT_DECAY, CLIP = 0.99, 0.01, 3e-5, 12


class GivenMaps(nn.Module):
    """Stands in for a slice encoder: returns the maps it was given."""

    def __init__(self, encoder: nn.Module, volume: Tensor) -> None:
        super().__init__()
        self.reuse = encoder.reuse
        with torch.no_grad():
            self.maps = tuple(m.detach() for m in encoder(volume))

    def project(self, _: Tensor, neck: nn.Module) -> Tensor:
        return neck(self.maps)


def train_step(network: nn.Module, volume: Tensor) -> Callable[[], None]:
    """Returns a function that does one step of training, with an optimiser of its own."""
    network.train()
    trained = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trained, LR, MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True)
    with torch.no_grad(), torch.autocast(volume.device.type, enabled=volume.device.type == "cuda"):
        targets = targets_like(network(volume))
    loss = deep_supervision_loss(len(targets))
    scaler = torch.amp.GradScaler("cuda", enabled=volume.device.type == "cuda")

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(volume.device.type, enabled=volume.device.type == "cuda"):
            value = loss(network(volume), targets)
        scaler.scale(value).backward()
        scaler.unscale_(optimiser)
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        scaler.step(optimiser)
        scaler.update()

    return step


def without_encoder(network: nn.Module, volume: Tensor) -> Callable[[], None]:
    """Returns a step of the same network whose encoder's maps are given."""
    network.train()
    encoder, network.slice_encoder = network.slice_encoder, GivenMaps(network.slice_encoder, volume)
    step = train_step(network, volume)
    given, network.slice_encoder = network.slice_encoder, encoder

    def swapped() -> None:
        network.slice_encoder = given
        step()
        network.slice_encoder = encoder

    return swapped


def measure(name: str, backbone: str, adaptation: str, arguments: Any, volume: Tensor, stock_step: Callable[[], None]) -> dict:
    """Measures one network against the stock network's step."""
    device = volume.device
    network = flagship(arguments.patch, backbone, adaptation=adaptation, token_stride_px=arguments.token_stride).to(device)
    step = train_step(network, volume)
    functions = {"stock": stock_step, "ours": step, "given": without_encoder(network, volume)}
    taken = in_turns(functions, device, arguments.rounds)
    return {
        "network": name,
        "s per step": statistics.median(taken["ours"]),
        "stock's, s": statistics.median(taken["stock"]),
        "× stock": median_ratio(taken["ours"], taken["stock"]),
        "share of the encoder": 1 - median_ratio(taken["given"], taken["ours"]),
        "peak MiB": peak_mib(step, device),
    }


def main() -> None:
    """Measures and prints."""
    options = parser(__doc__)
    options.add_argument("--patch", type=int, nargs="+", default=[40, 56, 40], help="d h w, or h w (default 40 56 40)")
    options.add_argument("--batch", type=int, default=2)
    options.add_argument("--token-stride", type=int, default=8)
    options.add_argument("--backbones", nargs="+", choices=BACKBONES, default=["S", "B", "L"])
    options.add_argument("--adaptations", nargs="+", choices=["frozen", "lora", "full"], default=["frozen", "lora", "full"])
    arguments = options.parse_args()
    device = begin(arguments)
    volume = torch.randn(arguments.batch, 1, *arguments.patch, device=device)
    stock_step = train_step(stock(arguments.patch).to(device), volume)
    stock_step()
    rows = [{"network": "stock", "peak MiB": peak_mib(stock_step, device)}]
    for backbone, adaptation in itertools.product(arguments.backbones, arguments.adaptations):
        rows.append(measure(f"DINOv3UNet-{backbone}, {adaptation}", backbone, adaptation, arguments, volume, stock_step))
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in rows[-1].items()}, flush=True)
        gc.collect()
    finish("train_step", arguments, device, rows)


if __name__ == "__main__":
    main()
