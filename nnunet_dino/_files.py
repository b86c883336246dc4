"""Writing a file so that the old one stays whole until the new one is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from nnunet_dino._errors import UserError

REMEDY = "free disk space or make the folder writable"


def write_atomically(path: str, write: Callable[[str], None], remedy: str = REMEDY, suffix: str = ".part") -> None:
    """Writes beside ``path`` and then renames, so that an interruption leaves the old file as it was.

    Args:
        path: The file to make or replace.
        write: Writes a file at the path it is given.
        remedy: What to do if it cannot be written.
        suffix: Added to ``path`` while it is being written; processes that may write the same file take different ones.

    Raises:
        UserError: the file could not be written, for instance because the disk is full. ``path`` is unchanged.
    """
    temporary = f"{path}{suffix}"
    try:
        write(temporary)
        _flush_to_disk(temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as a RuntimeError of its zip writer, often without the reason.
        _remove(temporary)
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"could not save {path} · got {reason} · {remedy}") from error
    except BaseException:
        _remove(temporary)
        raise


def _flush_to_disk(path: str) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.remove(path)
