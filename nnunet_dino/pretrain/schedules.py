"""How a quantity changes over a run."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, half a cosine, then constant (DINOv3, ``cosine_lr_scheduler.py``).

    ::

        start ──╱ peak ╲__ end ────────
          frozen warmup  cosine   tail

    Attributes:
        peak: Value after the warm-up.
        end: Value after the cosine.
        start: Value at the beginning of the warm-up.
        warmup: Steps of the warm-up; the peak is reached after them.
        cosine: Steps of the cosine, its two ends included; 0 goes on with ``end`` at once.
        frozen: Leading steps, of all these, at which the value is 0.
    """

    peak: float
    end: float
    start: float = 0.0
    warmup: int = 0
    cosine: int = 0
    frozen: int = 0

    def __call__(self, step: int) -> float:
        """Returns the value at ``step``, from 0."""
        if step < self.frozen:
            return 0.0
        if step < self.warmup:
            return self.start + (self.peak - self.start) * step / self.warmup
        position = step - self.warmup
        if position >= self.cosine:
            return self.end
        share = position / max(1, self.cosine - 1)
        return self.end + 0.5 * (self.peak - self.end) * (1 + math.cos(math.pi * share))
