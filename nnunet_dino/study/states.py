"""What is done, running, failed or waiting, and how long the study takes."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from nnunet_dino._files import is_claimed
from nnunet_dino.compare.facts import EPOCH_TIME
from nnunet_dino.study.jobs import Job, Jobs, Training

DONE, RUNNING, FAILED, WAITING = "done", "running", "failed", "waiting"
DEFAULT_EPOCHS = 1000


def state_of(job: Job, folder: Path) -> str:
    """Returns what became of a job: its marker, the lock of the process at work, or a log without either."""
    if (folder / job.marker).exists():
        return DONE
    if not (folder / job.log).exists() or not all((folder / needed).exists() for needed in job.needs):
        return WAITING
    return RUNNING if is_claimed(folder / job.lock) else FAILED


@dataclass(frozen=True)
class Status:
    """The state of every job, by marker."""

    states: dict[str, str]
    jobs: Jobs

    def counts(self) -> dict[str, Counter]:
        """Returns how many jobs of each kind are in each state."""
        kinds: dict[str, Counter] = {}
        for marker, state in self.states.items():
            kinds.setdefault(self.jobs.by_marker[marker].kind, Counter())[state] += 1
        return kinds

    def lines(self) -> list[str]:
        """One line for each kind, and one for each failed or running job with its log."""
        lines = [
            f"{kind:12} " + "  ".join(f"{counts[state]:5} {state}" for state in (DONE, RUNNING, FAILED, WAITING))
            for kind, counts in self.counts().items()
        ]
        for marker, state in self.states.items():
            if state in (RUNNING, FAILED):
                lines.append(f"{state}: {self.jobs.by_marker[marker].name}  log: {self.jobs.by_marker[marker].log}")
        return lines


def status_of(jobs: Jobs, folder: Path) -> Status:
    """Reads the state of every job of a study."""
    return Status({marker: state_of(job, folder) for marker, job in jobs.by_marker.items()}, jobs)


def num_epochs(trainer: str) -> int:
    """Returns the length that a trainer's name says; nnU-Net's 1000 if it says none."""
    found = re.search(r"_(\d+)epochs?(?:_|$)", trainer)
    return int(found[1]) if found else DEFAULT_EPOCHS


def hours_of(jobs: Jobs, folder: Path) -> tuple[float, int]:
    """Returns the hours of all trainings, one after another, and for how many of them the rate was read from a log."""
    rates: dict[tuple[str, str], float | None] = {}
    hours, measured = 0.0, 0
    for training in jobs.trainings.values():
        key = training.dataset, training.model
        if key not in rates:
            rates[key] = _measured_epoch_s(training, folder)
        rate = rates[key]
        measured += rate is not None
        epoch_s = jobs.study.resources_of(training.trainer).epoch_s if rate is None else rate
        hours += num_epochs(training.trainer) * epoch_s / 3600
    return hours, measured


def _measured_epoch_s(training: Training, folder: Path) -> float | None:
    logs = sorted(training.output(folder).parent.glob("fold_*/training_log_*.txt"))
    times = [float(text) for log in logs for text in EPOCH_TIME.findall(log.read_text(encoding="utf-8", errors="replace"))]
    return statistics.median(times) if times else None
