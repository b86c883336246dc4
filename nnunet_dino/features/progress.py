"""How far long work is: a bar on a terminal, else a line a minute, whether something was done in it or not."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 60.0

T = TypeVar("T")


class Meter:
    """Shows on standard error how much is done, how fast, and how long the rest will take. A context manager.

    Args:
        total: Number of things to do.
        unit: What they are called, one of them.
        is_shown: Whether anything is shown at all.
    """

    def __init__(self, total: int, unit: str, is_shown: bool = True) -> None:
        self.total, self.unit, self.note = total, unit, ""
        self._is_bar = is_shown and sys.stderr.isatty()
        self._bar = tqdm(total=total, unit=unit, leave=False, smoothing=0.05, disable=not self._is_bar, file=sys.stderr)
        self._num_done, self._num_before, self._begun = 0, 0, time.monotonic()
        self._ended = threading.Event()
        self._lines = threading.Thread(target=self._print_lines, daemon=True) if is_shown and not self._is_bar else None

    def __enter__(self) -> Meter:
        if self._lines is not None:
            try:
                self._lines.start()
            except RuntimeError:  # the machine has no threads left: what needs them more will say so
                self._lines = None
        return self

    def __exit__(self, *of_error: object) -> None:
        self._ended.set()
        if self._lines is not None:
            self._lines.join()
        self._bar.close()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._begun

    def begin_at(self, count: int) -> None:
        """Says how many things an earlier run has done, which do not count as speed."""
        self._num_done = self._num_before = count
        self._bar.initial = count
        self._bar.update(count)

    def update(self, count: int = 1, note: str = "") -> None:
        """Counts things that are done; ``note`` stands behind the numbers from now on."""
        self._num_done += count
        self.note = note or self.note
        self._bar.set_postfix_str(self.note, refresh=False)
        self._bar.update(count)

    def _print_lines(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_LINES):
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """Returns what is done as one line."""
        return tqdm.format_meter(
            self._num_done, self.total, self.elapsed_s, unit=self.unit, initial=self._num_before, postfix=self.note, ncols=0
        ).strip()


def progress(results: Iterable[T], total: int, unit: str) -> Iterator[T]:
    """Passes results on and shows how many there are, how fast they come and how long it will take."""
    with Meter(total, unit) as meter:
        for result in results:
            yield result
            meter.update()
