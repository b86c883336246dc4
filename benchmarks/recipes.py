"""Runs a recipe of docs/how-to/reproduce-the-benchmark.md: on a miniature stand-in in the real layout, or on the real data.

python benchmarks/recipes.py nih14 [--folder DIR]
python benchmarks/recipes.py nih14 --real        with DATA, OUT, BACKBONE and SIZE set as the page says
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "reproduce-the-benchmark.md"
SHORT = Path(__file__).parent / "short_trainers"
NUM_CT_RATE_LABELS = 18
SMALL_MIL = "--epochs 2 --patience 0 --projection 8 --attention 4 --workers 1 --maps 1"


def recipe(name: str, page: str | None = None) -> str:
    """Returns the block of the page that begins with ``# recipe: NAME``."""
    text = PAGE.read_text(encoding="utf-8") if page is None else page
    blocks = re.findall(r"```bash\n# recipe: (\S+)\n(.*?)```", text, re.DOTALL)
    return dict(blocks)[name]


def _picture(file: Path, is_bright: bool, rng: np.random.Generator) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 120, (72, 64)).astype(np.uint8)
    pixels[:30] += 120 * np.uint8(is_bright)
    if file.suffix == ".dcm":
        _dicom(file, pixels)
    else:
        Image.fromarray(pixels).save(file)


def _dicom(file: Path, pixels: np.ndarray) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(pixels[None])
    sitk.WriteImage(image[:, :, 0], str(file))


def nih14(data: Path, rng: np.random.Generator) -> None:
    """Forty patients with two radiographs each; every second has an effusion, every third a mass as well."""
    rows = []
    for number in range(80):
        patient = number // 2
        found = [name for name, every in (("Effusion", 2), ("Mass", 3)) if patient % every == 0]
        name = f"{patient:08d}_{number % 2:03d}.png"
        rows.append({"Image Index": name, "Finding Labels": "|".join(found) or "No Finding", "Patient ID": patient})
        _picture(data / f"images_{1 + number // 40:03d}" / "images" / name, "Effusion" in found, rng)
    pd.DataFrame(rows).to_csv(data / "Data_Entry_2017.csv", index=False)
    names = [row["Image Index"] for row in rows]
    (data / "train_val_list.txt").write_text("\n".join(names[:56]), encoding="utf-8")
    (data / "test_list.txt").write_text("\n".join(names[56:]), encoding="utf-8")


def rsna(data: Path, rng: np.random.Generator) -> None:
    """Forty images as DICOM; a pneumonia has one or two boxes."""
    rows = []
    for number in range(40):
        name, target = f"{number:08x}-dead-4bad-80ba-0123456789ab", int(number % 2)
        rows += [{"patientId": name, "x": 1, "y": 1, "width": 9, "height": 9, "Target": target}] * (1 + target)
        _picture(data / "stage_2_train_images" / f"{name}.dcm", bool(target), rng)
    pd.DataFrame(rows).to_csv(data / "stage_2_train_labels.csv", index=False)


