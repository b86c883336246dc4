"""Runs a command that ends when the process that asked for it ends, however that ends.

The asking process holds the other end of standard input and never writes to it. When the system closes that end, because the
process was interrupted, killed or crashed, everything in this process group is killed: the command, and the workers it started.
On Windows, where there are no process groups, ``taskkill`` ends the tree of processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence


def main(command: Sequence[str]) -> int:
    """Runs the command, and returns its exit code."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_kill_at_end_of_input, args=(child.pid,), daemon=True).start()
    return child.wait()


def _kill_at_end_of_input(pid: int) -> None:
    os.read(sys.stdin.fileno(), 1)
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(pid)], check=False)
    else:
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
