"""Image files as they come in the field: each gives the right features, or is refused, or what was decided is said."""

from __future__ import annotations

import gzip
import importlib.util
import json
import re
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from probe_inputs import TINY

from nnunet_dino._errors import UserError
from nnunet_dino.backbones import weights
from nnunet_dino.cli.main import main
from nnunet_dino.features import dicom, open_store
from nnunet_dino.features.inputs import find_items, read_csv
from nnunet_dino.features.items import Item, Unreadable
from nnunet_dino.features.picture import open_image, read_picture
from nnunet_dino.features.pixels import Preprocessing, show_square
from nnunet_dino.features.volume import Slicing, open_volume, read_volume
from nnunet_dino.probes.splits import refuse_two_spellings

MAKER = Path(__file__).parents[1].parent / "shared" / "fixtures" / "field" / "make_images.py"
MAX_DIFFERENCE = 0.006
OF_A_LIBRARY = re.compile(r"sitk::|itk::|WARNING: In|invalid logic|Traceback|[A-Z]\w+Error:")

# What of the cause must be found in what is said.
SAID = {
    "series_with_a_missing_slice": "missing.*10 mm.*5 mm",
    "series_with_two_time_points": "2 slices at every position",
    "series_with_a_localizer": "1 of 13 slices.*orientation.*000.dcm",
    "series_without_positions": "no ImagePositionPatient.*SliceLocation",
    "series_with_gantry_tilt": "tilt.*20",
    "siemens_mosaic": "mosaic",
    "radiotherapy_export": "RT Dose Storage",
    "words_of_gdcm": "RT Dose Storage.*no image",
    "window_beside_the_values": "window.*black",
    "volume_of_few_voxels": "percentiles",
    "sform_and_qform_differ_in_left_and_right": "sform.*qform",
    "nearly_orthonormal": "shear",
    "nifti_2": "NIfTI-2.*convert",
    "slide_with_72_dpi": "352.*--slide-mpp",
    "patient_written_in_two_ways": "'0+1?'.*'[01]'|'[01]'.*'0+1?'",
    "label_nan": "'nan'.*missing",
    "predictions_stored_the_other_way_round": "origin|direction",
    "masks_of_0_and_255": "255",
}


