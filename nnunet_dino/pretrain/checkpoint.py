"""The folder of a pretraining: its record, its checkpoint, its weights.

::

    DIR/pretraining.json       what is run: recipe, cases, start weights; a run goes on only if the command still says the same
        checkpoint.pt          student, teacher, optimiser, step: goes on from here, and the next stage begins here
        teacher.safetensors    the transformer alone, for the trainers; best.safetensors: the one that was best on --monitor
        report.html            curves
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nnunet_dino import __version__
from nnunet_dino._errors import UserError
from nnunet_dino._files import write_atomically
from nnunet_dino._nnunet_folders import read_json
from nnunet_dino.backbones.weights.loading import DIGEST_KEY, NAME_KEY, digest_of
from nnunet_dino.pretrain.recipe import Recipe, recipe_from_json
from nnunet_dino.pretrain.slices import Split
from nnunet_dino.pretrain.start import LICENCE_KEY, Start
from nnunet_dino.pretrain.step import Engine

RECORD, CHECKPOINT, TEACHER, BEST = "pretraining.json", "checkpoint.pt", "teacher.safetensors", "best.safetensors"
RECORD_KEY = "nnunet_dino_pretraining"
_AFTER_A_FAILED_SAVE = (
    "free disk space or make the folder writable, then give the same command again; the last checkpoint is kept"
)


def record_of(recipe: Recipe, data: Mapping[str, str], split: Split, start: Start) -> dict[str, Any]:
    """Returns what is run, as it is written beside the weights.

    Args:
        recipe: The recipe.
        data: Names of configuration and plans.
        split: The cases.
        start: What it starts from.
    """
    parts = {name: [case.title for case in getattr(split, name)] for name in ("train", "held_out", "excluded")}
    return {
        "version": __version__,
        "recipe": recipe.to_json(),
        "backbone": start.backbone,
        "start": {"weights": start.weights, "source": start.source},
        LICENCE_KEY: start.licence,
        **data,
        "datasets": list(dict.fromkeys(case.source.dataset for case in (*split.train, *split.held_out))),
        "planes": list(dict.fromkeys(f"{case.source.dataset}: {case.source.plane}" for case in split.train)),
        "cases": parts,
    }


def is_begun(folder: Path) -> bool:
    """Tells whether a pretraining has been begun in ``folder``.

    Raises:
        UserError: It is a file, or a folder with something else in it.
    """
    if (folder / RECORD).is_file():
        return True
    if folder.exists() and not folder.is_dir():
        raise UserError(f"-o: required a folder · got the file {folder} · give another one")
    held = [path.name for path in folder.iterdir() if not path.name.startswith(".nnunet_dino")] if folder.is_dir() else []
    if held:
        raise UserError(
            f"-o: required a new folder, or one of a pretraining · got {folder}, which holds {sorted(held)[0]} and no {RECORD} · "
            "give another one"
        )
    return False


def check_same(folder: Path, record: Mapping[str, Any]) -> None:
    """Compares the record of a begun pretraining with what the command says now.

    Raises:
        UserError: They differ; the message names the differences.
    """
    there = read_json(folder / RECORD, dict)
    differences = recipe_from_json(record["recipe"]).differences(recipe_from_json(there.get("recipe", {})))
    for name in ("backbone", "configuration", "plans", "datasets"):
        if record[name] != there.get(name):
            differences.append(f"{name} {_text(record[name])} (there {_text(there.get(name))})")
    if record["start"]["weights"] != there.get("start", {}).get("weights"):
        differences.append(f"start weights {record['start']['weights'][:12]} (there {there['start']['weights'][:12]})")
    for part, titles in record["cases"].items():
        earlier = there.get("cases", {}).get(part, [])
        if titles != earlier:
            some = sorted(set(titles) ^ set(earlier))
            differences.append(f"{part.replace('_', ' ')} cases {len(titles)} (there {len(earlier)}; such as {some[:1]})")
    if differences:
        raise UserError(
            f"-o: required the command that began {folder} · got another: {'; '.join(differences[:6])} · give another folder, or "
            "go on from that run with --from"
        )


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes what is run.

    Raises:
        UserError: It cannot be written.
    """
    write_atomically(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def save(folder: Path, engine: Engine, step: int, more: Mapping[str, Any]) -> None:
    """Writes everything that going on needs.

    Raises:
        UserError: It could not be written; the last checkpoint is as it was.
    """
    state = {
        "step": step,
        "student": engine.student.state_dict(),
        "teacher": engine.teacher.state_dict(),
        "gram_teacher": engine.gram_teacher.state_dict() if engine.gram_teacher else None,
        "optimizer": engine.optimizer.state_dict(),
        "skipped": engine.skipped,
        **more,
    }
    write_atomically(folder / CHECKPOINT, lambda path: torch.save(state, path), _AFTER_A_FAILED_SAVE)


def read(folder: Path) -> dict[str, Any]:
    """Returns the checkpoint in ``folder``, on the processor.

    Raises:
        UserError: There is none, or it is damaged.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        raise UserError(f"--from: required a folder of a pretraining with {CHECKPOINT} · got {folder} without · check the path")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {key: state[key] for key in state}
    except Exception as error:  # damaged files make the reader fail in any way
        raise UserError(
            f"{path}: required a checkpoint of a pretraining · got {' '.join(str(error).split())[:120]} · restore it, or begin "
            "another folder"
        ) from error


def restore(engine: Engine, state: Mapping[str, Any]) -> int:
    """Puts an engine where a checkpoint left off and returns the next step."""
    engine.student.load_state_dict(state["student"])
    engine.teacher.load_state_dict(state["teacher"])
    if engine.gram_teacher is not None:
        engine.gram_teacher.load_state_dict(state["gram_teacher"])
    engine.optimizer.load_state_dict(state["optimizer"])
    engine.skipped = state["skipped"]
    return int(state["step"])


def export(path: Path, vit: nn.Module, record: Mapping[str, Any], step: int) -> str:
    """Writes the transformer for the trainers and returns its digest.

    Raises:
        UserError: It could not be written.
    """
    state = {name: tensor.detach().float().cpu().contiguous() for name, tensor in vit.state_dict().items()}
    digest = digest_of(state)
    cases = {part: {"number": len(titles), "sha256": _digest(titles)} for part, titles in record["cases"].items()}
    metadata = {
        "format": "pt",
        NAME_KEY: record["backbone"],
        DIGEST_KEY: digest,
        LICENCE_KEY: record[LICENCE_KEY],
        RECORD_KEY: json.dumps({**record, "cases": cases, "iterations_done": step}),
    }
    write_atomically(path, lambda unfinished: save_file(state, unfinished, metadata), _AFTER_A_FAILED_SAVE)
    return digest


def _digest(titles: list[str]) -> str:
    return hashlib.sha256("\n".join(titles).encode()).hexdigest()


def parameters_of(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Returns the tensors of one part of a network, by their names in it."""
    return {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(f"{part}.")}
