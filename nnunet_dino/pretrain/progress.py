"""How far a pretraining is: a bar on a terminal, else a line now and then; and means of what its steps measured."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30.0
NUM_ROWS = 200


class Progress:
    """Collects the measurements of steps.

    Args:
        first: The first step.
        total: Steps of the run.
        batch: Slices per step.
        say: Prints a line.
    """

    def __init__(self, first: int, total: int, batch: int, say: Callable[[str], None]) -> None:
        self.total, self.batch, self.say = total, batch, say
        self.every = max(1, total // NUM_ROWS)
        self.first, self.start = first, time.monotonic()
        self.row_start = self.last_line = self.start
        self.sums: dict[str, float] = {}
        self.num_steps, self.num_good = 0, 0
        self.waited = 0.0
        self.bar = tqdm(initial=first, total=total, unit="step") if sys.stderr.isatty() and first < total else None

    def add(self, step: int, metrics: dict[str, float], waited: float) -> dict[str, float] | None:
        """Takes the measurements of a step; returns their means since the last row when a row is due."""
        self.num_steps += 1
        self.waited += waited
        if metrics["loss"] == metrics["loss"] and abs(metrics["loss"]) != float("inf"):
            self.num_good += 1
            for name, value in metrics.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
        now = time.monotonic()
        if self.bar:
            self.bar.update()
        row = None
        if (step + 1) % self.every == 0 or step + 1 == self.total:
            row = self._row(step + 1, now)
            self.row_start, self.waited, self.sums, self.num_steps, self.num_good = now, 0.0, {}, 0, 0
            if self.bar:
                self.bar.set_postfix_str(_short(row))
            elif now - self.last_line >= SECONDS_BETWEEN_LINES or step + 1 == self.total:
                meter = tqdm.format_meter(step + 1, self.total, now - self.start, unit="step", initial=self.first)
                self.say(f"{meter} {_short(row)}")
                self.last_line = now
        return row

    def _row(self, step: int, now: float) -> dict[str, float]:
        seconds = max(now - self.row_start, 1e-9)
        return {
            "step": step,
            **{name: value / max(1, self.num_good) for name, value in self.sums.items()},
            "slices_per_second": self.num_steps * self.batch / seconds,
            "waiting": self.waited / seconds,
        }

    def close(self) -> None:
        """Ends the bar."""
        if self.bar:
            self.bar.close()


def _short(row: dict[str, float]) -> str:
    parts = [f"{name.removeprefix('loss_')} {row[name]:.3f}" for name in row if name.startswith("loss")]
    return ", ".join([*parts, f"{row['slices_per_second']:.3g} slices/s", f"waiting {100 * row['waiting']:.1f} %"])
