"""Runs a recipe of docs/how-to/reproduce-the-benchmark.md: on a miniature stand-in in the real layout, or on the real data.

python benchmarks/recipes.py nih14 [--folder DIR]
python benchmarks/recipes.py nih14 --real        with the variables set as the page says
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


def camelyon17(data: Path, rng: np.random.Generator) -> None:
    """Ten slides of two patients, one of them of those called unseen; a slide of each is left out."""
    rows = []
    for patient in (3, 80):
        for node, stage in enumerate(("negative", "macro", "negative", "micro", "itc")):
            name = f"patient_{patient:03d}_node_{node}.tif"
            _slide(data / f"center_{patient // 20}" / name, stage in ("macro", "micro"), rng)
            rows.append({"patient": name, "stage": stage})
        rows.append({"patient": f"patient_{patient:03d}.zip", "stage": "pN1"})
    pd.DataFrame(rows).to_csv(data / "stage_labels.csv", index=False)


def bcnb(data: Path, rng: np.random.Generator) -> None:
    """Twenty slides, one a patient."""
    rows = []
    for number in range(1, 21):
        _slide(data / "WSIs" / f"{number}.tif", number % 2 == 0, rng)
        words = {name: ("Negative", "Positive")[(number // step) % 2] for name, step in (("ER", 1), ("PR", 2), ("HER2", 3))}
        rows.append({"Patient ID": number, "ALN status": ("N0", "N+(1-2)")[number % 2], **words})
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


def _scans(*files: tuple[Path, np.ndarray], spacing: tuple[float, ...] = (1.0, 1.0, 3.0)) -> None:
    """Writes volumes ``d h w``; the spacing, in mm, is that of ``w h d``."""
    import SimpleITK as sitk

    for file, array in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(spacing)
        sitk.WriteImage(image, str(file))


def _blocks(number: int, num_labels: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns a volume of 16 x 64 x 64 voxels with bright blocks, and their labels."""
    labels = np.zeros((16, 64, 64), np.uint8)
    for label in range(1, num_labels + 1):
        row, column = divmod(label - 1, 4)
        labels[3:13, 2 + 15 * row : 14 + 15 * row, number + 15 * column : number + 12 + 15 * column] = label
    return (rng.normal(0, 20, labels.shape) + 100 * (labels > 0) + 10 * labels).astype(np.int16), labels


