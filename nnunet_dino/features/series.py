"""A DICOM series as a volume: slices sorted by their positions, every distance checked."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from nnunet_dino.features import dicom
from nnunet_dino.features.items import Item, Unreadable
from nnunet_dino.features.orientation import Volume, chosen_volume, in_patient_axes, refuse_further_volumes
from nnunet_dino.features.pixels import require_finite

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_FOREIGN = 0.25  # of all slices: more than that is not one series with a localizer in it
DISTANCE_TOLERANCE = 0.05  # of the distance between slices
DIRECTION_TOLERANCE, PIXEL_TOLERANCE = 0.01, 0.001  # between slices of one kind, of unit vectors and of the size of pixels
RIGHT_ANGLE_TOLERANCE = 0.02  # cosine
TILT_PX = 0.5  # smaller shifts between the first and the last slice are rounding
WIDE_GAP = 1.9  # thicknesses between slices
# What tells volumes at the same positions apart, the first that differs: functional group and name, or the name alone.
TIMES = (("FrameContentSequence", "TemporalPositionIndex"), ("", "TemporalPositionIdentifier"), ("", "AcquisitionNumber"),
         ("", "EchoNumbers"), ("MREchoSequence", "EffectiveEchoTime"), ("", "EchoTime"),
         ("MRDiffusionSequence", "DiffusionBValue"), ("", "TriggerTime"), ("", "AcquisitionTime"))  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """A slice in a file of its own, or a frame of one.

    Attributes:
        path: The file.
        data: Its header.
        frame: Which picture of the file.
        position: Of the first pixel's centre in mm, LPS.
        axes: Unit vectors along a row and along a column, ``2 3``.
    """

    path: str
    data: Dataset
    frame: int
    position: np.ndarray | None
    axes: np.ndarray | None

    @property
    def pixel_hw(self) -> tuple[float, float] | None:
        """Height and width of a pixel in mm, where they are known."""
        return dicom.pixel_size(self.data, self.frame)

    def is_like(self, other: Slice) -> bool:
        """Whether two slices may lie in one volume: same patient, matrix, polarity, orientation and size of pixels."""
        return (
            all(self.data.get(name) == other.data.get(name) for name in ("PatientID", "Rows", "Columns"))
            and dicom.is_grey(self.data) == dicom.is_grey(other.data)
            and _is_inverted([self]) == _is_inverted([other])
            and _are_close(self.axes, other.axes, atol=DIRECTION_TOLERANCE)
            and _are_close(self.pixel_hw, other.pixel_hw, rtol=PIXEL_TOLERANCE)
        )

    @property
    def name(self) -> str:
        return os.path.basename(self.path) + (f" frame {self.frame + 1}" if dicom.num_frames(self.data) > 1 else "")


def _are_close(one: Any, other: Any, rtol: float = 0.0, atol: float = 0.0) -> bool:
    """Whether two vectors are nearly equal, or both are unknown."""
    if one is None or other is None:
        return one is other
    return np.allclose(one, other, rtol=rtol, atol=atol)


def _kinds(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Returns slices that are alike together, the largest group first."""
    groups: list[list[Slice]] = []
    for one in slices:
        group = next((group for group in groups if one.is_like(group[0])), None)
        groups.append([one]) if group is None else group.append(one)
    return sorted(groups, key=len, reverse=True)


def with_series(items: Sequence[Item]) -> list[Item]:
    """Replaces folders by the image series in them; a folder with several gives an item for each."""
    result: list[Item] = []
    for item in items:
        if not os.path.isdir(item.path):
            result.append(item)
            continue
        try:
            series, notes = _series_in(item.path, is_brief=True)
        except Unreadable:  # said when it is read
            series, notes = {}, []
        if len(series) < 2:
            result.append(item)
            continue
        for uid, files in sorted(series.items()):
            paths = tuple(path for path, _ in files)
            result.append(replace(item, id=f"{item.id}/{uid}", series=uid, files=paths, notes=tuple(notes)))
    return result


