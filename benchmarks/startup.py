"""Start-up of Python and of a stock command, with and without the start-up hook, in turn.

    python benchmarks/startup.py --rounds 30

Two empty environments are made that find the packages of this one by path; one of them has the two files that the
installation puts into site-packages. Everything else is the same.
"""

from __future__ import annotations

import compileall
import shutil
import statistics
import subprocess
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

import torch
from common import finish, parser

BOOT = Path(__file__).parents[1] / "nnunet_dino" / "nnunet" / "discovery" / "boot.py"
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "nnUNetv2_train -h": ["-c", "from nnunetv2.run.run_training import run_training_entry; run_training_entry()", "-h"],
}


def environment(folder: Path, with_hook: bool) -> Path:
    """Makes an environment and returns its Python."""
    venv.create(folder, with_pip=False)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n" + str(BOOT.parents[3]) + "\n")
    if with_hook:
        module = shutil.copy(BOOT, packages / "_nnunet_dino_boot.py")
        compileall.compile_file(module, quiet=1)  # as pip does
        (packages / "nnunet_dino.pth").write_text("import _nnunet_dino_boot; _nnunet_dino_boot.register()\n")
    return folder / "bin" / "python"


def elapsed(command: list[str]) -> float:
    """Returns the seconds of a process by the clock."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Measures and prints."""
    options = parser(__doc__)
    options.add_argument("--starts", type=int, default=300, help="starts of bare Python (default 300)")
    arguments = options.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        pythons = {name: environment(Path(folder, name), name == "with") for name in ("with", "without")}
        for title, words in COMMANDS.items():
            number = arguments.starts if words[-1] == "pass" else max(2, arguments.rounds)
            taken: dict[str, list[float]] = {"with": [], "without": []}
            for turn in range(number + 1):
                for name in ("with", "without") if turn % 2 else ("without", "with"):
                    wall = elapsed([str(pythons[name]), *words])
                    if turn:
                        taken[name].append(1000 * wall)
            differences = [a - b for a, b in zip(taken["with"], taken["without"], strict=True)]
            quartiles = statistics.quantiles(differences, n=4)
            rows.append(
                {
                    "command": title,
                    "pairs": number,
                    "with, ms": statistics.median(taken["with"]),
                    "without, ms": statistics.median(taken["without"]),
                    "difference, ms": statistics.median(differences),
                    "middle half, ms": f"{quartiles[0]:+.2f} … {quartiles[2]:+.2f}",
                }
            )
            print(rows[-1], flush=True)
    finish("startup", arguments, torch.device("cpu"), rows)


if __name__ == "__main__":
    main()