def msd(data: Path, rng: np.random.Generator) -> None:
    """Six cases of a spleen that is a bright block."""
    task = data / "Task09_Spleen"
    training = []
    for number in range(6):
        values, labels = _blocks(number % 4, 1, rng)
        name = f"spleen_{number}.nii.gz"
        _scans((task / "imagesTr" / name, values), (task / "labelsTr" / name, labels))
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    (task / "imagesTs").mkdir()
    facts = {"name": "Spleen", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "spleen"}}
    facts |= {"numTraining": 6, "numTest": 0, "training": training, "test": []}
    (task / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")


def _neurons(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns sections and the ids of the cells in them, each the points nearest to a seed; borders are dark."""
    from scipy.spatial import cKDTree

    shape = (26, 48, 56)
    places = np.stack(np.indices(shape), -1).reshape(-1, 3) * (3.0, 1.0, 1.0)
    far, nearest = cKDTree(rng.random((14, 3)) * (78, 48, 56)).query(places, k=2)
    image = np.clip(40 * (far[:, 1] - far[:, 0]) + rng.normal(0, 10, len(far)), 0, 255)
    return image.reshape(shape).astype(np.uint8), (nearest[:, 0] + 1).reshape(shape).astype(np.uint64)


def _write_h5(file: Path, **arrays: np.ndarray) -> None:
    import h5py

    with h5py.File(file, "w") as content:
        for name, array in arrays.items():
            content[name] = array


def cremi(data: Path, rng: np.random.Generator) -> None:
    """Three samples of 26 small sections."""
    for letter in "ABC":
        image, ids = _neurons(rng)
        arrays = {"volumes/raw": image, "volumes/labels/neuron_ids": ids}
        _write_h5(data / f"sample_{letter}_20160501.hdf", **arrays)


def ac34(data: Path, rng: np.random.Generator) -> None:
    """Both volumes with 26 small sections."""
    for name in ("AC3", "AC4"):
        image, ids = _neurons(rng)
        _write_h5(data / f"{name}_inputs.h5", main=image)
        _write_h5(data / f"{name}_labels.h5", main=ids.astype(np.uint16))


def autopet(data: Path, rng: np.random.Generator) -> None:
    """Seven studies of six patients, the last without a lesion."""
    for number in range(7):
        study = data / f"PETCT_{min(number, 5):010x}" / f"0{number}-01-2003-NA-PET-CT Ganzkoerper"
        values, labels = _blocks(number % 4, int(number < 6), rng)
        scans = {"CTres": values, "SUV": labels + np.float32(1), "SEG": labels, "CT": values, "PET": values}
        _scans(*((study / f"{name}.nii.gz", array) for name, array in scans.items()))


def hecktor(data: Path, rng: np.random.Generator) -> None:
    """Six patients of two centres; PET has pixels of twice the size."""
    for number in range(6):
        name = f"{('CHUM', 'MDA')[number % 2]}-{number:03d}"
        values, labels = _blocks(number % 4, 2, rng)
        _scans((data / "imagesTr" / f"{name}__CT.nii.gz", values), (data / "labelsTr" / f"{name}.nii.gz", labels))
        suv = labels[:, ::2, ::2] * np.float32(3)
        _scans((data / "imagesTr" / f"{name}__PT.nii.gz", suv), spacing=(2.0, 2.0, 3.0))


def amos22(data: Path, rng: np.random.Generator) -> None:
    """Five training cases, one to validate, one of MRI that is left out; fifteen organs."""
    parts: dict[str, list[dict[str, str]]] = {"training": [], "validation": [], "test": []}
    for number in (1, 4, 5, 6, 7, 8, 507):
        part, end = ("validation", "Va") if number == 8 else ("training", "Tr")
        values, labels = _blocks(number % 4, 15, rng)
        name = f"amos_{number:04d}.nii.gz"
        _scans((data / f"images{end}" / name, values), (data / f"labels{end}" / name, labels))
        parts[part].append({"image": f"./images{end}/{name}", "label": f"./labels{end}/{name}"})
    organs = {str(number): f"organ {number}" if number else "background" for number in range(16)}
    (data / "dataset.json").write_text(json.dumps({"labels": organs, **parts}), encoding="utf-8")


def btcv(data: Path, rng: np.random.Generator) -> None:
    """Six training cases with thirteen organs."""
    for number in range(1, 7):
        values, labels = _blocks(number % 4, 13, rng)
        folder = data / "Training"
        _scans((folder / f"img/img{number:04d}.nii.gz", values), (folder / f"label/label{number:04d}.nii.gz", labels))


def kits23(data: Path, rng: np.random.Generator) -> None:
    """Six cases with kidney, tumour and cyst."""
    for number in range(6):
        values, labels = _blocks(number % 4, 3, rng)
        case = data / "dataset" / f"case_{number:05d}"
        _scans((case / "imaging.nii.gz", values), (case / "segmentation.nii.gz", labels))


def lits(data: Path, rng: np.random.Generator) -> None:
    """Six cases in two batches, with liver and tumour."""
    for number in range(6):
        values, labels = _blocks(number % 4, 2, rng)
        folder = data / f"Training Batch {1 + number // 3}"
        _scans((folder / f"volume-{number}.nii", values), (folder / f"segmentation-{number}.nii", labels))


STAND_INS: dict[str, Callable[[Path, np.random.Generator], None]] = {
    "nih14": nih14,
    "rsna": rsna,
    "figure1": nih14,
    "camelyon16": camelyon16,
    "camelyon17": camelyon17,
    "bcnb": bcnb,
    "ct-rate": ct_rate,
    "msd": msd,
    "cremi": cremi,
    "ac34": ac34,
    "autopet": autopet,
    "hecktor": hecktor,
    "amos22": amos22,
    "btcv": btcv,
    "kits23": kits23,
    "lits": lits,
}
# Recipes of several data sets, which NAME tells apart.
SHARED = {
    "em": ("cremi", "ac34"),
    "pet": ("autopet", "hecktor"),
    "meddinov3": ("amos22", "btcv", "kits23", "lits"),
}
RECIPES = {name: next((block for block, names in SHARED.items() if name in names), name) for name in STAND_INS}
BEFORE = {"camelyon17": "camelyon16"}  # whose results a recipe takes
TINY = {
    "em": {"TRAINER": "nnUNetTrainerDINOv3Tiny_TokensOnly_Affinities_1x4", "SECTIONS": "--test 18:26 --spacing 30 10 10"},
    "meddinov3": {"TRAINER": "nnUNetTrainerMedDINOv3Tiny_1x4", "PLANNER": "nnUNetPlannerDINOv3Tiny", "CONFIGURATION": "2d"},
}


def run(name: str, folder: Path, page: str | None = None, scripts: Path | None = None) -> Path:
    """Makes a stand-in in ``folder``, runs its recipe there with a tiny backbone of random weights, and returns the results.

    Args:
        name: One of ``STAND_INS``.
        folder: For the stand-in and the results.
        page: The text that holds the recipe, by default the page in the docs.
        scripts: A folder of commands that are taken before those of this Python.
    """
    if name in BEFORE:
        run(BEFORE[name], folder, page, scripts)
    block, data, out = RECIPES[name], folder / name, folder / "results"
    data.mkdir(parents=True)
    STAND_INS[name](data, np.random.default_rng(0))
    settings = {"DATA": str(data), "OUT": str(out), "BACKBONE": "dinov3_tiny", "SIZE": "64", "MIL": SMALL_MIL}
    settings |= {"SIZES": "48 64", "ENCODERS": "dinov3_tiny dinov3_tiny_swiglu"}
    settings |= {"TISSUE": "biopsy", "SPLIT": "patients"}  # a stand-in has small slides and few patients
    settings |= {"nnUNet_dino_weights": "random", "nnUNet_extTrainer": str(SHORT)}
    settings |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "PLAN": "-np 1 -npfp 1", "TRAIN": "-device cpu"}
    settings |= {"NAME": name, "FOLDS": "0", "TRAINER": "nnUNetTrainerDINOv3Tiny_1x4", **TINY.get(block, {})}
    _shell(recipe(block, page), {**os.environ, **settings}, scripts)
    return out


def _shell(commands: str, environment: dict[str, str], scripts: Path | None = None) -> None:
    folders = [scripts, Path(sys.executable).parent, environment["PATH"]]
    environment["PATH"] = os.pathsep.join(str(folder) for folder in folders if folder)
    subprocess.run(["bash", "-euo", "pipefail", "-c", commands], check=True, env=environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=STAND_INS)
    parser.add_argument("--folder", type=Path, help="for the stand-in and its results; by default one that is removed")
    parser.add_argument("--real", action="store_true", help="run on DATA into OUT, as the environment says")
    given = parser.parse_args()
    if given.real:
        _shell(recipe(RECIPES[given.name]), {**os.environ, "NAME": given.name})
    elif given.folder:
        print(run(given.name, given.folder))
    else:
        with tempfile.TemporaryDirectory() as folder:
            run(given.name, Path(folder))


if __name__ == "__main__":
    main()
