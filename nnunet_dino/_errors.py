"""Errors that a user can mend: one line, exit code 2, no traceback."""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections.abc import Iterable

EXIT_CODE = 2


class UserError(ValueError):
    """Something the user gave is missing or wrong.

    The message is one line: what was required, what came, and the remedy.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ``"; did you mean 'x'?"`` for the closest known name, or an empty string.

    Letters in another order count half: otherwise a name that merely stops before the slip were closer.
    """

    def alike(other: str) -> float:
        return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in ((other, name), (sorted(other), sorted(name))))

    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {max(close, key=alike)!r}?" if close else ""


def leave(error: UserError) -> None:
    """Prints ``error`` as one line on standard error, after all that was said before, and ends the process with exit code 2."""
    with contextlib.suppress(AttributeError, OSError, ValueError):  # there is none, or nobody listens
        sys.stdout.flush()
    print(f"nnunet-dino: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    raise SystemExit(EXIT_CODE) from None
