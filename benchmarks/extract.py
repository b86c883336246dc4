"""Images per second of ``nnunet-dino extract`` against the encoder alone, and memory over many images.

    nnUNet_dino_weights=random python benchmarks/extract.py --images 1000 --backbone dinov3_vits16

Rounds of extraction (reading, decoding, resizing, encoding, writing) and rounds of the encoder alone, on the same number of
images in the same batches, take turns, so that a machine that is busy with other things slows both alike. Processor time is
printed beside the clock: on a processor without free cores nothing can be overlapped, and the extra processor time is the cost.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import begin, finish, parser, resident_mib
from PIL import Image

from nnunet_dino.features.encode import Reading
from nnunet_dino.features.encoder import FrozenEncoder, default_batch
from nnunet_dino.features.extraction import fill
from nnunet_dino.features.inputs import find_items
from nnunet_dino.features.picture import open_image
from nnunet_dino.features.pixels import Preprocessing
from nnunet_dino.features.store.layout import StoreFacts


def main() -> None:
    """Measures and prints."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=1000, help="in all rounds together")
    options.add_argument("--edge", type=int, default=256, help="pixels of the PNG files")
    options.add_argument("--size", type=int, default=224, help="pixels shown to the backbone")
    options.add_argument("--backbone", default="dinov3_vits16")
    options.add_argument("--workers", type=int, default=2)
    given = options.parse_args()
    device = begin(given)
    encoder = FrozenEncoder(given.backbone, device)
    batch = default_batch(given.size)
    per_round = given.images // given.rounds
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder, "in"), per_round, given.edge)
        encode_alone(encoder, batch, given.size, 2)  # warm up
        clocks: dict[str, list[float]] = {name: [] for name in ("extract", "extract cpu", "encoder", "encoder cpu")}
        memory = []
        for number in range(given.rounds):
            with timed(clocks, "extract"):
                run_extract(Path(folder), f"store{number}", encoder, batch, given)
            memory.append(resident_mib())
            with timed(clocks, "encoder"):
                encode_alone(encoder, batch, given.size, per_round)
    finish("extract", given, device, rows(clocks, memory, per_round))


def write_pictures(folder: Path, count: int, edge: int) -> None:
    """Writes smooth pictures with some noise, which compress about as radiographs do."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(generator.integers(0, 220, (edge // 16, edge // 16)).astype(np.uint8)).resize((edge, edge), 3)
        pixels = np.asarray(coarse).astype(int) + generator.integers(0, 12, (edge, edge))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:05d}.png")


def run_extract(folder: Path, store: str, encoder: FrozenEncoder, batch: int, given: argparse.Namespace) -> None:
    """Extracts all pictures into a new store."""
    kind, items = find_items([str(folder / "in")])
    preprocessing = Preprocessing(given.size)
    facts = StoreFacts(
        kind=kind,
        backbone=encoder.name,
        weights=encoder.digest,
        weights_are_random=encoder.weights_are_random,
        precision=str(encoder.dtype),
        tokens=("class_token", "patch_mean"),
        per_slice=False,
        dtype="float32",
        preprocessing=preprocessing.record(),
        num_items=len(items),
        items_per_file=128,
    )
    fill(folder / store, facts, items, encoder, Reading(partial(open_image, preprocessing=preprocessing), batch, given.workers))


def encode_alone(encoder: FrozenEncoder, batch: int, size: int, count: int) -> None:
    """Encodes as many images, which are there already, in the batches that extraction forms of units of 128."""
    images = torch.rand(batch, 1, size, size)
    for start in range(0, count, 128):
        unit = min(128, count - start)
        for part in itertools.chain([batch] * (unit // batch), [unit % batch] if unit % batch else []):
            features = encoder(images[:part])
            features.class_token.cpu(), features.patch_mean.cpu()


class timed:
    """Adds seconds by the clock and seconds of the processor to lists."""

    def __init__(self, clocks: dict[str, list[float]], name: str) -> None:
        self.clocks, self.name = clocks, name

    def __enter__(self) -> None:
        self.began = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.clocks[self.name].append(time.perf_counter() - self.began[0])
        self.clocks[f"{self.name} cpu"].append(time.process_time() - self.began[1])


def rows(clocks: dict[str, list[float]], memory: list[float], count: int) -> list[dict[str, Any]]:
    """Returns one row by the clock and one by the processor's time."""
    result = []
    for unit, ending in (("the clock", ""), ("the processor", " cpu")):
        whole, alone = (statistics.median(clocks[name + ending]) for name in ("extract", "encoder"))
        ratios = [a / b for a, b in zip(clocks["extract" + ending], clocks["encoder" + ending], strict=True)]
        result.append(
            {
                "seconds of": unit,
                "images a round": count,
                "extract, images/s": count / whole,
                "encoder alone, images/s": count / alone,
                "on top": statistics.median(ratios) - 1,
                "of rounds": f"{min(ratios) - 1:+.3f} … {max(ratios) - 1:+.3f}",
            }
        )
    result[0]["resident after each round, MiB"] = " ".join(f"{value:.0f}" for value in memory)
    return result


if __name__ == "__main__":
    main()