def load_maker() -> ModuleType | None:
    """The maker beside the repository, or nothing."""
    if not MAKER.is_file() or any(importlib.util.find_spec(name) is None for name in ("pydicom", "nibabel", "tifffile")):
        return None
    spec = importlib.util.spec_from_file_location("make_images", MAKER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE = load_maker()
pytestmark = pytest.mark.skipif(MAKE is None, reason=f"{MAKER} is not there")


@pytest.fixture(autouse=True)
def random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(weights.ENVIRONMENT_VARIABLE, "random")


def extract(path: Path, store: Path, *words: str) -> Result:
    command = ["extract", str(path), "-o", str(store), *words, "--backbone", TINY, "--size", "64", "--device", "cpu"]
    return CliRunner().invoke(main, command, prog_name="nnunet-dino")


def notes_of(store: Path) -> str:
    return " ".join(pd.read_csv(store / "index.csv", keep_default_na=False)["note"])


def is_refused(result: Result) -> bool:
    assert not OF_A_LIBRARY.search(result.output), result.output
    return result.exit_code != 0


@pytest.mark.parametrize("name", list(MAKE.CASES) if MAKE else [])
def test_a_file_of_the_field(tmp_path: Path, name: str) -> None:
    assert MAKE is not None
    MAKE.main([str(tmp_path), name])
    case = json.loads((tmp_path / "cases.json").read_text())[0]
    if "command" in case:
        check_command(case, tmp_path)
        return
    words = case["arguments"].split()
    result = extract(tmp_path / case["bad"], tmp_path / "store", *words)
    refused = is_refused(result)
    if name in SAID:
        assert re.search(SAID[name], " ".join(result.output.split())), result.output
    if case["must"] == "refuse":
        assert refused
    elif case["must"] == "say":
        assert refused or re.search(SAID[name], notes_of(tmp_path / "store"))
    else:
        assert not refused, result.output
        if case["good"]:
            check_equal(tmp_path / case["good"], tmp_path, words)


def check_equal(good: Path, folder: Path, words: list[str]) -> None:
    words = [] if good.suffix == ".png" else words
    assert extract(good, folder / "good_store", *words).exit_code == 0
    found, wanted = (open_store(folder / store).vectors()[1] for store in ("store", "good_store"))
    assert found.shape == wanted.shape
    difference = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    assert difference < MAX_DIFFERENCE


def check_command(case: dict[str, Any], folder: Path) -> None:
    """The whole command; of two, the last one is judged."""
    command = case["command"].replace("STORE", str(folder / "store")).replace("OUT", str(folder / "out"))
    for part in command.split(";"):
        words = part.split()
        more = ["--backbone", TINY, "--size", "64", "--device", "cpu"] if words[0] == "extract" else []
        result = CliRunner().invoke(main, [*words, *more], prog_name="nnunet-dino")
    refused = is_refused(result)
    if case["must"] == "say":
        assert re.search(SAID[case["name"]], result.output), result.output
    else:
        assert not refused, result.output


def test_treatment_planning_objects_do_not_rename_the_case(tmp_path: Path) -> None:
    assert MAKE is not None
    MAKE.main([str(tmp_path), "radiotherapy_export"])
    extract(tmp_path / "radiotherapy_export" / "bad", tmp_path / "store", "--kind", "volumes")
    assert open_store(tmp_path / "store").vectors()[0] == ["case1", "case2"]


def test_pictures_are_found_by_their_content(tmp_path: Path) -> None:
    assert MAKE is not None
    MAKE.main([str(tmp_path), "pictures_with_and_without_ending", "slide_in_dicom"])
    extract(tmp_path / "pictures_with_and_without_ending" / "bad", tmp_path / "store", "--kind", "images")
    assert open_store(tmp_path / "store").vectors()[0] == ["IM000001", "IM000002.dcm"]
    words = ("--kind", "slides", "--tissue", "biopsy")
    extract(tmp_path / "slide_in_dicom" / "bad", tmp_path / "slides", *words)
    assert open_store(tmp_path / "slides").vectors("mean")[0] == ["level1.dcm"]


def write_series(folder: Path, heights: list[float], **more: Any) -> None:
    """A CT of the phantom's slices at these heights."""
    assert MAKE is not None
    for number, height in enumerate(heights):
        MAKE.save(MAKE.ct_slice(MAKE.body(len(heights))[number], number + 1, height, **more), folder / f"IM{number:03d}")


def volume_of(folder: Path, number: int | None = None) -> Any:
    _, items = find_items([str(folder)], "volumes")
    assert len(items) == 1
    return read_volume(items[0], number)


@pytest.mark.parametrize(
    ("heights", "said"),
    [
        ([0, 0.7, 1.4, 2.8, 3.5, 4.2], "missing.*1.4 mm between IM002 and IM003 where 0.7 mm"),
        ([0, -3, -6, -9, -18, -21], "missing.*9 mm between IM004 and IM003 where 3 mm"),
        ([0, 2, 4, 4, 6, 8], r"2 at 4 mm \(IM002 and IM003\) and 1 elsewhere"),
        ([0, 0, 0, 2, 2, 2, 4, 4, 4], "3 slices at every position.*--volume 0 to 2"),
    ],
)
def test_series_that_are_not_whole(tmp_path: Path, heights: list[float], said: str) -> None:
    write_series(tmp_path, heights)
    with pytest.raises(Unreadable, match=said):
        volume_of(tmp_path)


def test_files_of_one_series_are_read_whatever_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for series in (1, 2, 3):
        write_series(tmp_path / f"part{series}", [0, 2, 4], series=series)
        for file in (tmp_path / f"part{series}").iterdir():
            file.rename(tmp_path / f"{series}_{file.name}")
    _, items = find_items([str(tmp_path)], "volumes")
    read: list[str] = []
    whole = dicom.read_header
    monkeypatch.setattr(dicom, "read_header", lambda path, *more: read.append(Path(path).name) or whole(path, *more))
    assert len(items) == 3 and read_volume(items[1]).values.shape[0] == 3
    assert sorted(read) == ["2_IM000", "2_IM001", "2_IM002"]


def test_one_of_several_volumes_is_chosen(tmp_path: Path) -> None:
    assert MAKE is not None
    write_series(tmp_path, [0, 0, 2, 2, 4, 4])
    volume = volume_of(tmp_path, 1)
    np.testing.assert_array_equal(volume.values, MAKE.body(6)[1::2])
    assert volume.spacing_mm[0] == pytest.approx(2) and "volume 1 of 2" in volume.notes[0]
    with pytest.raises(Unreadable, match="--volume is 2"):
        volume_of(tmp_path, 2)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (lambda n: {"PixelSpacing": ["2", "2"]} if n == 12 else {}, r"left out: 1 of 13 .*\(IM012\)"),
        (lambda n: {"PixelSpacing": ["0.45", "0.4"]} if n % 2 else {}, "size of pixels .* has 7 and 6 others"),
        (lambda n: {"FrameOfReferenceUID": f"1.2.{1 + n // 7}"}, "^slices name several frames of reference"),
        (lambda n: {"PatientID": f"F{1 + n // 7}"}, "one patient, .* has 7 and 6 others"),
        (lambda n: {"PixelData": b"\0" * 99} if n == 5 else {}, "^IM005: its pixels cannot be decoded: "),
        (lambda n: {"PhotometricInterpretation": f"MONOCHROME{1 + n % 2}"}, "polarity, has 7 and 6 others"),
        (lambda n: {"ImageOrientationPatient": [1, 0.005 + n * 1e-5, 0, -0.005 - n * 1e-5, 1, 0]}, "^$"),
        (lambda n: {"ImageOrientationPatient": [2, 0, 0, 0, 2, 0]}, "^$"),
        (lambda n: {"ImageOrientationPatient": [1, 0, 0, 0.5, 0.866, 0]}, r"right angles .*0\.866.* in IM000"),
        (
            lambda n: {"ImageOrientationPatient": [0] * 6, "SpacingBetweenSlices": "-5"},
            "no ImagePositionPatient or .* 5 mm apart",
        ),
        (lambda n: {"SpacingBetweenSlices": "2.5"}, "5 mm apart where SpacingBetweenSlices says 2.5 mm"),
        (lambda n: {"SliceThickness": "2.5"}, "5 mm apart and 2.5 mm thick"),
        (lambda n: {"SeriesInstanceUID": f"1.2.{n}", **({"Rows": 24} if n == 12 else {})}, "UID of its own.*left out: 1 of 13"),
    ],
)
def test_headers_of_a_series(tmp_path: Path, header: Any, said: str) -> None:
    """Each either is read right, and what was decided is said, or is refused."""
    assert MAKE is not None
    for number, values in enumerate(MAKE.body(13)):
        one = MAKE.ct_slice(values, number + 1, 5 * number)
        for name, value in header(number).items():
            setattr(one, name, value)
        MAKE.save(one, tmp_path / f"IM{number:03d}")
    try:
        volume = volume_of(tmp_path)
    except Unreadable as error:
        assert re.search(said, str(error)), error
        return
    assert re.search(said, "; ".join(volume.notes)), volume.notes
    assert volume.spacing_mm == pytest.approx((5, 0.9, 0.8), rel=1e-3)
    np.testing.assert_array_equal(volume.values, MAKE.body(13)[: len(volume.values)])


