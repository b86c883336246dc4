"""What ITK passes over in NIfTI files: a missing end is read as zeros, and so are NaN and infinity."""

from __future__ import annotations

import gzip
import zlib

import numpy as np
import SimpleITK as sitk

from nnunet_dino.features.items import Unreadable, decoding

ENDINGS = (".nii", ".nii.gz")
GZIP = b"\x1f\x8b"
FLOATS = {"16": "f4", "64": "f8"}  # NIfTI's codes of data types
HEADER_BYTES = 348
CHUNK_BYTES = 1 << 24


def check_nifti(path: str) -> None:
    """Reads a NIfTI file to its end, through the check sum where it is compressed.

    Raises:
        Unreadable: It is damaged, ends too early, or holds NaN or infinity.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(path)
    with decoding():
        reader.ReadImageInformation()
        facts = {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}
        start = int(float(facts["vox_offset"]))
        counts = [int(facts[f"dim[{axis}]"]) for axis in range(1, int(facts["dim[0]"]) + 1)]
        num_bytes = start + int(np.prod(counts)) * int(facts["bitpix"]) // 8
    with open(path, "rb") as raw:
        is_compressed = raw.read(2) == GZIP
    found, is_finite = 0, True
    try:
        with gzip.open(path) if is_compressed else open(path, "rb") as file:
            head = file.read(start)
            found = len(head)
            order = "<" if int.from_bytes(head[:4], "little") == HEADER_BYTES else ">"
            dtype = np.dtype(order + FLOATS.get(facts["datatype"], "u1"))
            while chunk := file.read(CHUNK_BYTES):
                if dtype.kind == "f":
                    num_values = max(0, min(len(chunk), num_bytes - found)) // dtype.itemsize
                    is_finite = is_finite and bool(np.isfinite(np.frombuffer(chunk, dtype, num_values)).all())
                found += len(chunk)
    except (EOFError, OSError, zlib.error) as error:
        raise Unreadable(f"damaged or cut off ({error}) · get the file again") from error
    if found < num_bytes:
        raise Unreadable(f"cut off: required {num_bytes} bytes, has {found} · get the file again")
    if not is_finite:
        raise Unreadable("required finite values, holds NaN or infinity · save it again with numbers in their place")
