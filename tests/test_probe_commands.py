"""``nnunet-dino probe …`` and ``look`` as a person types them, on pictures whose upper half is bright or not."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from click.testing import CliRunner, Result
from probe_inputs import TINY, asymmetric_volume, files_of, write_labels, write_pictures
from safetensors import safe_open
from sklearn.metrics import confusion_matrix, roc_auc_score

from nnunet_dino.backbones import weights
from nnunet_dino.cli.main import main
from nnunet_dino.features import open_store
from nnunet_dino.probes.saved import probe_file, read_probe

VOID = {"input", "meta", "img", "source", "br", "wbr"}


@pytest.fixture(autouse=True)
def random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(weights.ENVIRONMENT_VARIABLE, "random")


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [*map(str, words)], prog_name="nnunet-dino")


def fails(*words: object) -> str:
    """Runs a command that must fail in the agreed way and returns its one line."""
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("nnunet-dino: error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with 48 pictures, their labels and a store of their features."""
    folder = tmp_path_factory.mktemp("probe")
    write_labels(folder / "labels.csv", write_pictures(folder / "pictures", 48), per_patient=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(weights.ENVIRONMENT_VARIABLE, "random")
        result = run(
            "extract", folder / "pictures", "-o", folder / "store", "--backbone", TINY, "--size", 32, "--device", "cpu"
        )
    assert result.exit_code == 0, result.output
    return folder


def labels(place: Path, *more: object, target: str = "bright") -> list[object]:
    words = [place / "store", "--labels", place / "labels.csv", "--target", target, "--patient", "who", "--device", "cpu"]
    return [*words, "--fractions", "0.5,0.25,0.25", "--rounds", 20, *more]


def test_without_a_verb_the_verbs_are_shown():
    result = run("probe")
    assert (result.exit_code, result.stderr) == (0, "")
    assert all(f"\n  {verb} " in result.stdout for verb in ("linear", "knn", "mil"))
    assert "'linaer'; did you mean 'linear'" in fails("probe", "linaer")


class Page(HTMLParser):
    """Collects what a page refers to and checks that its elements nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open += [] if tag in VOID else [tag]
        self.references += [value for name, value in attrs if name in ("src", "srcset", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_linear_probe_sees_what_is_bright_and_reports_it(place, tmp_path):
    result = run("probe", "linear", *labels(place, "--epochs", 200, "-o", tmp_path / "r"))
    assert result.exit_code == 0, result.output
    numbers = json.loads((tmp_path / "r" / "report.json").read_text())
    assert numbers["metrics"]["test"]["overall"]["auroc"]["value"] == 1.0
    assert "AUROC 1.000 [1.000, 1.000] on test (bright; 12 inputs of 4 patients)" in result.stdout
    assert "random" in result.stdout, "a reader is told that the numbers say nothing about DINOv3"
    assert sorted(files_of(tmp_path / "r")) == [
        "linear.safetensors",
        "pictures/calibration.svg",
        "pictures/roc.svg",
        "predictions.csv",
        "report.html",
        "report.json",
        "report.md",
    ]
    page = Page((tmp_path / "r" / "report.html").read_text(encoding="utf-8"))
    assert all(reference.startswith("data:image/") for reference in page.references) and page.references
    text = (tmp_path / "r" / "report.md").read_text(encoding="utf-8")
    assert "no patient is in two parts" in text and "adamw, learning rate 0.005" in text


@pytest.mark.slow
@pytest.mark.parametrize(("probe", "more"), [("linear", ("--epochs", 100)), ("knn", ("-k", "1,3"))])
def test_folds_of_a_probe_test_every_input_once_and_part_no_patient(place, tmp_path, probe, more):
    words = [place / "store", "--labels", place / "labels.csv", "--target", "bright", "--patient", "who", "--rounds", 20]
    result = run("probe", probe, *words, "--folds", 4, "--repeats", 2, *more, "--device", "cpu", "-o", tmp_path / "r")
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "r" / "predictions.csv")
    assert len(table) == 48 and (table["split"] == "test").all() and set(table["fold"]) == {1, 2, 3, 4}
    assert (table.groupby("patient")["fold"].nunique() == 1).all()
    numbers = json.loads((tmp_path / "r" / "report.json").read_text())
    areas = [roc_auc_score(some["bright"], some["score bright"]) for _, some in table.groupby("fold")]
    assert numbers["repeats"][0]["fold_aurocs"] == pytest.approx(areas, abs=1e-6)
    assert numbers["repeats"][0]["auroc_sd_over_folds"] == pytest.approx(np.std(areas, ddof=1), abs=1e-6)
    assert len(numbers["repeats"]) == 2 and min(areas) > 0.9
    assert "(SD over 8 folds), mean over folds" in " ".join(result.stdout.split())
    assert "--split" in fails("probe", probe, *words, "--folds", 4, "--split", "who", "-o", tmp_path / "s")


@pytest.mark.slow
def test_two_probes_of_one_store_are_compared(place, tmp_path):
    run("probe", "linear", *labels(place, "--epochs", 200, "-o", tmp_path / "a"))
    run("probe", "knn", *labels(place, "-k", "1", "-o", tmp_path / "b"))
    result = run("probe", "compare", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "c", "--rounds", 200)
    assert result.exit_code == 0, result.output
    (found,) = json.loads((tmp_path / "c" / "report.json").read_text())["differences"]
    for name, folder in (("first", "a"), ("second", "b")):
        test = pd.read_csv(tmp_path / folder / "predictions.csv").query("split == 'test'")
        assert found[name] == pytest.approx(roc_auc_score(test["bright"], test["score bright"]))
    assert "val has 4 patients only" in (tmp_path / "a" / "report.md").read_text()
    assert "got " in fails("probe", "compare", tmp_path / "a", "-o", tmp_path / "d")


def test_predictions_and_report_agree(place, tmp_path):
    run("probe", "linear", *labels(place, "--epochs", 2, "-o", tmp_path / "r"))
    table = pd.read_csv(tmp_path / "r" / "predictions.csv")
    metrics = json.loads((tmp_path / "r" / "report.json").read_text())["metrics"]
    assert table.groupby("patient")["split"].nunique().max() == 1
    for part in ("val", "test"):
        rows = table[table["split"] == part]
        expected = roc_auc_score(rows["bright"], rows["score bright"])
        assert metrics[part]["overall"]["auroc"]["value"] == pytest.approx(expected)


def test_the_layer_that_is_saved_gives_the_scores_that_are_saved(place, tmp_path):
    from nnunet_dino.features.store.reader import FeatureStore

    run("probe", "linear", *labels(place, "--epochs", 3, "--standardise", "-o", tmp_path / "r"))
    with safe_open(tmp_path / "r" / "linear.safetensors", "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in ("weight", "bias", "shift", "scale")}
        made_for = json.loads(file.metadata()["nnunet_dino_probe"])
    assert (made_for["labels"], made_for["backbone"]) == (["bright"], TINY)
    ids, vectors = FeatureStore(place / "store").vectors("both")
    logits = ((vectors - tensors["shift"]) / tensors["scale"]) @ tensors["weight"].T + tensors["bias"]
    table = pd.read_csv(tmp_path / "r" / "predictions.csv").set_index("id").loc[ids]
    np.testing.assert_allclose(table["score bright"], 1 / (1 + np.exp(-logits[:, 0])), atol=1e-5)


def test_neighbours_report_every_setting(place, tmp_path):
    result = run("probe", "knn", *labels(place, "-k", "1,5,10,500", "-o", tmp_path / "r"))
    assert result.exit_code == 0, result.output
    numbers = json.loads((tmp_path / "r" / "report.json").read_text())
    assert [(row["k"], row["votes"]) for row in numbers["settings"]] == [
        (k, v) for k in (1, 5, 10) for v in ("uniform", "softmax")
    ]
    assert numbers["metrics"]["test"]["overall"]["auroc"]["value"] > 0.9
    assert "k = 500" in result.stdout
    assert numbers["chosen"]["how"] == "the best on val"


def test_leaving_one_patient_out_decides_by_votes_that_can_reach_the_threshold(place, tmp_path):
    words = labels(place, "-k", "1,5,30", "--leave-one-out", "-o", tmp_path / "r")
    assert "--threshold 0.5" in fails("probe", "knn", *words)
    result = run("probe", "knn", *words, "--threshold", "0.5")
    assert result.exit_code == 0, result.output
    numbers = json.loads((tmp_path / "r" / "report.json").read_text())
    assert numbers["metrics"]["test"]["num"] == 48
    assert numbers["chosen"] == {"k": 5, "votes": "uniform", "how": "not chosen by result"}
    assert numbers["metrics"]["test"]["overall"]["accuracy"]["value"] > 0.9
    rows = [line for line in (tmp_path / "r" / "report.md").read_text().splitlines() if line.startswith("| softmax |")]
    assert len(rows) == 3 and all("| – | – | – |" in row for row in rows), "no accuracy where 0.5 cannot be reached"


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["youden", "0.5"])
def test_words_give_the_numbers_of_zero_and_one(place, tmp_path, rule):
    table = pd.read_csv(place / "labels.csv")
    table.assign(bright=table["bright"].map({0: "no", 1: "yes"})).to_csv(tmp_path / "words.csv", index=False)
    reports = []
    for name, file in (("numbers", place / "labels.csv"), ("words", tmp_path / "words.csv")):
        words = labels(place, "--labels", file, "--epochs", 3, "--threshold", rule, "-o", tmp_path / name)
        result = run("probe", "linear", *words)
        assert result.exit_code == 0, result.output
        reports.append(json.loads((tmp_path / name / "report.json").read_text())["metrics"])
    assert reports[0] == reports[1]
    assert "'yes' counts as 1 and 'no' as 0" in " ".join(result.stdout.split())


def test_uncertain_labels_are_never_a_class_unsaid(place, tmp_path):
    table = pd.read_csv(place / "labels.csv")
    table.loc[[3, 11], "bright"] = -1
    table.to_csv(tmp_path / "chexpert.csv", index=False)
    words = labels(place, "--labels", tmp_path / "chexpert.csv", "-o", tmp_path / "r")
    for verb in ("linear", "knn"):
        assert "in 2 rows, first p003.png · choose --uncertain drop" in fails("probe", verb, *words)
    result = run("probe", "linear", *words, "--uncertain", "drop")
    assert result.exit_code == 0, result.output
    assert "bright: 2 uncertain rows are left out (-1)." in " ".join(result.stdout.split())
    assert len(pd.read_csv(tmp_path / "r" / "predictions.csv")) == 46


def test_exclusive_classes(place, tmp_path):
    table = pd.read_csv(place / "labels.csv")
    table["kind"] = [("dark", "bright", "odd")[i % 2 if i % 5 else 2] for i in range(len(table))]
    table.to_csv(tmp_path / "labels.csv", index=False)
    words = labels(place, "--labels", tmp_path / "labels.csv", "-o", tmp_path / "r", target="kind")
    result = run("probe", "linear", *words)
    assert result.exit_code == 0, result.output
    report = (tmp_path / "r" / "report.md").read_text(encoding="utf-8")
    assert "mean of 3 labels" in report and "cross-entropy" in report and "the class with the highest score" in report
    test = pd.read_csv(tmp_path / "r" / "predictions.csv").query("split == 'test'")
    names = [name.removeprefix("score ") for name in test if name.startswith("score ")]
    counts = confusion_matrix(*(test[columns].to_numpy().argmax(1) for columns in (names, [f"score {name}" for name in names])))
    for name, row in zip(names, counts.tolist(), strict=True):
        assert f"| {name} | " + " | ".join(map(str, row)) + " |" in report.partition("Confusion on test")[2]


def test_thresholds_chosen_on_test_are_called_what_they_are(place, tmp_path):
    result = run("probe", "linear", *labels(place, "--threshold-on", "test", "-o", tmp_path / "r"))
    assert "chosen on the test part itself" in result.stdout


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    """A file of 24 bags; every second one has an instance that stands out."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(2, 5, size=24)
    targets = np.arange(24) % 2
    instances = generator.normal(size=(sizes.sum(), 6)).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    for bag in np.flatnonzero(targets):
        instances[offsets[bag]] += 5
    file = tmp_path_factory.mktemp("bags") / "toy.npz"
    np.savez(file, instances=instances, offsets=offsets, labels=targets)
    return file


SMALL = ("--projection", "8", "--attention", 4, "--optimizer", "adam", "--lr", 0.02, "--device", "cpu", "--rounds", 20)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["0.5", "youden"])
def test_bags_from_a_file_over_folds(toy, tmp_path, rule):
    words = [*SMALL, "--folds", 3, "--repeats", 2, "--epochs", 12, "--patience", 0, "--workers", 1, "--threshold", rule]
    result = run("probe", "mil", toy, *words, "-o", tmp_path / "r")
    assert result.exit_code == 0, result.output
    numbers = json.loads((tmp_path / "r" / "report.json").read_text())
    accuracies = [row["accuracy"] for row in numbers["repeats"]]
    assert len(accuracies) == 2 and min(accuracies) > 0.6
    said = " ".join(result.stdout.split())
    assert f"Accuracy {np.mean(accuracies):.3f} ± {np.std(accuracies, ddof=1):.3f} (SD over 2 repeats)" in said
    assert "(SD over 6 folds), mean over folds, and" in said and "scores of all folds pooled, first repeat" in said
    assert len(numbers["num_epochs"]) == 6
    assert re.match(r"Training 6 networks, 12 epochs of 1[46] bags: about \d+ s\.\n", result.stdout)
    assert "trainings ended by convergence: 0, by the limit: 6" in (tmp_path / "r" / "report.md").read_text()

    table = pd.read_csv(tmp_path / "r" / "predictions.csv")
    assert sorted(table["fold"].unique()) == [1, 2, 3] and set(table["split"]) == {"test"}
    areas = [roc_auc_score(rows["toy"], rows["score toy"]) for _, rows in table.groupby("fold")]
    first = numbers["repeats"][0]
    assert first["fold_aurocs"] == pytest.approx(areas, abs=1e-5)
    assert first["auroc_mean_over_folds"] == pytest.approx(np.mean(areas), abs=1e-5)
    assert first["auroc_sd_over_folds"] == pytest.approx(np.std(areas, ddof=1), abs=1e-5)
    assert first["auroc_pooled"] == pytest.approx(roc_auc_score(table["toy"], table["score toy"]), abs=1e-5)


