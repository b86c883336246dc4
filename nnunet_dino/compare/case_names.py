"""Names of cases that are blocks of a volume: ``sample_A [0:25, 0:625, 625:1250]``."""

from __future__ import annotations

import re
from collections.abc import Sequence

_BLOCK = re.compile(r"(.+) \[(\d+:\d+), (\d+:\d+), (\d+:\d+)\]")


def block_case(volume: str, place: Sequence[slice]) -> str:
    """Returns the case of a block ``d h w`` of a volume."""
    return f"{volume} [{', '.join(f'{part.start}:{part.stop}' for part in place)}]"


def volume_of(case: str) -> str:
    """Returns the volume that a case is a block of; a case that is a volume itself as it is."""
    found = _BLOCK.fullmatch(case)
    return found[1] if found else case


def place_of(case: str) -> tuple[slice, ...]:
    """Returns where in its volume ``d h w`` a case lies; all of it for a case that is a volume."""
    found = _BLOCK.fullmatch(case)
    return tuple(slice(*map(int, part.split(":"))) for part in found.groups()[1:]) if found else (slice(None),) * 3
