"""``nnunet-dino doctor --dataset``: what is wrong with a raw data set, file by file; nothing is changed."""

from __future__ import annotations

import gzip
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner
from probe_inputs import files_of

from nnunet_dino.cli.main import main


def write(file: Path, values: np.ndarray, spacing: tuple[float, float, float] = (1, 1, 3), origin: float = 0) -> None:
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing)
    image.SetOrigin((origin, 0, 0))
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(file))


@pytest.fixture
def raw(nnunet_folders: Path) -> Path:
    folder = nnunet_folders / "nnUNet_raw" / "Dataset009_Spleen"
    for number in range(3):
        values = np.random.default_rng(number).integers(-1000, 1000, (4, 6, 7)).astype(np.int16)
        write(folder / f"imagesTr/s{number}_0000.nii.gz", values)
        write(folder / f"labelsTr/s{number}.nii.gz", (values > 500).astype(np.uint8))
    names = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "spleen": 1}, "numTraining": 3, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(names))
    return folder


def examine(dataset: str = "9") -> tuple[int, str]:
    result = CliRunner().invoke(main, ["doctor", "--dataset", dataset], prog_name="nnunet-dino")
    assert "Traceback" not in result.output
    return result.exit_code, result.output


def test_a_sound_data_set(raw: Path) -> None:
    before = files_of(raw)
    code, said = examine()
    assert code == 0 and "3 of 3 cases without a finding" in said and "0 warnings" in said, said
    assert files_of(raw) == before


def rewrite(folder: Path, name: str, spacing: tuple[float, float, float] = (1, 1, 3), plus: int = 0) -> None:
    for file, more in ((f"imagesTr/{name}_0000.nii.gz", plus), (f"labelsTr/{name}.nii.gz", 0)):
        values = sitk.GetArrayFromImage(sitk.ReadImage(folder / file))
        write(folder / file, values + np.array(more, values.dtype), spacing)


def two_forms(file: Path) -> None:
    image = nib.load(file)
    affine = image.affine.copy()
    image.set_sform(affine, 2)
    affine[0, 0] *= -1
    image.set_qform(affine, 1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), file)


def add_test_case(folder: Path, like: Path) -> None:
    (folder / "imagesTs").mkdir()
    (folder / "imagesTs/t_0000.nii.gz").write_bytes(like.read_bytes())


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-30])


def by_nibabel(file: Path, values: np.ndarray, kind: type = nib.Nifti1Image) -> None:
    nib.save(kind(values, np.diag([-1, -1, 3, 1])), file)


def slope_0(file: Path) -> None:
    """Changes the header: no slope, but an intercept."""
    content = bytearray(gzip.decompress(file.read_bytes()))
    struct.pack_into("<ff", content, 112, 0.0, -1024.0)
    file.write_bytes(gzip.compress(bytes(content)))


def said_to_have(folder: Path, num_cases: int) -> None:
    text = (folder / "dataset.json").read_text()
    (folder / "dataset.json").write_text(text.replace('"numTraining": 3', f'"numTraining": {num_cases}'))


