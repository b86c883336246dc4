"""Doing the next things in other threads while the present one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def prefetch(
    pool: Executor, function: Callable[[Argument], Result], arguments: Iterable[Argument], num_ahead: int
) -> Iterator[Result]:
    """Yields ``function(argument)`` for all arguments, in their order; up to ``num_ahead`` are worked on beforehand.

    Arguments are taken only as they are needed, so that memory holds no more than ``num_ahead`` results.
    """
    waiting: deque[Future[Result]] = deque()
    for argument in arguments:
        waiting.append(pool.submit(function, argument))
        if len(waiting) > num_ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
