"""Time and memory against the number of slices: frozen encoding by itself, and a whole prediction.

    python benchmarks/scaling.py

Parts are slices, or positions of nnU-Net's window, which overlap by half. Memory is the peak of a process of its own per row;
the maps that the caller gets back are part of it, and printed beside it.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from typing import Any

import torch
from common import begin, finish, parser, peak_mib, resident_mib, seconds
from networks import BACKBONES, flagship
from predict import predictor

from nnunet_dino.networks.options import DinoOptions, build_slice_encoder
from nnunet_dino.networks.slice_reuse import SliceReuse


def encode(arguments: Any, num_slices: int) -> dict[str, Any]:
    """Encodes slices."""
    device = begin(arguments)
    options = {"backbone": BACKBONES[arguments.backbone], "weights": "random"}
    encoder = build_slice_encoder(DinoOptions.from_plans(options), 1).to(device).train()
    volume = torch.randn(1, 1, num_slices, arguments.size, arguments.size, device=device)
    encoder(volume[:, :, :2])
    before = resident_mib()
    results: list[int] = []
    peak = peak_mib(lambda: results.append(sum(m.nbytes for m in encoder(volume))), device)
    return {
        "what": f"frozen encoding, {arguments.backbone}",
        "slices": num_slices,
        "parts": num_slices,
        "s": statistics.median(seconds(lambda: encoder(volume), device) for _ in range(arguments.rounds)),
        "peak MiB": peak,
        "before, MiB": before,
        "maps, MiB": results[0] / 2**20,
        "encoder's own, MiB": peak - before - results[0] / 2**20,
    }


def predict(arguments: Any, num_slices: int) -> dict[str, Any]:
    """Predicts a volume with as many slices."""
    device = begin(arguments)
    network = flagship(arguments.patch, arguments.backbone)
    network.decoder.deep_supervision = False
    ours = predictor(network, arguments.patch, 1, device)
    volume = torch.randn(1, num_slices, *arguments.patch[1:])
    ours.predict_logits_from_preprocessed_data(volume[:, : arguments.patch[0]])
    before = resident_mib()
    taken = []

    def run() -> None:
        network.slice_encoder.reuse = SliceReuse()
        began = time.perf_counter()
        ours.predict_logits_from_preprocessed_data(volume)
        taken.append(time.perf_counter() - began)

    peak = peak_mib(run, device)
    for _ in range(arguments.rounds - 1):
        run()
    reuse = network.slice_encoder.reuse
    return {
        "what": f"prediction, {arguments.backbone}",
        "slices": num_slices,
        "parts": 2 * num_slices // arguments.patch[0] - 1,
        "s": statistics.median(taken),
        "peak MiB": peak,
        "before, MiB": before,
        "slices held, MiB": reuse.num_bytes / 2**20,
        "encoded": reuse.num_encoded,
    }


def main() -> None:
    """Measures and prints."""
    options = parser(__doc__)
    options.add_argument("--slices", type=int, nargs="+", default=[32, 64, 128], help="(default 32 64 128)")
    options.add_argument("--size", type=int, default=128, help="pixels of a square slice to encode (default 128)")
    options.add_argument("--patch", type=int, nargs=3, default=[16, 64, 64], help="d h w of the window (default 16 64 64)")
    options.add_argument("--backbone", choices=BACKBONES, default="S")
    arguments = options.parse_args()
    device = torch.device(arguments.device)
    rows = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for measure in (encode, predict):
            first: dict[str, Any] = {}
            for num_slices in arguments.slices:
                row = pool.apply(measure, (arguments, num_slices))
                first = first or row
                row["time per part, × first"] = row["s"] / row["parts"] / (first["s"] / first["parts"])
                row["memory, × first"] = row["peak MiB"] / first["peak MiB"]
                rows.append(row)
                print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
    finish("scaling", arguments, device, rows)


if __name__ == "__main__":
    main()
