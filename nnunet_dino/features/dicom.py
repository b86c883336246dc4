"""DICOM files by pydicom: which are images, and their values after rescaling; colours as RGB."""

from __future__ import annotations

import logging
import math
import os
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nnunet_dino.features.items import Unreadable, decoding

if TYPE_CHECKING:
    from pydicom import Dataset

MARK = b"DICM"
FIRST_ELEMENTS = (b"\x02\x00\x00\x00", b"\x02\x00\x10\x00", b"\x08\x00\x00\x00", b"\x08\x00\x01\x00", b"\x08\x00\x05\x00",
                  b"\x08\x00\x08\x00", b"\x08\x00\x12\x00", b"\x08\x00\x16\x00")  # fmt: skip
FIRST_BIG_ENDIAN = tuple(bytes((element[1], element[0], element[3], element[2])) for element in FIRST_ELEMENTS)
VALUE_REPRESENTATIONS = (b"UL", b"CS", b"UI", b"DA", b"OB")
NO_IMAGES = ("RTDOSE", "RTSTRUCT", "RTPLAN", "RTRECORD", "SEG", "PR", "KO", "SR", "REG", "FID", "RWV")
NO_IMAGE_CLASSES = ("dose", "segmentation")  # whatever their modality says
WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
SECONDARY_CAPTURE, RT_IMAGE = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.481.1"
PIXEL_SIZES = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
OF_A_SERIES = ("SOPClassUID", "Modality", "SeriesInstanceUID", "ImageType", "Rows", "Columns", "NumberOfFrames",
               "SamplesPerPixel", "PhotometricInterpretation", "ImagePositionPatient", "ImageOrientationPatient",
               *PIXEL_SIZES)  # fmt: skip
UNKNOWN = "unknown"
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")  # that pydicom turns into RGB
JPEG_END, MAX_BEHIND_JPEG = b"\xff\xd9", 16
NARROW = 1e-3  # of a window that parts values in two
DEFER_BYTES = 4096  # longer values, the pixels, are read when they are asked for


class Shown(NamedTuple):
    """Values and the range of them that the file's own header asks to show."""

    values: np.ndarray
    value_range: tuple[float, float]


def is_dicom(path: str) -> bool:
    """Returns whether a file is DICOM by its content: the mark, or without it a usual first element; indexes are not."""
    if os.path.basename(path).upper().startswith("DICOMDIR"):
        return False
    with open(path, "rb") as file:
        head = file.read(132)
    if head[128:] == MARK:
        return True
    length = int.from_bytes(head[4:8], "little")
    if head[:4] in FIRST_BIG_ENDIAN:
        return head[4:6] in VALUE_REPRESENTATIONS
    return head[:4] in FIRST_ELEMENTS and (head[4:6] in VALUE_REPRESENTATIONS or 0 < length < 128)


def read_header(path: str, is_brief: bool = False) -> Dataset:
    """Reads a file; its pixels are left on the disk until they are asked for.

    Args:
        path: The file.
        is_brief: Only what tells to which series it belongs, which is faster.

    Raises:
        Unreadable: It is damaged or no DICOM.
    """
    import pydicom

    logging.getLogger("pydicom").setLevel("CRITICAL")  # what every decoder says before the next one is tried
    # Values that break rules are common, and said twice.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    with warnings.catch_warnings(), decoding():
        warnings.simplefilter("ignore")
        if is_brief:
            return pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=list(OF_A_SERIES))
        data = pydicom.dcmread(path, defer_size=DEFER_BYTES, force=True)
        if not data:
            raise Unreadable("no DICOM file: it has no elements")
        if "TransferSyntaxUID" not in data.file_meta:
            little, implicit = data.original_encoding[1], data.original_encoding[0]
            syntax = ("1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1") if little else "1.2.840.10008.1.2.2"
            data.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
        return data


def numbers(where: Dataset, name: str) -> tuple[float, ...]:
    """Returns the numbers of an element; none where it is missing or empty.

    Raises:
        Unreadable: It holds something else, or infinity.
    """
    try:
        value = where.get(name)
        one = value is None or isinstance(value, (str, bytes, float, int))
        found = tuple(float(entry) for entry in ([value] if one else value) if entry not in (None, ""))
    except (TypeError, ValueError) as error:
        raise Unreadable(f"required a number in {name}, has none ({error}) · correct it") from error
    if not all(map(math.isfinite, found)):
        raise Unreadable(f"required a number in {name}, has {list(found)} · correct it")
    return found


def number(where: Dataset, name: str, default: float = 0.0) -> float:
    """Returns the one number of an element.

    Raises:
        Unreadable: It holds something else, or several.
    """
    found = numbers(where, name)
    if len(found) > 1:
        raise Unreadable(f"required one number in {name}, has {list(found)} · correct it")
    return found[0] if found else default


