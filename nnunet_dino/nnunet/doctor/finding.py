"""One line of what the doctor says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "warn", "FAIL"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        level: ``ok``; ``note``: good to know; ``warn``: training can start, but look; ``FAIL``: training could not start.
        text: What was found.
        remedy: The command or the step that mends it; empty where nothing is to be done.
    """

    level: Level
    text: str
    remedy: str = ""


Check = Callable[[], Iterable[Finding]]
