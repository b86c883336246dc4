"""What the benchmarks share: taking turns, peaks of memory, and tables with the facts that a figure needs."""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nnunet_dino.backbones.precision import backbone_dtype

PACKAGES = ("torch", "nnunetv2", "timm")


def parser(description: str) -> argparse.ArgumentParser:
    """Returns a parser with the options that every benchmark has."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--rounds", type=int, default=5, help="measured rounds; the median is printed (default 5)")
    result.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    result.add_argument("--threads", type=int, default=0, help="threads of torch; default as torch chooses")
    result.add_argument("--json", type=Path, help="write the figures there; default benchmark-NAME.json in this folder")
    return result


def begin(arguments: argparse.Namespace) -> torch.device:
    """Sets threads and seed, and returns the device."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    return torch.device(arguments.device)


def facts(device: torch.device) -> dict[str, Any]:
    """Returns what a figure needs beside it: processor, device, precision, versions, commit."""
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "frozen_precision": str(backbone_dtype(device)).removeprefix("torch."),
        "versions": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "commit": commit(),
    }


def processor() -> str:
    """Returns the processor's name as Linux gives it, else as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit() -> str:
    """Returns the short commit, with ``+`` if the tree has changes."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, cwd=here).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def synchronise(device: torch.device) -> None:
    """Waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Returns how long ``function`` takes by the clock."""
    synchronise(device)
    began = time.perf_counter()
    function()
    synchronise(device)
    return time.perf_counter() - began


def in_turns(
    functions: Mapping[str, Callable[[], object]], device: torch.device, rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Runs all functions in turn, round by round, so that a slower phase of the machine meets all of them.

    Returns:
        Seconds of each function, one per round; the first ``warm_up`` rounds are left out.
    """
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(warm_up + rounds):
        for name, function in functions.items():
            elapsed = seconds(function, device)
            if number >= warm_up:
                taken[name].append(elapsed)
    return taken


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Returns the median of the ratios round by round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def peak_mib(function: Callable[[], object], device: torch.device) -> float:
    """Returns the largest memory in MiB while ``function`` runs: allocated on CUDA, resident in this process on the host.

    Resident memory needs Linux; elsewhere nan is returned.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        function()
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak, see proc(5)
    except OSError:
        function()
        return float("nan")
    function()
    return _status_mib("VmHWM")


def resident_mib() -> float:
    """Returns the resident memory of this process in MiB."""
    return _status_mib("VmRSS")


def _status_mib(key: str) -> float:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) / 1024


def finish(name: str, arguments: argparse.Namespace, device: torch.device, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints the rows as a Markdown table below the facts, and writes both as JSON."""
    record = {"benchmark": name, "arguments": _plain(vars(arguments)), **facts(device), "rows": list(rows)}
    versions = ", ".join(f"{package} {number}" for package, number in record["versions"].items())
    print(f"\n{record['processor']}, {record['threads']} threads, {record['device']},")
    print(f"frozen parts in {record['frozen_precision']}, {versions}, commit {record['commit']}\n")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(_cell(row.get(column)) for column in columns) + " |")
    target = arguments.json or Path(f"benchmark-{name}.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(record, indent=2) + "\n")
    print(f"\nWritten to {target}")


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return "" if value is None else str(value)
