"""``nnunet-dino pretrain prepare``: scans without labels become what nnU-Net's own preprocessor makes of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
from batchgenerators.utilities.file_and_folder_operations import load_pickle, save_pickle
from click.testing import CliRunner, Result
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from probe_inputs import files_of
from test_field_images import write_series

from nnunet_dino.cli.main import main
from nnunet_dino.pretrain.recipe import get_recipe
from nnunet_dino.pretrain.slices import find_cases

LIKE = "Dataset101_Like"
NEW = "Dataset900_Archive"
RESAMPLING = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
NOT_AXIAL = "SLP"  # along w to the head, along h to the left, along d to the back


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnU-Net's folder of preprocessed data with one planned data set, and an archive of two scans."""
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "pre"))
    monkeypatch.delenv("nnUNet_raw", raising=False)
    write_planned(tmp_path / "pre" / LIKE)
    for index, name in enumerate(("a.nii.gz", "below/b_0000.nii.gz")):
        write_scan(tmp_path / "scans" / name, index)
    return tmp_path


def write_planned(folder: Path, num_channels: int = 1, orientation: str = "LPS") -> None:
    """A planned data set of CT whose plans transpose the axes, with one case that says how it lay in its file."""
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [16, 16, 16],
        "spacing": [2.0, 1.5, 1.0],
        "normalization_schemes": ["CTNormalization"] * num_channels,
        "use_mask_for_norm": [False] * num_channels,
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": RESAMPLING,
        "resampling_fn_seg_kwargs": {**RESAMPLING, "is_seg": True, "order": 1},
        "architecture": {"network_class_name": "none", "arch_kwargs": {}, "_kw_requires_import": []},
    }
    intensities = {"mean": 40.0, "std": 90.0, "percentile_00_5": -300.0, "percentile_99_5": 500.0}
    plans = {
        "dataset_name": folder.name,
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [1, 0, 2],
        "transpose_backward": [1, 0, 2],
        "foreground_intensity_properties_per_channel": {str(channel): intensities for channel in range(num_channels)},
        "configurations": {"3d_fullres": configuration},
    }
    cases = folder / "nnUNetPlans_3d_fullres"
    cases.mkdir(parents=True, exist_ok=True)
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    channels = {str(channel): "CT" for channel in range(num_channels)}
    labels = {"background": 0, "organ": 1}
    (folder / "dataset.json").write_text(json.dumps({"channel_names": channels, "labels": labels, "file_ending": ".nii.gz"}))
    direction = sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation(orientation)
    save_pickle({"sitk_stuff": {"direction": direction}}, str(cases / "one.pkl"))


def write_scan(file: Path, seed: int, code: str = "LPS") -> Path:
    values = np.random.default_rng(seed).normal(0, 200, (7, 20, 26)).astype(np.int16)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((1.0, 1.3, 3.0))
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.DICOMOrient(image, code), file)
    return file


def prepare(place: Path, *words: object) -> Result:
    command = ["pretrain", "prepare", "--images", place / "scans", "--like", 101, "-c", "3d_fullres", "-o", NEW, *words]
    return CliRunner().invoke(main, [*map(str, command)], prog_name="nnunet-dino")


def of_nnunet(place: Path, files: list[Path]) -> np.ndarray:
    """What nnU-Net's preprocessor makes of a case, read by its own reader."""
    manager = PlansManager(str(place / "pre" / LIKE / "nnUNetPlans.json"))
    configuration = manager.get_configuration("3d_fullres")
    data, *_ = configuration.preprocessor_class(verbose=False).run_case([*map(str, files)], None, manager, configuration, {})
    return data


def prepared(place: Path, case: str) -> np.ndarray:
    return blosc2.open(str(place / "pre" / NEW / "nnUNetPlans_3d_fullres" / f"{case}.b2nd"))[:]


def test_cases_are_those_of_nnunets_preprocessor_and_pretraining_finds_them(place: Path) -> None:
    result = prepare(place)
    assert result.exit_code == 0, result.output
    for case, file in (("a", "a.nii.gz"), ("below_b", "below/b_0000.nii.gz")):
        expected = of_nnunet(place, [place / "scans" / file])
        assert len(set(expected.shape)) == 4
        np.testing.assert_array_equal(prepared(place, case), expected)
    found = find_cases(["900"], "3d_fullres", "nnUNetPlans", get_recipe("scratch"))
    assert [case.name for case in found] == ["a", "below_b"]
    assert found[0].read(2, "repeat").shape == prepared(place, "a").shape[:1] + prepared(place, "a").shape[2:]
    probe = ["probe", "dense", "-d", "900", "-c", "3d_fullres", "--backbone", "pixels", "-o", str(place / "report")]
    refused = CliRunner().invoke(main, probe, prog_name="nnunet-dino")
    assert refused.exit_code == 2 and "labels" in refused.stderr and refused.stderr.count("\n") == 1


@pytest.mark.parametrize("orientation", ["LPS", "RAI", NOT_AXIAL])
def test_scans_are_turned_as_the_images_of_the_data_set_lay(place: Path, orientation: str) -> None:
    write_planned(place / "pre" / LIKE, orientation=orientation)
    turned = write_scan(place / "turned.nii.gz", 0, orientation)
    assert prepare(place).exit_code == 0
    np.testing.assert_array_equal(prepared(place, "a"), of_nnunet(place, [turned]))


def test_a_dicom_series_is_prepared(place: Path) -> None:
    write_series(place / "scans" / "series", [0.0, 2.0, 4.0, 6.0])
    result = prepare(place)
    assert result.exit_code == 0, result.output
    assert prepared(place, "series").ndim == 4
    properties = load_pickle(str(place / "pre" / NEW / "nnUNetPlans_3d_fullres" / "series.pkl"))
    assert properties["source"] == [str(place / "scans" / "series")] and properties["spacing"][0] == 2.0