@pytest.mark.slow
def test_processes_give_the_same_report_and_errors(toy, tmp_path):
    words = [*SMALL, "--folds", 2, "--epochs", 4, "--patience", 2, "--min-epochs", 1, "--dropout", 0.2]
    for workers in (1, 2):
        result = run("probe", "mil", toy, *words, "--workers", workers, "-o", tmp_path / str(workers))
        assert result.exit_code == 0, result.output
    one, two = (files_of(tmp_path / str(workers)) for workers in (1, 2))
    limited = json.loads((tmp_path / "1/report.json").read_text())["num_passes"].count(4)
    ends = f"trainings ended by convergence: {2 - limited}, by the limit: {limited}"
    assert "Training 2 networks, 3 to 4 epochs" in result.stdout and ends in (tmp_path / "1/report.md").read_text()
    for name in ("predictions.csv", "attention.safetensors"):
        assert one[name] == two[name]
    words[words.index("--lr") + 1] = 1e30
    assert "--lr: required one with which training converges · got 1e+30" in fails(
        "probe", "mil", toy, *words, "--workers", 2, "-o", tmp_path / "r"
    )


def test_a_report_is_made_again_with_overwrite_only(place, tmp_path):
    words = labels(place, "--epochs", 1, "-o", tmp_path / "r")
    assert run("probe", "linear", *words).exit_code == 0
    (tmp_path / "r" / "report.md").write_text("my notes")
    assert "which holds linear.safetensors and 5 more" in fails("probe", "linear", *words)
    assert (tmp_path / "r" / "report.md").read_text() == "my notes"
    assert run("probe", "linear", *words, "--overwrite").exit_code == 0
    assert "AUROC" in (tmp_path / "r" / "report.md").read_text()


