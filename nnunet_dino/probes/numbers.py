"""Numbers that a user gives."""

from __future__ import annotations

import math

from nnunet_dino._errors import UserError

MAX_SEED = 2**31 - 1


def check_number(
    option: str,
    value: float,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> None:
    """Refuses a number that is not finite or outside its range.

    Args:
        option: That gave the number, for the error.
        value: The number.
        least: It may be this or more.
        above: It must be more than this.
        most: It may be this or less.
        below: It must be less than this.

    Raises:
        UserError: The number is none of these.
    """
    bounds = {"from": least, "above": above, "to": most, "below": below}
    fits = (
        math.isfinite(value)
        and (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
        and (below is None or value < below)
    )
    if not fits:
        words = " ".join(f"{word} {bound:,}" for word, bound in bounds.items() if bound is not None)
        raise UserError(f"{option}: required a number {words} · got {value:g}")


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """Reads whole numbers from 1 with commas between them; an empty text has none.

    Raises:
        UserError: It is something else.
    """
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UserError(f"{option}: required whole numbers from 1, with commas · got {text!r}")
    return tuple(int(part) for part in parts)