def _series_in(folder: str, is_brief: bool = False) -> tuple[dict[str, list[tuple[str, Dataset]]], list[str]]:
    """Returns the images of a folder by their series, and what was decided on the way."""
    series: dict[str, list[tuple[str, Dataset]]] = defaultdict(list)
    left_out: list[str] = []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name.startswith(".") or not os.path.isfile(path) or not dicom.is_dicom(path):
            continue
        data = dicom.read_header(path, is_brief)
        if dicom.no_image(data, is_brief):
            left_out.append(dicom.name_of(data))
        else:
            series[str(data.get("SeriesInstanceUID", ""))].append((path, data))
    counts = ", ".join(f"{count} {name}" for name, count in sorted(Counter(left_out).items()))
    notes = [f"left out, as they hold no image: {counts}"] if counts else []
    beside = [uid for uid, files in series.items() if all(dicom.stands_beside(data) for _, data in files)]
    if beside and len(beside) < len(series):
        notes.append(f"left out: {len(beside)} series of localizers, screens or reports")
        series = {uid: files for uid, files in series.items() if uid not in beside}
    if len(series) > 2 and all(len(files) == 1 for files in series.values()):
        slices = [one for ((path, data),) in series.values() for one in _placed(path, data)]
        alike = _kinds(slices)[0]
        places = {tuple(one.position) for one in alike if one.position is not None}
        if len(slices) - len(alike) <= MAX_FOREIGN * len(slices) and len(places) == len(alike):
            notes.append(f"every one of {len(slices)} slices has a SeriesInstanceUID of its own; they were joined")
            series = {"": [files[0] for files in series.values()]}
    return series, notes


def read_folder(item: Item, number: int | None = None) -> Volume:
    """Reads a series of a folder.

    Args:
        item: The folder, and the series where there are several.
        number: Which of several volumes at the same positions, from 0.

    Raises:
        Unreadable: It is not one whole series.
    """
    if item.files:
        own = [(path, dicom.read_header(path)) for path in item.files]
        return as_volume([one for file in own for one in slices_of(*file)], list(item.notes), number)
    series, notes = _series_in(item.path)
    if not series:
        raise Unreadable("; ".join(["folder without a DICOM series", *notes]))
    if not item.series and len(series) > 1:
        raise Unreadable(f"required one DICOM series, has {len(series)}")
    files = series.get(item.series or next(iter(series)))
    if files is None:
        raise Unreadable("; ".join([f"required the images of series {item.series}, has none", *notes]))
    return as_volume([one for file in files for one in slices_of(*file)], notes, number)


def read_file(path: str, number: int | None = None) -> Volume:
    """Reads a file of one or more frames.

    Raises:
        Unreadable: It is no image, or its frames are not one volume.
    """
    return as_volume(slices_of(path, dicom.read_header(path)), [], number)


def slices_of(path: str, data: Dataset) -> list[Slice]:
    """Returns the slices of a file.

    Raises:
        Unreadable: It is no image.
    """
    dicom.require_image(data)
    return _placed(path, data)


def _placed(path: str, data: Dataset) -> list[Slice]:
    found = []
    for frame in range(dicom.num_frames(data)):
        position = dicom.numbers(dicom.group(data, frame, "PlanePositionSequence"), "ImagePositionPatient")
        axes = dicom.numbers(dicom.group(data, frame, "PlaneOrientationSequence"), "ImageOrientationPatient")
        is_placed = len(position) == 3 and len(axes) == 6
        if dicom.num_frames(data) > 1 and "PerFrameFunctionalGroupsSequence" not in data:
            is_placed = False  # one position for all frames
        directions = np.array(axes, float).reshape(2, 3) if is_placed else np.zeros((2, 3))
        lengths = np.linalg.norm(directions, axis=1, keepdims=True)
        if not lengths.all():
            found.append(Slice(path, data, frame, None, None))
        else:
            found.append(Slice(path, data, frame, np.array(position, float), directions / lengths))
    return found


