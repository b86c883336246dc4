"""NIfTI files by nibabel: its rules for slope and orientation, and what it passes over."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from dataclasses import replace
from typing import Any

import numpy as np

from nnunet_dino._grids import by
from nnunet_dino.features.items import Unreadable, decoding
from nnunet_dino.features.orientation import Volume, chosen_volume, in_patient_axes, notes_on_shear, refuse_further_volumes
from nnunet_dino.features.pixels import as_torch_type, require_finite

ENDINGS = (".nii", ".nii.gz", ".hdr", ".img")
GZIP = b"\x1f\x8b"
MM = {1: 1000.0, 3: 0.001}  # of metres and micrometres, as xyzt_units writes them
HEADER = "required a header as NIfTI defines it, has another: "
PIXDIM = "pixdim"  # as the file has it: nibabel takes 0 for 1
MIN_OFFSET = 352  # of values behind a header in one file


def check_nifti(path: str) -> None:
    """Reads a NIfTI file to its end, through the check sum where it is compressed.

    Raises:
        Unreadable: It is damaged, ends too early, or holds NaN or infinity.
    """
    _plain(_stored(path))


def read_nifti(path: str, number: int | None = None) -> Volume:
    """Reads a volume to the nearest axes of the patient.

    Args:
        path: The file.
        number: Which of several volumes, from 0.

    Raises:
        Unreadable: It is damaged, has no three axes or no real values, or is sheared.
    """
    image = _stored(path)
    shape = (*image.shape[:3], *(count for count in image.shape[3:] if count != 1))
    notes = []
    if len(shape) == 4:
        number = chosen_volume(number, shape[3], f"required three axes, has 4 ({' × '.join(map(str, shape))})")
        notes.append(f"volume {number} of {shape[3]}")
    elif len(shape) != 3:
        raise Unreadable(f"required three axes, has {len(shape)} ({' × '.join(map(str, shape))})")
    else:
        refuse_further_volumes(number)
    values = _plain(image, number if len(shape) == 4 else None, shape)
    affine = np.diag([-1, -1, 1, 1]) @ image.affine  # RAS to LPS
    affine[:3] *= _mm(image)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise Unreadable("required an orientation, has an affine that is not finite or flat · correct the header")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    volume = in_patient_axes(values.reshape(shape[:3]), affine[:3, :3] / spacing, tuple(spacing))
    notes += _notes_on_geometry(image, affine[:3, :3] / spacing)
    return replace(volume, values=np.ascontiguousarray(volume.values), notes=tuple(notes))


def read_flat(path: str) -> tuple[np.ndarray, tuple[float, ...]]:
    """Returns the values of a file in its own axes, last axis first, and their spacing in the same order."""
    image = _stored(path)
    values = _plain(image)
    spacing = [float(zoom) * (_mm(image) if axis < 3 else 1.0) for axis, zoom in enumerate(image.header.get_zooms())]
    return np.ascontiguousarray(values.T), tuple(spacing[::-1])


def _mm(image: Any) -> float:
    """Returns the length in mm that a header counts in."""
    return MM.get(int(image.header["xyzt_units"]) & 7, 1.0)


def _stored(path: str) -> Any:
    """Returns nibabel's image of a file whose bytes were read to their end."""
    import nibabel as nib

    nib.imageglobals.logger.setLevel("CRITICAL")  # what it says of headers, and mends
    with decoding(HEADER):
        if path.lower().endswith((".hdr", ".img")):
            pair = [os.path.splitext(path)[0] + ending for ending in (".hdr", ".img")]
            if missing := [name for name in pair if not os.path.isfile(name)]:
                raise Unreadable(f"cut off: required a pair of .hdr and .img, has no {os.path.basename(missing[0])}")
            image = nib.load(pair[0])
            if not isinstance(image, nib.Nifti1Pair) or isinstance(image, nib.Nifti2Pair):
                raise Unreadable(f"no NIfTI file: {type(image).__name__}, whose orientation is not sure · convert it to NIfTI")
            return image
        content = _unpacked(path)
        if content[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c"):
            raise Unreadable(
                "is NIfTI-2, which nnU-Net's readers do not know either · convert it to NIfTI-1: "
                "nibabel.save(nibabel.Nifti1Image.from_image(nibabel.load(FILE)), NEW)"
            )
        if content[:4] not in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c"):
            raise Unreadable("no NIfTI file by its content · give it the ending of what it is")
        header = nib.Nifti1Header.from_fileobj(io.BytesIO(content), check=False)
        start, count = int(header.get_data_offset()), int(np.prod([max(n, 1) for n in header.get_data_shape()]))
        if start < MIN_OFFSET:
            raise Unreadable(f"required values behind the header, from byte {MIN_OFFSET}, has vox_offset {start} · correct it")
        num_bytes = start + count * header.get_data_dtype().itemsize
        if len(content) < num_bytes:
            raise Unreadable(f"cut off: required {num_bytes} bytes, has {len(content)} · get the file again")
        image = nib.Nifti1Image.from_bytes(content)
        image.extra[PIXDIM] = header["pixdim"][1:4].copy()
        return image


def _unpacked(path: str) -> bytes:
    """Returns the bytes of a file, unpacked where they are packed, whatever its ending."""
    try:
        with open(path, "rb") as file:
            is_packed = file.read(2) == GZIP
        with gzip.open(path) if is_packed else open(path, "rb") as file:
            content = file.read()
        return gzip.decompress(content) if content[:2] == GZIP else content
    except (EOFError, OSError, zlib.error) as error:
        raise Unreadable(f"damaged or cut off ({error}) · get the file again") from error


def _plain(image: Any, number: int | None = None, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Returns finite values, slope and intercept applied once, of a type that torch has.

    Args:
        image: Of nibabel.
        number: Which entry of the last axis to take; None for all.
        shape: Without axes of one entry; None for that of the file.
    """
    with decoding(HEADER):
        slope, intercept = image.dataobj.slope, image.dataobj.inter  # 1 and 0 where the header's slope is 0
        values = np.asanyarray(image.dataobj.get_unscaled())
    if (unpacked := image.file_map["image"].fileobj) is not None:
        unpacked.close()  # frees its bytes, so that no more than two copies of the values are ever held
    values = values if shape is None else values.reshape(shape)
    values = values if number is None else values[..., number]
    if values.dtype.kind not in "iuf":
        what = "complex values" if values.dtype.kind == "c" else "colours"
        raise Unreadable(f"required one real value in every voxel, has {what} · save the magnitude or one channel")
    require_finite(values)
    if (slope, intercept) != (1, 0):
        scaled = as_torch_type(values).astype(np.float32)
        with np.errstate(over="ignore"):
            scaled *= np.float32(slope)
            scaled += np.float32(intercept)
        require_finite(scaled)
        return scaled
    return as_torch_type(values)


def _notes_on_geometry(image: Any, directions: np.ndarray) -> list[str]:
    """Returns what had to be decided on the orientation.

    Raises:
        Unreadable: The axes are far from being at right angles.
    """
    notes = notes_on_shear(directions)
    header = image.header
    sizes, zooms = np.linalg.norm(image.affine[:3, :3], axis=0), np.asarray(header.get_zooms()[:3])
    stored = image.extra.get(PIXDIM, zooms)
    codes = int(header["sform_code"]), int(header["qform_code"])
    if codes[0] <= 0 and not (np.isfinite(stored) & (stored > 0)).all():
        notes.append(
            f"pixdim says no positive spacing ({by(stored)}): {by(sizes)} mm were taken, as nibabel does; correct the header"
        )
    elif not np.allclose(sizes, zooms, rtol=0.01):
        notes.append(f"pixdim says {by(zooms)} where the sform says {by(sizes)}: the sform was taken, as nibabel does")
    if codes == (0, 0):
        notes.append("neither sform nor qform says the orientation: taken as nibabel does, the first axis towards the left")
    elif min(codes) > 0:
        with decoding():
            sform, qform = header.get_sform(), header.get_qform()
        size = np.linalg.norm(sform[:3, :3], axis=0)
        if not np.allclose(sform[:3, :3] / size, qform[:3, :3] / size, atol=0.02) or not np.allclose(
            sform[:3, 3], qform[:3, 3], atol=max(1.0, float(size.max()))
        ):
            notes.append("sform and qform differ: the sform was taken, as nibabel does; SimpleITK may take the qform")
    return notes
