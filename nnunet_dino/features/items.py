"""What a kind of input has to offer to extraction: a number of images, and each of them on demand."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from nnunet_dino._grids import itk_reason

NOTE = "note"  # of a source's facts, and a column of the index
OF_THE_MACHINE = (
    "start new thread",
    "create a thread",
    "Resource temporarily unavailable",
    "INTERNAL ASSERT",
    "Too many open files",
)
OF_ANOTHER_CALL = "Reason: Resource temporarily unavailable"  # ITK adds the system's last error, whatever it belongs to


class Unreadable(ValueError):
    """An input that cannot be used; the message is the reason shown to the user."""


def counted(number: int, kind: str) -> str:
    """Returns ``1 slide`` or ``2 slides`` for a number of inputs of a kind, ``slides``."""
    return f"{number:,} {kind.removesuffix('s') if number == 1 else kind}"


def is_of_the_machine(error: Exception) -> bool:
    """Whether an error says that the machine has no threads or file handles left, which is no fault of the file it read."""
    text = str(error).replace(OF_ANOTHER_CALL, "")
    return any(words in text for words in OF_THE_MACHINE)


@contextlib.contextmanager
def decoding(what: str = "") -> Iterator[None]:
    """Turns whatever a decoder raises on a damaged file into :class:`Unreadable`.

    What is the machine's fault passes as it is.

    Args:
        what: Put before the words of the decoder where these do not say what they are about.

    Raises:
        Unreadable: With the last line of the error, where ITK says what went wrong.
    """
    try:
        yield
    except Unreadable:
        raise
    except Exception as error:
        if is_of_the_machine(error):
            raise
        raise Unreadable(what + itk_reason(error)) from error


@dataclass(frozen=True)
class Item:
    """One input: a picture, a volume or a slide.

    Attributes:
        id: Unique name, by which labels are joined.
        path: The file, or the folder of a DICOM series.
        series: Series instance UID, where a folder holds several series.
        files: Those of the series, so that the others of the folder are not read again.
        notes: What was decided on the folder.
    """

    id: str
    path: str
    series: str = ""
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def with_notes(facts: dict[str, Any], notes: Sequence[str]) -> dict[str, Any]:
    """Returns what the index says about an input, with what had to be decided while it was read."""
    return {**facts, **({NOTE: "; ".join(notes)} if notes else {})}


@dataclass(frozen=True)
class Source:
    """An opened input.

    Attributes:
        num_images: Pictures, slices or tiles that it is shown as.
        images: Takes a range ``start, stop`` and returns these images, ``n c s s``, 0..1, ``c`` 1 or 3. May be called from
            several threads.
        facts: What the index says about it: ``shape`` and, where known, ``spacing_mm`` and others.
        shows_image: Which tokens show some of the image and not only padding, ``gh gw``, the same for all images.
        coordinates: Where each image lies, ``n 2``, in pixels of the slide's full resolution as x, y of the upper left corner.
        close: Frees what the input holds.
    """

    num_images: int
    images: Callable[[int, int], Tensor]
    facts: dict[str, Any]
    shows_image: Tensor
    coordinates: Tensor | None = None
    close: Callable[[], object] = field(default=lambda: None)

    @property
    def notes(self) -> list[str]:
        """What had to be decided, as one text; nothing if it is none."""
        return [self.facts[NOTE]] if NOTE in self.facts else []
