"""What a report says, before it is laid out as a page, as Markdown or for a terminal."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Heading:
    """Begins a part of a report that has no table; ``aside`` follows in lighter letters."""

    text: str
    aside: str = ""


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: Heading.
        headers: Column headings.
        rows: Cells; as many per row as there are headings.
        caption: How to read it.
        num_text_columns: Leading columns that hold names; the others hold numbers. The first one names the row.
        in_terminal: Whether a terminal shows it too.
        links: Addresses by the text of the cells that lead there.
    """

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    num_text_columns: int = 1
    in_terminal: bool = False
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plot:
    """A plot as SVG.

    Attributes:
        name: Of its file, without ending; unique in a report.
        text: What it shows, for readers who see it and for those who do not.
        light: For light screens and for paper.
        dark: For dark screens.
    """

    name: str
    text: str
    light: bytes
    dark: bytes


@dataclass(frozen=True)
class Picture:
    """A picture as PNG.

    Attributes:
        name: Of its file, without ending; unique in a report.
        heading: What it is.
        caption: How to read it; or why there is none.
        png: The picture, if there is one.
    """

    name: str
    heading: str
    caption: str
    png: bytes | None


Block = Heading | Table | Plot | Picture


@dataclass(frozen=True)
class Report:
    """Everything a report says.

    Attributes:
        title: Heading.
        sentences: The result in words.
        warnings: What a reader must know before the numbers.
        blocks: Tables, plots and pictures in reading order.
        method: How it was computed, one paragraph each.
        origin: Command, date and versions, as name and text.
        numbers: The same for machines, made of what JSON has, NumPy's scalars and data classes; None if there are other files.
    """

    title: str
    sentences: Sequence[str]
    warnings: Sequence[str]
    blocks: Sequence[Block]
    method: Sequence[str]
    origin: Sequence[tuple[str, str]]
    numbers: Mapping[str, Any] | None = None

    @property
    def tables(self) -> list[Table]:
        return [block for block in self.blocks if isinstance(block, Table)]


def origin(command: str | None, packages: Sequence[str]) -> list[tuple[str, str]]:
    """Returns names and texts: the command line if known, the time, and the versions of those packages that are installed."""
    versions = [f"Python {platform.python_version()}"]
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    now = datetime.datetime.now(datetime.timezone.utc)
    made = [("Made on", now.strftime("%d %B %Y, %H:%M UTC")), ("Versions", ", ".join(versions))]
    return [*([("Command", command)] if command else []), *made]