def as_volume(slices: list[Slice], notes: list[str], number: int | None = None) -> Volume:
    """Puts slices together.

    Raises:
        Unreadable: They are not the slices of one volume at even distances.
    """
    slices, notes = _of_one_kind(slices, list(notes))
    if any(one.position is None for one in slices):
        refuse_further_volumes(number, because="there are no positions to tell volumes apart")
        return _without_positions(slices, notes)
    axes = slices[0].axes
    assert axes is not None
    if abs(axes[0] @ axes[1]) > RIGHT_ANGLE_TOLERANCE:
        raise Unreadable(
            f"required rows and columns at right angles in ImageOrientationPatient, has {np.round(axes, 4).tolist()} in "
            f"{slices[0].name} · correct it"
        )
    normal = np.cross(*axes)
    slices = sorted(slices, key=lambda one: float(normal @ one.position))
    slices, more = _of_one_time(slices, normal, number)
    step_mm, positions = _distance(slices, normal)
    if len(slices) > 1:
        more += _notes_on_distance(step_mm, dicom.group(slices[0].data, slices[0].frame, "PixelMeasuresSequence"))
    pixel_hw, unknown = _pixel_hw(slices)
    more += unknown
    if len({str(one.data.get("FrameOfReferenceUID", "")) for one in slices}) > 1:
        more.append("slices name several frames of reference; their positions are taken for those of one")
    values, padding = _values(slices)
    shifts = _tilt(positions, axes, normal, pixel_hw, slices)
    if shifts is not None:
        run_mm = shifts[-1] * pixel_hw
        angle = np.degrees(np.arctan2(np.linalg.norm(run_mm), step_mm * (len(slices) - 1)))
        more.append(f"gantry tilt of {angle:.1f} degrees was taken out by resampling")
        values = _sheared_back(values, shifts)
    directions = np.stack([normal, axes[1], axes[0]], axis=1)
    volume = in_patient_axes(values, directions, (step_mm, *pixel_hw))
    return replace(volume, notes=(*notes, *more), is_inverted=_is_inverted(slices), padding=padding)


def _of_one_kind(slices: list[Slice], notes: list[str]) -> tuple[list[Slice], list[str]]:
    """Leaves out a few slices of another matrix or orientation, such as localizers."""
    alike, *others = _kinds(slices)
    if not others:
        return slices, notes
    foreign = [one.name for group in others for one in group]
    shown = ", ".join(foreign[:3]) + (" …" if len(foreign) > 3 else "")
    if len(foreign) > MAX_FOREIGN * len(slices):
        raise Unreadable(
            f"required slices of one patient, orientation, matrix, size of pixels and polarity, has {len(alike)} and "
            f"{len(foreign)} others ({shown}) · move them into folders of their own"
        )
    words = (
        f"left out: {len(foreign)} of {len(slices)} slices, whose patient, orientation, matrix or pixels are others ({shown})"
    )
    return alike, [*notes, words]


def _of_one_time(slices: list[Slice], normal: np.ndarray, number: int | None) -> tuple[list[Slice], list[str]]:
    """Returns the slices of one volume where every position is there several times, as in phases and echoes."""
    heights = np.array([normal @ one.position for one in slices])
    spread = heights[-1] - heights[0]
    is_new = np.diff(heights, prepend=-np.inf) > max(1e-3, 1e-4 * spread / len(slices))
    place = np.cumsum(is_new) - 1
    counts = np.bincount(place)
    if counts.max() == 1:
        refuse_further_volumes(number)
        return slices, []
    where = int(counts.argmax())
    twice = [one.name for one, at in zip(slices, place, strict=True) if at == where][:2]
    if counts.min() != counts.max():
        raise Unreadable(
            f"required one slice at every position, has {counts.max()} at {heights[place == where][0]:g} mm "
            f"({' and '.join(twice)}) and {counts.min()} elsewhere · remove the doubled ones"
        )
    otherwise = f"required one volume, has {counts[0]} slices at every position (such as {' and '.join(twice)})"
    number = chosen_volume(number, int(counts[0]), otherwise)
    chosen = [
        sorted((one for one, at in zip(slices, place, strict=True) if at == p), key=_order)[number] for p in range(len(counts))
    ]
    return chosen, [f"volume {number} of {counts[0]} at the same positions"]


