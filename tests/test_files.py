"""Writing whole files, what killed processes leave, and one process at a time."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nnunet_dino._errors import UserError
from nnunet_dino._files import LOCK, UNFINISHED, exclusive, remove_unfinished, write_atomically


def run_python(code: str, *arguments: object) -> subprocess.Popen:
    """Starts Python on ``code`` and returns when it has printed a line."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


HALF_WRITTEN = """
import sys
from nnunet_dino._files import write_atomically
def half(path):
    open(path, "w").write("half")
    print("written", flush=True)
    sys.stdin.read()
write_atomically(sys.argv[1], half)
"""
INSIDE = """
import sys
from pathlib import Path
from nnunet_dino._files import exclusive
with exclusive(Path(sys.argv[1])):
    print("inside", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("naïve\r\n", "naïve\r\n".encode()),
        (b"\0\1", b"\0\1"),
        (lambda path: Path(path).write_bytes(b"function"), b"function"),
    ],
)
def test_text_bytes_and_functions_are_written_whole(content, expected: bytes, tmp_path: Path) -> None:
    path = tmp_path / "made" / "file.txt"
    write_atomically(path, content)
    assert path.read_bytes() == expected
    assert list(path.parent.iterdir()) == [path]


def test_the_function_sees_the_files_own_name(tmp_path: Path) -> None:
    seen = []
    write_atomically(tmp_path / "table.npz", lambda path: seen.append(Path(path).name))
    assert seen == ["table.npz"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed")]
)
def test_a_failed_save_is_one_line_and_leaves_the_old_file(error: Exception, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_latest.pth"
    path.write_text("good")

    def half(target: str) -> None:
        Path(target).write_text("half")
        raise error

    with pytest.raises(UserError, match=rf"could not save .*checkpoint_latest\.pth · got .*{error.args[-1]} · mend it"):
        write_atomically(path, half, remedy="mend it")
    assert path.read_text() == "good"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("good")

    def interrupted(target: str) -> None:
        Path(target).write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    assert path.read_text() == "good"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize(
    "save",
    [
        lambda path: torch.save({"a": torch.zeros(9)}, "/dev/full"),
        lambda path: save_file({"a": torch.zeros(9)}, "/dev/full/x"),
        lambda path: Path("/dev/full").write_text("text"),
    ],
)
def test_what_libraries_raise_on_a_full_disk_is_one_line(save, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"could not save .*file · got .* · free disk space"):
        write_atomically(tmp_path / "file", save)


def test_a_folder_below_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"could not save .*file/below\.txt"):
        write_atomically(tmp_path / "file" / "below.txt", "text")


def test_a_file_that_is_there_can_be_kept(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "first", overwrite=False)
    with pytest.raises(UserError, match=r"could not save .*file: required a new file · got one that is there"):
        write_atomically(tmp_path / "file", "second", overwrite=False)
    assert (tmp_path / "file").read_text() == "first"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_the_usual_mode_whatever_the_library_sets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "x.safetensors", lambda path: save_file({"a": torch.ones(2)}, path))
    finally:
        os.umask(before)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o640


def test_what_a_killed_process_left_goes_and_what_a_running_one_writes_stays(tmp_path: Path) -> None:
    process = run_python(HALF_WRITTEN, tmp_path / "big")
    write_atomically(tmp_path / "small", "whole")
    assert len(list(tmp_path.glob(f"{UNFINISHED}-*"))) == 1
    process.kill()
    process.communicate()
    assert len(list(tmp_path.glob(f"{UNFINISHED}-*"))) == 1
    write_atomically(tmp_path / "small", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_what_another_machine_left_goes_after_a_day(tmp_path: Path) -> None:
    for name, age_h in (("fresh", 23), ("old", 25)):
        left = tmp_path / f"{UNFINISHED}-{name}-1-x"
        left.mkdir()
        os.utime(left, (time.time() - age_h * 3600,) * 2)
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{UNFINISHED}-fresh-1-x"]


def test_one_process_at_a_time_and_a_killed_one_frees_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / LOCK
    process = run_python(INSIDE, lock)
    busy = r"required no other process at work there · got one that holds .*lock · try later"
    with pytest.raises(UserError, match=busy), exclusive(lock, wait_s=0, busy="try later"):
        pytest.fail("two processes were inside")
    process.kill()
    process.communicate()
    with exclusive(lock, wait_s=10):
        pass


def test_a_lock_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"file/x\.lock: required a file that can be made"),
        exclusive(tmp_path / "file" / "x.lock"),
    ):
        pytest.fail("it cannot be claimed")


def test_a_claim_lasts_as_long_as_the_process_and_not_as_its_children(tmp_path: Path) -> None:
    from nnunet_dino._files import is_claimed

    lock, child = tmp_path / "locks" / "one", tmp_path / "child"
    code = (
        "import os, sys; from pathlib import Path; from nnunet_dino._files import claim_for_life\n"
        f"claim_for_life(Path({str(lock)!r}))\n"
        f"os.execv('/bin/sh', ['sh', '-c', 'sleep 60 & echo $! > {child}; wait'])"
    )
    assert not is_claimed(lock)
    holder = subprocess.Popen([sys.executable, "-c", code])
    try:
        until = time.monotonic() + 60
        while not (child.is_file() and child.read_text().strip()):
            assert time.monotonic() < until
            time.sleep(0.05)
        assert is_claimed(lock)  # the shell that the process became holds it
        holder.kill()
        holder.wait()
        assert not is_claimed(lock)  # though what it started is alive
        os.kill(int(child.read_text()), 0)
    finally:
        holder.kill()
        os.kill(int(child.read_text()), 9)
