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
from nnunet_dino.pretrain import checkpoint
from nnunet_dino.pretrain.distributed import on_first, process_group, rank, world_size
from nnunet_dino.pretrain.progress import Progress
from nnunet_dino.pretrain.recipe import Recipe
from nnunet_dino.pretrain.slices import Split, excluded, find_cases, split_cases
from nnunet_dino.pretrain.start import Start, start_from_weights
from nnunet_dino.pretrain.step import Engine
from nnunet_dino.pretrain.stream import Stream, batches

SKIPS_BEFORE_THE_END = 3


@dataclass(frozen=True)
class Options:
    """What a pretraining is asked.

    Attributes:
        datasets: Numbers or names.
        configuration: Of the plans.
        plans: Name of the plans.
        backbone: Name of the catalogue, or a file of weights.
        recipe: How.
        folder: Where to.
        exclude: A file of cases to leave out.
        num_held_out: Cases kept for the monitors; None for one in twenty.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        num_workers: Processes that prepare batches.
    """

    datasets: Sequence[str]
    configuration: str
    plans: str
    backbone: str
    recipe: Recipe
    folder: Path
    exclude: Path | None = None
    num_held_out: int | None = None
    device: str = "auto"
    num_workers: int = 2


def pretrain(options: Options, say: Callable[[str], None]) -> None:
    """Runs or goes on with a pretraining.

    Raises:
        UserError: Something that the user can mend; what was computed up to the last checkpoint is kept.
    """
    recipe = options.recipe
    with process_group(options.device) as device:
        if recipe.batch % world_size():
            raise UserError(
                f"batch: required a multiple of the {world_size()} processes · got {recipe.batch} · set another batch, or "
                "start another number of processes"
            )
        split = _split(options)
        begun = on_first(lambda: checkpoint.is_begun(options.folder))
        start = start_from_weights(options.backbone, recipe)
        record = checkpoint.record_of(recipe, {"configuration": options.configuration, "plans": options.plans}, split, start)
        busy = "wait for that pretraining to end, or give another folder"
        with exclusive(options.folder / LOCK, 0, busy) if rank() == 0 else nullcontext():
            if begun:
                on_first(lambda: checkpoint.check_same(options.folder, record))
            else:
                on_first(lambda: checkpoint.write_record(options.folder, record))
            engine = Engine(start.model, recipe, device)
            _Run(options, engine, split, start, record, say).go()


def _split(options: Options) -> Split:
    recipe = options.recipe
    cases = find_cases(options.datasets, options.configuration, options.plans, recipe)
    return split_cases(cases, excluded(cases, options.exclude), options.num_held_out, recipe.seed)


class _Run:
    def __init__(
        self,
        options: Options,
        engine: Engine,
        split: Split,
        start: Start,
        record: dict[str, Any],
        say: Callable[[str], None],
    ) -> None:
        self.options, self.engine, self.record = options, engine, record
        self.recipe, self.folder = options.recipe, options.folder
        self.say = say if rank() == 0 else lambda text: None
        self.stream = Stream(split.train, self.recipe, rank(), world_size())
        self.history: list[dict[str, float]] = []
        self.first = 0
        if (self.folder / checkpoint.CHECKPOINT).is_file():
            state = checkpoint.read(self.folder)
            self.first = checkpoint.restore(engine, state)
            self.history = state["history"]

    def go(self) -> None:
        recipe = self.recipe
        if self.first >= recipe.iterations:
            self.say(f"{self.folder}: finished at step {self.first}; its weights are in {self.folder / checkpoint.TEACHER}")
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
        self.say(f"finished: {self.folder / checkpoint.TEACHER}")

    def _name_the_skipped(self, step: int, names: list[str]) -> None:
        shown = f"{', '.join(names[:8])}{f' and {len(names) - 8} more' if len(names) > 8 else ''}"
        if self.engine.skipped_in_a_row >= SKIPS_BEFORE_THE_END:
            raise UserError(
                f"pretraining: required finite losses · got {SKIPS_BEFORE_THE_END} steps in a row, up to {step}, with others; "
                f"slices: {shown} · leave damaged cases out with --exclude, or lower lr; the last checkpoint is kept"
            )
        self.say(f"step {step}: skipped, a loss or gradient was not finite; slices: {shown}")

    def _keep(self, done: int) -> None:
        """Writes what is due after ``done`` steps."""
        is_last = done == self.recipe.iterations
        if is_last or done % self.recipe.export_every == 0:
            on_first(lambda: self._export(done))
        if is_last or done % self.recipe.checkpoint_every == 0 or done % self.recipe.export_every == 0:
            on_first(lambda: checkpoint.save(self.folder, self.engine, done, {"history": self.history}))

    def _export(self, done: int) -> None:
        checkpoint.export(self.folder / checkpoint.TEACHER, self.engine.teacher.backbone, self.record, done)