def save_slices(folder: Path, change: Callable[[Any], None], *without: str) -> None:
    """Four slices 5 mm apart, changed after the elements named have been taken out."""
    assert MAKE is not None
    for number, values in enumerate(MAKE.body(4)):
        one = MAKE.ct_slice(values, number + 1, 5 * number)
        for name in without:
            delattr(one, name)
        change(one)
        MAKE.save(one, folder / f"IM{number:03d}")


def written(data: Any, name: str, content: bytes) -> None:
    """Puts an element into a file as these bytes."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    tag = Tag(tag_for_keyword(name))
    data._dict[tag] = RawDataElement(tag, dictionary_VR(tag), len(content), content, 0, False, True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("RescaleSlope", b"nan "),
        ("RescaleSlope", b"1\\2 "),
        ("RescaleIntercept", b"-1,024"),
        ("RescaleIntercept", b"inf "),
        ("PixelSpacing", b"0,9\\0,8 "),
        ("PixelSpacing", b"nan\\0.8 "),
        ("ImagePositionPatient", b"a\\b\\c "),
        ("ImagePositionPatient", b"0\\0\\nan "),
        ("ImageOrientationPatient", b"1\\0\\0\\0\\nan\\0 "),
        ("NumberOfFrames", b"one "),
        *((name, b"\x18\0\x19\0") for name in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel")),
        ("PixelPaddingValue", b"\x18\0\x19\0"),
    ],
)
def test_elements_that_hold_no_number_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    save_slices(tmp_path, lambda one: written(one, name, content))
    with pytest.raises(Unreadable, match=f"number in {name}, has"):
        volume_of(tmp_path)


@pytest.mark.parametrize(("name", "content"), [("SliceThickness", b"5 mm"), ("SpacingBetweenSlices", b"inf ")])
def test_a_distance_that_is_no_number_is_a_note_where_positions_say_it(tmp_path: Path, name: str, content: bytes) -> None:
    save_slices(tmp_path, lambda one: written(one, name, content))
    volume = volume_of(tmp_path)
    assert volume.spacing_mm[0] == 5
    assert f"slices are 5 mm apart; the header's own distance: required a number in {name}, has" in "; ".join(volume.notes)
    save_slices(tmp_path, lambda one: written(one, name, content), "ImagePositionPatient")
    with pytest.raises(Unreadable, match=f"number in {name}, has"):
        volume_of(tmp_path)
    for number, file in enumerate(sorted(tmp_path.iterdir())):
        one = dicom.read_header(str(file))
        one.SliceLocation = 5 * number
        one.save_as(file)
    volume = volume_of(tmp_path)
    assert volume.spacing_mm[0] == 5
    assert re.search(f"sorted by SliceLocation.*required a number in {name}, has", "; ".join(volume.notes))


@pytest.mark.parametrize("content", [None, b"", b"0.8 ", b"1\\2\\3 ", b"-0.9\\0.8 "])
@pytest.mark.parametrize("is_placed", [True, False])
def test_that_pixels_have_no_size_is_said(tmp_path: Path, content: bytes | None, is_placed: bool) -> None:
    def change(one: Any) -> None:
        if content is not None:
            written(one, "PixelSpacing", content)

    save_slices(tmp_path, change, "PixelSpacing", *([] if is_placed else ["ImagePositionPatient"]))
    volume = volume_of(tmp_path)
    assert volume.spacing_mm[1:] == (1, 1) and "size of pixels is not known: 1 × 1 mm was taken" in "; ".join(volume.notes)


def test_series_of_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    assert MAKE is not None
    one = MAKE.ct_slice(MAKE.body(1)[0], 1, 0, BitsAllocated=32)
    for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        del one[name]
    one.FloatPixelData = np.where(MAKE.body(1)[0] > 0, np.nan, 1).astype(np.float32).tobytes()
    MAKE.save(one, tmp_path / "IM000")
    with pytest.raises(Unreadable, match="finite values, holds NaN"):
        volume_of(tmp_path)


def test_a_damaged_file_among_several_series_is_told(tmp_path: Path) -> None:
    assert MAKE is not None
    for series in (1, 2, 3):
        MAKE.save(MAKE.ct_slice(MAKE.body(1)[0], 1, 0, series=series), tmp_path / "case" / f"{series}")
    one = MAKE.ct_slice(MAKE.body(1)[0], 1, 5, series=4)
    written(one, "ImagePositionPatient", b"a\\b\\c ")
    MAKE.save(one, tmp_path / "case" / "4")
    result = extract(tmp_path / "case", tmp_path / "store", "--kind", "volumes")
    assert is_refused(result) and "number in ImagePositionPatient, has" in result.output


@pytest.mark.parametrize("colours", ["HSV", "CMYK", "YBR_PARTIAL_422"])
def test_colours_that_are_no_longer_in_use_are_refused(tmp_path: Path, colours: str) -> None:
    assert MAKE is not None
    values = np.stack([(MAKE.ramp() * 255).astype(np.uint8)] * 3, axis=-1)
    MAKE.save(MAKE.dicom(values, "CR", 1, photometric=colours, spacing=None), tmp_path / "a.dcm")
    with pytest.raises(Unreadable, match=colours):
        read_picture(str(tmp_path / "a.dcm"))


@pytest.mark.parametrize(
    "told_by",
    [
        lambda volume: {"AcquisitionTime": f"10000{volume}"},
        lambda volume: {"EchoTime": str(10 + 20 * volume)},
        lambda volume: {"DiffusionBValue": 800.0 * volume},
        lambda volume: {"ImageType": ["ORIGINAL", "PRIMARY", "MP"[volume]]},
    ],
)
def test_volumes_at_the_same_positions_are_not_mixed(tmp_path: Path, told_by: Any) -> None:
    """Numbers of instances do not tell these two apart."""
    assert MAKE is not None
    for number, values in enumerate(MAKE.body(6)):
        for volume in (0, 1):
            place = 2 * number + (volume if number % 2 else 1 - volume)
            one = MAKE.ct_slice(values + 100 * volume, place, 5 * number, **told_by(volume))
            MAKE.save(one, tmp_path / f"{volume}_{number}")
    np.testing.assert_array_equal(volume_of(tmp_path, 1).values, MAKE.body(6) + 100)


def test_a_later_slice_may_need_more_bits(tmp_path: Path) -> None:
    assert MAKE is not None
    for number, highest in enumerate((900, 60000)):
        values = np.full((5, 6), float(highest))
        one = MAKE.ct_slice(values, number + 1, 5 * number, BitsStored=16 if number else 12, HighBit=15 if number else 11)
        MAKE.save(one, tmp_path / f"{number}")
    assert volume_of(tmp_path).values[:, 0, 0].tolist() == [900, 60000]


@pytest.mark.parametrize(
    ("modality", "sop_class"),
    [
        ("CT", "1.2.840.10008.5.1.4.1.1.7"),  # a dose report as a picture
        ("RTIMAGE", "1.2.840.10008.5.1.4.1.1.481.1"),
        ("OT", "1.2.840.10008.5.1.4.1.1.66.4"),  # a segmentation
    ],
)
def test_pictures_beside_a_series_do_not_rename_the_case(tmp_path: Path, modality: str, sop_class: str) -> None:
    assert MAKE is not None
    write_series(tmp_path / "case1", [0, 2, 4])
    beside = MAKE.dicom(np.zeros((8, 9), np.uint16), "CT", 9, series=2)
    beside.SOPClassUID, beside.Modality = sop_class, modality
    MAKE.save(beside, tmp_path / "case1" / "other.dcm")
    _, items = find_items([str(tmp_path)], "volumes")
    assert [item.id for item in items] == ["case1"] and "left out" in read_volume(items[0]).notes[0]


@pytest.mark.parametrize("degrees", [-14.5, 8])
def test_a_tilt_is_taken_out(tmp_path: Path, degrees: float) -> None:
    """A rod at a right angle to the slices, which every slice shows at another row, is straight again."""
    assert MAKE is not None
    c, s = np.cos(np.deg2rad(degrees)), -np.sin(np.deg2rad(degrees))
    for number in range(9):
        values = np.full((40, 20), -1000.0)
        row = round(20 - s * 4 * number / 0.9)
        values[row - 2 : row + 3, 8:11] = 1000
        MAKE.save(MAKE.ct_slice(values, number + 1, 4 * number, iop=(1, 0, 0, 0, c, s)), tmp_path / f"{number}.dcm")
    volume = volume_of(tmp_path)
    assert volume.spacing_mm[0] == pytest.approx(4 * c, rel=1e-3) and f"{abs(degrees):.1f} degrees" in volume.notes[0]
    middle = np.array([np.average(np.arange(plane.shape[0]), weights=plane[:, 9] + 1000) for plane in volume.values])
    assert np.ptp(middle) < 1.1


@pytest.mark.parametrize(
    ("names", "is_refused_for"),
    [
        (["00007", "7"], "'00007' and '7'"),
        (["7", "7.0"], r"'7' and '7\.0'"),
        (["PAT3", "pat3"], "'PAT3' and 'pat3'"),
        (["P01", "P1"], "'P01' and 'P1'"),
        (["7", "7,0"], "'7' and '7,0'"),
        (["P_7", "P-7"], "'P-7' and 'P_7'"),
        (["P 7", "P7"], "'P 7' and 'P7'"),
        (["Doe^John", "Doe^John^"], r"'Doe\^John\^'"),
        (["1-11", "11-1"], None),
        (["10", "1"], None),
        (["1.10", "1.1"], None),
        (["a", "b"], None),
    ],
)
def test_patients_in_two_spellings(names: list[str], is_refused_for: str | None) -> None:
    if is_refused_for is None:
        refuse_two_spellings(np.array(names * 2))
    else:
        with pytest.raises(UserError, match=is_refused_for):
            refuse_two_spellings(np.array(names * 2))


@pytest.mark.parametrize(
    "content",
    [
        b"id;label\na.png;1\n",
        b"id\tlabel\na.png\t1\n",
        b"sep=;\nid;label\na.png;1\n",
        b"id|label\na.png|1\n",
        b"\xef\xbb\xbfid ,label\na.png,1\n",
        "id,label\na.png,1\n".encode("utf-16"),
        "id,label\na.png,1\n".encode("utf-16-le"),
        gzip.compress(b"id,label\na.png,1\n", mtime=0),
    ],
)
def test_tables_as_programs_write_them(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    table = read_csv(tmp_path / "t.csv")
    assert (list(table), table.iloc[0].tolist()) == (["id", "label"], ["a.png", "1"])
    (tmp_path / "t.csv").write_bytes("id,label\nMüller.png,1\n".encode("cp1252"))
    assert read_csv(tmp_path / "t.csv").iloc[0, 0] == "Müller.png"
    (tmp_path / "t.csv").write_text('"id";"note, free";label\na.png;"b, c";1\n')
    assert list(read_csv(tmp_path / "t.csv")) == ["id", "note, free", "label"]
    for end, packed in enumerate((gzip.compress(b"id,label\n" * 9)[:-9], gzip.compress(b"id,label\n")[:10] + b"no data")):
        (tmp_path / f"{end}.csv.gz").write_bytes(packed)
        with pytest.raises(UserError, match=rf"required a CSV file · got .*{end}\.csv\.gz: "):
            read_csv(tmp_path / f"{end}.csv.gz")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda values: values.astype(np.float32) * 0.9999, "0.9999.*round them"),
        (lambda values: (values > 0).astype(np.uint8) * 255, "255.*map 255 to 1"),
        (lambda values: values.astype(np.float32) / 2, "0.5.*map 0 to 0, 0.5 to 1, 1 to 2"),
        (lambda values: values * 100, "100, 200.*map 100 to 1, 200 to 2"),
        (lambda values: values + 7 * (values == 2), "9.*map 9 to 2"),
        (lambda values: np.where(values == 0, 255, values).astype(np.uint8), "255.*map 255 to 0"),
        (lambda values: -values.astype(np.int8), "-2, -1.*without their sign"),
        (lambda values: values + np.uint8(1), "3.*map 1 to 0, 2 to 1, 3 to 2"),
    ],
)
def test_predictions_with_values_that_are_no_labels(tmp_path: Path, change: Any, said: str) -> None:
    assert MAKE is not None

    def changed(values: np.ndarray) -> Any:
        image = MAKE.sitk.GetImageFromArray(change(values))
        image.SetSpacing((1, 1, 3))
        return image

    MAKE._segmentations(tmp_path, changed)
    words = MAKE.COMPARE.replace("{folder}", str(tmp_path)).replace("OUT", str(tmp_path / "out")).split()
    result = CliRunner().invoke(main, words, prog_name="nnunet-dino")
    assert result.exit_code == 2 and re.search(said, result.output) and not (tmp_path / "out").exists(), result.output


def picture(**header: Any) -> Any:
    """A radiograph of 12 bits."""
    assert MAKE is not None
    return MAKE.dicom((MAKE.ramp() * 4095).round().astype(np.uint16), "DX", 1, bits=12, spacing=None, **header)


def table(entries: np.ndarray, first: int, bits: int) -> Any:
    """A sequence with a table whose entries of eight bits lie two to a word."""
    assert MAKE is not None
    (item,) = sequence = MAKE._lut(entries, False)
    item.LUTDescriptor = [len(entries), first, bits]
    item.LUTData = entries.astype("<u2" if bits > 8 else np.uint8).tobytes()
    return sequence


STORED = np.arange(4096)
DICOM_PICTURES: dict[str, tuple[Any, Any]] = {  # how it is written, and what is to be shown of stored values, 0 to 1
    "VOI table of 8 bits": (lambda: picture(VOILUTSequence=table(STORED // 32, 0, 8)), lambda v: v // 32 / 255),
    "VOI table of 10 bits": (lambda: picture(VOILUTSequence=table(STORED // 8, 0, 10)), lambda v: v // 8 / 1023),
    "VOI table from below 0, unsigned": (
        lambda: picture(RescaleSlope="1", RescaleIntercept="-1024", VOILUTSequence=table(STORED * 16, 65536 - 1024, 16)),
        lambda v: v * 16 / 65535,
    ),
    "modality table of 12 bits": (
        lambda: picture(ModalityLUTSequence=table(4095 - STORED, 0, 12), WindowCenter="2048", WindowWidth="4096"),
        lambda v: (4095 - v) / 4095,
    ),
    "window of width 1": (lambda: picture(WindowCenter="2000", WindowWidth="1"), lambda v: v > 1999.5),
}


@pytest.mark.parametrize("name", DICOM_PICTURES)
def test_a_picture_is_shown_as_its_header_asks(tmp_path: Path, name: str) -> None:
    assert MAKE is not None
    make, expected = DICOM_PICTURES[name]
    MAKE.save(make(), tmp_path / "a.dcm")
    shown = open_image(Item("a", str(tmp_path / "a.dcm")), Preprocessing(size_px=96, fit="crop")).images(0, 1)
    wanted = expected((MAKE.ramp() * 4095).round().astype(int)).astype(np.float32)
    reference = show_square(torch.from_numpy(wanted)[None, None], Preprocessing(size_px=96, fit="crop"))
    torch.testing.assert_close(shown, reference, atol=2e-3, rtol=0)


def test_colours_of_12_bits_are_shown_in_their_range(tmp_path: Path) -> None:
    assert MAKE is not None
    values = np.stack([(MAKE.ramp() * 4095).round().astype(np.uint16)] * 3, axis=-1)
    MAKE.save(MAKE.dicom(values, "CR", 1, bits=12, photometric="RGB", spacing=None), tmp_path / "a.dcm")
    shown = open_image(Item("a", str(tmp_path / "a.dcm")), Preprocessing(size_px=96, fit="crop")).images(0, 1)
    assert float(shown.mean()) == pytest.approx(MAKE.ramp()[:, 16:80].mean(), abs=0.01)


def deep_png_on_its_head(path: Path, values: np.ndarray) -> None:
    """Colours of 16 bits whose EXIF says "turn by 180 degrees"."""
    assert MAKE is not None
    exif = MAKE.Image.Exif()
    exif[274] = 3
    MAKE.png16(path, np.stack([values] * 3, axis=-1)[::-1, ::-1])
    content, text = path.read_bytes(), exif.tobytes()[6:]
    chunk = struct.pack(">I", len(text)) + b"eXIf" + text + struct.pack(">I", zlib.crc32(b"eXIf" + text))
    place = content.index(b"IDAT") - 4
    path.write_bytes(content[:place] + chunk + content[place:])


def animated_png(path: Path, values: np.ndarray) -> None:
    assert MAKE is not None
    frames = [MAKE.Image.fromarray((values // 16 + n).astype(np.uint8)) for n in (0, 1)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def big_endian_bigtiff(path: Path, values: np.ndarray) -> None:
    assert MAKE is not None
    MAKE.tifffile.imwrite(path, np.stack([values // 16] * 3, axis=-1).astype(np.uint8), bigtiff=True, byteorder=">")


def jpeg_of_12_bits(path: Path, values: np.ndarray) -> None:
    import imagecodecs

    path.write_bytes(imagecodecs.jpeg8_encode(values, level=100, bitspersample=12))


def jpeg_of_12_bits_on_its_side(path: Path, values: np.ndarray) -> None:
    """Whose EXIF says "turn by 90 degrees"."""
    assert MAKE is not None
    jpeg_of_12_bits(path, np.rot90(values).copy())
    exif = MAKE.Image.Exif()
    exif[274] = 6
    content, text = path.read_bytes(), exif.tobytes()
    path.write_bytes(content[:2] + b"\xff\xe1" + struct.pack(">H", len(text) + 2) + text + content[2:])


def jpeg_without_loss(path: Path, values: np.ndarray) -> None:
    import imagecodecs

    path.write_bytes(imagecodecs.ljpeg_encode(values))


def cut_jpeg(path: Path, values: np.ndarray) -> None:
    jpeg_of_12_bits(path, values)
    path.write_bytes(path.read_bytes()[:-2000])


def packed(path: Path, data: Any, content: bytes, syntax: int) -> None:
    """Writes a DICOM picture whose pixels are packed."""
    from pydicom.encaps import encapsulate

    assert MAKE is not None
    data.PixelData = encapsulate([content])
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    MAKE.save(data, path, syntax=f"1.2.840.10008.1.2.4.{syntax}")


def high_throughput_jpeg_2000(path: Path, values: np.ndarray, photometric: str = "YBR_RCT") -> None:
    import imagecodecs

    assert MAKE is not None
    if photometric == "YBR_RCT":
        values = np.stack([values // 16] * 3, axis=-1).astype(np.uint8)
    data = MAKE.dicom(values, "CR", 1, photometric=photometric, spacing=None)
    packed(path, data, imagecodecs.htj2k_encode(values, reversible=True), 201)


def dicom_jpeg_of_12_bits(path: Path, values: np.ndarray, lost: int = 0) -> None:
    assert MAKE is not None
    jpeg_of_12_bits(path, values)
    content = path.read_bytes()
    packed(path, MAKE.dicom(values, "CR", 1, bits=12, spacing=None), content[: len(content) - lost], 51)


def tiff_with_a_page(path: Path, values: np.ndarray, kind: int = 4) -> None:
    """Whose second page is a mask, or something else."""
    assert MAKE is not None
    with MAKE.tifffile.TiffWriter(path) as file:
        file.write(values, photometric="minisblack")
        file.write(values > 100, photometric="minisblack", subfiletype=2)
    with MAKE.tifffile.TiffFile(path, mode="r+") as file:
        file.pages[1].tags[254].overwrite(kind)


def fluorescence(path: Path, values: np.ndarray, num_channels: int = 2, kind: type = np.uint16) -> None:
    assert MAKE is not None
    pixels = np.stack([values // 16] * num_channels, axis=-1).astype(kind)
    MAKE.tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig")


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("a.png", deep_png_on_its_head, None),
        ("a.png", animated_png, "one picture, has 2 pages"),
        ("a.tif", big_endian_bigtiff, None),
        ("a.jpg", jpeg_of_12_bits, None),
        ("a.jpg", jpeg_of_12_bits_on_its_side, None),
        ("a.jpg", jpeg_without_loss, None),
        ("a.jpg", cut_jpeg, "cannot identify .* save it as PNG"),
        ("a.dcm", high_throughput_jpeg_2000, None),
        ("a.dcm", lambda path, values: high_throughput_jpeg_2000(path, values, "MONOCHROME2"), None),
        ("a.dcm", dicom_jpeg_of_12_bits, None),
        ("a.dcm", lambda path, values: dicom_jpeg_of_12_bits(path, values, 2000), "cannot be decoded: .*cut off"),
        ("a.tif", tiff_with_a_page, None),
        ("a.tif", lambda path, values: tiff_with_a_page(path, (values // 16).astype(np.uint8)), None),
        ("a.tif", lambda path, values: tiff_with_a_page(path, values, 2), "one picture, has 2 pages"),
        ("a.tif", fluorescence, "1 or 3 channels, has 2"),
        ("a.tif", lambda path, values: fluorescence(path, values, 5, np.uint8), "1 or 3 channels, has 5"),
        ("a.dcm", lambda path, values: path.write_bytes(b"no picture" * 20), "is no DICOM by its content"),
    ],
)
def test_other_pictures(tmp_path: Path, name: str, write: Any, said: str | None) -> None:
    assert MAKE is not None
    values = (MAKE.ramp() * 4095).round().astype(np.uint16)
    write(tmp_path / name, values)
    if said is None:
        read = read_picture(str(tmp_path / name)).values[:, :, -1]
        wanted = values if read.max() > 255 else values // 16
        np.testing.assert_allclose(read, wanted, atol=2 if "12_bits" in getattr(write, "__name__", "") else 0)
    else:
        with pytest.raises(Unreadable, match=said):
            read_picture(str(tmp_path / name))


def nifti(patch: dict[tuple[str, int], tuple[float, ...]] | None = None, values: np.ndarray | None = None) -> Any:
    """Writes the phantom, or other values, with bytes of the header changed."""

    def write(path: Path) -> None:
        assert MAKE is not None
        shown = MAKE.as_ras(MAKE.body()).astype(np.int16) if values is None else values
        MAKE.patched(path, shown, MAKE.RAS, patch or {})

    return write


def nrrd(space: str, column: str = "(0,0.9,0)", encoding: str = "raw") -> Any:
    """Writes the phantom as NRRD with a space and the second of its directions."""

    def write(path: Path) -> None:
        assert MAKE is not None
        head = f"NRRD0005\ntype: short\ndimension: 3\n{space}sizes: 40 48 12\nspace directions: (0.8,0,0) {column} (0,0,5)\n"
        path.write_bytes(f"{head}endian: little\nencoding: {encoding}\n\n".encode() + MAKE.body().astype("<i2").tobytes())

    return write


@pytest.mark.parametrize(
    ("name", "write", "said", "unit_mm"),
    [
        ("a.nii", nifti({("b", 123): (1,)}), "^$", 1000.0),  # metres
        ("a.nii", nifti({("b", 123): (3,)}), "^$", 0.001),
        ("a.nii", nifti({("3f", 80): (2, 2, 2)}), "pixdim says 2 × 2 × 2 where the sform says 0.8 × 0.9 × 5", 1.0),
        ("a.nii", nifti({("f", 108): (0,)}), "vox_offset 0", None),
        ("a.nii", nifti(values=np.full((4, 5, 6), 1e300)), "values below 3.4e.38", None),
        ("a.nii", nifti({("h", 70): (1234,)}), "header.*1234", None),
        ("a.nii", nifti({("h", 42): (-4,)}), "header", None),
        ("a.nii", nifti({("f", 108): (np.nan,)}), "header.*NaN", None),
        ("a.nii", nifti({("f", 112): (2,), ("f", 116): (np.nan,)}), "header.*intercept nan", None),
        ("a.nrrd", nrrd("space: LPS\n"), "^$", 1.0),
        ("a.nrrd", nrrd('space: LPS\nspace units: "mm" "mm" "mm"\n'), "^$", 1.0),
        ("a.nrrd", nrrd('space: LPS\nspace units: "um" "um" "um"\n'), "^$", 0.001),
        ("a.nrrd", nrrd('space: LPS\nspace units: "microns" "microns" "microns"\n'), "^$", 0.001),
        ("a.nrrd", nrrd('space: LPS\nspace units: "furlong" "furlong" "furlong"\n'), "furlong.*millimetres", 1.0),
        ("a.nrrd", nrrd('space: LPS\nspace units: "mm" "mm" "um"\n'), "'mm, um' is not known.*millimetres", 1.0),
        ("a.nrrd", nrrd("space: LPS\n", encoding="bzip2"), "bzip2.*gzip", None),
        ("a.nrrd", nrrd("space: scanner-xyz\n"), "scanner-xyz.*no directions", 1.0),
        ("a.nrrd", nrrd("space: LPS\n", "(0.0047,0.9,0)"), "shear of 0.3 degrees", 1.0),
        ("a.nrrd", nrrd("space: LPS\n", "(0.3,0.9,0)"), "shear of 18.4 degrees", None),
    ],
)
def test_headers_of_volumes(tmp_path: Path, name: str, write: Any, said: str, unit_mm: float | None) -> None:
    assert MAKE is not None
    write(tmp_path / name)
    item = Item("a", str(tmp_path / name))
    if unit_mm is None:
        with pytest.raises(Unreadable, match=said):
            read_volume(item)
        return
    volume = read_volume(item)
    assert re.search(said, "; ".join(volume.notes)), volume.notes
    assert volume.spacing_mm == pytest.approx([length * unit_mm for length in (5, 0.9, 0.8)], rel=1e-4)
    np.testing.assert_array_equal(volume.values, MAKE.body())


@pytest.mark.parametrize(
    ("kind", "slope", "ending"), [(np.int16, 1, ".nii"), (np.float32, 1, ".nii.gz"), (np.int16, 0.5, ".nii")]
)
def test_no_more_than_two_copies_of_a_volume_are_held(tmp_path: Path, kind: type, slope: float, ending: str) -> None:
    assert MAKE is not None
    values = np.random.default_rng(0).integers(0, 1000, (120, 110, 100)).astype(kind)
    image = MAKE.nib.Nifti1Image(values, MAKE.RAS)
    image.header.set_slope_inter(slope, 0)
    MAKE.nib.save(image, tmp_path / f"a{ending}")
    item = Item("a", str(tmp_path / f"a{ending}"))
    num_bytes = read_volume(item).values.nbytes
    tracemalloc.start()
    read_volume(item)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.1 * num_bytes


def test_axes_of_one_voxel_before_several_volumes(tmp_path: Path) -> None:
    """A field of vectors, as NIfTI stores it."""
    assert MAKE is not None
    values = np.stack([MAKE.as_ras(MAKE.body() + n) for n in (0, 1)], axis=-1)[..., None, :]
    nifti(values=values.astype(np.int16))(tmp_path / "a.nii")
    np.testing.assert_array_equal(read_volume(Item("a", str(tmp_path / "a.nii")), 1).values, MAKE.body() + 1)


def test_one_of_several_values_of_a_voxel_is_chosen(tmp_path: Path) -> None:
    """As volumes over time are written in NRRD."""
    assert MAKE is not None
    volumes = [MAKE.sitk.GetImageFromArray((MAKE.body() + n).astype(np.int16)) for n in (0, 1, 2)]
    MAKE.sitk.WriteImage(MAKE.sitk.Compose(volumes), str(tmp_path / "a.nrrd"))
    item = Item("a", str(tmp_path / "a.nrrd"))
    with pytest.raises(Unreadable, match="required one channel, has 3 · choose one with --volume 0 to 2"):
        read_volume(item)
    volume = read_volume(item, 2)
    np.testing.assert_array_equal(volume.values, MAKE.body() + 2)
    assert volume.notes[0] == "volume 2 of 3"


def test_axes_of_one_voxel_behind_several_volumes(tmp_path: Path) -> None:
    assert MAKE is not None
    values = np.stack([MAKE.as_ras(MAKE.body() + n) for n in (0, 1)], axis=-1)[..., None]
    nifti(values=values.astype(np.int16))(tmp_path / "a.nii")
    np.testing.assert_array_equal(read_volume(Item("a", str(tmp_path / "a.nii")), 1).values, MAKE.body() + 1)


@pytest.mark.parametrize(
    ("window", "offset", "is_told"),
    [
        ("lung", 1024, True),
        ("mediastinum", 1000, True),
        ("brain", 1024, True),
        ("-1000,1000", 1024, True),
        ("lung", 0, False),
        ("0,1500", 1024, False),
        ("auto", 1024, False),
    ],
)
def test_units_that_the_window_does_not_fit_are_told(tmp_path: Path, window: str, offset: int, is_told: bool) -> None:
    assert MAKE is not None
    MAKE.nifti(np.clip(MAKE.body(), -1000, None) + offset, tmp_path / "a.nii.gz")
    source = open_volume(Item("a", str(tmp_path / "a.nii.gz")), Preprocessing(window=window), Slicing())
    assert ("may be stored + 1024" in " ".join(source.notes)) is is_told


def test_a_pair_of_header_and_image_is_found(tmp_path: Path) -> None:
    assert MAKE is not None
    MAKE.nib.save(MAKE.nib.Nifti1Pair(MAKE.as_ras(MAKE.body()).astype(np.int16), MAKE.RAS), tmp_path / "a.img")
    np.testing.assert_array_equal(volume_of(tmp_path).values, MAKE.body())
