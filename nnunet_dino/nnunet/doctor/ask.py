"""Asking a fresh Python: its answers survive even where a broken library ends the process."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PROBE = Path(__file__).with_name("probe.py")
PATIENCE_S = 300


@dataclass(frozen=True)
class Answers:
    """What the probe said.

    Attributes:
        values: Its answers by name.
        end: How it ended, for those that it did not come to: the last line of its error output, or its exit code.
    """

    values: dict[str, Any]
    end: str

    def error(self, name: str) -> str:
        """Returns why there is no good answer to ``name``; an empty string if there is one."""
        if name not in self.values:
            return self.end
        value = self.values[name]
        return str(value["error"]) if isinstance(value, dict) and set(value) == {"error"} else ""


@cache
def ask(probe: Path = PROBE) -> Answers:
    """Runs the probe, as text, in a fresh Python of this environment; once.

    It prints one JSON list ``[name, answer]`` per line; other lines are ignored, because nnU-Net prints some on import.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", probe.read_text(encoding="utf-8")],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return Answers({}, f"no answer within {PATIENCE_S} s")
    complaints = done.stderr.strip().splitlines()
    end = complaints[-1] if complaints else f"the process ended with exit code {done.returncode}"
    return Answers(dict(filter(None, map(_parse, done.stdout.splitlines()))), end)


def _parse(line: str) -> tuple[str, Any] | None:
    try:
        match json.loads(line):
            case [str(name), value]:
                return name, value
    except ValueError:
        pass
    return None
