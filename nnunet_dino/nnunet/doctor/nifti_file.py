"""The doctor's look at a NIfTI file: cut off, of another kind, NaN, scaling, two orientations."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_dino.nnunet.doctor.finding import Finding


def look_over_nifti(file: Path) -> Iterator[tuple[str, Finding]]:
    """Yields, each with its kind, what SimpleITK passes over or does not name; nothing of other formats.

    Raises:
        Exception: It is damaged: whatever gzip and nibabel raise.
    """
    if not file.name.lower().endswith((".nii", ".nii.gz")):
        return
    import nibabel as nib

    if file.name.lower().endswith(".gz"):
        with gzip.open(file) as packed:  # to the check sum at its end
            while packed.read(2**20):
                pass
    image: Any = nib.load(file)
    if isinstance(image, nib.Nifti2Image):
        text = f"{file.name} is NIfTI-2, which nnU-Net's readers do not know"
        yield (
            "NIfTI-2",
            Finding("FAIL", text, "convert it: nibabel.save(nibabel.Nifti1Image.from_image(nibabel.load(FILE)), NEW)"),
        )
        return
    header = image.header
    if (kind := header.get_data_dtype().kind) not in "iuf":
        text = f"{file.name} holds {'complex values' if kind == 'c' else 'colours'}, required one real value in every voxel"
        yield "values", Finding("FAIL", text, "save the magnitude or one channel")
        return
    if kind == "f" and not np.isfinite(image.dataobj.get_unscaled()).all():
        text = f"{file.name} holds NaN or infinity, which SimpleITK reads as 0 without a word"
        yield "values", Finding("warn", text, "save it again with numbers in their place")
    with nib.openers.ImageOpener(str(file)) as opened:
        stored = nib.Nifti1Header.from_fileobj(opened, check=False)
    if stored["scl_slope"] == 0 and stored["scl_inter"] != 0:
        text = f"{file.name}: scl_slope 0 means no scaling, but SimpleITK adds scl_inter {stored['scl_inter']:g}"
        yield "scaling", Finding("warn", text, "save it again with the values that are meant")
    if min(int(header["sform_code"]), int(header["qform_code"])) <= 0:
        return
    sform, qform = header.get_sform(), header.get_qform()
    size = float(np.linalg.norm(sform[:3, :3], axis=0).max())
    if not np.allclose(sform[:3, :3], qform[:3, :3], atol=0.02 * size) or not np.allclose(sform, qform, atol=max(1.0, size)):
        text = f"{file.name}: sform and qform differ, so that programs show it in different places"
        yield "sform and qform", Finding("warn", text, "find out which is right and save the file with it alone")