def name_of(data: Dataset) -> str:
    """Returns what an object is, in the words of the standard."""
    uid = data.get("SOPClassUID") or data.file_meta.get("MediaStorageSOPClassUID")
    return uid.name if uid else UNKNOWN


def no_image(data: Dataset, is_brief: bool = False) -> str:
    """Returns why an object is no image; nothing is "". Of a brief header only its class and size are looked at."""
    if data.get("Modality") in NO_IMAGES or any(word in name_of(data).lower() for word in NO_IMAGE_CLASSES):
        return f"holds a {name_of(data)}, no image"
    if is_brief:
        return "" if "Rows" in data else "holds no pixels"
    if not any(name in data for name in PIXELS):
        return f"holds no pixels: it is of class {name_of(data)}" if name_of(data) != UNKNOWN else "is no DICOM by its content"
    return ""


def stands_beside(data: Dataset) -> bool:
    """Whether a picture belongs to no volume: a localizer, a report or a screen saved as a picture, a picture of a beam."""
    sop_class = str(data.get("SOPClassUID", ""))
    is_capture = sop_class == SECONDARY_CAPTURE or sop_class.startswith(f"{SECONDARY_CAPTURE}.")
    is_placed = bool(data.get("ImagePositionPatient"))
    return "LOCALIZER" in (data.get("ImageType") or ()) or sop_class == RT_IMAGE or (is_capture and not is_placed)


def require_image(data: Dataset) -> None:
    """Refuses what is no image, one of several sizes, or one that shows many slices as tiles.

    Raises:
        Unreadable: It is.
    """
    if reason := no_image(data):
        raise Unreadable(f"{reason} · leave the file out")
    for name in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel"):
        number(data, name)
    if "MOSAIC" in (data.get("ImageType") or ()):
        raise Unreadable("required slices, has a mosaic: many slices tiled in one picture · convert the series with dcm2niix")


def decoded(data: Dataset) -> np.ndarray:
    """Returns stored values, ``n h w`` or in colour ``n h w 3`` as RGB.

    Raises:
        Unreadable: They are damaged, or compressed in a way unknown here.
    """
    from pydicom.pixels import apply_color_lut, pixel_array

    colours = data.get("PhotometricInterpretation")
    if data.get("SamplesPerPixel") == 3 and colours not in COLOURS:
        raise Unreadable(f"required colours as one of {', '.join(COLOURS)}, has {colours} · save it as RGB")
    _add_decoders()
    with warnings.catch_warnings(), decoding("its pixels cannot be decoded: "):
        warnings.simplefilter("ignore")
        stored, high = (int(number(data, name)) for name in ("BitsStored", "HighBit"))
        shift = high - stored + 1 if stored else 0
        if shift > 0:  # left-aligned, as the standard once allowed
            data.BitsStored = high + 1
        values = pixel_array(data)
        if shift > 0:
            values, data.BitsStored = values >> shift, stored
        if data.PhotometricInterpretation == "PALETTE COLOR":
            values = apply_color_lut(values, data)[..., :3]
        num_axes = 2 if values.shape[-1:] != (3,) or (is_grey(data) and num_frames(data) == 1) else 3
        return values if values.ndim > num_axes else values[None]


def is_available(uid: str) -> bool:
    """Whether the plugin below can be used, as pydicom asks of every plugin's module."""
    return True


# Likewise: JPEG of 12 bits and high-throughput JPEG 2000, which pydicom reads with no other decoder installed here.
DECODER_DEPENDENCIES = {f"1.2.840.10008.1.2.4.{number}": ("imagecodecs",) for number in (51, 201, 202, 203)}


def _add_decoders() -> None:
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    for uid in DECODER_DEPENDENCIES:
        decoder = get_decoder(UID(uid))
        if "imagecodecs" not in decoder.available_plugins:
            decoder.add_plugin("imagecodecs", (__name__, "_by_imagecodecs"))


def _by_imagecodecs(source: bytes, runner: Any) -> bytearray:
    import imagecodecs

    is_jpeg = runner.transfer_syntax == "1.2.840.10008.1.2.4.51"
    pixels = jpeg(source) if is_jpeg else imagecodecs.jpeg2k_decode(source)
    runner.set_option("bits_allocated", 8 * pixels.dtype.itemsize)
    if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):
        runner.set_option("photometric_interpretation", "RGB")  # as the codec gives it
    return bytearray(pixels.tobytes())


def jpeg(content: bytes) -> np.ndarray:
    """Decodes a whole JPEG of 8 to 16 bits, with or without loss.

    Raises:
        ValueError: It is cut off; the decoder would fill the rest with grey.
        RuntimeError: It is damaged.
    """
    import imagecodecs

    if JPEG_END not in content[-MAX_BEHIND_JPEG:]:
        raise ValueError("cut off: JPEG without its end mark")
    return imagecodecs.jpeg_decode(content)


def is_grey(data: Dataset) -> bool:
    """Whether a pixel has one value."""
    return data.get("SamplesPerPixel", 1) == 1 and data.get("PhotometricInterpretation") != "PALETTE COLOR"


