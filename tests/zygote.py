"""Console scripts run in forks of one process that has imported what they need.

Every nnU-Net command takes six to eight seconds to import torch and nnU-Net; a fork has them. It is a process of its own, with
its own arguments, environment, output and exit code, and it calls the function that the installed console script calls.
Worker processes that nnU-Net spawns are forked as well. What depends on the start of Python itself (entry points, the start-up
hook, spawned workers) is tested with real console scripts.

Commands that a shell or Snakemake starts take this way where the folder of :meth:`Zygote.scripts` comes first in PATH.
"""

from __future__ import annotations

import gc
import json
import os
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

POLL_SECONDS = 0.01
PATIENCE_SECONDS = 900
CLIENT = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect(ADDRESS)
    request = {"args": [os.path.basename(sys.argv[0]), *sys.argv[1:]], "env": dict(os.environ), "cwd": os.getcwd()}
    server.sendall(json.dumps(request).encode() + b"\\n")
    code, output = json.loads(server.makefile().read())
sys.stdout.buffer.write(output.encode(errors="replace"))
sys.exit(code if code >= 0 else 128 - code)
"""


class Zygote:
    """The process that forks, in any Python. It starts at the first command and ends with this one."""

    def __init__(self, python: str | Path = sys.executable, **environment: str) -> None:
        """Takes the Python, and what its environment must have when it imports nnU-Net."""
        self.python = python
        self.environment = environment
        self._lock = threading.Lock()

    def run(
        self, args: Sequence[str], env: Mapping[str, str], timeout_seconds: float, cwd: str | None = None
    ) -> tuple[int, str]:
        """Runs a console script and returns its exit code and what it printed.

        Args:
            args: The name of the script and its arguments.
            env: The whole environment.
            timeout_seconds: When to give up.
            cwd: Where it runs, by default here.

        Raises:
            TimeoutError: The command did not end in time; it has been killed.
        """
        with TemporaryDirectory() as name:
            folder = Path(name)
            request = {"args": list(args), "env": dict(env), "folder": name, "cwd": cwd or os.getcwd()}
            with self._lock:
                assert self._process.stdin is not None
                self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()
            until = time.monotonic() + timeout_seconds
            while not (folder / "code").exists():
                assert self._process.poll() is None, "the process that forks has ended"
                if time.monotonic() > until:
                    os.killpg(int((folder / "group").read_text()), 9)
                    raise TimeoutError(f"{' '.join(args)}: no end after {timeout_seconds} s")
                time.sleep(POLL_SECONDS)
            return int((folder / "code").read_text()), (folder / "output").read_text(errors="replace")

    @contextmanager
    def scripts(self) -> Iterator[Path]:
        """Gives a folder with the names of this Python's console scripts, each of which asks here to be run.

        Whoever kills such a script does not kill the command that it asked for.
        """
        with TemporaryDirectory() as name, socketserver.ThreadingUnixStreamServer(f"{name}/socket", _Answer) as server:
            folder = Path(name)
            server.zygote = self  # type: ignore[attr-defined]
            client = f"#!{sys.executable} -IS\nADDRESS = {str(folder / 'socket')!r}\n{CLIENT}"
            for script in entry_points(group="console_scripts"):
                (folder / script.name).write_text(client)
                (folder / script.name).chmod(0o755)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield folder
            server.shutdown()

    def close(self) -> None:
        """Ends the process, if it was started."""
        if "_process" in vars(self):
            self._process.communicate()

    @cached_property
    def _process(self) -> subprocess.Popen[str]:
        settings = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")}
        settings |= {"nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", **self.environment}
        return subprocess.Popen([self.python, __file__], env=settings, stdin=subprocess.PIPE, text=True)


class _Answer(socketserver.StreamRequestHandler):
    """Runs what one of :meth:`Zygote.scripts` asks for."""

    def handle(self) -> None:
        request = json.loads(self.rfile.readline())
        zygote: Zygote = self.server.zygote  # type: ignore[attr-defined]
        done = zygote.run(request["args"], request["env"], PATIENCE_SECONDS, request["cwd"])
        self.wfile.write(json.dumps(done).encode())


def serve() -> None:
    """Imports, then forks once for every line of standard input, until its end."""
    import multiprocessing

    import nnunetv2.inference.predict_from_raw_data
    import nnunetv2.run.run_training  # noqa: F401
    import peft  # noqa: F401
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

    import nnunet_dino.networks
    import nnunet_dino.nnunet.planning
    import nnunet_dino.nnunet.trainer  # noqa: F401

    fork = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method=None: fork
    _draw_fewer_voxels(DatasetFingerprintExtractor)
    scripts = {script.name: script for script in entry_points(group="console_scripts")}
    gc.freeze()  # a fork then neither looks through these objects nor copies their pages
    for line in sys.stdin:
        if os.fork() == 0:
            _watch(scripts, json.loads(line))
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _draw_fewer_voxels(extractor: type) -> None:
    """nnU-Net draws a hundred million voxels for a data set's intensities, with replacement: seconds for a few phantoms."""
    initialise = extractor.__init__  # type: ignore[misc]

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        initialise(self, *args, **kwargs)
        self.num_foreground_voxels_for_intensitystats = 1e6

    extractor.__init__ = __init__  # type: ignore[misc]


def _watch(scripts: Mapping, request: dict) -> None:
    """Forks the command and leaves its exit code in a file."""
    folder = Path(request["folder"])
    command = os.fork()
    if command == 0:
        os.setsid()
        (folder / "group").write_text(str(os.getpid()))
        _become(scripts, request)
    _, status = os.waitpid(command, 0)
    (folder / "unfinished").write_text(str(os.waitstatus_to_exitcode(status)))
    os.rename(folder / "unfinished", folder / "code")
    os._exit(0)


def _become(scripts: Mapping, request: dict) -> None:
    """Runs the command as the start of Python would."""
    import random

    import numpy as np

    output = os.open(Path(request["folder"]) / "output", os.O_WRONLY | os.O_CREAT)
    for target in (1, 2):
        os.dup2(output, target)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    random.seed()
    np.random.seed()
    name, *rest = request["args"]
    sys.argv = [str(Path(sys.executable).with_name(name)), *rest]
    try:
        code = _code_of(scripts[name].load())
    except SystemExit as error:
        code = error.code
    _end(code)


def _code_of(script: Callable[[], object]) -> object:
    try:
        return script()
    except Exception:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]  # which may raise SystemExit, as Python allows
        return 1


def _end(code: object) -> None:
    """Ends this process as ``sys.exit`` does, but leaves its modules to the system; one by one they take seconds."""
    import atexit

    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 255 if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    serve()
