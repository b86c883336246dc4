"""Reading labels and joining them with inputs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nnunet_dino._errors import UserError
from nnunet_dino.probes.labels import copies_between_patients, read_labels
from nnunet_dino.probes.targets import LabelColumns

IDS = ["a/one.png", "a/two.png", "b/three.png"]


@pytest.fixture
def table(tmp_path):
    def write(**columns):
        pd.DataFrame(columns).to_csv(tmp_path / "labels.csv", index=False)
        return tmp_path / "labels.csv"

    return write


def columns(file, *targets, **more) -> LabelColumns:
    return LabelColumns(file, targets or ("y",), "who", **more)


def test_rows_are_joined_in_the_order_of_the_store(table):
    file = table(file=[IDS[2], IDS[0], "x.png"], who=["P3", "P1", "P9"], y=[1, 0, 1])
    found = read_labels(columns(file), IDS)
    assert found.ids == [IDS[0], IDS[2]]
    assert found.patients.tolist() == ["P1", "P3"]
    assert found.targets.tolist() == [[0], [1]]
    assert (found.num_without_features, found.num_without_labels) == (1, 1)


@pytest.mark.parametrize("names", [["one.png", "two.png", "three.png"], ["one", "two", "three"]])
def test_file_names_will_do(table, names):
    assert read_labels(columns(table(id=names, who=["P", "Q", "R"], y=[0, 1, 0])), IDS).ids == IDS


@pytest.mark.parametrize("index", [None, "id"])
def test_parquet_is_a_table_too(tmp_path, index):
    pytest.importorskip("pyarrow")
    file, rows = tmp_path / "labels.parquet", pd.DataFrame({"id": ["größe a", "b"], "who": [7, 8], "y": [1.0, 0.0]})
    (rows.set_index(index) if index else rows).to_parquet(file)
    found = read_labels(columns(file), ["b.png", "größe a.png"])
    assert (found.patients.tolist(), found.targets.tolist()) == (["8", "7"], [[0], [1]])
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match="labels.parquet"):
        read_labels(columns(file), ["b.png"])


def test_dots_in_names_are_no_endings(table):
    uids, ids = ["1.2.840.10", "1.2.840.2"], ["x/1.2.840.2.dcm", "x/1.2.840.10.dcm"]
    assert read_labels(columns(table(id=uids, who=["P", "Q"], y=[1, 0])), ids).targets.tolist() == [[0], [1]]
    numbers = ["1", "1.0", "1e3", "1000"]
    file = table(id=numbers, who=list("PQRS"), y=[0, 1, 1, 0])
    assert read_labels(columns(file), [f"{name}.png" for name in numbers]).patients.tolist() == list("PQRS")


def test_double_endings_are_endings(table):
    file = table(id=["train_1_a_1.nii.gz"], who=["P"], y=[1])
    assert read_labels(columns(file), ["x/train_1_a_1.nii.gz"]).ids == ["x/train_1_a_1.nii.gz"]


def test_case_names_of_nnunet_will_do(table):
    file = table(id=["openkbp_243", "openkbp_244"], who=["P", "Q"], y=[1, 0])
    ids = ["imagesTr/openkbp_243_0000.nii.gz", "imagesTr/openkbp_244_0000.nii.gz"]
    assert read_labels(columns(file), ids).ids == ids


def test_copies_under_two_patients_are_named():
    vectors = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    vectors[3], vectors[4] = vectors[0], vectors[1]
    patients = np.array(["P", "Q", "R", "S", "Q"])  # the copy of b is of the same patient
    (note,) = copies_between_patients(vectors, list("abcde"), patients)
    assert "(1 such)" in note and "a of P, d of S" in note and "b of Q" not in note
    assert copies_between_patients(vectors[:3], list("abc"), patients[:3]) == []


def test_several_columns_are_independent_labels(table):
    file = table(id=IDS, who=["P", "Q", "R"], cough=[1, 0, 0], fever=[1, 1, 0])
    found = read_labels(columns(file, "fever", "cough"), IDS)
    assert (found.names, found.is_exclusive) == (("fever", "cough"), False)
    assert found.targets.tolist() == [[1, 1], [1, 0], [0, 0]]


def test_three_words_are_exclusive_classes(table):
    found = read_labels(columns(table(id=IDS, who=["P", "Q", "R"], y=["flu", "cold", "cough"])), IDS)
    assert (found.names, found.is_exclusive) == (("cold", "cough", "flu"), True)
    assert found.classes.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("words", "negative", "expected"),
    [
        (["yes", "no", "yes"], {}, [1, 0, 1]),
        (["Normal", "abnormal", "Normal"], {}, [0, 1, 0]),
        (["flu", "cold", "flu"], {}, [1, 0, 1]),
        (["flu", "cold", "flu"], {"negative": "flu"}, [0, 1, 0]),
        (["2", "10", "2"], {}, [0, 1, 0]),
    ],
)
def test_two_words_are_zero_and_one_and_it_is_said_which(table, words, negative, expected):
    found = read_labels(columns(table(id=IDS, who=["P", "Q", "R"], y=words), **negative), IDS)
    assert (found.names, found.is_exclusive) == (("y",), False)
    assert found.targets[:, 0].tolist() == expected
    one, zero = words[expected.index(1)], words[expected.index(0)]
    assert [f"{one!r} counts as 1 and {zero!r} as 0" in note for note in found.notes] == [True]


@pytest.mark.parametrize(
    ("values", "how", "ids", "expected"),
    [
        ([1, -1, 0], "drop", [IDS[0], IDS[2]], [1, 0]),
        ([1, -1, 0], "positive", IDS, [1, 1, 0]),
        (["1.0", "-1.0", "0.0"], "negative", IDS, [1, 0, 0]),
        (["yes", "-1", "no"], "positive", IDS, [1, 1, 0]),
        (["yes", "-1", "no"], "negative", IDS, [1, 0, 0]),
        ([1, -1, 1], "negative", IDS, [1, 0, 1]),
    ],
)
def test_uncertain_labels_are_treated_as_asked(table, values, how, ids, expected):
    found = read_labels(columns(table(id=IDS, who=["P", "Q", "R"], y=values), uncertain=how), IDS)
    assert (found.ids, found.names, found.is_exclusive) == (ids, ("y",), False)
    assert found.targets[:, 0].tolist() == expected
    assert f"y: 1 uncertain row is {'left out' if how == 'drop' else f'counted as {how}'}" in found.notes[0]


def test_minus_one_among_grades_is_a_grade(table):
    found = read_labels(columns(table(id=IDS, who=["P", "Q", "R"], y=[-1, 0, 2])), IDS)
    assert (found.names, found.notes) == (("-1", "0", "2"), [])


@pytest.mark.parametrize(("words", "is_told"), [(["TRUE", "0", "1"], True), (["true", "False", "true"], False)])
def test_true_beside_one_is_told(table, words, is_told):
    found = read_labels(columns(table(id=IDS, who=["P", "Q", "R"], y=words)), IDS)
    assert found.targets[:, 0].tolist() == [1, 0, 1]
    assert [note for note in found.notes if "y: true and false count as 1 and 0" in note] == found.notes and bool(
        found.notes
    ) is is_told


def test_a_row_is_dropped_if_any_of_its_labels_is_uncertain(table):
    file = table(id=IDS, who=["P", "Q", "R"], cough=[1, 0, -1], fever=[-1, 1, 0])
    found = read_labels(columns(file, "cough", "fever", uncertain="drop"), IDS)
    assert (found.ids, found.targets.tolist(), len(found.notes)) == ([IDS[1]], [[0, 1]], 2)


def test_grades_are_in_the_order_of_numbers(table):
    assert read_labels(columns(table(id=IDS, who=["P", "Q", "R"], y=[10, 9, 2])), IDS).names == ("2", "9", "10")


def test_labels_in_one_cell(table):
    file = table(id=IDS, who=["P", "Q", "R"], y=["Mass|Edema", "No Finding", "Mass"])
    found = read_labels(columns(file, separator="|"), IDS)
    assert found.names == ("Edema", "Mass")
    np.testing.assert_array_equal(found.targets, [[1, 1], [0, 0], [0, 1]])


@pytest.mark.parametrize(
    ("cells", "more", "said"),
    [
        ({"id": IDS, "who": ["P"] * 3, "y": [0, 1, 0]}, {"targets": ("z",)}, "--target.*'z'"),
        ({"id": IDS, "y": [0, 1, 0]}, {}, "--patient.*'who'"),
        ({"name": IDS, "who": ["P"] * 3, "y": [0, 1, 0]}, {}, "name, who, y.*--id"),
        ({"id": IDS, "who": ["P"] * 3, "y": [0, 1, 0]}, {"split": "part"}, "--split.*'part'"),
        ({"id": IDS, "who": ["P", "", "R"], "y": [0, 1, 0]}, {}, "--patient.*two.png"),
        ({"id": IDS, "who": ["P"] * 3, "y": ["0", "", "1"]}, {}, "--target y.*two.png"),
        ({"id": IDS, "who": ["P"] * 3, "y": ["0", "2", "1"], "z": [0, 1, 0]}, {"targets": ("y", "z")}, "--target y.*'2'"),
        ({"id": IDS, "who": ["P"] * 3, "y": ["x"] * 3}, {}, "two classes.*'x'"),
        ({"id": IDS, "who": ["P"] * 3, "y": [1, -1, 0]}, {}, "--target y.*-1.*1 row, first a/two.png.*--uncertain drop"),
        ({"id": IDS, "who": ["P"] * 3, "y": ["yes", "-1", "no"]}, {}, "--target y.*-1.*--uncertain"),
        ({"id": IDS, "who": ["P"] * 3, "y": [1, -1, 0], "z": [1, 1, 0]}, {"targets": ("z", "y")}, "--target y.*--uncertain"),
        ({"id": IDS, "who": ["P"] * 3, "y": [-1, -1, -1]}, {"uncertain": "drop"}, "--uncertain drop.*all 3"),
        ({"id": IDS, "who": ["P"] * 3, "y": [1, -1, 0]}, {"uncertain": "maybe"}, "--uncertain.*'maybe'"),
        ({"id": IDS, "who": ["P"] * 3, "y": ["1", "nan", "0"]}, {}, "--target y.*'nan'"),
        ({"id": IDS, "who": ["P"] * 3, "y": ["Flu", "cold", "flu "]}, {}, "--target y.*one spelling.*'Flu' and 'flu'"),
        ({"id": IDS, "who": ["P"] * 3, "y": ["1", "2", "2.0"]}, {}, "--target y.*one spelling.*'2' and '2.0'"),
        ({"id": IDS, "who": ["P"] * 3, "y": ["1", "0", "-99"]}, {}, "--target y.*-99.*missing"),
        ({"id": IDS, "who": ["P"] * 3, "y": ["1", "2", "999"]}, {}, "--target y.*999.*missing"),
        ({"id": IDS, "who": ["P", "None", "-"], "y": [0, 1, 0]}, {}, "--patient.*'None'.*missing.*two.png .2 such"),
        ({"id": IDS, "who": ["P"] * 3, "y": ["a", "b", "a"]}, {"negative": "c"}, "--negative.*a and b.*'c'"),
        ({"id": [IDS[0], IDS[0], IDS[1]], "who": ["P"] * 3, "y": [0, 1, 0]}, {}, "two for a/one.png"),
        ({"id": ["u", "v", "w"], "who": ["P"] * 3, "y": [0, 1, 0]}, {}, "a/one.png.*got u"),
        ({"id": IDS, "who": ["P", "Q", "R"], "y": [0, 1, 0], "part": ["train", "tset", "test"]}, {"split": "part"}, "'tset'"),
        (
            {"id": IDS, "who": ["P", "P", "R"], "y": [0, 1, 0], "part": ["train", "test", "test"]},
            {"split": "part"},
            "P .test and",
        ),
    ],
)
def test_wrong_files_are_refused_with_the_culprit(table, cells, more, said):
    more = dict(more)
    with pytest.raises(UserError, match=said):
        read_labels(columns(table(**cells), *more.pop("targets", ()), **more), IDS)


def test_no_file_at_all(tmp_path):
    with pytest.raises(UserError, match="nothing.csv, which does not exist"):
        read_labels(columns(tmp_path / "nothing.csv"), IDS)
