"""The written report: complete, self-contained, re-made without touching other files."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from compare_tree import DATASET, Tree, moving

from nnunet_dino._errors import UserError
from nnunet_dino.cli.main import main
from nnunet_dino.compare import check_folder, compare_results, terminal_text, write_report

VOID = {"meta", "img", "source", "br", "wbr"}
PAGES = ("report.html", "report.md", "summary.csv", "cases.csv")


class Page(HTMLParser):
    """Collects what a page refers to and checks that its elements nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "iframe", "object")
        self.open += [] if tag in VOID else [tag]
        self.references += [value for name, value in attrs if name in ("src", "srcset", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Tree:
    made = Tree(tmp_path_factory.mktemp("tree"))
    debug = {"num_epochs": "5", "num_iterations_per_epoch": "50", "device": "cpu"}
    facts = {
        "num_parameters_total": 53_214_000, "num_parameters_trained": 31_600_000, "backbone": "dinov3_vits16",
        "adaptation": "frozen", "weights": "random",
    }  # fmt: skip
    made.add("nnUNetTrainer", moving(made.cases, [2, 2, 3, 2, 4, 2, 3, 3]), debug=debug)
    made.add("nnUNetTrainerDINOv3S", moving(made.cases, [1, 3, 1, 2, 1, 1, 1, 1]), debug=debug, facts=facts, epoch_s=(31.5,))
    return made


@pytest.fixture
def use_tree(tree, monkeypatch) -> Tree:
    tree.use(monkeypatch)
    return tree


@pytest.fixture(scope="module")
def written(tree, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        tree.use(patch)
        folder = tmp_path_factory.mktemp("report") / "new" / "place"
        return write_report(compare_results(905), folder, command="nnunet-dino compare -d 905 'a <b> & c'")


def test_the_page_refers_to_nothing_outside(written):
    page = Page(written.html.read_text(encoding="utf-8"))
    assert len(page.references) == 2 * 2 + 3, "two plots, light and dark, and three cases"
    assert all(re.match(r"data:image/(svg\+xml|png);base64,[A-Za-z0-9+/]+=*$", reference) for reference in page.references)


def test_the_page_begins_with_the_result_and_names_its_origin(written):
    text = " ".join(" ".join(Page(written.html.read_text(encoding="utf-8")).text).split())
    start, _, rest = text.partition("n = 8 cases")
    assert "nnUNetTrainerDINOv3S (random weights): mean Dice +0." in start.replace("\N{NO-BREAK SPACE}", " ")
    for part in ("31.6 M", "53.2 M", "31.5 s", "11.0 s", "liver", "Wilcoxon", "nnunet-dino compare -d 905 'a <b> & c'"):
        assert part in rest
    assert "Epochs × iterations: 5 × 50" in rest


def test_markdown_shows_the_same_and_its_pictures_exist(written):
    text = written.markdown.read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert len(pictures) == 5
    assert all((written.folder / picture).stat().st_size > 1000 for picture in pictures)
    for table in written.report.tables.values():
        assert f"## {table.title}" in text
        for row in table.rows:
            assert "| " + " | ".join(row) + " |" in text


def test_csv_holds_the_numbers(written, use_tree):
    comparison = compare_results(905)
    with written.summary_csv.open(encoding="utf-8") as file:
        rows = {(row["result"], row["label"]): row for row in csv.DictReader(file)}
    assert len(rows) == 2 * 3
    (versus,) = comparison.versus
    row = rows["nnUNetTrainerDINOv3S", "2"]
    assert (row["label_name"], row["num_undefined"], row["num_pairs"], row["weights"]) == ("spleen", "1", "7", "random")
    assert float(row["dice_mean"]) == pytest.approx(versus.entry.dice["2"].mean())
    assert float(row["ci95_high"]) == pytest.approx(versus.classes["2"].high)
    assert rows["nnUNetTrainer", "mean"]["difference"] == ""
    with written.cases_csv.open(encoding="utf-8") as file:
        cases = {(row["result"], row["case"], row["label"]): row for row in csv.DictReader(file)}
    assert len(cases) == 2 * 8 * 3
    assert cases["nnUNetTrainer", "case_03", "2"]["dice"] == ""
    assert cases["nnUNetTrainer", "case_03", "2"]["fold"] == "1"
    assert float(cases["nnUNetTrainer", "case_02", "1"]["dice"]) == pytest.approx(versus.baseline.dice.loc["case_02", "1"])


def test_the_terminal_gets_sentences_and_tables(written):
    text = terminal_text(written.report)
    assert text.splitlines()[0] == f"{DATASET}: results compared"
    lines = [line for line in text.splitlines() if line.startswith("nnUNetTrainer  ")]
    assert any("baseline" in line for line in lines)
    assert "Note: Random weights" in text


def test_a_report_replaces_its_own_files_and_no_others(use_tree, tmp_path):
    comparison = compare_results(905)
    folder = tmp_path / "out"
    write_report(comparison, folder)
    (folder / "notes.txt").write_text("mine")
    num_pictures = len(list((folder / "pictures").iterdir()))
    write_report(comparison, folder, pictures=False)
    assert num_pictures == 5
    assert list((folder / "pictures").iterdir()) == []
    assert (folder / "notes.txt").read_text() == "mine"
    (folder / "report.md").write_text("my own words")
    with pytest.raises(UserError, match=r"report\.md, which was changed since"):
        write_report(comparison, folder, pictures=False)
    assert (folder / "report.md").read_text() == "my own words"
    write_report(comparison, folder, pictures=False, overwrite=True)
    assert (folder / "report.md").read_text(encoding="utf-8").startswith(f"# {DATASET}")


def test_a_folder_with_somebody_elses_report_is_left_alone(use_tree, tmp_path):
    (tmp_path / "summary.csv").write_text("theirs")
    with pytest.raises(UserError, match=r"summary\.csv, which no earlier report wrote"):
        check_folder(tmp_path)
    with pytest.raises(UserError, match=r"summary\.csv, which no earlier report wrote"):
        write_report(compare_results(905), tmp_path, pictures=False)
    assert [path.name for path in tmp_path.iterdir()] == ["summary.csv"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"got the file {tmp_path / 'file'}"):
        check_folder(tmp_path / "file")


def test_a_record_cannot_make_it_remove_other_files(use_tree, tmp_path):
    folder, other = tmp_path / "out", tmp_path / "precious.txt"
    folder.mkdir()
    other.write_text("precious")
    Tree.write_json(folder / "nnunet_dino_compare.json", {"files": {"../precious.txt": "0", str(other): "0"}})
    write_report(compare_results(905), folder, pictures=False)
    assert other.read_text() == "precious"


def test_a_full_disk_leaves_the_earlier_report(use_tree, tmp_path, monkeypatch):
    comparison = compare_results(905)
    write_report(comparison, tmp_path, pictures=False)
    before = {name: (tmp_path / name).read_bytes() for name in PAGES}

    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left on device"):
        write_report(comparison, tmp_path, pictures=False)
    assert {name: (tmp_path / name).read_bytes() for name in PAGES} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*PAGES, "nnunet_dino_compare.json"])


def test_missing_files_leave_a_reason_in_place_of_the_picture(use_tree, tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    written = write_report(compare_results(905), tmp_path)
    (section,) = written.report.sections
    assert [picture.png for picture in section.pictures] == [None] * 3
    assert section.pictures[0].caption == ("No picture: image missing (nnUNet_raw is not set, so that no images are found).")
    assert section.pictures[0].caption in written.markdown.read_text(encoding="utf-8")


def test_one_result_alone_is_reported_too(use_tree, tmp_path):
    written = write_report(compare_results(905, trainers=["nnUNetTrainer"]), tmp_path)
    rows = csv.DictReader(written.cases_csv.read_text(encoding="utf-8").splitlines())
    mean = np.mean([float(row["dice"]) for row in rows if row["label"] == "mean"])
    assert written.report.summaries[0].startswith(f"nnUNetTrainer: mean Dice {mean:.3f} ± ")
    assert "no other result" in written.report.summaries[0]
    assert "differences" not in written.report.tables


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments), prog_name="nnunet-dino")
    return ended.value.code


