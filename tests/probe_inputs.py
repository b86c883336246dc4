"""Small pictures, volumes and label files that several test files of the probes use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from PIL import Image

TINY = "dinov3_tiny"
PINK = (200, 120, 170)
SLIDE_PX = (3072, 2048)


def write_pictures(folder: Path, count: int, seed: int = 0, size: tuple[int, int] = (40, 56)) -> list[str]:
    """Writes grey pictures; every second one is bright in its upper half. Returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    names = []
    for number in range(count):
        pixels = generator.integers(0, 120, size=size)
        if number % 2:
            pixels[: size[0] // 2] += 130
        names.append(f"p{number:03d}.png")
        Image.fromarray(pixels.astype(np.uint8)).save(folder / names[-1])
    return names


def write_labels(file: Path, names: list[str], per_patient: int = 2) -> Path:
    """Writes a label file for pictures of :func:`write_pictures`; pictures in a row belong to one patient."""
    rows = [{"file": name, "who": f"P{i // per_patient}", "bright": i % 2} for i, name in enumerate(names)]
    pd.DataFrame(rows).to_csv(file, index=False)
    return file


def asymmetric_volume(spacing_mm: tuple[float, float, float] = (2.5, 1.5, 1.0), code: str = "LPS") -> sitk.Image:
    """Returns a volume ``d h w`` = 6 × 10 × 14 whose values name their place: 100·d + 10·h + w from foot, front and right.

    Args:
        spacing_mm: Along ``d h w``.
        code: Orientation in which it lies in the file.
    """
    d, h, w = np.indices((6, 10, 14))
    image = sitk.GetImageFromArray((100 * d + 10 * h + w).astype(np.int16))
    image.SetSpacing(spacing_mm[::-1])
    return sitk.DICOMOrient(image, code)


def ellipse(downsample: int = 1) -> np.ndarray:
    """Returns where the slide of :func:`write_slide` shows tissue: an ellipse with axes of 2,000 and 1,200 px."""
    width, height = SLIDE_PX
    y, x = np.indices((height // downsample, width // downsample))
    return ((x * downsample - width / 2) / 1000) ** 2 + ((y * downsample - height / 2) / 600) ** 2 <= 1


def write_slide(path: Path) -> str:
    """Writes a pyramid of two levels as scanners do, tiled and with a resolution of 0.25 µm. Returns its path."""
    pytest.importorskip("openslide", reason="OpenSlide is not installed")
    import tifffile

    width, height = SLIDE_PX
    noise = np.random.default_rng(0).integers(-20, 20, size=(height, width, 3))
    pixels = np.where(ellipse()[..., None], np.clip(np.array(PINK) + noise, 0, 255), 245).astype(np.uint8)
    options = {"tile": (256, 256), "photometric": "rgb", "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels, resolution=(40000, 40000), **options)
        writer.write(pixels[::4, ::4], resolution=(10000, 10000), subfiletype=1, **options)
    return str(path)


def files_of(folder: Path) -> dict[str, bytes]:
    """Returns the content of every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