def _order(one: Slice) -> tuple[Any, ...]:
    """In which order slices were taken, where their positions do not say."""
    times = [dicom.group(one.data, one.frame, group).get(name) for group, name in TIMES]
    kind = "/".join(map(str, one.data.get("ImageType") or ()))  # magnitude and phase, water and fat
    return (*map(_as_number, times), kind, _as_number(one.data.get("InstanceNumber")), one.frame)


def _as_number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def _distance(slices: list[Slice], normal: np.ndarray) -> tuple[float, np.ndarray]:
    """Returns the distance of slices, and their positions ``n 3``."""
    positions = np.stack([one.position for one in slices])  # type: ignore[misc]
    if len(slices) == 1:
        where = dicom.group(slices[0].data, slices[0].frame, "PixelMeasuresSequence")
        return _stated_distance(where) or 1.0, positions
    distances = np.diff(positions @ normal)
    usual = float(np.median(distances))
    worst = int(np.abs(distances - usual).argmax())
    if abs(distances[worst] - usual) > DISTANCE_TOLERANCE * usual + 0.01:
        missing = " (slices are missing)" if distances[worst] > 1.5 * usual else ""
        raise Unreadable(
            f"required even distances between slices{missing}, has {distances[worst]:.5g} mm between {slices[worst].name} and "
            f"{slices[worst + 1].name} where {usual:.5g} mm are usual · get the whole series, or resample it"
        )
    return float(distances.mean()), positions


def _stated_distance(where: Dataset) -> float:
    """Returns the distance of slices that a header states, which may be negative there (NM); 0 where it does not."""
    return abs(dicom.number(where, "SpacingBetweenSlices") or dicom.number(where, "SliceThickness"))


def _notes_on_distance(step_mm: float, where: Dataset) -> list[str]:
    """Returns where a header lets expect other distances, or cannot say: slices may be missing at even distances."""
    try:
        thickness, stated = (abs(dicom.number(where, name)) for name in ("SliceThickness", "SpacingBetweenSlices"))
    except Unreadable as error:
        return [f"slices are {step_mm:g} mm apart; the header's own distance: {str(error).split(' · ')[0]}"]
    if thickness > 0 and step_mm > WIDE_GAP * thickness:
        return [f"slices are {step_mm:g} mm apart and {thickness:g} mm thick"]
    if stated > 0 and abs(step_mm - stated) > DISTANCE_TOLERANCE * stated:
        return [f"slices are {step_mm:g} mm apart where SpacingBetweenSlices says {stated:g} mm"]
    return []


def _tilt(
    positions: np.ndarray, axes: np.ndarray, normal: np.ndarray, pixel_hw: tuple[float, float], slices: list[Slice]
) -> np.ndarray | None:
    """Returns by how many pixels slices are shifted along ``h w``, ``n 2``; None where they are not."""
    away = positions - positions[0]
    shifts = np.stack([away @ axes[1], away @ axes[0]], axis=1) / pixel_hw
    if np.abs(shifts).max() <= TILT_PX:
        return None
    even = np.linspace(0, 1, len(shifts))[:, None] * shifts[-1]
    worst = int(np.abs(shifts - even).max(1).argmax())
    if np.abs(shifts - even)[worst].max() > TILT_PX:
        raise Unreadable(
            f"required slices above one another, or an even tilt, has {slices[worst].name} shifted by "
            f"{np.abs(shifts - even)[worst].max():.3g} pixels · resample the series"
        )
    return shifts


