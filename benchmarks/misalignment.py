"""How far one channel may lie beside the others: Dice of a trained model on images in which that channel was shifted.

    python benchmarks/misalignment.py --model $nnUNet_results/Dataset530_STSPETCT/TRAINER__PLANS__3d_fullres --channel 1

Shifts are along the rows and the columns of slices, in both directions; what comes in from outside repeats the border. A row is
the mean over cases and the four directions: cases that the fold trained on, and the others of nnU-Net's split.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from numpy.typing import NDArray
from scipy.ndimage import shift


def shifted(image: NDArray[np.float32], channel: int, along: int, voxels: float) -> NDArray[np.float32]:
    """Returns ``c d h w`` in which one channel has moved along an axis of ``d h w``."""
    moved = image.copy()
    offset = [0.0, 0.0, 0.0]
    offset[along] = voxels
    moved[channel] = shift(image[channel], offset, order=1, mode="nearest")
    return moved


def dice(predicted: NDArray[np.integer], truth: NDArray[np.integer]) -> float:
    """Returns the Dice of everything that is not background."""
    return 2 * float(((predicted > 0) & (truth > 0)).sum()) / float((predicted > 0).sum() + (truth > 0).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a trained model")
    parser.add_argument("--channel", type=int, default=1, help="which channel is shifted")
    parser.add_argument("--mm", type=float, nargs="+", default=[0, 4, 8, 16], help="how far")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device(arguments.device), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(arguments.model), (arguments.fold,), "checkpoint_final.pth")
    dataset = maybe_convert_to_dataset_name(arguments.model.parent.name)
    split = load_json(f"{nnUNet_preprocessed}/{dataset}/splits_final.json")[arguments.fold]
    raw, ending = Path(nnUNet_raw, dataset), predictor.dataset_json["file_ending"]
    reader = predictor.plans_manager.image_reader_writer_class()
    print("| Cases | " + " | ".join(f"{mm:g} mm" for mm in arguments.mm) + " |")
    for part, names in split.items():
        scores: list[list[float]] = [[] for _ in arguments.mm]
        for name in names:
            files = sorted(map(str, (raw / "imagesTr").glob(f"{name}_????{ending}")))
            image, facts = reader.read_images(files)
            truth = reader.read_seg(str(raw / "labelsTr" / f"{name}{ending}"))[0][0]
            for row, mm in zip(scores, arguments.mm, strict=True):
                for along, sign in product((1, 2), (-1, 1)) if mm else ((1, 1),):
                    moved = shifted(image, arguments.channel, along, sign * mm / facts["spacing"][along])
                    row.append(dice(predictor.predict_single_npy_array(moved, facts), truth))
        print(f"| {part}: {len(names)} | " + " | ".join(f"{np.mean(row):.3f}" for row in scores) + " |", flush=True)


if __name__ == "__main__":
    main()
