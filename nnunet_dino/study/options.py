"""What a study is made of: ``study.yaml``, read and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from nnunet_dino._errors import UserError, nearest

STUDY_FILE = "study.yaml"
ALL = "all"


@dataclass(frozen=True)
class Resources:
    """What a training of one size of network asks of a machine.

    Attributes:
        gpus: GPUs; 0 on a CPU.
        cpus: Processor cores.
        mem_gb: Main memory in GB.
        hours: Longest time of one job; on a cluster it is ended then, and goes on when the study is run again.
        epoch_s: Seconds per epoch, to say how long the study takes; what earlier logs say comes first.
        disk_gb: What a training leaves on the disk, in GB.
    """

    gpus: int = 1
    cpus: int = 8
    mem_gb: float = 32
    hours: float = 48
    epoch_s: float = 60
    disk_gb: float = 0.6


# By the word after nnUNetTrainer; a stated guess for one A100-class GPU, not measured. `init` writes it out to be changed.
SIZES = {
    "stock": Resources(),
    "DINOv3Tiny": Resources(),
    "DINOv3T": Resources(epoch_s=70),
    "DINOv3S": Resources(epoch_s=90, disk_gb=0.8),
    "DINOv2S": Resources(epoch_s=90, disk_gb=0.8),
    "DINOv3SPlus": Resources(epoch_s=95, disk_gb=0.9),
    "DINOv3B": Resources(epoch_s=120, disk_gb=1.4, mem_gb=40),
    "DINOv2B": Resources(epoch_s=120, disk_gb=1.4, mem_gb=40),
    "MedDINOv3B": Resources(epoch_s=120, disk_gb=1.6, mem_gb=40),
    "FlexiCT2D": Resources(epoch_s=160, disk_gb=1.9, mem_gb=40),
    "DINOv3L": Resources(epoch_s=200, disk_gb=3.2, mem_gb=48, hours=72),
    "DINOv2L": Resources(epoch_s=200, disk_gb=3.2, mem_gb=48, hours=72),
    "DINOv3HPlus": Resources(epoch_s=400, disk_gb=7.5, mem_gb=64, hours=120),
}


def size_of(trainer: str) -> str:
    """Returns the key of :data:`SIZES` of a trainer; unknown ones are as large as the stock network."""
    names = sorted(SIZES, key=len, reverse=True)
    return next((name for name in names if trainer.startswith(f"nnUNetTrainer{name}")), "stock")


@dataclass(frozen=True)
class TestSet:
    """Cases that no training sees: folders of images as nnU-Net names them and of their labels."""

    images: Path
    labels: Path


@dataclass(frozen=True)
class Study:
    """A study; every combination is trained.

    Attributes:
        datasets: Numbers or full names.
        trainers: Trainer classes.
        configurations: Such as ``3d_fullres``.
        plans: Planner by the name of its plans.
        folds: Numbers.
        cases: How many training cases: numbers, or ``"all"``.
        seeds: Of the subsets; ``"all"`` has none.
        baseline: Trainer to compare with.
        metrics: Names of metrics beside nnU-Net's Dice.
        test_sets: Folders by data set.
        device: ``cuda``, ``cpu`` or ``mps``.
        ensemble: Keep probabilities and let nnU-Net look for the best ensemble.
        resources: By size of network; see :data:`SIZES`.
    """

    datasets: tuple[str, ...]
    trainers: tuple[str, ...]
    configurations: tuple[str, ...] = ("3d_fullres",)
    plans: Mapping[str, str] = field(default_factory=lambda: {"nnUNetPlans": "ExperimentPlanner"})
    folds: tuple[int, ...] = (0, 1, 2, 3, 4)
    cases: tuple[int | str, ...] = (ALL,)
    seeds: tuple[int, ...] = (0,)
    baseline: str | None = None
    metrics: tuple[str, ...] = ()
    test_sets: Mapping[str, TestSet] = field(default_factory=dict)
    device: str = "cuda"
    ensemble: bool = False
    resources: Mapping[str, Resources] = field(default_factory=dict)

    def resources_of(self, trainer: str) -> Resources:
        size = size_of(trainer)
        return self.resources.get(size, SIZES[size])


def read_study(folder: Path) -> Study:
    """Reads ``study.yaml`` of a folder. Names of data sets and trainers are checked by :func:`nnunet_dino.study.check.check`.

    Raises:
        UserError: The file is missing, is no YAML, has an unknown key, or a value of the wrong kind.
    """
    file = folder / STUDY_FILE
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"required a study · got no {file} · `nnunet-dino study init {folder}` writes one") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: required YAML · got {' '.join(str(error).split())[:200]} · correct it") from error
    try:
        return _study(content)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def _study(content: Any) -> Study:
    values = dict(_known(content, Study, "a study"))
    for name in ("datasets", "trainers", "configurations", "metrics"):
        if name in values:
            values[name] = tuple(str(value) for value in _list(values[name], name))
    for name in ("datasets", "trainers"):
        if not values.get(name):
            raise UserError(f"{name}: required at least one · got none · add them")
    for name in ("folds", "seeds"):
        if name in values:
            values[name] = tuple(_whole(value, name, 0) for value in _list(values[name], name))
    if "cases" in values:
        cases = _list(values["cases"], "cases")
        values["cases"] = tuple(value if value == ALL else _whole(value, "cases", 1) for value in cases)
    if "plans" in values and not isinstance(values["plans"], dict):
        raise UserError(f"plans: required `NAME: PLANNER` on each line · got {values['plans']!r} · correct it")
    sets = values.get("test_sets") or {}
    made = {str(name): _known(value, TestSet, f"test_sets, {name}") for name, value in sets.items()}
    values["test_sets"] = {name: TestSet(**{key: Path(path) for key, path in one.items()}) for name, one in made.items()}
    sizes = values.get("resources") or {}
    if odd := next((name for name in sizes if name not in SIZES), None):
        raise UserError(f"resources: required sizes among {', '.join(SIZES)} · got {odd!r}{nearest(str(odd), SIZES)}")
    values["resources"] = {name: Resources(**_numbers(one, f"resources, {name}")) for name, one in sizes.items()}
    for name in ("datasets", "trainers", "configurations", "folds", "cases", "seeds"):
        given = values.get(name, ())
        if len(set(given)) < len(given):
            raise UserError(f"{name}: required each once · got {', '.join(map(str, given))} · leave the double out")
    return Study(**values)


def _known(content: Any, of: type, where: str) -> Mapping[str, Any]:
    """Returns a mapping whose keys are fields of a data class, and has those that must be there."""
    if not isinstance(content, dict):
        raise UserError(f"{where}: required `KEY: VALUE` on each line · got {str(content)[:60]!r} · correct it")
    names = [entry.name for entry in fields(of)]
    for key in content:
        if key not in names:
            raise UserError(f"{where}: required keys among {', '.join(names)} · got {key!r}{nearest(str(key), names)}")
    if of is TestSet and set(content) != set(names):
        raise UserError(f"{where}: required images and labels · got {', '.join(content)} · name both folders")
    return content


def _numbers(content: Any, where: str) -> Mapping[str, Any]:
    for key, value in _known(content, Resources, where).items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise UserError(f"{where}: required a number from 0 for {key} · got {value!r} · correct it")
    return content


def _list(value: Any, name: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise UserError(f"{name}: required a list such as [{value}] · got {value!r} · put brackets around it")
    return value


def _whole(value: Any, name: str, least: int) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"\d+", str(value)) or int(value) < least:
        raise UserError(f"{name}: required whole numbers from {least} · got {value!r} · correct it")
    return int(value)