def test_wrong_input_is_one_line_and_writes_nothing(place, tmp_path):
    report = tmp_path / "r"
    table = pd.read_csv(place / "labels.csv")
    torn = table.assign(part=["train", "test"] * 24)
    torn.to_csv(tmp_path / "torn.csv", index=False)
    one_class = table.assign(bright=0)
    one_class.to_csv(tmp_path / "one.csv", index=False)
    wrong = table.assign(bright=["0", "1", "maybe"] * 16, dim=1)
    wrong.to_csv(tmp_path / "wrong.csv", index=False)
    for words, said in (
        (labels(place, "--labels", tmp_path / "torn.csv", "--split", "part"), r"P\d+ \(test and train\)"),
        (labels(place, "--labels", tmp_path / "one.csv"), "one class only of bright"),
        (labels(place, "--labels", tmp_path / "wrong.csv", "--target", "dim"), "'maybe'"),
        (labels(place, target="brigth"), "'brigth'; did you mean 'bright'"),
        (labels(place, "--features", "map"), "'map'"),
        (labels(place, "--fractions", "1,2"), "1, 2"),
        (labels(place, "--fractions", "a,b,c"), "'a,b,c'"),
        (labels(place, "--threshold", "best"), "'best'"),
        (labels(place, "--make-split", "rsna"), "'rsna'; did you mean 'rsna-mgca'"),
        ([tmp_path / "nowhere", *labels(place)[1:]], "nowhere"),
        (labels(place, "--keep", "best", "--fractions", "0.8,0,0.2", "--threshold", "0.5"), "--keep best.*val part"),
    ):
        assert re.search(said, fails("probe", "linear", *words, "-o", report)), said
        assert not report.exists(), said
    assert "musk.npz" in fails("probe", "mil", tmp_path / "musk.npz", "-o", report)
    assert "--labels" in fails("probe", "mil", place / "store", "-o", report)
    assert "whole images" in fails("probe", "mil", *labels(place), "-o", report)
    assert not report.exists()


