"""What the backbone is shown: formats, windows, orientation, and squares."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from probe_inputs import asymmetric_volume

from nnunet_dino._errors import UserError
from nnunet_dino.features.inputs import find_items
from nnunet_dino.features.items import Item, Unreadable
from nnunet_dino.features.picture import open_image, read_picture
from nnunet_dino.features.pixels import Preprocessing, fit_square, placement, shown_unit
from nnunet_dino.features.volume import Slicing, open_volume, read_volume, take_plane

PLAIN = Preprocessing(16, "stretch")


def shown(path: Path, preprocessing: Preprocessing = PLAIN) -> torch.Tensor:
    return open_image(Item(path.name, str(path)), preprocessing).images(0, 1)


@pytest.mark.parametrize("ending", ["png", "tif", "bmp"])
def test_eight_bits_are_shown_as_they_are(tmp_path, ending):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / f"x.{ending}")
    torch.testing.assert_close(shown(tmp_path / f"x.{ending}")[0, 0], torch.from_numpy(values / 255).float())


def test_colour_stays_colour_and_transparency_goes(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, size=(16, 16, 4), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "x.png")
    torch.testing.assert_close(shown(tmp_path / "x.png")[0], torch.from_numpy(values[..., :3] / 255).float().permute(2, 0, 1))


def test_sixteen_bits_are_shown_between_their_percentiles(tmp_path):
    values = np.linspace(1000, 5000, 256).reshape(16, 16).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    low, high = np.percentile(values, (0.5, 99.5))
    expected = np.clip((values - low) / (high - low), 0, 1)
    np.testing.assert_allclose(shown(tmp_path / "x.png")[0, 0].numpy(), expected, atol=1e-6)


def test_a_constant_picture_is_black_and_finite(tmp_path):
    Image.fromarray(np.full((16, 16), 300, np.uint16)).save(tmp_path / "x.png")
    assert (shown(tmp_path / "x.png") == 0).all()


def test_a_window_cuts_off(tmp_path):
    Image.fromarray(np.full((16, 16), 30, np.int32)).save(tmp_path / "x.tif")
    torch.testing.assert_close(
        shown(tmp_path / "x.tif", Preprocessing(16, "stretch", "brain")), torch.full((1, 1, 16, 16), 30 / 80)
    )
    assert (shown(tmp_path / "x.tif", Preprocessing(16, "stretch", "40,90")) == 0).all()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: p.write_bytes(b"no picture"), "cannot identify"),
        (lambda p: p.write_bytes(b""), "cannot identify"),
        (lambda p: None, "no such file"),
        (lambda p: _half(p), "truncated|broken|error"),
        (lambda p: _pages(p), "2 pages"),
        (lambda p: Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(p, "TIFF"), "NaN"),
    ],
)
def test_unusable_pictures_say_why(tmp_path, make, said):
    make(tmp_path / "x.png")
    with pytest.raises(Unreadable, match=said):
        read_picture(str(tmp_path / "x.png"))


def _half(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900])


def _pages(path: Path) -> None:
    page = Image.fromarray(np.zeros((9, 9), np.uint8))
    page.save(path, "TIFF", save_all=True, append_images=[page])


def write_dicom(path: Path, values: np.ndarray, **header: object) -> None:
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    data = pydicom.Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    data.Modality, data.PhotometricInterpretation, data.SamplesPerPixel = "CT", "MONOCHROME2", 1
    data.Rows, data.Columns = values.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.PixelData = values.astype("<i2").tobytes()
    for name, value in header.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)


def test_slope_and_intercept_of_dicom_are_applied_once(tmp_path):
    values = np.arange(12).reshape(3, 4)
    write_dicom(tmp_path / "x.dcm", values, RescaleSlope="2", RescaleIntercept="-1000")
    picture = read_picture(str(tmp_path / "x.dcm"))
    np.testing.assert_array_equal(picture.values[..., 0], 2 * values - 1000)
    assert picture.as_header_asks is None


def test_the_window_of_dicom_is_that_of_pydicom(tmp_path):
    values = np.random.default_rng(0).integers(-1200, 2000, (16, 16))
    write_dicom(tmp_path / "x.dcm", values, WindowCenter="40", WindowWidth="401", RescaleSlope="1", RescaleIntercept="0")
    from pydicom import dcmread
    from pydicom.pixels import apply_windowing

    expected = apply_windowing(values, dcmread(tmp_path / "x.dcm"))
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    np.testing.assert_allclose(shown(tmp_path / "x.dcm")[0, 0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("header", [{}, {"RescaleSlope": "2", "RescaleIntercept": "-30"}, {"PixelRepresentation": 0}])
def test_inverted_dicom_is_turned_over(tmp_path, header):
    values = np.arange(256).reshape(16, 16)
    window = {"WindowCenter": "100", "WindowWidth": "101", **header}
    write_dicom(tmp_path / "a.dcm", values, **window)
    write_dicom(tmp_path / "b.dcm", values, PhotometricInterpretation="MONOCHROME1", **window)
    torch.testing.assert_close(shown(tmp_path / "b.dcm"), 1 - shown(tmp_path / "a.dcm"))


def test_a_dicom_series_is_a_volume(tmp_path):
    from pydicom.uid import generate_uid

    series, study, frame = (generate_uid() for _ in range(3))
    slices = np.random.default_rng(0).integers(0, 1000, size=(4, 5, 7))
    for position in (2, 0, 3, 1):
        write_dicom(
            tmp_path / f"s{9 - position}.dcm",
            slices[position],
            SeriesInstanceUID=series,
            StudyInstanceUID=study,
            FrameOfReferenceUID=frame,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            ImagePositionPatient=[0, 0, 3 * position],
            PixelSpacing=[0.5, 0.25],
            RescaleSlope="1",
            RescaleIntercept="-1024",
        )
    kind, items = find_items([str(tmp_path)], "volumes")
    assert (kind, [item.id for item in items]) == ("volumes", ["."])
    volume = read_volume(items[0])
    np.testing.assert_array_equal(volume.values, slices - 1024)
    assert volume.spacing_mm == pytest.approx((3, 0.5, 0.25))


@pytest.mark.parametrize("ending", ["nii.gz", "nrrd", "mha"])
@pytest.mark.parametrize("code", ["LPS", "RAS", "PIR", "SAL"])
def test_orientation_decides_and_not_the_order_in_the_file(tmp_path, ending, code):
    path = tmp_path / f"x.{ending}"
    sitk.WriteImage(asymmetric_volume(code=code), str(path))
    volume = read_volume(Item("x", str(path)))
    d, h, w = np.indices((6, 10, 14))
    np.testing.assert_array_equal(volume.values, 100 * d + 10 * h + w)
    assert volume.spacing_mm == pytest.approx((2.5, 1.5, 1.0))


@pytest.mark.parametrize("ending", ["nii.gz", "nrrd", "mha"])
def test_the_volume_that_is_shown_is_said_and_others_than_there_are_refused(tmp_path, ending):
    one, four = tmp_path / f"one.{ending}", tmp_path / f"four.{ending}"
    sitk.WriteImage(asymmetric_volume(), str(one))
    sitk.WriteImage(sitk.JoinSeries([asymmetric_volume() + 1000 * number for number in range(4)]), str(four))
    assert read_volume(Item("x", str(one)), 0).notes == ()
    with pytest.raises(Unreadable, match="--volume: required 0, as there is one volume, got 3"):
        read_volume(Item("x", str(one)), 3)
    third = read_volume(Item("x", str(four)), 2)
    assert third.values.min() == 2000 and third.notes == ("volume 2 of 4",)
    for number in (None, 4):
        with pytest.raises(Unreadable, match="choose one with --volume 0 to 3"):
            read_volume(Item("x", str(four)), number)


def test_planes_are_shown_as_they_are_looked_at():
    d, h, w = np.indices((6, 10, 14))
    from nnunet_dino.features.volume import Volume

    volume = Volume(np.stack([d, h, w], -1), (2.5, 1.5, 1.0))
    axial, spacing = take_plane(volume, "axial")
    assert axial[2, 0, 0].tolist() == [2, 0, 0] and spacing == (1.5, 1.0), "front on top, patient's right on the left"
    coronal, spacing = take_plane(volume, "coronal")
    assert coronal[3, 0, 0].tolist() == [5, 3, 0] and spacing == (2.5, 1.0), "head on top"
    sagittal, spacing = take_plane(volume, "sagittal")
    assert sagittal[4, 0, 0].tolist() == [5, 0, 4] and spacing == (2.5, 1.5), "head on top, front on the left"


def test_slope_and_intercept_of_nifti_are_applied_once(tmp_path):
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
    stored = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    image = nibabel.Nifti1Image(stored, np.diag([-1, -1, 1, 1]))
    image.header.set_slope_inter(2, -1000)
    nibabel.save(image, tmp_path / "x.nii")
    loaded = nibabel.load(tmp_path / "x.nii")
    assert (loaded.dataobj.slope, loaded.dataobj.inter) == (2, -1000)
    values = read_volume(Item("x", str(tmp_path / "x.nii"))).values
    np.testing.assert_allclose(values, (2.0 * stored - 1000).transpose(2, 1, 0))
    np.testing.assert_allclose(values, loaded.get_fdata().transpose(2, 1, 0))


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_single_slice_in_any_direction_is_shown(tmp_path, plane):
    from pydicom.uid import generate_uid

    values, head = np.arange(20).reshape(4, 5), {"SeriesInstanceUID": generate_uid(), "ImagePositionPatient": [0, 0, 0]}
    write_dicom(tmp_path / "x.dcm", values, ImageOrientationPatient=[0, -1, 0, 0, 0, -1], PixelSpacing=[1, 1], **head)
    source = open_volume(Item("x", str(tmp_path / "x.dcm")), PLAIN, Slicing(plane))
    assert source.images(0, 1).max() == 1


def test_every_third_slice(tmp_path):
    sitk.WriteImage(asymmetric_volume(), str(tmp_path / "x.nii.gz"))
    item, window = Item("x", str(tmp_path / "x.nii.gz")), Preprocessing(16, "stretch", "0,700")
    every, third = (open_volume(item, window, Slicing("coronal", n)) for n in (1, 3))
    assert (every.num_images, third.num_images) == (10, 4)
    torch.testing.assert_close(third.images(0, 4), every.images(0, 10)[::3])


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (sitk.Image([4, 5, 6, 2], sitk.sitkInt16), "required three axes, has 4"),
        (sitk.Image([4, 5], sitk.sitkInt16), "required three axes, has 2"),
        (sitk.Image([4, 5, 6], sitk.sitkVectorInt16, 2), "one channel, has 2"),
        (sitk.GetImageFromArray(np.full((3, 4, 5), np.nan, np.float32)), "NaN"),
    ],
)
def test_unusable_volumes_say_why(tmp_path, image, said):
    sitk.WriteImage(image, str(tmp_path / "x.mha"))
    with pytest.raises(Unreadable, match=said):
        read_volume(Item("x", str(tmp_path / "x.mha")))


@pytest.mark.parametrize("first", [0, -1])
def test_a_nifti_file_without_spacing_says_so(tmp_path, first):
    header = bytearray(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), None).to_bytes())  # neither sform nor qform
    header[80:92] = np.array([first, 2, 3], "<f4").tobytes()  # pixdim
    (tmp_path / "x.nii").write_bytes(header)
    volume = read_volume(Item("x", str(tmp_path / "x.nii")))
    assert volume.spacing_mm == pytest.approx((3, 2, 1))
    assert f"pixdim says no positive spacing ({first} × 2 × 3): 1 × 2 × 3 mm were taken, as nibabel does" in "; ".join(
        volume.notes
    )


def test_damaged_and_missing_volumes_say_why(tmp_path):
    (tmp_path / "x.nii.gz").write_bytes(b"\x1f\x8bno")
    with pytest.raises(Unreadable, match=r"\w"):
        read_volume(Item("x", str(tmp_path / "x.nii.gz")))
    with pytest.raises(Unreadable, match="no such file"):
        read_volume(Item("x", str(tmp_path / "y.nii.gz")))


def test_squares_by_hand():
    """A picture of 20 × 40 pixels, each twice as high as wide, is as high as it is wide."""
    assert placement((20, 40), 32, "pad", (2.0, 1.0)) == (0, 0, 32, 32)
    assert placement((20, 40), 32, "pad") == (8, 0, 16, 32)
    assert placement((20, 40), 32, "crop") == (0, -16, 32, 64)
    assert placement((20, 40), 32, "stretch") == (0, 0, 32, 32)


def test_padding_is_black_and_cropping_takes_the_middle():
    picture = torch.arange(8.0).expand(1, 1, 4, 8) / 8 + 0.05
    padded = fit_square(picture, 8, "pad")
    assert (padded[:, :, :2] == 0).all() and (padded[:, :, 6:] == 0).all() and (padded[:, :, 2:6] > 0).all()
    cropped = fit_square(picture, 4, "crop")
    torch.testing.assert_close(cropped, picture[:, :, :, 2:6])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size_px": 200}, "16.*200.*192"),
        ({"size_px": 0}, "got 0"),
        ({"fit": "squeeze"}, "'squeeze'"),
        ({"window": "lungs"}, "'lungs'.*'lung'"),
        ({"window": "400,-100"}, "LOW below HIGH.*400,-100"),
    ],
)
def test_wrong_preprocessing_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        Preprocessing(**options)


def test_wrong_slicing_is_refused():
    with pytest.raises(UserError, match="'transversal'"):
        Slicing("transversal")
    with pytest.raises(UserError, match="--every.*0"):
        Slicing("axial", 0)


def test_inputs_are_found_in_folders_patterns_and_tables(tmp_path):
    for name in ("b/two.png", "a/one.jpg", "a/notes.txt", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [item.id for item in find_items([str(tmp_path)])[1]] == ["a/one.jpg", "b/two.png"]
    assert [item.id for item in find_items([str(tmp_path / "*" / "*.png")])[1]] == ["two.png"]
    (tmp_path / "list.csv").write_text("n,file\n1,b/two.png\n2,a/one.jpg\n")
    kind, items = find_items([str(tmp_path / "list.csv")])
    assert (kind, [item.id for item in items]) == ("images", ["b/two.png", "a/one.jpg"])
    assert items[0].path == str(tmp_path / "b/two.png")


@pytest.mark.parametrize(
    ("files", "arguments", "said"),
    [
        (["a.png", "b.nii.gz"], {}, "1 images, 1 volumes"),
        (["a.dcm"], {}, "--kind images .* a.dcm|DICOM.*a.dcm"),
        (["notes.txt"], {}, "got none"),
        (["a.png"], {"kind": "videos"}, "'videos'"),
        (["a.png"], {"column": "x"}, "--column"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, files, arguments, said):
    for name in files:
        (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=said):
        find_items([str(tmp_path)], **arguments)


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        ("n,where\n1,a.png\n", {}, "n, where.*--column"),
        ("file\na.png\na.png\n", {}, "a.png several times"),
        ("n,file\n1,a.png\n2,\n", {}, "none in row 3"),
        ("file\na.png\n", {"column": "flie"}, "'flie'.*'file'"),
        ("file\na.png\n", {"root": "nowhere"}, "nowhere"),
    ],
)
def test_wrong_tables_are_refused(tmp_path, text, arguments, said):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        find_items([str(tmp_path / "list.csv")], **arguments)


def test_hounsfield_units_without_a_window_are_told(tmp_path):
    volume = asymmetric_volume()
    for name, shift, is_told in (("ct", -1100, True), ("mr", 0, False)):
        sitk.WriteImage(sitk.Cast(volume, sitk.sitkInt16) + shift, str(tmp_path / f"{name}.nii.gz"))
        item = Item(name, str(tmp_path / f"{name}.nii.gz"))
        told = " ".join(open_volume(item, Preprocessing(32), Slicing()).notes)
        assert ("looks like CT in Hounsfield units, but has no --window; there are lung," in told) is is_told
        assert "Hounsfield" not in " ".join(open_volume(item, Preprocessing(32, window="lung"), Slicing()).notes)


def test_three_windows_are_red_green_and_blue(tmp_path):
    """By hand from Hounsfield units; and each colour is what its window alone shows."""
    values = np.arange(-1200, 1200, 25, dtype=np.int16).reshape(4, 6, 4)
    image = sitk.GetImageFromArray(values)
    sitk.WriteImage(image, tmp_path / "ct.nii.gz")
    item = Item("ct", str(tmp_path / "ct.nii.gz"))
    together = open_volume(item, Preprocessing(32, window="lung,mediastinum, -450:1050"), Slicing()).images(0, 4)
    assert together.shape == (4, 3, 32, 32)
    for colour, window in enumerate(("lung", "mediastinum", "bone")):
        alone = open_volume(item, Preprocessing(32, window=window), Slicing()).images(0, 4)
        torch.testing.assert_close(together[:, colour : colour + 1], alone)
    unit = shown_unit(torch.tensor([-600.0, 50.0]).view(2, 1, 1, 1), (0, 1), Preprocessing(32, window="lung,mediastinum,brain"))
    expected = [[750 / 1500, 0, 0], [1400 / 1500, 175 / 350, 50 / 80]]
    np.testing.assert_allclose(unit[:, :, 0, 0].numpy(), expected, rtol=1e-6)
    with pytest.raises(Unreadable, match="lung,brain,bone, has 3"):
        shown_unit(torch.zeros(2, 3, 4, 5), (0, 1), Preprocessing(32, window="lung,brain,bone"))
    with pytest.raises(UserError, match="'lungs'.*'lung'"):
        Preprocessing(32, window="lungs,brain,bone")


def test_a_list_may_name_cases_as_nnunet_does(tmp_path):
    for name in ("a_1_0000.nii.gz", "b_2.png"):
        (tmp_path / name).touch()
    (tmp_path / "list.csv").write_text("file\na_1\n")
    (item,) = find_items([str(tmp_path / "list.csv")])[1]
    assert (item.id, Path(item.path).name) == ("a_1", "a_1_0000.nii.gz")
    (tmp_path / "list.csv").write_text("file\nb_2\n")
    assert Path(find_items([str(tmp_path / "list.csv")])[1][0].path).name == "b_2.png"


@pytest.mark.parametrize("num_bytes", [None, 500])
def test_a_missing_or_cut_off_data_file_of_a_metaimage_is_named(tmp_path: Path, num_bytes: int | None) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 40, 50), np.int16)), str(tmp_path / "x.mhd"))
    data = tmp_path / "x.raw"
    data.write_bytes(data.read_bytes()[:num_bytes]) if num_bytes else data.unlink()
    with pytest.raises(
        Unreadable, match=r"^damaged or not whole, with its data file x\.raw: File cannot be read: .*x\.mhd"
    ) as refused:
        read_volume(Item("x", str(tmp_path / "x.mhd")))
    assert "\n" not in str(refused.value)
