"""How far long work is: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30.0

T = TypeVar("T")


def progress(results: Iterable[T], total: int, unit: str) -> Iterator[T]:
    """Passes results on and shows on standard error how many there are, how fast they come and how long it will take."""
    if sys.stderr.isatty():
        yield from tqdm(results, total=total, unit=unit, leave=False)
        return
    start = last = time.monotonic()
    for count, result in enumerate(results, 1):
        yield result
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            print(tqdm.format_meter(count, total, now - start, unit=unit), file=sys.stderr, flush=True)
            last = now
