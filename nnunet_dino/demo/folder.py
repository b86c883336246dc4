"""The folder of a demo: what lies where, what was asked for, and which stages are finished."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunet_dino._errors import UserError

MARKER = "nnunet_dino_demo.json"
OWN = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "predictions", "report", "report-unseen", "logs", MARKER)
DATASET_ID = 999
DATASET = f"Dataset{DATASET_ID}_Phantom"
NUM_FOLDS = 5


@dataclass(frozen=True)
class DemoOptions:
    """What is made and trained.

    Attributes:
        num_cases: Cases to train and validate with; fold 0 validates a fifth of them.
        num_epochs: Length of each training; 5, 50 or 250.
        num_test: Cases that training never sees.
        seed: Of the phantoms.
    """

    num_cases: int = 20
    num_epochs: int = 5
    num_test: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_cases < NUM_FOLDS:
            raise UserError(f"--cases: required at least {NUM_FOLDS}, one for each fold · got {self.num_cases} · ask for more")
        if self.num_test < 1:
            raise UserError(f"--test-cases: required at least 1 · got {self.num_test} · ask for more")
        if self.seed < 0:
            raise UserError(f"--seed: required 0 or more · got {self.seed} · take another one")


class DemoFolder:
    """A folder that a demo made, with its state in a marker file.

    Attributes:
        path: The folder.
        options: What was asked for.
        seconds: How long each finished stage took, in the order they ran.
    """

    def __init__(self, path: Path, options: DemoOptions, seconds: dict[str, float]) -> None:
        self.path = path
        self.options = options
        self.seconds = seconds

    @classmethod
    def open(cls, path: Path, options: DemoOptions, fresh: bool = False) -> DemoFolder:
        """Makes the folder, or takes up one that a demo with the same options made.

        Args:
            path: The folder.
            options: What is asked for.
            fresh: Delete what an earlier demo wrote there, and nothing else.

        Raises:
            UserError: Something else is there, or it cannot be written, or the earlier demo had other options.
        """
        path = path.absolute()
        try:
            found = _read_marker(path)
            if found and fresh:
                _remove_own(path)
            elif found:
                if found["options"] != asdict(options):
                    raise UserError(
                        f"a demo with {_words(found['options'])} as in {path} required · got {_words(asdict(options))} · "
                        "add --fresh to start anew, or -o for another folder"
                    )
                return cls(path, options, dict(found["seconds"]))
            path.mkdir(parents=True, exist_ok=True)
            folder = cls(path, options, {})
            folder._write_marker()
        except OSError as error:
            raise UserError(
                f"a folder that can be written required · got {path}: {error.strerror or error} · give another one with -o"
            ) from error
        return folder

    @property
    def raw(self) -> Path:
        return self.path / "nnUNet_raw" / DATASET

    @property
    def preprocessed(self) -> Path:
        return self.path / "nnUNet_preprocessed" / DATASET

    @property
    def results(self) -> Path:
        return self.path / "nnUNet_results" / DATASET

    def log(self, stage: str) -> Path:
        """Returns where the output of a stage's command goes."""
        return self.path / "logs" / f"{stage}.txt"

    def environment(self) -> dict[str, str]:
        """Returns the environment for nnU-Net's commands; this process keeps its own."""
        return {
            **os.environ,
            **{name: str(self.path / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")},
            "nnUNet_n_proc_DA": str(min(8, max(2, (os.cpu_count() or 2) // 2))),
            "nnUNet_def_n_proc": "2",
            "nnUNet_compile": "f",  # compiling takes longer than so small a network gains
            "nnUNet_wandb_enabled": "0",
            "PYTHONUNBUFFERED": "1",
            "MPLBACKEND": "Agg",
            "TQDM_MININTERVAL": "5",
        }

    def finish(self, stage: str, seconds: float) -> None:
        """Notes that a stage is finished."""
        self.seconds[stage] = round(seconds, 1)
        self._write_marker()

    def _write_marker(self) -> None:
        content = {"made_by": "nnunet-dino demo", "options": asdict(self.options), "seconds": self.seconds}
        scratch = self.path / f"{MARKER}.part"
        scratch.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(scratch, self.path / MARKER)


def _remove_own(path: Path) -> None:
    for name in OWN:
        if (path / name).is_dir() and not (path / name).is_symlink():
            shutil.rmtree(path / name)
        else:
            (path / name).unlink(missing_ok=True)


def _read_marker(path: Path) -> dict[str, Any]:
    """Returns what the marker says, nothing for a folder that is empty or not there.

    Raises:
        UserError: A file or a folder of somebody else is there.
    """
    if not path.exists():
        return {}
    if not path.is_dir():
        raise UserError(f"a folder required · got the file {path} · give another one with -o")
    try:
        content = json.loads((path / MARKER).read_text(encoding="utf-8"))
        if content["made_by"] == "nnunet-dino demo" and content["seconds"] is not None and content["options"]:
            return content
    except FileNotFoundError:
        if not any(path.iterdir()):
            return {}
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(
        f"an empty folder, or one that `nnunet-dino demo` made, required · got {path}, which holds other things · "
        "give another one with -o; nothing was changed"
    )


def _words(options: dict[str, Any]) -> str:
    return ", ".join(f"{name.removeprefix('num_').replace('_', ' ')} {value}" for name, value in options.items())
