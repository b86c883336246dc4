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

from nnunet_dino.backbones import weights
from nnunet_dino.cli.main import main
from nnunet_dino.features import open_store

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
