"""Image files as they come in the field: each gives the right features, or is refused, or what was decided is said."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from probe_inputs import TINY

from nnunet_dino._errors import UserError
from nnunet_dino.backbones import weights
from nnunet_dino.cli.main import main
from nnunet_dino.features import open_store
from nnunet_dino.features.inputs import find_items, read_csv
from nnunet_dino.features.items import Unreadable
from nnunet_dino.features.volume import read_volume
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


def test_one_of_several_volumes_is_chosen(tmp_path: Path) -> None:
    assert MAKE is not None
    write_series(tmp_path, [0, 0, 2, 2, 4, 4])
    volume = volume_of(tmp_path, 1)
    np.testing.assert_array_equal(volume.values, MAKE.body(6)[1::2])
    assert volume.spacing_mm[0] == pytest.approx(2) and "volume 1 of 2" in volume.notes[0]
    with pytest.raises(Unreadable, match="--volume is 2"):
        volume_of(tmp_path, 2)


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
        b"\xef\xbb\xbfid ,label\na.png,1\n",
        "id,label\na.png,1\n".encode("utf-16"),
    ],
)
def test_tables_as_programs_write_them(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    table = read_csv(tmp_path / "t.csv")
    assert (list(table), table.iloc[0].tolist()) == (["id", "label"], ["a.png", "1"])
    (tmp_path / "t.csv").write_bytes("id,label\nMüller.png,1\n".encode("cp1252"))
    assert read_csv(tmp_path / "t.csv").iloc[0, 0] == "Müller.png"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda values: values.astype(np.float32) * 0.9999, "0.9999.*round them"),
        (lambda values: (values > 0).astype(np.uint8) * 255, "255.*map 255 to 1"),
        (lambda values: values * 100, "100, 200.*map 100 to 1, 200 to 2"),
        (lambda values: values + 7 * (values == 2), "9"),
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
