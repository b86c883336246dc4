"""Prediction with nnU-Net's own sliding window on a real volume, slice reuse off and on, in turn.

    python benchmarks/predict.py --image CT.nii.gz
    python benchmarks/predict.py --image CT.nii.gz --backbones S --folds 5

nnU-Net's predictor gets the network on the host and moves it to the device itself, in inference mode, as ``nnUNetv2_predict``
does; where the device is the host, it makes the same kind of tensors of the parameters that moving would.

The volume is cut from the middle of the image so that the window has five overlapping positions along d; it is mirrored along
all axes. Weights are random. ``allowed`` is Amdahl's law: with a share s of the time in the encoder (measured without reuse)
and n times fewer slices encoded, the whole can be at most 1 / (1 - s + s / n) times as fast; ``of allowed`` is what was reached
"""

from __future__ import annotations

import copy
import gc
import os
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import SimpleITK as sitk
import torch
from common import begin, finish, in_turns, median_ratio, parser, peak_mib, seconds
from networks import BACKBONES, NUM_CLASSES, flagship
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor, nn

from nnunet_dino.networks.memo_bytes import ENVIRONMENT_VARIABLE
from nnunet_dino.networks.slice_reuse import SliceReuse

POSITIONS_ALONG_D = 5


def read_volume(file: Path, size: list[int]) -> Tensor:
    """Returns ``1 d h w``, the middle of an image, normalised to zero mean and unit variance."""
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(file), sitk.sitkFloat32))
    if any(have < want for have, want in zip(image.shape, size, strict=True)):
        raise SystemExit(
            f"{file}: required at least {size} voxels along d h w · got {list(image.shape)} · use a smaller --patch"
        )
    cut = tuple(slice((have - want) // 2, (have - want) // 2 + want) for have, want in zip(image.shape, size, strict=True))
    volume = torch.from_numpy(image[cut].copy())[None]
    return (volume - volume.mean()) / volume.std()


class Predictor(nnUNetPredictor):
    """nnU-Net's predictor; on the host, a network's tensors are made anew in inference mode, as moving to a GPU makes them."""

    @torch.inference_mode()
    def predict_sliding_window_return_logits(self, input_image: Tensor) -> Tensor:
        if self.device.type == "cpu":
            self.network._apply(torch.clone)
        return super().predict_sliding_window_return_logits(input_image)


def predictor(network: nn.Module, patch: list[int], num_folds: int, device: torch.device) -> nnUNetPredictor:
    """Returns nnU-Net's predictor for ``network``, with other decoders in the further folds."""
    result = Predictor(device=device, allow_tqdm=False, use_mirroring=True, perform_everything_on_device=device.type == "cuda")
    labels = SimpleNamespace(num_segmentation_heads=NUM_CLASSES)
    plans = SimpleNamespace(get_label_manager=lambda dataset_json: labels)
    folds = [network.state_dict()]
    for _ in range(num_folds - 1):
        folds.append({key: value.clone() for key, value in folds[0].items()})
        for key, value in folds[-1].items():
            if key.startswith("decoder.") and value.is_floating_point():
                value.mul_(1.01)
    result.manual_initialization(network, plans, SimpleNamespace(patch_size=tuple(patch)), folds, {}, "", (0, 1, 2))
    return result


class Run:
    """One way to predict: with a network of its own, and a budget for slices."""

    def __init__(self, network: nn.Module, budget_gb: str | None, volume: Tensor, arguments: Any, device: torch.device) -> None:
        self.network = network
        self.budget_gb = budget_gb
        self.volume = volume
        self.device = device
        self.predictor = predictor(network, arguments.patch, arguments.folds, device)
        self.encoder_seconds: list[float] = []
        encode = network.slice_encoder._encode

        def timed(slices: Tensor) -> tuple[Tensor, ...]:
            kept: list[tuple[Tensor, ...]] = []
            self.encoder_seconds.append(seconds(lambda: kept.append(encode(slices)), device))
            return kept[0]

        network.slice_encoder._encode = timed

    def __call__(self) -> Tensor:
        self.network.slice_encoder.reuse = SliceReuse()
        self.encoder_seconds.clear()
        if self.budget_gb is None:
            os.environ.pop(ENVIRONMENT_VARIABLE, None)
        else:
            os.environ[ENVIRONMENT_VARIABLE] = self.budget_gb
        return self.predictor.predict_logits_from_preprocessed_data(self.volume)


def measure(backbone: str, volume: Tensor, arguments: Any, device: torch.device) -> list[dict[str, Any]]:
    """Measures one backbone without and with reuse."""
    network = flagship(arguments.patch, backbone, token_stride_px=arguments.token_stride)
    network.decoder.deep_supervision = False
    runs = {
        "off": Run(copy.deepcopy(network), "0", volume, arguments, device),
        "on": Run(network, None, volume, arguments, device),
    }
    logits, shares, counts, peaks = {}, {}, {}, {}
    for name, run in runs.items():  # the first of all runs is not timed
        peaks[name] = peak_mib(lambda name=name, run=run: logits.update({name: run()}), device)
    taken = in_turns(runs, device, arguments.rounds, warm_up=0)
    for name, run in runs.items():
        reuse = run.network.slice_encoder.reuse
        shares[name] = sum(run.encoder_seconds) / taken[name][-1]
        counts[name] = (reuse.num_asked, reuse.num_encoded)
    fewer = counts["off"][1] / counts["on"][1]
    allowed = 1 / (1 - shares["off"] + shares["off"] / fewer)
    faster = median_ratio(taken["off"], taken["on"])
    difference = (logits["on"] - logits["off"]).abs().max().item()
    rows = []
    for name in runs:
        rows.append(
            {
                "backbone": backbone,
                "folds": arguments.folds,
                "reuse": name,
                "slices asked": counts[name][0],
                "encoded": counts[name][1],
                "s": statistics.median(taken[name]),
                "share of the encoder": shares[name],
                "peak MiB": peaks[name],
            }
        )
    rows[-1] |= {
        "× fewer": fewer,
        "× faster": faster,
        "allowed": allowed,
        "of allowed": faster / allowed,
        "largest difference": difference,
        "largest logit": logits["off"].abs().max().item(),
    }
    return rows


def main() -> None:
    """Measures and prints."""
    options = parser(__doc__)
    options.add_argument("--image", type=Path, required=True, help="a volume that SimpleITK reads")
    options.add_argument("--patch", type=int, nargs=3, default=[16, 64, 64], help="d h w of the window (default 16 64 64)")
    options.add_argument("--plane", type=int, nargs=2, help="h w of the volume; default one window")
    options.add_argument("--token-stride", type=int, default=8)
    options.add_argument("--folds", type=int, default=1)
    options.add_argument("--backbones", nargs="+", choices=BACKBONES, default=["S", "B", "L"])
    arguments = options.parse_args()
    device = begin(arguments)
    depth = arguments.patch[0] * (POSITIONS_ALONG_D + 1) // 2
    volume = read_volume(arguments.image, [depth, *(arguments.plane or arguments.patch[1:])])
    rows = []
    for backbone in arguments.backbones:
        rows += measure(backbone, volume, arguments, device)
        print(f"{backbone}: {rows[-1]['× fewer']:.2f} × fewer, {rows[-1]['× faster']:.2f} × faster", flush=True)
        gc.collect()
    finish("predict", arguments, device, rows)


if __name__ == "__main__":
    main()
