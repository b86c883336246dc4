"""Writing a report into a folder of its own."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from nnunet_dino._errors import UserError
from nnunet_dino.reports.layouts import picture_files, report_markdown, report_page
from nnunet_dino.reports.record import Report

PAGE, TEXT, NUMBERS = "report.html", "report.md", "report.json"


def check_folder(folder: Path, overwrite: bool = False) -> None:
    """Finds out whether a report can be written, before anything is computed.

    Raises:
        UserError: The folder is none, or cannot be written to, or holds files and ``overwrite`` is not given.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"-o: required a folder for the report · got the file {folder} · give another one")
        if not overwrite and folder.is_dir() and (held := sorted(os.listdir(folder))):
            raise UserError(
                f"-o: required an empty or new folder for the report · got {folder}, which holds {held[0]}"
                f"{f' and {len(held) - 1} more' if held[1:] else ''} · give another one, or replace the report with --overwrite"
            )
        parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error


def write_report(report: Report, folder: Path, more: Mapping[str, bytes] | None = None, overwrite: bool = False) -> None:
    """Writes a report as page and Markdown, its numbers if it has some, and ``more`` files by path within the folder.

    All files are first written beside their places, so that a full disk leaves an earlier report as it was. With ``overwrite``
    files of the same names are replaced; others are left alone.

    Raises:
        UserError: See :func:`check_folder`.
    """
    check_folder(folder, overwrite)
    texts = {PAGE: report_page(report), TEXT: report_markdown(report)}
    if report.numbers is not None:
        texts[NUMBERS] = json.dumps(_plain(report.numbers), indent=1, ensure_ascii=False) + "\n"
    files = {name: text.encode("utf-8") for name, text in texts.items()} | picture_files(report) | dict(more or {})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".report-", dir=folder) as scratch:
            for name, content in files.items():
                Path(scratch, name).parent.mkdir(parents=True, exist_ok=True)
                Path(scratch, name).write_bytes(content)
            for name in files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(scratch, name), folder / name)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _plain(value: Any) -> Any:
    """Returns a value as JSON has it; what is undefined is null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"-o: required a folder that can be written to · got {folder}: {error.strerror or error} · give another one, or free "
        "space"
    )
