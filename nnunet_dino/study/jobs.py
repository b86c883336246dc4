"""What has to be done for a study: jobs, what each needs, and the one command that each runs.

```
fingerprint ─ plan ─ preprocess ─┬─ train ─┬─ compare ─ (study report)
                          subset ┘         ├─ best
                                           └─ predict ─ score
```
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

from nnunet_dino._nnunet_folders import dataset_name
from nnunet_dino.study.options import ALL, Study

PREPROCESSED, RESULTS = "nnUNet_preprocessed", "nnUNet_results"


@dataclass(frozen=True)
class Subset:
    """How many training cases of each fold, and which choice of them; all have no seed."""

    cases: int | str = ALL
    seed: int | None = None

    @property
    def name(self) -> str:
        return ALL if self.cases == ALL else f"cases{self.cases}_seed{self.seed}"

    def group(self, dataset: str) -> str:
        """Returns the name of what a data set has with these cases: its comparison and its test set's scores."""
        return f"{dataset}__{self.name}"

    def root(self, variable: str, folder: Path) -> Path:
        """Returns the folder that one of nnU-Net's variables names for it: the user's own, or one in the study's folder."""
        return Path(os.environ[variable]) if self.cases == ALL else folder / "subsets" / self.name / variable


@dataclass(frozen=True)
class Training:
    """One fold of one network."""

    dataset: str
    trainer: str
    plans: str
    configuration: str
    fold: int
    subset: Subset

    @property
    def model(self) -> str:
        return f"{self.trainer}__{self.plans}__{self.configuration}"

    @property
    def name(self) -> str:
        return f"{self.dataset}__{self.model}__{self.subset.name}__fold{self.fold}"

    def output(self, folder: Path) -> Path:
        """Returns where nnU-Net puts it."""
        return self.subset.root(RESULTS, folder) / self.dataset / self.model / f"fold_{self.fold}"


@dataclass(frozen=True)
class Job:
    """One job of the study.

    Attributes:
        kind: Rule of the Snakefile.
        name: Unique among those of its kind.
        needs: Markers of the jobs before it.
        trainer: Whose resources it asks for; None for small jobs.
    """

    kind: str
    name: str
    needs: tuple[str, ...] = ()
    trainer: str | None = None

    @property
    def marker(self) -> str:
        """The file, below the study's folder, that is made when it has ended well."""
        return f"done/{self.kind}/{self.name}"

    @property
    def log(self) -> str:
        return f"logs/{self.kind}/{self.name}.txt"

    @property
    def lock(self) -> str:
        """What one process at a time may work on: planning and preprocessing of a data set share its folder."""
        return f"locks/{self.name.split('__')[0] if self.kind in BEFORE_TRAINING else f'{self.kind}/{self.name}'}"


BEFORE_TRAINING = ("fingerprint", "plan", "preprocess", "subset")


@dataclass(frozen=True)
class Jobs:
    """All jobs of a study whose data sets exist."""

    study: Study

    @cached_property
    def datasets(self) -> list[str]:
        return [dataset_name(dataset) for dataset in self.study.datasets]

    @cached_property
    def subsets(self) -> list[Subset]:
        study = self.study
        chosen = [Subset(n, seed) for n in study.cases if n != ALL for seed in study.seeds]
        return [*chosen, *([Subset()] if ALL in study.cases else [])]

    @cached_property
    def trainings(self) -> dict[str, Training]:
        study = self.study
        combined = product(self.datasets, study.trainers, study.plans, study.configurations, study.folds, self.subsets)
        made = [Training(*parts) for parts in combined]
        return {training.name: training for training in made}

    @cached_property
    def by_marker(self) -> dict[str, Job]:
        return {job.marker: job for job in self._jobs()}

    def job(self, kind: str, name: str) -> Job:
        return self.by_marker[f"done/{kind}/{name}"]

    @cached_property
    def test_sets(self) -> Mapping[str, str]:
        """Names in ``study.yaml`` by full names of data sets."""
        return {dataset_name(name): name for name in self.study.test_sets}

    def _jobs(self) -> Iterator[Job]:
        for dataset in self.datasets:
            yield Job("fingerprint", dataset)
            for plans in self.study.plans:
                yield Job("plan", f"{dataset}__{plans}", (f"done/fingerprint/{dataset}",))
                yield Job("preprocess", f"{dataset}__{plans}", (f"done/plan/{dataset}__{plans}",))
            prepared = tuple(f"done/preprocess/{dataset}__{plans}" for plans in self.study.plans)
            for subset in self.subsets:
                yield Job("subset", subset.group(dataset), prepared)
        by_group: dict[str, list[Training]] = {}
        for training in self.trainings.values():
            group = training.subset.group(training.dataset)
            by_group.setdefault(group, []).append(training)
            yield Job("train", training.name, (f"done/subset/{group}",), training.trainer)
        for group, trainings in by_group.items():
            trained = tuple(f"done/train/{training.name}" for training in trainings)
            yield Job("compare", group, trained)
            if trainings[0].subset.cases == ALL:
                yield Job("best", trainings[0].dataset, trained)
            if trainings[0].dataset in self.test_sets:
                yield from self._test_jobs(group, trainings)

    def _test_jobs(self, group: str, trainings: list[Training]) -> Iterator[Job]:
        models = {training.model: training.trainer for training in trainings}
        for model, trainer in models.items():
            needs = tuple(f"done/train/{training.name}" for training in trainings if training.model == model)
            yield Job("predict", f"{group}__{model}", needs, trainer)
        yield Job("score", group, tuple(f"done/predict/{group}__{model}" for model in models))


def jobs_of(study: Study) -> Jobs:
    """Returns the jobs of a study."""
    return Jobs(study)
