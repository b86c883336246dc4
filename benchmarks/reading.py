"""Processor seconds and peak memory of reading image files, against another checkout of this package.

    git worktree add /tmp/before 2880517
    python benchmarks/reading.py --before /tmp/before

A CT of 150 slices of 512 px as a DICOM series and as NIfTI, and 100 pictures as DICOM and PNG. Each round runs both checkouts
one after the other, each in a process of its own; seconds are those of the processor, the least of three reads, so that other
work counts little, and the ratio is of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

ROOT = Path(__file__).parents[1]
KINDS = {"series": "volumes", "ct.nii.gz": "volumes", "ct.nii": "volumes", "dicom": "images", "png": "images"}
READ = """
import json, resource, sys, time
from nnunet_dino.features.inputs import find_items
from nnunet_dino.features.picture import open_image
from nnunet_dino.features.pixels import Preprocessing
from nnunet_dino.features.volume import read_volume
def read():
    kind, items = find_items([sys.argv[1]], sys.argv[2])
    for item in items:
        read_volume(item) if kind == "volumes" else open_image(item, Preprocessing())
read()
seconds = []
for _ in range(3):
    began = time.process_time()
    read()
    seconds.append(time.process_time() - began)
print(json.dumps([min(seconds), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def main() -> None:
    """Measures and prints a table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--before", required=True, type=Path, help="checkout to compare with")
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder)
        print("| files | before, s | now, s | ratio | peak before, MiB | peak now, MiB |\n|---|--:|--:|--:|--:|--:|")
        for what, kind in KINDS.items():
            rounds = [[read(place, folder / what, kind) for place in (given.before, ROOT)] for _ in range(given.rounds)]
            (old, old_peak), (new, new_peak) = (
                map(statistics.median, zip(*one, strict=True)) for one in zip(*rounds, strict=True)
            )
            print(f"| {what} | {old:.2f} | {new:.2f} | {new / old:.2f} | {old_peak:.0f} | {new_peak:.0f} |", flush=True)


def read(package: Path, files: Path, kind: str) -> list[float]:
    """Returns seconds and peak memory in MiB of one process."""
    environment = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", READ, str(files), kind]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=package)
    return json.loads(done.stdout.splitlines()[-1])


def write_files(folder: Path) -> None:
    """Writes the same slices in every format."""
    generator = np.random.default_rng(0)
    coarse = np.kron(generator.integers(0, 2000, (150, 32, 32)), np.ones((1, 16, 16), int))
    values = (coarse + generator.integers(0, 30, coarse.shape)).astype(np.uint16)
    for name in ("series", "dicom", "png"):
        (folder / name).mkdir()
    image = sitk.GetImageFromArray(values.astype(np.int16) - 1024)
    image.SetSpacing((0.8, 0.8, 2.5))
    for name in ("ct.nii.gz", "ct.nii"):
        sitk.WriteImage(image, str(folder / name))
    series = generate_uid()
    for number, pixels in enumerate(values):
        write_slice(folder / "series" / f"{number:03d}.dcm", pixels, series, number)
        if number < 100:
            write_slice(folder / "dicom" / f"{number:03d}.dcm", pixels, series, number)
            Image.fromarray((pixels // 8).astype(np.uint8)).save(folder / "png" / f"{number:03d}.png")


def write_slice(file: Path, pixels: np.ndarray, series: str, number: int) -> None:
    """Writes a slice of a CT."""
    data = pydicom.Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID, data.SeriesInstanceUID = CTImageStorage, generate_uid(), series
    data.Modality, data.PhotometricInterpretation, data.SamplesPerPixel, data.InstanceNumber = "CT", "MONOCHROME2", 1, number
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.RescaleSlope, data.RescaleIntercept, data.WindowCenter, data.WindowWidth = "1", "-1024", "40", "400"
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 2.5 * number], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.PixelData = [0.8, 0.8], pixels.tobytes()
    data.save_as(file, enforce_file_format=True)


if __name__ == "__main__":
    main()
