"""The written report: complete, self-contained, in a folder of its own."""

from __future__ import annotations

import csv
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from compare_tree import DATASET, Tree, moving

import nnunet_dino.reports
from nnunet_dino._errors import UserError
from nnunet_dino.cli.main import main
from nnunet_dino.compare import compare_results, write_report
from nnunet_dino.reports import Heading, Picture, Report, check_folder, report_text

VOID = {"meta", "img", "source", "br", "wbr"}
PAGES = ("report.html", "report.md", "summary.csv", "cases.csv")


class Page(HTMLParser):
    """Collects what a page refers to and checks that its elements nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.text: list[str] = []
        self.scopes: list[str | None] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "iframe", "object")
        self.open += [] if tag in VOID else [tag]
        self.references += [value for name, value in attrs if name in ("src", "srcset", "href")]
        self.scopes += [dict(attrs).get("scope")] if tag == "th" else []

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
def folder(tree, tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("report") / "new" / "place"


@pytest.fixture(scope="module")
def report(tree, folder) -> Report:
    with pytest.MonkeyPatch.context() as patch:
        tree.use(patch)
        return write_report(compare_results(905), folder, command="nnunet-dino compare -d 905 'a <b> & c'")


@pytest.fixture
def page(report, folder) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_the_page_refers_to_nothing_outside(page):
    assert len(page.references) == 2 * 2 + 3, "two plots, light and dark, and three cases"
    assert all(re.match(r"data:image/(svg\+xml|png);base64,[A-Za-z0-9+/]+=*$", reference) for reference in page.references)


def test_every_heading_cell_says_what_it_heads(page, report):
    heads = [scope for table in report.tables for scope in [*["col"] * len(table.headers), *["row"] * len(table.rows)]]
    assert page.scopes == heads


def test_the_page_begins_with_the_result_and_names_its_origin(page):
    text = " ".join(" ".join(page.text).split())
    start, _, rest = text.partition("n = 8 cases")
    assert "nnUNetTrainerDINOv3S (random weights): mean Dice +0." in start.replace("\N{NO-BREAK SPACE}", " ")
    for part in ("31.6 M", "53.2 M", "31.5 s", "11.0 s", "liver", "Wilcoxon", "nnunet-dino compare -d 905 'a <b> & c'"):
        assert part in rest
    assert "Epochs × iterations: 5 × 50" in rest


def test_markdown_shows_the_same_and_its_pictures_exist(report, folder):
    text = (folder / "report.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert len(pictures) == 5
    assert all((folder / picture).stat().st_size > 1000 for picture in pictures)
    for table in report.tables:
        assert f"## {table.title}" in text
        for row in table.rows:
            assert "| " + " | ".join(row) + " |" in text


def test_csv_holds_the_numbers(report, folder, use_tree):
    comparison = compare_results(905)
    with (folder / "summary.csv").open(encoding="utf-8") as file:
        rows = {(row["result"], row["label"]): row for row in csv.DictReader(file)}
    assert len(rows) == 2 * 3
    (pair,) = comparison.pairs
    row = rows["nnUNetTrainerDINOv3S", "2"]
    assert (row["label_name"], row["num_undefined"], row["num_pairs"], row["weights"]) == ("spleen", "1", "7", "random")
    assert float(row["dice_mean"]) == pytest.approx(pair.entry.dice["2"].mean())
    assert float(row["ci95_high"]) == pytest.approx(pair.classes["2"].high)
    assert rows["nnUNetTrainer", "mean"]["difference"] == ""
    with (folder / "cases.csv").open(encoding="utf-8") as file:
        cases = {(row["result"], row["case"], row["label"]): row for row in csv.DictReader(file)}
    assert len(cases) == 2 * 8 * 3
    assert cases["nnUNetTrainer", "case_03", "2"]["dice"] == ""
    assert cases["nnUNetTrainer", "case_03", "2"]["fold"] == "1"
    assert float(cases["nnUNetTrainer", "case_02", "1"]["dice"]) == pytest.approx(pair.baseline.dice.loc["case_02", "1"])


def test_the_terminal_gets_sentences_and_tables(report):
    text = report_text(report)
    assert text.splitlines()[0] == f"{DATASET}: results compared"
    lines = [line for line in text.splitlines() if line.startswith("nnUNetTrainer  ")]
    assert any("baseline" in line for line in lines)
    assert "Note: Random weights" in text


def test_a_folder_that_holds_something_is_left_alone_without_overwrite(use_tree, tmp_path):
    comparison = compare_results(905)
    (tmp_path / "summary.csv").write_text("theirs")
    for refused in (lambda: check_folder(tmp_path), lambda: write_report(comparison, tmp_path, pictures=False)):
        with pytest.raises(UserError, match=f"got {tmp_path}, which holds summary.csv .* --overwrite"):
            refused()
    assert [path.name for path in tmp_path.iterdir()] == ["summary.csv"]
    (tmp_path / "notes.txt").write_text("mine")
    write_report(comparison, tmp_path, pictures=False, overwrite=True)
    assert (tmp_path / "summary.csv").read_text().startswith("result,")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*PAGES, "notes.txt"])


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"got the file {tmp_path / 'file'}"):
        check_folder(tmp_path / "file", overwrite=True)
    with pytest.raises(UserError, match=f"got {tmp_path / 'file' / 'out'}: Not a directory"):
        check_folder(tmp_path / "file" / "out")


def test_a_full_disk_leaves_the_earlier_report(use_tree, tmp_path, monkeypatch):
    comparison = compare_results(905)
    write_report(comparison, tmp_path, pictures=False)
    before = {name: (tmp_path / name).read_bytes() for name in PAGES}

    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left on device"):
        write_report(comparison, tmp_path, pictures=False, overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_missing_files_leave_a_reason_in_place_of_the_picture(use_tree, tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    report = write_report(compare_results(905), tmp_path)
    pictures = [block for block in report.blocks if isinstance(block, Picture)]
    assert [picture.png for picture in pictures] == [None] * 3
    assert pictures[0].caption == ("No picture: image missing (nnUNet_raw is not set, so that no images are found).")
    assert pictures[0].caption in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_one_result_alone_is_reported_too(use_tree, tmp_path):
    report = write_report(compare_results(905, trainers=["nnUNetTrainer"]), tmp_path)
    rows = csv.DictReader((tmp_path / "cases.csv").read_text(encoding="utf-8").splitlines())
    mean = np.mean([float(row["dice"]) for row in rows if row["label"] == "mean"])
    assert report.sentences[0].startswith(f"nnUNetTrainer: mean Dice {mean:.3f} ± ")
    assert "no other result" in report.sentences[0]
    assert [table.title for table in report.tables] == ["Mean Dice", "Dice per label", "Cost", "What was read"]
    assert not any(isinstance(block, Heading) for block in report.blocks)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments), prog_name="nnunet-dino")
    return ended.value.code


def test_the_command_writes_into_the_results_once_and_again_with_overwrite(use_tree, capsys):
    arguments = ("compare", "-d", "905", "-tr", "nnUNetTrainer", "-tr", "nnUNetTrainerDINOv3S", "-f", "0,1", "--no-pictures")
    assert run(*arguments) == 0
    folder = use_tree.folder / "nnunet_dino_compare"
    assert sorted(path.name for path in folder.iterdir()) == sorted(PAGES)
    printed = capsys.readouterr().out
    assert f"Report: {folder / 'report.html'}" in printed
    assert "nnUNetTrainerDINOv3S (random weights): mean Dice +" in printed
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert f"got {folder}, which holds cases.csv and 3 more" in error and error.count("\n") == 1
    assert run(*arguments, "--overwrite") == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("-d", "906"), "got '906', it has Dataset905_Phantom; did you mean 'Dataset905_Phantom'"),
        ((), "-d, --folder: required one of both · got neither"),
        (("-d", "905", "--folder", "x"), "got both"),
        (("-d", "905", "--labels-folder", "x"), "--labels-folder: required with --folder only · got it without"),
        (("--folder", "x", "-c", "2d"), "--configuration: required with -d only · got it without"),
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


@pytest.mark.parametrize("tag", ["h1", "h2", "h3", "p", "figcaption", "dd"])
def test_long_names_are_broken_where_the_window_is_narrow(tag: str) -> None:
    """Names of data sets and paths have no spaces, and pages do not scroll sideways; tables do so by themselves."""
    page = (Path(nnunet_dino.reports.__file__).parent / "page.html").read_text(encoding="utf-8")
    rules = re.findall(r"^([^{}]+)\{([^}]*)\}", page[page.index("<style>") : page.index("</style>")], re.MULTILINE)
    assert any(tag in re.split(r"[\s,]+", names) and "overflow-wrap: anywhere" in rule for names, rule in rules)
