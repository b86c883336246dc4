"""Writing a report into a folder, without touching files that are not its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nnunet_dino import __version__
from nnunet_dino.compare.comparison import Comparison
from nnunet_dino.compare.csv_tables import cases_csv, summary_csv
from nnunet_dino.compare.markdown import markdown
from nnunet_dino.compare.page import html
from nnunet_dino.compare.report import Report, make_report, slug
from nnunet_dino.errors import UserError

RECORD = "nnunet_dino_compare.json"
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
    check_folder(folder, overwrite=overwrite)
    report = make_report(comparison, command=command, pictures=pictures)
    files, picture_files = _picture_files(report)
    files[PAGE] = html(report).encode("utf-8")
    files[TEXT] = markdown(report, picture_files).encode("utf-8")
    files[SUMMARY], files[CASES] = summary_csv(comparison).encode("utf-8"), cases_csv(comparison).encode("utf-8")
    _refuse_foreign(folder, files, overwrite)
    try:
        _replace(folder, files)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return WrittenReport(folder, folder / PAGE, folder / TEXT, folder / SUMMARY, folder / CASES, report)


def check_folder(folder: Path, *, overwrite: bool = False) -> None:
    """Finds out whether a report can be written into ``folder``, before anything is computed.

    Raises:
        UserError: A file is in the way, or the folder cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"a folder for the report required · got the file {folder} · give another one with -o")
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error
    _refuse_foreign(folder, [PAGE, TEXT, SUMMARY, CASES, *_recorded(folder)], overwrite)


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


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _recorded(folder: Path) -> dict[str, str]:
    """Returns names and digests of the files that an earlier report wrote into ``folder``."""
    try:
        files = json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    own = files if isinstance(files, dict) else {}
    return {name: digest for name, digest in own.items() if not os.path.isabs(name) and ".." not in Path(name).parts}


def _refuse_foreign(folder: Path, names: Iterable[str], overwrite: bool) -> None:
    if overwrite:
        return
    recorded = _recorded(folder)
    for name in names:
        file = folder / name
        if not file.exists():
            continue
        if name not in recorded:
            raise UserError(
                f"a folder without other files of the report's names required · got {file}, which no earlier report wrote · "
                "give another folder with -o, or replace it with --overwrite"
            )
        if _digest(file.read_bytes()) != recorded[name]:
            raise UserError(
                f"an unchanged earlier report required · got {file}, which was changed since · keep it by giving another "
                "folder with -o, or replace it with --overwrite"
            )


def _replace(folder: Path, files: dict[str, bytes]) -> None:
    """Writes all files beside their places first, so that a full disk leaves the earlier report as it was."""
    stale = set(_recorded(folder)) - set(files)
    folder.mkdir(parents=True, exist_ok=True)
    record = {"made_by": f"nnunet-dino compare {__version__}", "files": {name: _digest(files[name]) for name in sorted(files)}}
    written = files | {RECORD: (json.dumps(record, indent=1) + "\n").encode("utf-8")}
    scratch = Path(tempfile.mkdtemp(prefix=".report-", dir=folder))
    try:
        for name, content in written.items():
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            (scratch / name).write_bytes(content)
        for name in written:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(scratch / name, folder / name)
        for name in stale:
            (folder / name).unlink(missing_ok=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"a folder that can be written to required · got {folder}: {error.strerror or error} · give another one with -o, "
        "or free space"
    )
