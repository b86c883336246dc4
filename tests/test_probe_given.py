"""Features that others made: CLAM's and TRIDENT's h5 files, and vectors with ids."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from nnunet_dino.cli.main import main
from nnunet_dino.features.items import counted

IDS = [f"s{number:02d}" for number in range(24)]
LABELS = ["--target", "tumour", "--patient", "patient", "--device", "cpu", "--rounds", "20"]


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["probe", *words], prog_name="nnunet-dino")
    return result.exit_code, result.output


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Two slides a patient; every second patient has a tumour, and a tile or vector that shows it."""
    rows = [{"id": name, "patient": f"p{i // 2}", "tumour": (i // 2) % 2} for i, name in enumerate(IDS)]
    pd.DataFrame(rows).to_csv(tmp_path / "labels.csv", index=False)
    return tmp_path / "labels.csv"


def vectors() -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(len(IDS), 6)).astype(np.float32)
    values[:, 0] += [6.0 * ((i // 2) % 2) for i in range(len(IDS))]
    return values


def write_bags(folder: Path, is_trident: bool = False) -> None:
    """CLAM: ``features`` and ``coords``; TRIDENT: the same with attributes, here with its leading axis."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(1)
    for i, name in enumerate(IDS):
        tiles = generator.normal(size=(5 + i % 3, 6)).astype(np.float32)
        tiles[0, 0] += 12.0 * ((i // 2) % 2)
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["features"] = tiles[None] if is_trident else tiles
            file["coords"] = generator.integers(0, 999, (len(tiles), 2))
            file["coords"].attrs["patch_size"] = 256


@pytest.mark.slow
@pytest.mark.parametrize("inside", ["h5_files", ""])
def test_bags_of_clam_and_trident_find_the_tumour(inside: str, tmp_path: Path, labels: Path) -> None:
    write_bags(tmp_path / "features" / inside, is_trident=not inside)
    words = ["mil", str(tmp_path / "features"), "--labels", str(labels), *LABELS, "-o", str(tmp_path / "report")]
    code, output = run(*words, "--epochs", "30", "--patience", "0", "--lr", "0.01", "--projection", "8", "--attention", "4")
    assert code == 0, output
    table = pd.read_csv(tmp_path / "report" / "predictions.csv")
    test = table[table["split"] == "test"]
    assert set(table["id"]) == set(IDS)
    assert test[test["tumour"] == 1]["score tumour"].min() > test[test["tumour"] == 0]["score tumour"].max()
    assert not (tmp_path / "report" / "mil.safetensors").exists()


def test_damaged_and_mixed_bags_are_refused_in_one_line(tmp_path: Path, labels: Path) -> None:
    write_bags(tmp_path / "features")
    words = ["mil", str(tmp_path / "features"), "--labels", str(labels), *LABELS, "-o", str(tmp_path / "report")]
    with h5py.File(tmp_path / "features" / "s03.h5", "w") as file:
        file["features"] = np.zeros((4, 7))
    code, output = run(*words)
    assert code == 2 and "required features of one width · got 6 in s00.h5, 7 in s03.h5" in output
    (tmp_path / "features" / "s03.h5").write_bytes(b"no h5")
    code, output = run(*words)
    assert code == 2 and "s03.h5: required features of tiles" in output
    assert not (tmp_path / "report").exists()


def test_bags_in_two_places_are_refused(tmp_path: Path, labels: Path) -> None:
    write_bags(tmp_path / "features" / "h5_files")
    (tmp_path / "features" / "s03.h5").write_bytes(b"of another run")
    words = ["mil", str(tmp_path / "features"), "--labels", str(labels), *LABELS, "-o", str(tmp_path / "report")]
    code, output = run(*words)
    assert code == 2 and output.count("\n") == 1 and not (tmp_path / "report").exists()
    assert re.search(r"required \.h5 files in one place · got 1 in .*features and 24 in .*h5_files · name the latter", output)


def test_a_folder_above_that_of_the_bags_is_told_which_to_name(tmp_path: Path, labels: Path) -> None:
    write_bags(tmp_path / "20x_256px" / "features_uni_v1")
    words = ["mil", str(tmp_path / "20x_256px"), "--labels", str(labels), *LABELS, "-o", str(tmp_path / "report")]
    code, output = run(*words)
    assert code == 2 and re.search(r"which is neither · name .*20x_256px.features_uni_v1\n$", output), output


def as_npy(file: Path) -> Path:
    np.save(file.with_suffix(".npy"), vectors())
    pd.DataFrame({"file": [f"{name}.png" for name in IDS]}).to_csv(file.with_suffix(".csv"), index=False)
    return file.with_suffix(".npy")


def as_npz(file: Path) -> Path:
    np.savez(file.with_suffix(".npz"), features=vectors(), ids=np.array(IDS))
    return file.with_suffix(".npz")


def as_parquet(file: Path) -> Path:
    pytest.importorskip("pyarrow")
    pd.DataFrame({"id": IDS, "embedding": list(vectors())}).to_parquet(file.with_suffix(".parquet"))
    return file.with_suffix(".parquet")


@pytest.mark.parametrize("probe", ["linear", "linear --sweep", "knn"])
@pytest.mark.parametrize("write", [as_npy, as_npz, as_parquet])
def test_vectors_with_ids(write: Callable[[Path], Path], probe: str, tmp_path: Path, labels: Path) -> None:
    file = write(tmp_path / "vectors")
    sweep = ["--sweep", "--fractions", "0.5,0.25,0.25"]
    more = {"linear": ["--lr", "0.05"], "linear --sweep": sweep, "knn": ["-k", "3"]}[probe]
    probe = probe.split()[0]
    code, output = run(probe, str(file), "--labels", str(labels), *LABELS, *more, "-o", str(tmp_path / "report"))
    assert code == 0, output
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert f"Features: as {file} holds them." in text
    table = pd.read_csv(tmp_path / "report" / "predictions.csv")
    test = table[table["split"] == "test"]
    assert test[test["tumour"] == 1]["score tumour"].min() > test[test["tumour"] == 0]["score tumour"].max()


@pytest.mark.parametrize("index", [pd.Index(IDS), pd.Index(IDS, name="slide"), pd.Index(IDS, name="id")])
def test_ids_may_be_the_index_of_a_table(index: pd.Index, tmp_path: Path, labels: Path) -> None:
    pytest.importorskip("pyarrow")
    file = tmp_path / "vectors.parquet"
    words = ["knn", str(file), "--labels", str(labels), *LABELS, "-k", "3", "-o", str(tmp_path / "report")]
    pd.DataFrame(vectors()).add_prefix("f").set_index(index).to_parquet(file)
    code, output = run(*words)
    assert code == 0, output
    assert set(pd.read_csv(tmp_path / "report" / "predictions.csv")["id"]) == set(IDS)
    pd.DataFrame(vectors()).add_prefix("f").set_index(pd.Index(range(1, 25))).to_parquet(file)
    code, output = run(*words, "--overwrite")
    assert code == 2 and "vectors.parquet: required a column of ids called one of id, ids, path" in output


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (np.array(IDS)[:, None], r"required ids \(n,\) · got an array of \(24, 1\) · save ids\.ravel\(\)"),
        (np.array(IDS, dtype=object), r"got .*Object arrays.* · save ids as text, as in ids\.astype\(str\)"),
    ],
)
def test_ids_of_an_array_that_is_no_list_of_names_are_refused(ids: np.ndarray, said: str, tmp_path: Path, labels: Path) -> None:
    np.savez(tmp_path / "vectors.npz", features=vectors(), ids=ids)
    words = ["knn", str(tmp_path / "vectors.npz"), "--labels", str(labels), *LABELS, "-o", str(tmp_path / "report")]
    code, output = run(*words)
    assert code == 2 and output.count("\n") == 1 and re.search(said, output), output


def test_ids_that_do_not_fit_are_refused(tmp_path: Path, labels: Path) -> None:
    file = as_npy(tmp_path / "vectors")
    words = ["linear", str(file), "--labels", str(labels), *LABELS, "-o", str(tmp_path / "report")]
    pd.DataFrame({"file": IDS[:-1]}).to_csv(tmp_path / "vectors.csv", index=False)
    code, output = run(*words)
    assert code == 2 and "got 23 ids, 23 different, and an array of (24, 6)" in output
    pd.DataFrame({"name": IDS}).to_csv(tmp_path / "vectors.csv", index=False)
    code, output = run(*words)
    assert code == 2 and "vectors.csv: required a column of ids called one of id, ids, path" in output
    file.write_bytes(b"\x93NUMPY")
    code, output = run(*words)
    assert code == 2 and "required vectors in a readable .npy, .npz or .parquet file" in output
    assert not (tmp_path / "report").exists()


def test_a_store_of_an_encoder_without_class_token_is_probed_by_its_mean(
    tmp_path: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_dino_weights", "random")
    (tmp_path / "images").mkdir()
    for i, name in enumerate(IDS):
        pixels = np.full((32, 32), 200 if (i // 2) % 2 else 20, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
    words = ["extract", str(tmp_path / "images"), "-o", str(tmp_path / "store"), "--size", "32", "--device", "cpu"]
    assert CliRunner().invoke(main, [*words, "--backbone", "timm:convnext_atto"], prog_name="nnunet-dino").exit_code == 0
    words = ["linear", str(tmp_path / "store"), "--labels", str(labels), *LABELS, "-o", str(tmp_path / "report")]
    code, output = run(*words)
    assert code == 0, output
    assert "mean of the patch tokens of the last block of timm:convnext_atto" in (tmp_path / "report/report.md").read_text()
    code, output = run(*words, "--features", "both", "--overwrite")
    assert code == 2 and "required a store with 'both' · got one with mean" in output


def as_table(**more: object) -> dict[str, object]:
    return {"id": IDS, "emb": list(vectors()), **more}


WIDE = {"id": IDS, **{f"f{number}": column for number, column in enumerate(vectors().T)}}
PARQUETS = {
    "no numbers": ({"id": IDS}, r"an array of \(24, 0\)"),
    "two columns of vectors": (as_table(emb2=list(vectors())), "required one column of vectors · got emb, emb2"),
    "the label among the numbers": ({**WIDE, "tumour": 1}, "required features only · got the column 'tumour' of --target"),
    "the patient among the numbers": ({**WIDE, "patient": 1}, "required features only · got the column 'patient' of --patient"),
}


@pytest.mark.parametrize("case", PARQUETS)
def test_tables_that_hold_other_things_than_features_are_refused(case: str, tmp_path: Path, labels: Path) -> None:
    pytest.importorskip("pyarrow")
    columns, said = PARQUETS[case]
    pd.DataFrame(columns).to_parquet(tmp_path / "vectors.parquet")
    words = ["linear", str(tmp_path / "vectors.parquet"), "--labels", str(labels), *LABELS, "-o", str(tmp_path / "report")]
    code, output = run(*words)
    assert code == 2 and output.count("\n") == 1 and re.search(said, output), output
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (vectors()[:, :0], r"an array of \(24, 0\)"),
        (vectors() + 1j, "complex"),
        (vectors().astype(float) * 1e300, "got NaN or infinity for s00"),
        (vectors()[0], r"an array of \(6,\)"),
    ],
)
def test_vectors_and_bags_of_no_use_are_refused_in_one_line(
    values: np.ndarray, said: str, tmp_path: Path, labels: Path
) -> None:
    np.savez(tmp_path / "vectors.npz", features=values, ids=np.array(IDS, dtype="S"))
    write_bags(tmp_path / "bags")
    with h5py.File(tmp_path / "bags" / "s00.h5", "w") as file:
        file["features"] = values
    more = ["--labels", str(labels), *LABELS, "-o", str(tmp_path / "report")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code, output = run("knn", str(tmp_path / "vectors.npz"), *more)
        assert code == 2 and output.count("\n") == 1, output
        assert values.ndim == 1 or re.search(said, output), output
        code, output = run("mil", str(tmp_path / "bags"), *more)
    assert code == 2 and output.count("\n") == 1 and "s00.h5" in output and re.search(said.replace(" for s00", ""), output), (
        output
    )
    assert not (tmp_path / "report").exists()


def test_ids_as_bytes_and_features_that_cannot_be_chosen(tmp_path: Path, labels: Path) -> None:
    np.savez(tmp_path / "vectors.npz", features=vectors(), ids=np.array(IDS, dtype="S"))
    write_bags(tmp_path / "bags")
    more = ["--labels", str(labels), *LABELS, "-o", str(tmp_path / "report")]
    for probe, file in (("knn", "vectors.npz"), ("mil", "bags")):
        code, output = run(probe, str(tmp_path / file), *more, "--features", "class")
        assert code == 2 and "--features: required a store of `nnunet-dino extract`, which holds several · got" in output
    code, output = run("knn", str(tmp_path / "vectors.npz"), *more, "-k", "3")
    assert code == 0, output


@pytest.mark.parametrize("probe", ["linear", "mil"])
@pytest.mark.parametrize("name", ["vectros.npy", "empty", "one.h5"])
def test_what_can_be_probed_is_named_where_there_is_no_store(name: str, probe: str, tmp_path: Path, labels: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "one.h5").write_bytes(b"")
    code, output = run(probe, str(tmp_path / name), "--labels", str(labels), *LABELS, "-o", str(tmp_path / "report"))
    kinds = "a folder of .h5 files or an .npz file" if probe == "mil" else "a .npy, .npz or .parquet file"
    got = "which does not exist" if name.startswith("v") else "which is neither"
    assert code == 2 and re.search(
        f"required a store that `nnunet-dino extract` made, or {kinds} · got .*{name}, {got}", output
    )


def test_a_target_with_another_value_for_every_patient_is_refused(tmp_path: Path, labels: Path) -> None:
    pd.read_csv(labels).assign(tumour=lambda table: table.patient + "x").to_csv(labels, index=False)
    np.savez(tmp_path / "others.npz", ids=IDS, features=vectors())
    code, output = run("linear", str(tmp_path / "others.npz"), "--labels", str(labels), *LABELS[:4], "-o", str(tmp_path / "r"))
    assert code == 2 and len(output.strip().splitlines()) == 1 and not (tmp_path / "r").exists()
    assert "--target: required classes that several patients have · got 12 classes, 12 of them with one patient" in output


def test_one_input_is_no_plural() -> None:
    assert [counted(number, "slides") for number in (0, 1, 2000)] == ["0 slides", "1 slide", "2,000 slides"]
