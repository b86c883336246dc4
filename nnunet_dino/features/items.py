"""What a kind of input has to offer to extraction: a number of images, and each of them on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


class Unreadable(Exception):
    """An input that cannot be used; the message is the reason shown to the user."""


@dataclass(frozen=True)
class Item:
    """One input: a picture, a volume or a slide.

    Attributes:
        id: Unique name, by which labels are joined.
        path: The file, or the folder of a DICOM series.
        series: Series instance UID, where a folder holds several series.
    """

    id: str
    path: str
    series: str = ""


@dataclass(frozen=True)
class Source:
    """An opened input.

    Attributes:
        num_images: Pictures, slices or tiles that it is shown as.
        images: Takes a range ``start, stop`` and returns these images, ``n c s s``, 0..1, ``c`` 1 or 3. May be called from
            several threads.
        facts: What the index says about it: ``shape`` and, where known, ``spacing_mm`` and others.
        coordinates: Where each image lies, ``n 2``, in pixels of the slide's full resolution as x, y of the upper left corner.
        close: Frees what the input holds.
    """

    num_images: int
    images: Callable[[int, int], Tensor]
    facts: dict[str, Any]
    coordinates: Tensor | None = None
    close: Callable[[], object] = field(default=lambda: None)