def _sheared_back(values: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Shifts every slice to where it was, on a plane large enough for all; the lowest value fills the rest."""
    starts = np.floor(shifts.min(0)).astype(int)
    more = np.ceil(shifts.max(0)).astype(int) - starts
    lowest = values.min()
    result = np.full((len(values), *(np.array(values.shape[1:3]) + more)), lowest, np.float32)
    for number, shift in enumerate(shifts - starts):
        result[number, : values.shape[1], : values.shape[2]] = values[number]
        result[number] = ndimage.shift(result[number], shift, order=1, cval=lowest)
    return result


def _without_positions(slices: list[Slice], notes: list[str]) -> Volume:
    """By the location of slices, else in the order of their numbers, or of frames in their file."""
    first = slices[0].data
    locations = [dicom.numbers(one.data, "SliceLocation") for one in slices]
    is_one_file = len({one.path for one in slices}) == 1
    if len(slices) > 1 and not is_one_file and all(locations) and len(set(locations)) == len(slices):
        slices = sorted(slices, key=lambda one: dicom.number(one.data, "SliceLocation"))
        placed = [replace(one, position=np.array([0, 0, float(one.data.SliceLocation)])) for one in slices]
        step, _ = _distance(placed, np.array([0, 0, 1.0]))
        how, more = "sorted by SliceLocation", _notes_on_distance(step, first)
    elif is_one_file:
        step, how, more = _stated_distance(first), "in the order of the file", []
    else:
        numbers = [dicom.numbers(one.data, "InstanceNumber") for one in slices]
        if not all(numbers) or len(set(numbers)) < len(slices):
            raise Unreadable("required ImagePositionPatient, SliceLocation or InstanceNumber in every slice, has none of them")
        slices = sorted(slices, key=lambda one: dicom.number(one.data, "InstanceNumber"))
        step, how, more = _stated_distance(first), "sorted by InstanceNumber", []
    if len(slices) > 1:
        distance = f"{step:g} mm apart" if step > 0 else "their distance is not known, 1 mm was taken"
        notes = [*notes, f"no ImagePositionPatient or ImageOrientationPatient: slices {how}, {distance}, taken as axial", *more]
    pixel_hw, unknown = _pixel_hw(slices)
    values, padding = _values(slices)
    return Volume(values, (step or 1.0, *pixel_hw), len(slices) > 1, (*notes, *unknown), _is_inverted(slices), padding)


def _pixel_hw(slices: list[Slice]) -> tuple[tuple[float, float], list[str]]:
    """Returns height and width of a pixel in mm, and that they are not known if so."""
    if known := slices[0].pixel_hw:
        return known, []
    return (1.0, 1.0), ["the size of pixels is not known: 1 × 1 mm was taken"]


def _is_inverted(slices: list[Slice]) -> bool:
    return slices[0].data.get("PhotometricInterpretation") == "MONOCHROME1"


def _values(slices: list[Slice]) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Returns the values ``n h w`` of slices, each by its own slope and intercept, and those that stand for nothing."""
    files: dict[str, np.ndarray] = {}
    whole: np.ndarray | None = None
    paddings = {dicom.padding_of(one.data, one.frame) for one in slices}
    for number, one in enumerate(slices):
        if one.path not in files:
            try:
                files = {one.path: dicom.decoded(one.data)}  # of one file at a time: frames of several are not mixed
            except Unreadable as error:
                raise Unreadable(f"{one.name}: {error}") from error
            for name in [name for name in dicom.PIXELS if name in one.data]:  # kept beside what was decoded
                del one.data[name]
        stored = files[one.path]
        if one.frame >= len(stored):
            raise Unreadable(f"damaged: required {dicom.num_frames(one.data)} frames, has {len(stored)}: {one.name}")
        values = stored[one.frame] if stored.ndim > 3 else dicom.rescaled(stored[one.frame], one.data, one.frame)
        if whole is None:
            whole = np.empty((len(slices), *values.shape), values.dtype)
        if whole.dtype.kind != "f":  # a later slice may need more bits
            whole = whole.astype(np.float32 if values.dtype.kind == "f" else np.result_type(whole, values), copy=False)
        whole[number] = values
    assert whole is not None
    require_finite(whole)
    return whole, paddings.pop() if len(paddings) == 1 else None