def test_several_channels_are_files_of_one_case(place: Path) -> None:
    write_planned(place / "pre" / LIKE, num_channels=2)
    two = [write_scan(place / "pair" / f"c_{channel:04d}.nii.gz", channel) for channel in (0, 1)]
    assert prepare(place, "--images", place / "pair").exit_code == 0
    np.testing.assert_array_equal(prepared(place, "c"), of_nnunet(place, two))


def test_files_that_look_like_further_channels_are_named(place: Path) -> None:
    for channel in range(2):
        write_scan(place / "pair" / f"c_{channel:04d}.nii.gz", channel)
    result = prepare(place, "--images", place / "pair")
    assert f"Note: c and c_0001 are taken for two scans, as {LIKE} has one channel" in result.stdout


def test_a_broken_scan_stops_or_is_left_out_and_what_was_done_stays(place: Path) -> None:
    (place / "scans" / "aa.nii.gz").write_bytes(b"half a file")
    stopped = prepare(place)
    assert stopped.exit_code == 2 and "aa.nii.gz" in stopped.stderr and "--skip-broken" in stopped.stderr
    assert stopped.stderr.count("\n") == 1
    folder = place / "pre" / NEW / "nnUNetPlans_3d_fullres"
    assert [file.name for file in sorted(folder.glob("*.b2nd"))] == ["a.b2nd"]
    before = (folder / "a.b2nd").stat().st_mtime_ns
    went_on = prepare(place, "--skip-broken")
    assert went_on.exit_code == 0 and "1 of them are done already" in went_on.stdout and "aa.nii.gz" in went_on.stdout
    assert (folder / "a.b2nd").stat().st_mtime_ns == before and prepared(place, "below_b").any()
    record = json.loads((place / "pre" / NEW / "prepared.json").read_text())
    assert list(record["broken"]) == ["aa"]
    write_scan(place / "scans" / "aa.nii.gz", 5)
    assert prepare(place).exit_code == 0 and prepared(place, "aa").any()
    assert json.loads((place / "pre" / NEW / "prepared.json").read_text())["broken"] == {}


def of_other_plans(place: Path) -> tuple[object, ...]:
    assert prepare(place).exit_code == 0
    plans = place / "pre" / LIKE / "nnUNetPlans.json"
    plans.write_text(plans.read_text().replace('"mean": 40.0', '"mean": 41.0'))
    return ()


def of_another_archive(place: Path) -> tuple[object, ...]:
    assert prepare(place).exit_code == 0
    write_scan(place / "others" / "a.nii.gz", 9)
    return ("--images", place / "others")


def foreign_folder(place: Path) -> tuple[object, ...]:
    (place / "pre" / NEW).mkdir()
    (place / "pre" / NEW / "mine.txt").write_text("mine")
    return ()


def number_taken(place: Path) -> tuple[object, ...]:
    return ("-o", "Dataset101_Archive")


def no_scans(place: Path) -> tuple[object, ...]:
    (place / "empty").mkdir()
    return ("--images", place / "empty")


def two_of_one_name(place: Path) -> tuple[object, ...]:
    write_scan(place / "scans" / "a.nrrd", 3)
    return ()


def a_segmentation(place: Path) -> tuple[object, ...]:
    write_scan(place / "scans" / "a_seg.nii.gz", 3)
    return ()


def a_channel_is_missing(place: Path) -> tuple[object, ...]:
    write_planned(place / "pre" / LIKE, num_channels=2)
    write_scan(place / "pair" / "c_0001.nii.gz", 3)
    return ("--images", place / "pair")


def channels_of_other_sizes(place: Path) -> tuple[object, ...]:
    write_planned(place / "pre" / LIKE, num_channels=2)
    write_scan(place / "pair" / "c_0001.nii.gz", 3)
    image = sitk.ReadImage(str(place / "scans" / "a.nii.gz"))
    sitk.WriteImage(image[:20], place / "pair" / "c_0000.nii.gz")
    return ("--images", place / "pair")


@pytest.mark.parametrize(
    "begin, said",
    [
        (of_other_plans, "required the settings with which .* was begun \\(digest_of_plans"),
        (of_another_archive, "got 'a' of .*others/a.nii.gz, where .* has one of .*scans/a.nii.gz"),
        (foreign_folder, "which holds mine.txt"),
        (number_taken, "got Dataset101_Archive, beside Dataset101_Like"),
        (lambda place: ("-o", "Archive"), "got 'Archive'"),
        (lambda place: ("-c", "2d"), "got '2d'"),
        (lambda place: ("-p", "Plans"), "there is nnUNetPlans"),
        (lambda place: ("--like", 77), "got '77'"),
        (lambda place: ("--images", place / "nowhere"), "nowhere, which is none"),
        (no_scans, "got none in .*empty"),
        (two_of_one_name, "got 'a' of .*a.nii.gz and of .*a.nrrd"),
        (a_segmentation, "got .*a_seg.nii.gz"),
        (a_channel_is_missing, "got no c_0000"),
        (channels_of_other_sizes, "required channels on one grid"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_overwritten(
    place: Path, begin: Callable[[Path], tuple[object, ...]], said: str
) -> None:
    words = begin(place)
    before = files_of(place / "pre")
    result = prepare(place, *words)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("nnunet-dino: error: ") and re.search(said, result.stderr), result.stderr
    assert result.stderr.count("\n") == 1
    after = files_of(place / "pre")
    assert {name: after[name] for name in before} == before
