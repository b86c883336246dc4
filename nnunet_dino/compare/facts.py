"""What a trained fold cost: parameters, checkpoint size, epoch time. Unknown stays None; nothing is estimated."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_dino._errors import UserError
from nnunet_dino._nnunet_folders import FACTS_FILE, read_json

RANDOM = "random"
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth")
EPOCH_TIME = re.compile(r"Epoch time:\s*([0-9.]+)\s*s\b")


@dataclass(frozen=True)
class Facts:
    """Cost of one trained configuration, over its folds; None where it is unknown.

    Attributes:
        num_params_total: Parameters of the network, for trainers of this package.
        num_params_trained: Parameters that training changes.
        checkpoint_bytes: Median size over folds of the final checkpoint, else of the best or the latest one.
        epoch_s: Median epoch time in seconds over all epochs in the training logs.
        num_epochs: Planned length of training.
        num_iterations: Iterations per epoch.
        optimizer: Class of the optimiser, such as ``"SGD"``.
        device: Where training ran.
        backbone: Name of the vision transformer, for trainers of this package.
        adaptation: How it was adapted.
        weights: ``"random"`` or the digest of its source.
        starts_at_class_frequencies: Whether the output biases did, as trainers of this package record; nnU-Net's do not.
        notes: What could not be read, and why.
    """

    num_params_total: int | None = None
    num_params_trained: int | None = None
    checkpoint_bytes: int | None = None
    epoch_s: float | None = None
    num_epochs: int | None = None
    num_iterations: int | None = None
    optimizer: str | None = None
    device: str | None = None
    backbone: str | None = None
    adaptation: str | None = None
    weights: str | None = None
    starts_at_class_frequencies: bool | None = None
    notes: tuple[str, ...] = ()


def read_facts(folds: Sequence[Path]) -> Facts:
    """Reads the cost of a trained configuration from the ``fold_*`` folders of one ``TRAINER__PLANS__CONFIGURATION`` folder."""
    notes: list[str] = []
    records = [_read_json(fold / FACTS_FILE, notes) for fold in folds]
    debug = [_read_json(fold / "debug.json", notes) for fold in folds]

    def shared(name: str, values: Iterable[object]) -> dict:
        """The value that all folds share; None, with a note, where they differ."""
        known = list(dict.fromkeys(value for value in values if isinstance(value, (str, int))))
        if len(known) > 1:
            notes.append(f"The folds differ in {name} ({', '.join(map(str, known))}); it is shown as unknown.")
        return {name: known[0] if len(known) == 1 else None}

    found: dict = {}
    for name in ("backbone", "adaptation", "weights"):
        found |= shared(name, [record.get(name) for record in records])
    if any(record.get("weights") == RANDOM for record in records):
        found["weights"] = RANDOM  # one fold of random weights is enough to say so
    found |= shared("device", [entry.get("gpu_name") or entry.get("device") for entry in debug])
    for name in ("num_epochs", "num_iterations_per_epoch"):
        found |= shared(name, [_integer(entry.get(name)) for entry in debug])
    found["num_iterations"] = found.pop("num_iterations_per_epoch")
    found |= shared("optimizer", [_optimizer(entry) for entry in debug])
    for name in ("num_params_total", "num_params_trained"):
        found |= shared(name, [_integer(record.get(name.replace("params", "parameters"))) for record in records])
    starts = {bool(record.get("output_biases")) for record in records}
    times = [float(seconds) for fold in folds for seconds in _epoch_times(fold)]
    checkpoint_bytes = _checkpoint_bytes(folds)
    return Facts(
        **found,
        starts_at_class_frequencies=starts.pop() if len(starts) == 1 else None,
        epoch_s=statistics.median(times) if times else None,
        checkpoint_bytes=round(statistics.median(checkpoint_bytes)) if checkpoint_bytes else None,
        notes=tuple(dict.fromkeys(notes)),
    )


def _read_json(file: Path, notes: list[str]) -> dict:
    try:
        return read_json(file, dict) if file.is_file() else {}
    except UserError as error:
        notes.append(f"{error}; what the file says is left out.")
        return {}


def _integer(value: object) -> int | None:
    return int(str(value)) if re.fullmatch(r"\d{1,18}", str(value)) else None


def _optimizer(debug: dict) -> str | None:
    """Returns ``"SGD"`` of ``"SGD (\\nParameter Group 0 …"``, which is how nnU-Net writes it down."""
    name = re.match(r"(\w+) \(", str(debug.get("optimizer", "")))
    return name[1] if name else None


def _epoch_times(fold: Path) -> list[str]:
    logs = sorted(fold.glob("training_log_*.txt"))
    return [seconds for log in logs for seconds in EPOCH_TIME.findall(log.read_text(encoding="utf-8", errors="replace"))]


def _checkpoint_bytes(folds: Sequence[Path]) -> list[int]:
    """Returns the sizes of the best kind of checkpoint there is, of every fold that has it."""
    sizes = ([(fold / name).stat().st_size for fold in folds if (fold / name).is_file()] for name in CHECKPOINTS)
    return next(filter(None, sizes), [])