ZEROS = np.zeros((4, 6, 7), np.uint8)
STRIPES = np.arange(7 * 6 * 4, dtype=np.float32).reshape(7, 6, 4)


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (lambda f: write(f / "labelsTr/s1.nii.gz", ZEROS, (1, 2, 3)), 1, "s1.nii.gz: spacing is 1 × 2 × 3, of s1_0000.nii.gz"),
        (lambda f: write(f / "labelsTr/s1.nii.gz", ZEROS, origin=4), 1, "s1.nii.gz: origin is 4"),
        (lambda f: write(f / "labelsTr/s1.nii.gz", ZEROS, origin=0.4), 1, "s1.nii.gz: origin is 0.4"),
        (lambda f: write(f / "labelsTr/s1.nii.gz", ZEROS[:3]), 1, "s1.nii.gz: size is 7 × 6 × 3"),
        (lambda f: write(f / "labelsTr/s2.nii.gz", ZEROS + np.uint8(255)), 1, "s2.nii.gz holds 255, .*: 0, 1"),
        (lambda f: write(f / "labelsTr/s2.nii.gz", ZEROS), 0, "s2.nii.gz holds the background only"),
        (lambda f: (f / "labelsTr/s2.nii.gz").unlink(), 1, "s2: required s2.nii.gz, which does not exist"),
        (lambda f: (f / "imagesTr/s0_0000.nii.gz").write_bytes(b"no"), 1, "s0_0000.nii.gz cannot be read"),
        (lambda f: write(f / "imagesTr/s0_0000.nii.gz", ZEROS), 0, "s0_0000.nii.gz is constant: every value is 0"),
        (lambda f: write(f / "imagesTr/s0_0001.nii.gz", ZEROS), 1, "s0: required 1 channels by dataset.json, has 2"),
        (
            lambda f: rewrite(f, "s1", spacing=(0.001, 0.001, 0.003)),
            0,
            "s1: its spacing is 0.001 × 0.001 × 0.003 mm",
        ),
        (lambda f: rewrite(f, "s1", plus=1024), 0, "s1: no value lies below .*, those of most cases reach down to -9"),
        (lambda f: two_forms(f / "imagesTr/s0_0000.nii.gz"), 0, "s0_0000.nii.gz: sform and qform differ"),
        (lambda f: cut(f / "imagesTr/s0_0000.nii.gz"), 1, "s0_0000.nii.gz cannot be read: Compressed file ended"),
        (lambda f: by_nibabel(f / "imagesTr/s0_0000.nii.gz", STRIPES, nib.Nifti2Image), 1, "s0_0000.nii.gz is NIfTI-2"),
        (lambda f: by_nibabel(f / "imagesTr/s0_0000.nii.gz", STRIPES + 1j), 1, "s0_0000.nii.gz holds complex values"),
        (
            lambda f: by_nibabel(f / "imagesTr/s0_0000.nii.gz", np.where(STRIPES > 9, STRIPES, np.nan)),
            0,
            "s0_0000.nii.gz holds NaN or infinity",
        ),
        (
            lambda f: by_nibabel(f / "imagesTr/s0_0000.nii.gz", np.stack([STRIPES] * 2, -1)),
            1,
            "three axes, has 4 .7 × 6 × 4 × 2",
        ),
        (lambda f: add_test_case(f, f / "imagesTr/s2_0000.nii.gz"), 0, "the same image in s2, imagesTs/t_0000.nii.gz"),
        (lambda f: slope_0(f / "imagesTr/s0_0000.nii.gz"), 0, "s0_0000.nii.gz: scl_slope 0 .* adds scl_inter -1024"),
        (lambda f: said_to_have(f, 5), 0, "numTraining is 5, there are 3 cases"),
        (lambda f: (f / "imagesTr/series").mkdir(), 0, "imagesTr/series is a folder"),
        (lambda f: write(f / "labelsTr/t9.nii.gz", ZEROS), 0, "labelsTr/t9.nii.gz has no image"),
        (
            lambda f: (f / "imagesTr/s1_0000.nii.gz").write_bytes((f / "imagesTr/s2_0000.nii.gz").read_bytes()),
            0,
            "the same image in s1, s2",
        ),
    ],
)
def test_what_is_wrong_is_named(raw: Path, spoil: Callable[[Path], object], code: int, said: str) -> None:
    spoil(raw)
    got, output = examine()
    assert re.search(said, output), output
    assert got == code, output


def test_a_unit_that_nnunet_passes_over(raw: Path) -> None:
    """As a NRRD can have one."""
    for file in raw.rglob("*.nii.gz"):
        name = str(file).replace(".nii.gz", ".nrrd")
        sitk.WriteImage(sitk.ReadImage(str(file)), name)
        head, _, values = Path(name).read_bytes().partition(b"\n\n")
        unit = b"um" if "s1_0000" in name else b"mm"
        Path(name).write_bytes(head + b'\nspace units: "%b" "%b" "%b"\n\n' % (unit, unit, unit) + values)
        file.unlink()
    text = (raw / "dataset.json").read_text()
    (raw / "dataset.json").write_text(text.replace(".nii.gz", ".nrrd"))
    code, said = examine()
    assert code == 0 and "s1_0000.nrrd counts in um, which nnU-Net takes as mm" in said and said.count("counts in") == 1, said


def test_a_data_set_that_is_not_there(raw: Path) -> None:
    code, said = examine("10")
    assert code == 2 and "unknown data set" in said and "'10'" in said
