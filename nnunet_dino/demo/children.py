"""Runs the command of a stage: output into a log, progress onto a bar."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from nnunet_dino.demo.stages import Stage

POLL_SECONDS = 0.5
NUM_LAST_LINES = 15
BAR = "{desc:<24}|{bar:25}| {n_fmt}/{total_fmt} {unit} · {elapsed} · about {remaining} left"


class StageFailed(Exception):
    """A command did not succeed; the message says which, its last lines, and where its log is."""


def run_stage(stage: Stage, environment: Mapping[str, str], log: Path) -> None:
    """Runs a command to its end.

    Args:
        stage: What to run.
        environment: Of the command.
        log: File for its output; replaced.

    Raises:
        StageFailed: Its exit code is not 0.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w", encoding="utf-8") as output,
        progress_bar(stage.title, stage.total, stage.unit) as bar,
        _ended_by_signals(),
    ):
        child = subprocess.Popen(
            stage.command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while child.poll() is None:
                time.sleep(POLL_SECONDS)
                bar.n = min(stage.num_done(_text(log)), stage.total)
                bar.refresh()
        finally:
            _end(child)
        if child.returncode == 0:
            stage.after()
            bar.n = stage.total
            bar.refresh()
    if child.returncode != 0:
        raise StageFailed(
            f"{stage.title}: {Path(stage.command[0]).name} ended with exit code {child.returncode}. Its last lines:\n\n"
            f"{last_lines(_text(log))}\n\nAll of them: {log}"
        )


def progress_bar(title: str, total: int, unit: str) -> tqdm:
    """Returns a bar for a stage; it is shown in terminals only."""
    return tqdm(desc=title, total=total, unit=unit, bar_format=BAR, disable=None, leave=True, dynamic_ncols=True)


def last_lines(text: str) -> str:
    """Returns the end of a log, indented; progress bars of the command and empty lines are left out."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip() and "it/s]" not in line and "s/it]" not in line]
    return "\n".join(f"    {line}" for line in lines[-NUM_LAST_LINES:])


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Lets SIGTERM and a closed terminal unwind the stack, so that no command is left running alone."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, lambda number, frame: sys.exit(128 + number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _text(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")


def _end(child: subprocess.Popen) -> None:
    """Ends a command that still runs, with the worker processes it started."""
    if child.poll() is not None:
        return
    if hasattr(os, "killpg"):
        os.killpg(child.pid, signal.SIGTERM)
    else:
        child.terminate()
    try:
        child.wait(timeout=10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
