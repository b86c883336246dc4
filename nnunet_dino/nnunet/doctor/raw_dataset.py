"""The doctor's look over a raw data set: geometry, doubles, values of labels. Nothing is changed."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnunet_dino._grids import Grid, difference, itk_reason, unit_of
from nnunet_dino._nnunet_folders import read_json, require_dataset
from nnunet_dino.nnunet.doctor.finding import Check, Finding
from nnunet_dino.nnunet.doctor.nifti_file import look_over_nifti

MAX_SHOWN = 10  # findings of one kind
MAX_SPACING_RATIO = 50  # to that of most cases: more is another unit
LARGEST_AIR_HU = -500


class _Seen(NamedTuple):
    """What is compared between cases, of a case's first image."""

    digest: str
    spacing: tuple[float, ...]
    lowest: float


def checks_of(dataset: str) -> dict[str, Check]:
    """Returns the check of a data set in ``nnUNet_raw``.

    Raises:
        UserError: There is no such data set, or its ``dataset.json`` cannot be read.
    """
    folder = require_dataset(dataset)
    description = read_json(folder / "dataset.json", dict, "correct the file")
    return {folder.name: lambda: _brief(_look_over(folder, description))}


def _brief(findings: Iterator[tuple[str, Finding]]) -> Iterator[Finding]:
    """Shows the first findings of a kind, and counts the others."""
    counts: dict[str, int] = defaultdict(int)
    for kind, finding in findings:
        counts[kind] += 1
        if counts[kind] <= MAX_SHOWN:
            yield finding
    for kind, count in counts.items():
        if count > MAX_SHOWN:
            yield Finding("note", f"{kind}: {count - MAX_SHOWN} more")


def _look_over(folder: Path, description: dict[str, Any]) -> Iterator[tuple[str, Finding]]:
    cases = _cases(folder, description)
    num_channels = len(description.get("channel_names") or description.get("modality") or [0])
    allowed = _label_values(description)
    if not cases:
        yield "cases", Finding("FAIL", f"no training case in {folder / 'imagesTr'}", "see nnU-Net's dataset_format.md")
        return
    if not isinstance(description.get("dataset"), dict):
        yield from _odd_files(folder, description, cases)
    if (expected := description.get("numTraining")) is not None and expected != len(cases):
        text = f"dataset.json: numTraining is {expected}, there are {len(cases)} cases"
        yield "cases", Finding("warn", text, "correct it, or nnUNetv2_plan_and_preprocess --verify_dataset_integrity stops")
    seen: dict[str, _Seen] = {}
    good = set(cases)
    for name, (images, label) in cases.items():
        for finding in _case(name, images, label, num_channels, allowed, seen):
            good.discard(name)
            yield finding
    channels = description.get("channel_names") or description.get("modality") or {}
    for name, finding in _unlike_the_others(seen, is_ct=str(channels.get("0", "")).lower() == "ct"):
        good.discard(name)
        yield finding
    same: dict[str, list[str]] = defaultdict(list)
    for name, one in seen.items():
        same[one.digest].append(name)
    for file in sorted((folder / "imagesTs").glob(f"*_0000{description.get('file_ending', '.nii.gz')}")):
        with contextlib.suppress(Exception):  # whatever the readers run into: it takes no part in training
            same[_digest(_read(file)[0])].append(f"imagesTs/{file.name}")
    for names in same.values():
        if len(names) > 1:
            text = f"the same image in {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            yield "doubles", Finding("warn", text, "keep one, or training, validation and test may hold the same case")
    yield "cases", Finding("ok", f"{len(good)} of {len(cases)} cases without a finding of their own")


def _cases(folder: Path, description: dict[str, Any]) -> dict[str, tuple[list[Path], Path]]:
    """Returns the images and the label of every training case, as nnU-Net finds them."""
    if isinstance(description.get("dataset"), dict):
        return {
            name: ([_absolute(folder, image) for image in case["images"]], _absolute(folder, case["label"]))
            for name, case in description["dataset"].items()
        }
    ending = description.get("file_ending", ".nii.gz")
    images: dict[str, list[Path]] = defaultdict(list)
    for file in sorted((folder / "imagesTr").glob(f"*_[0-9][0-9][0-9][0-9]{ending}")):
        images[file.name[: -len(ending) - 5]].append(file)
    return {name: (files, folder / "labelsTr" / f"{name}{ending}") for name, files in images.items()}


def _absolute(folder: Path, name: str) -> Path:
    return Path(name) if os.path.isabs(name) else folder / name


def _label_values(description: dict[str, Any]) -> set[int]:
    values = (description.get("labels") or {}).values()
    return {0} | {int(one) for value in values for one in (value if isinstance(value, (list, tuple)) else [value])}


def _odd_files(folder: Path, description: dict[str, Any], cases: dict[str, Any]) -> Iterator[tuple[str, Finding]]:
    ending = description.get("file_ending", ".nii.gz")
    for place, stems in (("imagesTr", None), ("labelsTr", set(cases))):
        for path in sorted((folder / place).glob("*")) if (folder / place).is_dir() else ():
            if path.name.startswith(".") or path.name.endswith((".json", ".txt", ".md")):
                continue
            where = path.relative_to(folder)
            if path.is_dir():
                text = f"{where} is a folder, which nnU-Net does not read"
                yield "files", Finding("warn", text, f"convert a DICOM series to one {ending} file, for example with dcm2niix")
            elif not path.name.endswith(ending):
                yield "files", Finding("warn", f"{where}: required file_ending {ending}", "convert it, or remove it")
            elif stems is not None and path.name[: -len(ending)] not in stems:
                yield "files", Finding("warn", f"{where} has no image", "add the image, or remove the label")
            elif stems is None and path.name[: -len(ending) - 5] not in cases:
                yield "files", Finding("warn", f"{where}: required CASE_0000{ending}", "rename it")