def test_the_command_writes_into_the_results_and_can_be_repeated(use_tree, capsys):
    arguments = ("compare", "-d", "905", "-tr", "nnUNetTrainer", "-tr", "nnUNetTrainerDINOv3S", "-f", "0,1", "--no-pictures")
    assert run(*arguments) == run(*arguments) == 0
    folder = use_tree.folder / "nnunet_dino_compare"
    record = json.loads((folder / "nnunet_dino_compare.json").read_text())
    assert sorted(record["files"]) == sorted(PAGES)
    printed = capsys.readouterr().out
    assert f"Report: {folder / 'report.html'}" in printed
    assert "nnUNetTrainerDINOv3S (random weights): mean Dice +" in printed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("-d", "906"), "got '906'; did you mean 'Dataset905_Phantom'"),
        ((), "either -d or --folder required · got neither"),
        (("-d", "905", "--folder", "x"), "got both"),
        (("-d", "905", "--labels-folder", "x"), "got --labels-folder without --folder"),
        (("--folder", "x", "-c", "2d"), "got --configuration without -d"),
        (("-d", "905", "--baseline", "nnUNetTrainr"), "got 'nnUNetTrainr'; did you mean 'nnUNetTrainer'"),
        (("-d", "905", "--base", "x"), "--base"),
    ],
)
def test_wrong_commands_end_in_one_line(use_tree, capsys, tmp_path, arguments, says):
    output = tmp_path / "out"
    assert run("compare", *arguments, "-o", str(output)) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.startswith("nnunet-dino: error: ") and error.count("\n") == 1
    assert not output.exists()


def test_help_answers(capsys):
    assert run("compare", "--help") == 0
    printed = capsys.readouterr().out
    assert all(
        option in printed for option in ("--folder", "--baseline", "--common", "--overwrite", "nnunet-dino compare -d 9")
    )
