"""Writing files that are whole or not there, and doing something in one process at a time. The only such code.

A file is written in a folder of its own beside its place, under its own name, and then renamed. That folder's name says which
process made it, so that the next one that writes there can tell what a killed one left.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError

from nnunet_dino._errors import UserError

REMEDY = "free disk space or make the folder writable"
LOCK = ".nnunet_dino.lock"
UNFINISHED = ".nnunet_dino_unfinished"
_DAY_S = 24 * 60 * 60


def user_cache() -> Path:
    """Returns the folder of this package in the user's cache."""
    return Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME", "").strip() or "~/.cache"), "nnunet_dino")


def write_atomically(
    path: str | Path, content: str | bytes | Callable[[str], object], remedy: str = REMEDY, overwrite: bool = True
) -> None:
    """Writes a file so that, whatever interrupts it, ``path`` holds the old content or the new.

    Removes what killed processes left in the same folder.

    Args:
        path: The file to make or replace; its folder is made if needed.
        content: Text (UTF-8, line ends as they are), bytes, or a function that writes a file at the path it is given.
        remedy: What to do if it cannot be written.
        overwrite: Replace a file that is there.

    Raises:
        UserError: the file could not be written, for instance because the disk is full, or is there and not to be replaced.
            ``path`` is unchanged.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path.parent)
        with tempfile.TemporaryDirectory(prefix=f"{UNFINISHED}-{_machine()}-{os.getpid()}-", dir=path.parent) as folder:
            temporary = Path(folder, path.name)
            _write(temporary, content)
            if not overwrite:
                _make_new(path)
            os.replace(temporary, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch reports a full disk as a RuntimeError of its zip writer, often without the reason.
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"could not save {path} · got {reason} · {remedy}") from error


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Returns rows as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _make_new(path: Path) -> None:
    """Makes an empty file; of several processes one can."""
    try:
        open(path, "xb").close()
    except FileExistsError:
        raise UserError(
            f"could not save {path}: required a new file · got one that is there · remove it or name another"
        ) from None


def _write(path: Path, content: str | bytes | Callable[[str], object]) -> None:
    path.touch()
    mode = path.stat().st_mode
    if callable(content):
        content(str(path))
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    os.chmod(path, mode)  # safetensors makes files that only their owner can read
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def remove_unfinished(folder: Path) -> None:
    """Removes what writing left in ``folder`` when its process was killed; what another process writes there now stays."""
    for left in folder.glob(f"{UNFINISHED}-*"):
        with contextlib.suppress(OSError):
            if _is_abandoned(left):
                shutil.rmtree(left)


def _is_abandoned(left: Path) -> bool:
    """Whether the process is gone; where it was one of another machine or container, whether a day has passed."""
    import psutil

    begun = left.stat().st_mtime
    if not left.name.startswith(f"{UNFINISHED}-{_machine()}-"):
        return time.time() - begun > _DAY_S
    try:
        process = psutil.Process(int(left.name.split("-")[2]))
        return process.create_time() > begun + 1  # the number was given to a later process
    except psutil.Error as error:
        return isinstance(error, psutil.NoSuchProcess)


def _machine() -> str:
    """Returns eight hex digits for the place in which a process number means something: machine, start of it, container."""
    import platform

    parts = [platform.node()]
    for read in (lambda: Path("/proc/sys/kernel/random/boot_id").read_text(), lambda: os.readlink("/proc/self/ns/pid")):
        with contextlib.suppress(OSError):
            parts.append(read())
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:8]


@contextlib.contextmanager
def exclusive(lock: Path, wait_s: float = -1, busy: str = "wait for it to end") -> Iterator[None]:
    """Lets one process at a time run what is inside; the operating system frees the lock of a process that dies.

    Args:
        lock: A file that stands for what is claimed, such as ``folder / LOCK``; made if needed, and left there.
        wait_s: How long to wait for the process that is inside; negative waits without end.
        busy: The remedy when it has not left by then.

    Raises:
        UserError: Another process is inside, or the file cannot be made.
    """
    import filelock

    claim = filelock.FileLock(lock, timeout=wait_s, mode=0o664)  # all of a group may wait
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        claim.acquire()
    except filelock.Timeout as error:
        raise UserError(
            f"{lock.parent}: required no other process at work there · got one that holds {lock} · {busy}"
        ) from error
    except OSError as error:
        raise UserError(f"{lock}: required a file that can be made · got {error.strerror or error} · {REMEDY}") from error
    try:
        yield
    finally:
        claim.release()


def claim_for_life(lock: Path) -> None:
    """Waits until no other process holds a file, and holds it until this one ends, or what it becomes by ``exec``.

    The children that this process forks do not hold it (POSIX record locks), so that those it leaves behind when it is
    killed do not keep others out.
    """
    import fcntl

    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o664)
    fcntl.lockf(descriptor, fcntl.LOCK_EX)
    os.set_inheritable(descriptor, True)


def is_claimed(lock: Path) -> bool:
    """Whether a process holds a file by :func:`claim_for_life`."""
    import fcntl

    if not lock.is_file():
        return False
    with open(lock, "r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
