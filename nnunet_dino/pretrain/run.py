"""A whole pretraining."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_dino._errors import UserError
from nnunet_dino._files import LOCK, exclusive
from nnunet_dino.pretrain import checkpoint, folder
from nnunet_dino.pretrain.distributed import on_first, process_group, rank, world_size
from nnunet_dino.pretrain.estimate import estimate
from nnunet_dino.pretrain.monitor import Monitor
from nnunet_dino.pretrain.probe import FewLabelProbe
from nnunet_dino.pretrain.progress import Progress
from nnunet_dino.pretrain.recipe import Recipe
from nnunet_dino.pretrain.report import draw_report
from nnunet_dino.pretrain.slices import Split, excluded, find_cases, split_cases
from nnunet_dino.pretrain.start import start_from_run, start_from_weights
from nnunet_dino.pretrain.step import Engine
from nnunet_dino.pretrain.stream import Stream, batches
from nnunet_dino.probes.dense_backbones import TEACHER

SKIPS_BEFORE_THE_END = 3
NAMES_SHOWN = 8


@dataclass(frozen=True)
class Options:
    """What a pretraining is asked.

    Attributes:
        datasets: Numbers or names.
        configuration: Of the plans.
        plans: Name of the plans.
        recipe: How.
        folder: Where to.
        backbone: Name of the catalogue, or a file of weights; None where ``from_folder`` says it.
        from_folder: An earlier pretraining, whose transformer and heads are taken.
        monitor: Data sets with labels, on which the dense probe is asked as the run goes.
        exclude: A file of cases to leave out.
        num_held_out: Cases kept for the monitors; None for one in twenty.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        num_workers: Processes that prepare batches.
        compiles: Compile the blocks of the transformers.
    """

    datasets: Sequence[str]
    configuration: str
    plans: str
    recipe: Recipe
    folder: Path
    backbone: str | None = None
    from_folder: Path | None = None
    monitor: Sequence[str] = ()
    exclude: Path | None = None
    num_held_out: int | None = None
    device: str = "auto"
    num_workers: int = 2
    compiles: bool = False


def pretrain(options: Options, say: Callable[[str], None], only_plan: bool = False) -> None:
    """Runs or goes on with a pretraining.

    Args:
        options: What to do.
        say: Prints a line.
        only_plan: Say what it would take, from a few timed steps; nothing is written.

    Raises:
        UserError: Something that the user can mend; what was computed up to the last checkpoint is kept.
    """
    recipe = options.recipe
    with process_group(options.device) as device:
        if rank() > 0:
            say = _say_nothing
        _check_batch(recipe)
        cases = find_cases(options.datasets, options.configuration, options.plans, recipe)
        split = split_cases(cases, excluded(cases, options.exclude), options.num_held_out, recipe.seed)
        begun = on_first(lambda: folder.is_begun(options.folder))
        if options.from_folder:
            start = start_from_run(options.from_folder, options.backbone, recipe)
        else:
            start = start_from_weights(options.backbone or DEFAULT_BACKBONE, recipe)
        record = checkpoint.record_of(recipe, {"configuration": options.configuration, "plans": options.plans}, split, start)
        for plane in record["planes"]:
            say(plane)
        engine = Engine(start.model, recipe, device, options.compiles)
        if only_plan:
            estimate(engine, split, start.backbone, options.num_workers, say)
            return
        busy = "wait for that pretraining to end, or give another folder"
        with exclusive(options.folder / LOCK, 0, busy) if rank() == 0 else nullcontext():
            if begun:
                on_first(lambda: folder.check_same(options.folder, record))
            else:
                on_first(lambda: folder.write_record(options.folder, record))
            _Run(options, engine, split, record, say).go()


DEFAULT_BACKBONE = "dinov3_vits16"


def _say_nothing(text: str) -> None:
    """Says nothing: the first process speaks for all."""


def _check_batch(recipe: Recipe) -> None:
    if recipe.batch % world_size():
        raise UserError(
            f"batch: required a multiple of the {world_size()} processes · got {recipe.batch} · set another batch, or start "
            "another number of processes"
        )


class _Run:
    def __init__(
        self, options: Options, engine: Engine, split: Split, record: dict[str, Any], say: Callable[[str], None]
    ) -> None:
        self.options, self.engine, self.record, self.say = options, engine, record, say
        self.recipe, self.folder = options.recipe, options.folder
        self.stream = Stream(split.train, self.recipe, rank(), world_size())
        self.monitor = Monitor(split.held_out, self.recipe, engine)
        self.probe: FewLabelProbe | None = None
        if options.monitor:
            on_first(lambda: self._open_probe(split))
        self.history: list[dict[str, float]] = []
        self.first = 0
        if (self.folder / folder.CHECKPOINT).is_file():
            state = folder.read(self.folder)
            self.first = checkpoint.restore(engine, state)
            self.history = state["history"]
        else:
            self._measure(0)

    def _open_probe(self, split: Split) -> None:
        options = self.options
        self.probe = FewLabelProbe(options.monitor, options.configuration, options.plans, self.recipe)
        if seen := self.probe.seen_in_training(split.train):
            self.say(f"note: {len(seen)} cases that judge the probe are pretrained on ({seen[0]} …); --exclude keeps them out")

    def go(self) -> None:
        recipe = self.recipe
        if self.first >= recipe.iterations:
            self.say(f"finished already, at step {self.first}: {self.folder / TEACHER}")
            return
        if self.first:
            self.say(f"{self.folder}: goes on at step {self.first} of {recipe.iterations}")
        progress = Progress(self.first, recipe.iterations, recipe.batch, self.say)
        wait = time.perf_counter()
        stream = batches(self.stream, self.first, recipe.iterations, self.options.num_workers)
        for step, batch in enumerate(stream, self.first):
            waited = time.perf_counter() - wait
            batch = batch.to(self.engine.device)
            skipped = self.engine.skipped
            metrics = self.engine.step(batch, step)
            if self.engine.skipped > skipped:
                self._name_the_skipped(step, self.engine.suspects(batch))
            row = progress.add(step, metrics, waited)
            if row:
                self.history.append(row)
            self._keep(step + 1)
            wait = time.perf_counter()
        progress.close()
        self.say(f"finished: {self.folder / TEACHER}")

    def _name_the_skipped(self, step: int, names: list[str]) -> None:
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        shown = f"{', '.join(names[:NAMES_SHOWN])}{more}"
        if self.engine.skipped_in_a_row >= SKIPS_BEFORE_THE_END:
            raise UserError(
                f"pretraining: required finite losses · got {SKIPS_BEFORE_THE_END} steps in a row, up to {step}, with others; "
                f"slices: {shown} · leave damaged cases out with --exclude, or lower lr; the last checkpoint is kept"
            )
        self.say(f"step {step}: skipped, a loss or gradient was not finite; slices: {shown}")

    def _keep(self, done: int) -> None:
        """Writes what is due after ``done`` steps."""
        is_last = done == self.recipe.iterations
        exports = is_last or done % self.recipe.export_every == 0
        if exports:
            self._measure(done)
            on_first(lambda: self._export(done))
        if exports or done % self.recipe.checkpoint_every == 0:
            on_first(lambda: checkpoint.save(self.folder, self.engine, done, {"history": self.history}))

    def _measure(self, done: int) -> None:
        row = {"step": float(done), **self.monitor.measure(self.engine.schedules.temperature(done))}
        if self.options.monitor:
            row["probe"] = on_first(self._ask_probe)
            start, *earlier = [*(other for other in self.history if "probe" in other), row]
            row["probe_start"] = start["probe"]
            row["is_best"] = float(all(row["probe"] > other["probe"] for other in earlier if other is not row))
        self.history.append(row)

    def _ask_probe(self) -> float:
        assert self.probe is not None
        return self.probe.measure(self.engine)

    def _export(self, done: int) -> None:
        files = [TEACHER, *([folder.BEST] if self.history[-1].get("is_best") else [])]
        for name in files:
            checkpoint.export(self.folder / name, self.engine.teacher.backbone, self.record, done)
        draw_report(self.folder, self.record, self.recipe, self.history, self.engine.skipped)