ANY = "linear knn mil"
WRONG_OPTIONS = [
    (ANY, ["--seed", -1], "--seed.* 0 to .*got -1"),
    (ANY, ["--rounds", 0], "--rounds.*got 0"),
    (ANY, ["--threshold", "best"], "--threshold.*'best'"),
    (ANY, ["--threshold-on", "train"], "--threshold-on.*'train'"),
    (ANY, ["--device", "gpu"], "--device.*'gpu'"),
    (ANY, ["-o", ""], "-o.*got ''"),
    (ANY, ["--seed", "x"], "--seed.*x"),
    ("linear knn", ["--val-fraction", 1], "--val-fraction.*got 1"),
    ("linear knn", ["--val-fraction", "nan"], "--val-fraction.*got nan"),
    ("linear knn", ["--fractions", "nan,0.5,0.5"], "--fractions.*got nan, 0.5, 0.5"),
    ("linear knn", ["--fractions", "0.8,0,0.2"], "--threshold youden.*val part.*0.5"),
    ("linear knn", ["--fractions", "0.9,0.1,0"], "inputs in test.*none"),
    ("linear knn", ["--make-split", "rsna-mgca"], "26,684.*got 16 patients"),
    ("linear knn", ["--split", "who", "--make-split", "rsna-mgca"], "--make-split.*without --split"),
    ("linear knn", ["--uncertain", "maybe"], "--uncertain.*'maybe'"),
    ("linear", ["--weight-decay", "nan"], "--weight-decay.*got nan"),
    ("linear", ["--weight-decay", -1], "--weight-decay.*got -1"),
    ("linear", ["--lr", "inf"], "--lr.*got inf"),
    ("linear", ["--batch", 0], "--batch.*got 0"),
    ("knn", ["-k", "0"], "-k.*'0'"),
    ("knn", ["-k", "²"], "-k.*'²'"),
    ("knn", ["-k", ""], "-k.*none"),
    ("knn", ["-k", "500"], "-k.*24 training inputs.*got 500"),
    ("knn", ["--temperature", "inf"], "--temperature.*got inf"),
    ("knn", ["--leave-one-out", "--split", "who"], "--split.*without --leave-one-out"),
    ("mil", ["--folds", 1], "--folds.*got 1"),
    ("mil", ["--folds", 13], "--folds.*got 13 folds, 24 patients, 12 inputs.*2 to 12"),
    ("mil", ["--repeats", 3], "--repeats.*--folds.*got 3"),
    ("mil", ["--workers", -1], "--workers.*got -1"),
    ("mil", ["--maps", -1], "--maps.*got -1"),
    ("mil", ["--weight-decay", "nan"], "--weight-decay.*got nan"),
    ("mil", ["--folds", 3, "--val-fraction", 0], "--patience.*val part.*--val-fraction"),
    ("mil", ["--folds", 3, "--val-fraction", 0, "--patience", 0, "--threshold", "youden"], "--threshold youden.*val part"),
    ("mil", ["--fractions", "0.8,0,0.2"], "--patience.*val part"),
    ("mil", ["--fractions", "0.8,0,0.2", "--patience", 0, "--threshold", "corner"], "--threshold corner.*val part"),
    ("mil", ["--folds", 3, "--make-split", "patients"], "--make-split.*without --folds"),
    ("mil", ["--target", "y"], "--target.*required with --labels"),
    ("mil", ["--features", "class"], "--features.*required with --labels"),
    ("mil", ["--labels", "l.csv", "--target", "y", "--patient", "p"], "--labels.*required none with"),
]


