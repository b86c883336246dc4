"""Runs commands one after another: all output into logs, some of it on to the user."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from nnunet_dino._errors import UserError
from nnunet_dino.demo import supervise

NUM_LAST_LINES = 15


class CommandFailed(Exception):
    """A command did not succeed; the message says which, its last lines, and where its log is."""


class Commands:
    """Steps that are counted and timed, up to ``num_steps``; the environment is that of the commands, not of this process."""

    def __init__(self, logs: Path, environment: Mapping[str, str], num_steps: int, say: Callable[[str], object]) -> None:
        self.logs = logs
        self.environment = {**environment, "PYTHONUNBUFFERED": "1"}  # the last lines of a log are the last that were said
        self.num_steps = num_steps
        self.say = say
        self.num_begun = 0

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Counts and times what is done inside."""
        self.num_begun += 1
        start = time.monotonic()
        self.say(f"[{self.num_begun}/{self.num_steps}] {title} …")
        yield
        self.say(f"      {time.monotonic() - start:.1f} s")

    def run(self, title: str, name: str, *arguments: object, show: str | None = None) -> None:
        """Runs a command to its end; it is killed if this process ends before. Lines with ``show`` are passed on to the user.

        Raises:
            CommandFailed: Its exit code is not 0.
            UserError: There is no such program.
        """
        command = [sys.executable, supervise.__file__, program(name), *map(str, arguments)]
        log = self.logs / f"{title.replace(' ', '-')}.txt"
        log.parent.mkdir(exist_ok=True)
        with (
            self.step(title),
            log.open("w", encoding="utf-8") as file,
            subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            ) as child,
        ):
            assert child.stdin and child.stdout
            try:
                for line in child.stdout:
                    file.write(line)
                    file.flush()
                    if show is not None and show in line:
                        self.say(f"      {line.rstrip()}")
            finally:
                child.stdin.close()  # tells the supervisor to kill the command if it still runs
                code = child.wait()
        if code != 0:
            last = "".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[-NUM_LAST_LINES:])
            raise CommandFailed(f"{title}: {name} ended with exit code {code}. Its last lines:\n\n{last}\nAll of them: {log}")


def program(name: str) -> str:
    """Returns the path of a command: that of this Python's environment, else the first on the path.

    Raises:
        UserError: There is none.
    """
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise UserError(f"required the command {name} · got none beside {sys.executable} · run: pip install nnunet-dino")
    return found
