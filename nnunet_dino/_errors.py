"""Errors that a user can mend: one line, exit code 2, no traceback."""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
from collections.abc import Iterable, Iterator

EXIT_CODE = 2


class UserError(ValueError):
    """Something the user gave is missing or wrong.

    The message is one line: what was required, what came, and the remedy.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ``"; did you mean 'x'?"`` for the closest known name, or an empty string."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def leave(error: UserError) -> None:
    """Prints ``error`` as one line on standard error and ends the process with exit code 2."""
    print(f"nnunet-dino: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    raise SystemExit(EXIT_CODE) from None


@contextlib.contextmanager
def one_line_in_stock_commands() -> Iterator[None]:
    """Turns a :class:`UserError` into one line and exit code 2 while a ``nnUNetv2_*`` command runs.

    nnU-Net's commands know nothing of :class:`UserError` and would show a traceback. In any other process (a notebook, a
    script, a test) the error passes through unchanged.
    """
    try:
        yield
    except UserError as error:
        if not os.path.basename(sys.argv[0]).startswith("nnUNetv2_"):
            raise
        leave(error)