def _slide(file: Path, is_dark: bool, rng: np.random.Generator) -> None:
    import tifffile

    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((1024, 1280, 3), 245, np.uint8)
    tissue = np.array((200, 120, 170)) - 60 * is_dark + rng.integers(-20, 20, (640, 900, 3))
    pixels[200:840, 200:1100] = tissue
    options = {"tile": (256, 256), "photometric": "rgb", "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(file) as writer:
        writer.write(pixels, resolution=(40000, 40000), **options)
        writer.write(pixels[::4, ::4], resolution=(10000, 10000), subfiletype=1, **options)


def camelyon16(data: Path, rng: np.random.Generator) -> None:
    """Sixteen slides to train on and eight to test."""
    for kind, is_dark in (("normal", False), ("tumor", True)):
        for number in range(1, 9):
            _slide(data / "training" / kind / f"{kind}_{number:03d}.tif", is_dark, rng)
    rows = []
    for number in range(1, 9):
        _slide(data / "testing" / "images" / f"test_{number:03d}.tif", number % 2 == 0, rng)
        rows.append((f"test_{number:03d}", "Normal" if number % 2 else "Tumor", "None", "None"))
    pd.DataFrame(rows).to_csv(data / "testing" / "reference.csv", header=False, index=False)


def bcnb(data: Path, rng: np.random.Generator) -> None:
    """Twenty slides, one a patient."""
    rows = []
    for number in range(1, 21):
        _slide(data / "WSIs" / f"{number}.tif", number % 2 == 0, rng)
        words = {name: ("Negative", "Positive")[(number // step) % 2] for name, step in (("ER", 1), ("PR", 2), ("HER2", 3))}
        rows.append({"Patient ID": number, **words})
    pd.DataFrame(rows).to_csv(data / "patient-clinical-data.csv", index=False)


def ct_rate(data: Path, rng: np.random.Generator) -> None:
    """Thirty-six volumes of eighteen patients, two reconstructions each."""
    import SimpleITK as sitk

    names = [f"Label {number}" for number in range(NUM_CT_RATE_LABELS)]
    for part, count in (("train", 12), ("valid", 6)):
        rows = []
        for patient in range(1, count + 1):
            for scan in (1, 2):
                name = f"{part}_{patient}_a_{scan}.nii.gz"
                file = data / "dataset" / part / f"{part}_{patient}" / f"{part}_{patient}_a" / name
                file.parent.mkdir(parents=True, exist_ok=True)
                values = rng.integers(-900, 200, (3, 40, 48)) + 500 * (patient % 2)
                sitk.WriteImage(sitk.GetImageFromArray(values.astype(np.int16)), str(file))
                rows.append({"VolumeName": name, **{label: (patient + k) % 2 for k, label in enumerate(names)}})
        table = data / "dataset" / "multi_abnormality_labels" / f"{part}_predicted_labels.csv"
        table.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_csv(table, index=False)


def msd(data: Path, rng: np.random.Generator) -> None:
    """Six cases of a spleen that is a bright block."""
    import SimpleITK as sitk

    task = data / "Task09_Spleen"
    training = []
    for number in range(6):
        labels = np.zeros((16, 32, 32), np.uint8)
        labels[4:12, 8:20, 8 + number : 20 + number] = 1
        values = (rng.normal(0, 20, labels.shape) + 100 * labels).astype(np.int16)
        for folder, array in (("imagesTr", values), ("labelsTr", labels)):
            (task / folder).mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(array), str(task / folder / f"spleen_{number}.nii.gz"))
        training.append({"image": f"./imagesTr/spleen_{number}.nii.gz", "label": f"./labelsTr/spleen_{number}.nii.gz"})
    (task / "imagesTs").mkdir()
    facts = {"name": "Spleen", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "spleen"}}
    facts |= {"numTraining": 6, "numTest": 0, "training": training, "test": []}
    (task / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")


STAND_INS: dict[str, Callable[[Path, np.random.Generator], None]] = {
    "nih14": nih14,
    "rsna": rsna,
    "camelyon16": camelyon16,
    "bcnb": bcnb,
    "ct-rate": ct_rate,
    "msd": msd,
}


def run(name: str, folder: Path, page: str | None = None) -> Path:
    """Makes a stand-in in ``folder``, runs its recipe there with a tiny backbone of random weights, and returns the results."""
    data, out = folder / name, folder / "results"
    data.mkdir(parents=True)
    STAND_INS[name](data, np.random.default_rng(0))
    settings = {"DATA": str(data), "OUT": str(out), "BACKBONE": "dinov3_tiny", "SIZE": "64", "MIL": SMALL_MIL}
    settings |= {"TISSUE": "biopsy", "SPLIT": "patients"}  # a stand-in has small slides and few patients
    settings |= {"nnUNet_dino_weights": "random", "nnUNet_extTrainer": str(SHORT), "nnUNet_n_proc_DA": "2"}
    settings |= {"FOLDS": "0", "TRAINER": "nnUNetTrainerDINOv3Tiny_1x4", "TRAIN": "-device cpu"}
    _shell(recipe(name, page), {**os.environ, **settings})
    return out


def _shell(commands: str, environment: dict[str, str]) -> None:
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    subprocess.run(["bash", "-euo", "pipefail", "-c", commands], check=True, env=environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=STAND_INS)
    parser.add_argument("--folder", type=Path, help="for the stand-in and its results; by default one that is removed")
    parser.add_argument("--real", action="store_true", help="run on DATA into OUT, as the environment says")
    given = parser.parse_args()
    if given.real:
        _shell(recipe(given.name), dict(os.environ))
    elif given.folder:
        print(run(given.name, given.folder))
    else:
        with tempfile.TemporaryDirectory() as folder:
            run(given.name, Path(folder))


if __name__ == "__main__":
    main()
