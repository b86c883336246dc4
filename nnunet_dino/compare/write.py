"""Writing a report into a folder, without touching files that are not its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nnunet_dino.compare.comparison import Comparison
from nnunet_dino.compare.csv_tables import cases_csv, summary_csv
from nnunet_dino.compare.markdown import markdown
from nnunet_dino.compare.page import html
from nnunet_dino.compare.report import Report, make_report, slug
from nnunet_dino.reports.folder import ReportFolder

PAGE, TEXT, SUMMARY, CASES = "report.html", "report.md", "summary.csv", "cases.csv"


@dataclass(frozen=True)
class WrittenReport:
    """Where a report lies, and what it says.

    Attributes:
        folder: The folder.
        html: The page to read.
        markdown: The same as Markdown, with pictures beside it.
        summary_csv: One row per result and label.
        cases_csv: One row per result, case and label.
        report: What they say.
    """

    folder: Path
    html: Path
    markdown: Path
    summary_csv: Path
    cases_csv: Path
    report: Report


def write_report(
    comparison: Comparison,
    folder: str | Path,
    *,
    overwrite: bool = False,
    pictures: bool = True,
    command: str | None = None,
) -> WrittenReport:
    """Writes a comparison as HTML page, Markdown and CSV.

    Files of an earlier report that nobody changed since are replaced; any other file is left alone.

    Args:
        comparison: The results.
        folder: Where to; made if needed.
        overwrite: Also replace files of the same names that an earlier report did not write, or that were changed since.
        pictures: Whether to draw plots and single cases.
        command: The command line that asked for it, for the report.

    Raises:
        UserError: A file of the same name is in the way, or the folder cannot be written to.
    """
    folder = Path(folder)
    place = _place(folder, overwrite)
    place.check()
    report = make_report(comparison, command=command, pictures=pictures)
    files, picture_files = _picture_files(report)
    files[PAGE] = html(report).encode("utf-8")
    files[TEXT] = markdown(report, picture_files).encode("utf-8")
    files[SUMMARY], files[CASES] = summary_csv(comparison).encode("utf-8"), cases_csv(comparison).encode("utf-8")
    place.write(files)
    return WrittenReport(folder, folder / PAGE, folder / TEXT, folder / SUMMARY, folder / CASES, report)


def check_folder(folder: Path, *, overwrite: bool = False) -> None:
    """Finds out whether a report can be written into ``folder``, before anything is computed.

    Raises:
        UserError: A file is in the way, or the folder cannot be written to.
    """
    _place(folder, overwrite).check()


def _place(folder: Path, overwrite: bool) -> ReportFolder:
    return ReportFolder(folder, "compare", (PAGE, TEXT, SUMMARY, CASES), overwrite)


def _picture_files(report: Report) -> tuple[dict[str, bytes], dict[int, str]]:
    """Returns the content of the plots' and pictures' files, and the path of each by the ``id`` of its object."""
    files: dict[str, bytes] = {}
    paths: dict[int, str] = {}
    plots = [report.forest, *(section.plot for section in report.sections)]
    for plot in filter(None, plots):
        paths[id(plot)] = f"pictures/{plot.name}.svg"
        files[paths[id(plot)]] = plot.light
    for position, section in enumerate(report.sections, 1):
        for picture in section.pictures:
            if picture.png:
                paths[id(picture)] = f"pictures/{position:02d}-{picture.role}-{slug(picture.case)}.png"
                files[paths[id(picture)]] = picture.png
    return files, paths