def _unlike_the_others(seen: dict[str, _Seen], is_ct: bool) -> Iterator[tuple[str, tuple[str, Finding]]]:
    """Returns findings by case: spacings of another unit, and CT whose air is not where the others have it."""
    if len({len(one.spacing) for one in seen.values()}) != 1:
        return
    usual, air = np.median([one.spacing for one in seen.values()], axis=0), np.median([one.lowest for one in seen.values()])
    for name, (_, spacing, low) in seen.items():
        if max(*(spacing / usual), *(usual / spacing)) > MAX_SPACING_RATIO:
            shown = " × ".join(f"{mm:g}" for mm in spacing), " × ".join(f"{mm:g}" for mm in usual)
            text = f"{name}: its spacing is {shown[0]} mm, that of most cases {shown[1]} mm"
            yield name, ("units", Finding("warn", text, "it may be written in another unit: correct the header"))
        if is_ct and air < LARGEST_AIR_HU <= low:
            text = f"{name}: no value lies below {low:g}, those of most cases reach down to {air:g}"
            yield name, ("values", Finding("warn", text, "it may be stored without its rescale intercept: correct it"))


def _case(
    name: str, images: list[Path], label: Path, num_channels: int, allowed: set[int], seen: dict[str, _Seen]
) -> Iterator[tuple[str, Finding]]:
    """Looks at one case; notes in ``seen`` what its first image holds."""
    if len(images) != num_channels:
        text = f"{name}: required {num_channels} channels by dataset.json, has {len(images)}"
        yield "channels", Finding("FAIL", text, "add the missing file, or correct channel_names")
    first: Grid | None = None
    for file in (*images, label):
        if not file.is_file():
            yield (
                "missing",
                Finding("FAIL", f"{name}: required {file.name}, which does not exist", "add it, or remove the case"),
            )
            continue
        try:
            odd_nifti = list(look_over_nifti(file))
            if any(finding.level == "FAIL" for _, finding in odd_nifti):
                yield from odd_nifti
                continue
            values, grid = _read(file)
        except Exception as error:  # whatever the readers run into
            text = f"{file.name} cannot be read: {itk_reason(error, 150)}"
            yield (
                "reading",
                Finding("FAIL", text, "get the file again, or save it with orthogonal axes (orthonormal directions)"),
            )
            continue
        yield from odd_nifti
        if (unit := unit_of(file)) not in ("", "mm"):
            text = f"{file.name} counts in {unit}, which nnU-Net takes as mm"
            yield "units", Finding("warn", text, "save it in mm, or see that all files count in one unit")
        if len(grid.size) > 3:
            text = f"{file.name}: required three axes, has {len(grid.size)} ({' × '.join(map(str, grid.size))})"
            yield "axes", Finding("FAIL", text, "save every volume as a file of its own, an image's as channels _0000, _0001 …")
            continue
        if first is None:
            first = grid
        elif odd := difference(grid, first):
            text = f"{file.name}: {odd[0]} is {odd[1]}, of {images[0].name} {odd[2]}"
            yield "geometry", Finding("FAIL", text, "resample one to the other")
        if file == label:
            yield from _values_of_label(file, values, allowed)
        else:
            yield from _values_of_image(file, values)
            if file == images[0]:
                seen[name] = _Seen(_digest(values), grid.spacing, float(values.min()) if values.size else 0.0)


def _digest(values: np.ndarray) -> str:
    return hashlib.sha1(np.ascontiguousarray(values).tobytes()).hexdigest()


def _read(file: Path) -> tuple[np.ndarray, Grid]:
    import SimpleITK as sitk

    sitk.ProcessObject.GlobalWarningDisplayOff()
    image = sitk.ReadImage(str(file))
    return sitk.GetArrayFromImage(image), Grid.of(image)


def _values_of_image(file: Path, values: np.ndarray) -> Iterator[tuple[str, Finding]]:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        yield "values", Finding("FAIL", f"{file.name} holds NaN or infinity", "save it again with numbers in their place")
    elif values.size and values.min() == values.max():
        yield "values", Finding("warn", f"{file.name} is constant: every value is {values.flat[0]:g}", "get the file again")


def _values_of_label(file: Path, values: np.ndarray, allowed: set[int]) -> Iterator[tuple[str, Finding]]:
    found = np.unique(values).tolist()
    if odd := [value for value in found if value not in allowed]:
        shown, names = ", ".join(f"{value:g}" for value in odd[:5]), ", ".join(map(str, sorted(allowed)))
        text = f"{file.name} holds {shown}, required the labels of dataset.json: {names}"
        yield "labels", Finding("FAIL", text, "map the values to labels, or correct dataset.json")
    elif len(found) == 1 and found[0] == 0:
        yield "empty labels", Finding("note", f"{file.name} holds the background only")