@pytest.mark.parametrize(
    ("verb", "words", "said"),
    [(verb, words, said) for verbs, words, said in WRONG_OPTIONS for verb in verbs.split()],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_every_setting_is_checked_before_the_first_training(place, toy, tmp_path, monkeypatch, verb, words, said):
    for module, training in (("linear", "train_linear"), ("mil_report", "train_splits")):
        monkeypatch.setattr(f"nnunet_dino.probes.{module}.{training}", never_train)
    given = [toy, "--device", "cpu"] if verb == "mil" else labels(place)
    assert re.search(said, fails("probe", verb, *given, "-o", tmp_path / "r", *words))
    assert not (tmp_path / "r").exists()


def never_train(*arguments, **options):
    raise AssertionError("trained")


def test_probes_from_python(place):
    """A linear layer by the public functions, and every public name."""
    import nnunet_dino.probes as probes

    assert all(callable(getattr(probes, name)) for name in probes.__all__)
    with pytest.raises(AttributeError, match="train_forest"):
        _ = probes.train_forest
    ids, features = probes.open_store(place / "store").vectors("class")
    labelled = probes.read_labels(probes.LabelColumns(place / "labels.csv", ("bright",), "who"), ids)
    assert labelled.ids == ids
    layer = probes.train_linear(features, labelled.targets, labelled.is_exclusive, probes.LinearOptions(epochs=2))
    assert layer.scores(features).shape == (48, 1)


def scores_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "scores.csv", keep_default_na=False).set_index("id")