def num_frames(data: Dataset) -> int:
    """Returns the number of pictures in a file."""
    return int(number(data, "NumberOfFrames")) or 1


def group(data: Dataset, frame: int, name: str) -> Any:
    """Returns the item of a functional group for a frame of an enhanced object, or the object itself."""
    frames = data.get("PerFrameFunctionalGroupsSequence") or ()
    shared = data.get("SharedFunctionalGroupsSequence") or ()
    for place in (*frames[frame : frame + 1], *shared[:1]):
        if found := place.get(name):
            return found[0]
    return data


def rescale_of(data: Dataset, frame: int) -> tuple[float, float]:
    """Returns slope and intercept of a frame."""
    where = group(data, frame, "PixelValueTransformationSequence")
    return number(where, "RescaleSlope", 1.0), number(where, "RescaleIntercept")


def rescaled(values: np.ndarray, data: Dataset, frame: int = 0) -> np.ndarray:
    """Returns values after the modality's table, or after slope and intercept; whole ones stay whole where they can."""
    if table := data.get("ModalityLUTSequence"):
        return _looked_up(values, table[0], data)
    slope, intercept = rescale_of(data, frame)
    if slope == 1 and intercept == int(intercept) and values.dtype.kind in "iu" and values.itemsize <= 2:
        fits = 2 ** int(data.BitsStored) + abs(intercept) < 2**15
        return np.add(values, int(intercept), dtype=np.int16 if fits else np.int32, casting="unsafe")
    return (values * slope + intercept).astype(np.float32)


def _looked_up(values: np.ndarray, table: Dataset, data: Dataset) -> np.ndarray:
    """Returns the entries of a table (PS3.3 C.11.1.1) for values; eight-bit entries may lie two to a word."""
    with decoding():
        count, first, _ = table.LUTDescriptor
        count, entries = count or 2**16, table.LUTData
        if isinstance(entries, bytes):
            width = 1 if len(entries) < 2 * count else 2
            entries = np.frombuffer(entries[: width * count], f"{'>' if data.original_encoding[1] is False else '<'}u{width}")
        if first >= 2**15 and values.min() < 0:  # written as unsigned
            first -= 2**16
        return np.asarray(entries)[np.clip(values.astype(np.int64) - first, 0, count - 1)].astype(np.float32)


def padding_of(data: Dataset, frame: int = 0) -> tuple[float, float] | None:
    """Returns the range of rescaled values that stand for nothing."""
    if data.get("PixelPaddingValue") is None or data.get("ModalityLUTSequence"):
        return None
    names = ("PixelPaddingValue", "PixelPaddingRangeLimit")
    slope, intercept = rescale_of(data, frame)
    ends = sorted(_as_stored(name, data) * slope + intercept for name in names if data.get(name) is not None)
    return ends[0], ends[-1]


def _as_stored(name: str, data: Dataset) -> int:
    """Files with another representation of the padding than of the pixels are common."""
    value = data[name].value
    value = int.from_bytes(value[:2], "little") if isinstance(value, bytes) else int(number(data, name))
    bits = data.BitsAllocated
    if data.get("PixelRepresentation") == 1 and value >= 2 ** (bits - 1):
        return value - 2**bits
    return value + 2**bits if data.get("PixelRepresentation") == 0 and value < 0 else value


def as_header_asks(values: np.ndarray, data: Dataset) -> Shown | None:
    """Returns rescaled values by the first table or window of the header; None where it has none."""
    where = group(data, 0, "FrameVOILUTSequence")
    if table := where.get("VOILUTSequence"):
        return Shown(_looked_up(values, table[0], data), (0.0, float(2 ** (table[0].LUTDescriptor[2] or 16) - 1)))
    try:
        center, width = (numbers(where, name)[0] for name in ("WindowCenter", "WindowWidth"))
    except (Unreadable, IndexError):
        return None
    function = str(where.get("VOILUTFunction") or "LINEAR").upper()
    if function == "SIGMOID" and width > 0:
        return Shown(1 / (1 + np.exp(-4 * (values - center) / width)), (0.0, 1.0))
    if function == "LINEAR_EXACT" and width > 0:
        return Shown(values, (center - width / 2, center + width / 2))
    if width < 1:
        return None
    half = max(width - 1, NARROW) / 2
    return Shown(values, (center - 0.5 - half, center - 0.5 + half))  # PS3.3 C.11.2.1.2.1


def pixel_size(data: Dataset, frame: int = 0) -> tuple[float, float] | None:
    """Returns height and width of a pixel in mm, or their ratio where only that is known."""
    where = group(data, frame, "PixelMeasuresSequence")
    for size in (numbers(source, name) for name in PIXEL_SIZES for source in (where, data)):
        if len(size) == 2 and min(size) > 0:
            return size[0], size[1]
    return None
