"""The test files of pydicom and nibabel: read as their libraries read them, or refused with a reason that names the cause."""

from __future__ import annotations

import gzip
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

from nnunet_dino.features import dicom
from nnunet_dino.features.items import Item, Unreadable
from nnunet_dino.features.picture import read_picture
from nnunet_dino.features.volume import read_volume

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "image-files.md"
NAMES_THE_CAUSE = re.compile(
    r"no image|no pixels|frames|NaN|axes|NIfTI-2|no NIfTI|shear|Missing required|bytes of pixel data|decode|Pillow|damaged"
    r"|cut off|mosaic|identify|no DICOM|colours|complex|orientation|positions|distances|integer|another format"
)


def expected_pixels(path: Path) -> np.ndarray:
    """What pydicom makes of a file: ``h w`` or ``h w 3``, or with frames before."""
    data: Any = pydicom.dcmread(path, force=True)
    values = pixel_array(data)
    if data.PhotometricInterpretation == "PALETTE COLOR":
        return apply_color_lut(values, data)[..., :3]
    return values if data.SamplesPerPixel > 1 else apply_modality_lut(values, data)


def read(path: Path) -> np.ndarray:
    """What this package makes of it, as a picture or else as a volume."""
    try:
        return read_picture(str(path)).values
    except Unreadable as error:
        if "frames" not in str(error):
            raise
        return read_volume(Item(path.name, str(path))).values


def dicom_files() -> list[Path]:
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    return sorted(path for path in folder.rglob("*") if path.is_file() and (path.suffix == ".dcm" or dicom.is_dicom(str(path))))


def test_dicom_files_of_pydicom() -> None:
    counts: Counter[str] = Counter()
    for path in dicom_files():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                expected = expected_pixels(path)
            except Exception:  # whatever it runs into
                expected = None
            try:
                found = read(path)
            except Unreadable as error:
                assert NAMES_THE_CAUSE.search(str(error)), f"{path.name}: {error}"
                counts["no image" if expected is None or "no image" in str(error) else "refused"] += 1
                continue
        if expected is None:
            counts["read, which pydicom does not"] += 1
            continue
        counts["equal"] += 1
        np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-5, atol=1e-3, err_msg=path.name)
    assert row("pydicom", counts) in PAGE.read_text(encoding="utf-8")


def test_volumes_of_nibabel(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    package = Path(nib.__file__).parent
    for path in sorted([*(package / "tests" / "data").iterdir(), *(package / "nicom" / "tests" / "data").iterdir()]):
        if path.is_dir() or path.suffix in (".py", ".txt", ".sh", ".m", ".mat"):
            continue
        if path.name.endswith(".dcm.gz"):
            (tmp_path / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
            path = tmp_path / path.stem
        try:
            found = read_volume(Item(path.name, str(path)))
        except Unreadable as error:
            assert NAMES_THE_CAUSE.search(str(error)), f"{path.name}: {error}"
            counts["refused"] += 1
            continue
        if not path.name.lower().endswith((".nii", ".nii.gz", ".img", ".hdr")):
            counts["read, not by nibabel's own reader"] += 1
            continue
        image = nib.as_closest_canonical(nib.load(path))
        expected = image.get_fdata()[::-1, ::-1].transpose(2, 1, 0)
        np.testing.assert_allclose(found.values, expected, rtol=1e-5, atol=1e-3, err_msg=path.name)
        np.testing.assert_allclose(found.spacing_mm, image.header.get_zooms()[2::-1], rtol=1e-4)
        counts["equal"] += 1
    assert row("nibabel", counts) in PAGE.read_text(encoding="utf-8")


def row(library: str, counts: Counter[str]) -> str:
    """A line of the table on the page."""
    return f"| {library} | " + ", ".join(f"{count} {what}" for what, count in sorted(counts.items())) + " |"