@pytest.mark.slow
def test_a_saved_linear_probe_gives_its_own_scores_on_images_and_on_a_store(place, tmp_path):
    assert run("probe", "linear", *labels(place, "-o", tmp_path / "trained")).exit_code == 0
    expected = pd.read_csv(tmp_path / "trained/predictions.csv").set_index("id")
    threshold = json.loads((tmp_path / "trained/report.json").read_text())["metrics"]["test"]["labels"][0]["threshold"]
    for number, source in enumerate((place / "pictures", place / "store")):
        result = run("probe", "apply", tmp_path / "trained", source, "-o", tmp_path / f"new{number}", "--device", "cpu")
        assert result.exit_code == 0, result.output
        assert "random weights" in result.stdout
        found = scores_of(tmp_path / f"new{number}").loc[expected.index]
        scores = found["score bright"].astype(float)
        np.testing.assert_allclose(scores, expected["score bright"], atol=1e-5)
        clear = (scores - threshold).abs() > 1e-4
        assert (found["found"] == np.where(scores >= threshold, "bright", "none"))[clear].all()


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["youden", "0.5"])
def test_linear_layers_of_folds_are_applied_as_their_mean(place, tmp_path, rule):
    words = [place / "store", "--labels", place / "labels.csv", "--target", "bright", "--patient", "who", "--device", "cpu"]
    words += ["--folds", 3, "--repeats", 2, "--threshold", rule, "--rounds", 20]
    assert run("probe", "linear", *words, "-o", tmp_path / "trained").exit_code == 0
    result = run("probe", "apply", tmp_path / "trained", place / "store", "-o", tmp_path / "new", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "one linear layer, mean of the networks of 3 folds" in (tmp_path / "new/report.md").read_text()
    with safe_open(tmp_path / "trained/linear.safetensors", "numpy") as file:
        layers = [{name: file.get_tensor(f"{fold}.{name}") for name in ("weight", "bias")} for fold in range(3)]
    _, features = open_store(place / "store").vectors("both")
    scores = np.stack([1 / (1 + np.exp(-(features @ one["weight"].T + one["bias"])[:, 0])) for one in layers])
    np.testing.assert_allclose(scores_of(tmp_path / "new")["score bright"].astype(float), scores.mean(0), atol=1e-5)
    told = pd.read_csv(tmp_path / "trained/predictions.csv").set_index("id").loc[scores_of(tmp_path / "new").index]
    np.testing.assert_allclose(told["score bright"], scores[told["fold"] - 1, np.arange(len(told))], atol=1e-5)
    decided = set(scores_of(tmp_path / "new")["found"])
    assert decided == {""} if rule == "youden" else decided <= {"bright", "none"}  # folds have thresholds of their own


@pytest.mark.slow
def test_a_probe_refuses_features_of_another_backbone_or_preprocessing(place, tmp_path, monkeypatch):
    assert run("probe", "linear", *labels(place, "-o", tmp_path / "trained")).exit_code == 0
    words = ("probe", "apply", tmp_path / "trained")
    other = tmp_path / "larger"
    assert run("extract", place / "pictures", "-o", other, "--backbone", TINY, "--size", 48).exit_code == 0
    assert "the size_px that the probe was trained with, 32 · got 48" in fails(*words, other, "-o", tmp_path / "a")
    file = tmp_path / "trained/linear.safetensors"
    content = file.read_bytes()
    digest = json.loads((place / "store/store.json").read_text())["weights"]
    file.write_bytes(content.replace(digest.encode(), b"0" * len(digest)))
    assert f"weights with digest {'0' * len(digest)} · got {digest}" in fails(*words, place / "pictures", "-o", tmp_path / "a")
    assert "the weights that the probe was trained with, 000" in fails(*words, place / "store", "-o", tmp_path / "a")
    file.write_bytes(content)
    saved, tensors = read_probe(file)
    for name, value in (("weight", tensors["weight"][:, 1:]), ("wieght", tensors["weight"] + 1)):
        file.write_bytes(probe_file(saved, tensors | {name: value}))
        told = fails(*words, place / "pictures", "-o", tmp_path / "a")
        assert "required the tensors of a linear probe · got " in told and f"{name} {(*value.shape,)}" in told
    file.write_bytes(content[:200])
    assert "required a trained probe" in fails(*words, place / "store", "-o", tmp_path / "a")
    assert "which holds none" in fails("probe", "apply", place / "store", place / "store", "-o", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_what_cannot_be_read_is_in_the_table_and_the_exit_code(place, tmp_path):
    assert run("probe", "linear", *labels(place, "-o", tmp_path / "trained")).exit_code == 0
    write_pictures(tmp_path / "mixed", 2)
    (tmp_path / "mixed/broken.png").write_bytes(b"no picture")
    result = run("probe", "apply", tmp_path / "trained", tmp_path / "mixed", "-o", tmp_path / "new")
    assert result.exit_code == 1, result.output
    found = scores_of(tmp_path / "new")
    assert set(found.index) == {"p000.png", "p001.png", "broken.png"}
    assert (found["error"] != "").sum() == 1
    assert (found.loc["broken.png", "score bright"], found.loc["broken.png", "error"] != "") == ("", True)
    told = fails("probe", "apply", tmp_path / "trained", tmp_path / "mixed/broken.png", "-o", tmp_path / "none")
    assert "mixed/broken.png: required at least one readable input · got broken.png: cannot identify" in told
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
@pytest.mark.parametrize("folds", [0, 3])
def test_saved_attention_over_slices_gives_its_own_scores(place, tmp_path, folds):
    (tmp_path / "scans").mkdir()
    volume = sitk.GetArrayFromImage(asymmetric_volume())
    for number in range(12):
        image = sitk.GetImageFromArray((volume * (1 + number % 2) + 7 * number).astype(np.int16))
        sitk.WriteImage(image, tmp_path / f"scans/s{number:02d}.nii.gz")
    write_labels(tmp_path / "labels.csv", [f"s{number:02d}.nii.gz" for number in range(12)], per_patient=1)
    pixels = ("--backbone", TINY, "--size", 32, "--window", "0,1000", "--per-slice", "--device", "cpu")
    assert run("extract", tmp_path / "scans", "-o", tmp_path / "store", *pixels).exit_code == 0
    words = ["--labels", tmp_path / "labels.csv", "--target", "bright", "--patient", "who", "--rounds", 5, "--device", "cpu"]
    words += ["--projection", 8, "--attention", 4, "--epochs", 3, "--patience", 0, "--folds", folds, "--workers", 1]
    parts = [] if folds else ["--fractions", "0.5,0,0.5", "--val-fraction", 0]
    result = run("probe", "mil", tmp_path / "store", *words, *parts, "-o", tmp_path / "trained")
    assert result.exit_code == 0, result.output
    for number, source in enumerate(("scans", "store")):
        done = run("probe", "apply", tmp_path / "trained", tmp_path / source, "-o", tmp_path / f"{number}", "--device", "cpu")
        assert done.exit_code == 0, done.output
    first, second = (scores_of(tmp_path / f"{number}") for number in range(2))
    pd.testing.assert_frame_equal(first, second)
    saved, tensors = read_probe(tmp_path / "trained")
    for odd, said in (("0.head.weight", "head.weight"), ("0.shift", "shift")):
        others = {name: value for name, value in tensors.items() if name != odd}
        (tmp_path / "trained/mil.safetensors").write_bytes(probe_file(saved, others))
        told = fails("probe", "apply", tmp_path / "trained", tmp_path / "scans", "-o", tmp_path / "odd", "--device", "cpu")
        assert "required the tensors of a mil probe · got " in told and said in told
    assert not (tmp_path / "odd").exists()
    assert set(first["found"]) <= {"bright", "none"}
    expected = pd.read_csv(tmp_path / "trained/predictions.csv").set_index("id")
    if folds:
        assert "mean of the networks of 3 folds" in (tmp_path / "0/report.md").read_text()
    else:
        np.testing.assert_allclose(first["score bright"].astype(float), expected["score bright"], atol=1e-5)
    with safe_open(tmp_path / "0/attention.safetensors", framework="numpy") as file:
        weights = [file.get_tensor(name) for name in first.index]
    np.testing.assert_allclose([one.sum() for one in weights], 1, atol=1e-5)
    assert {len(one) for one in weights} == {6}
