"""One name in two spellings, as tables that passed through several programs have it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_BETWEEN = re.compile(r"[\W_]+|(?<=\d)(?=[^\W\d_])|(?<=[^\W\d_])(?=\d)")  # letters and numbers


def in_two_spellings(names: Iterable[str], are_marks_alike: bool = False) -> list[tuple[str, str]]:
    """Returns pairs of names that differ only by zeros in front of numbers, ``.0``, spaces, or upper and lower case.

    Args:
        names: In any order, also several times.
        are_marks_alike: ``P7``, ``P-7``, ``P_7`` and ``P 7`` are one name as well; never ``1-11`` and ``11-1``.
    """
    spelling: dict[str, str] = {}
    twice = []
    for name in sorted(set(names)):
        plain = re.sub(r"^(\d+)[.,]0+$", r"\1", unicodedata.normalize("NFKC", name).casefold())
        key = " ".join(re.sub(r"(?<!\d)0+(?=\d)", "", plain).split())
        key = " ".join(_BETWEEN.split(key)).strip() if are_marks_alike else key
        if key in spelling:
            twice.append((spelling[key], name))
        spelling.setdefault(key, name)
    return twice
