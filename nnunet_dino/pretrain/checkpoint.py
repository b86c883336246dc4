"""Saving, going on, and the weights that the trainers take."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from nnunet_dino import __version__
from nnunet_dino._files import write_atomically
from nnunet_dino.backbones.weights.loading import DIGEST_KEY, NAME_KEY, PRETRAINING_KEY, digest_of
from nnunet_dino.pretrain.folder import CHECKPOINT, LICENCE_KEY
from nnunet_dino.pretrain.recipe import Recipe
from nnunet_dino.pretrain.slices import Split
from nnunet_dino.pretrain.start import Start
from nnunet_dino.pretrain.step import Engine

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
        PRETRAINING_KEY: json.dumps({**record, "cases": cases, "iterations_done": step}),
    }
    write_atomically(path, lambda unfinished: save_file(state, unfinished, metadata), _AFTER_A_FAILED_SAVE)
    return digest


def _digest(titles: list[str]) -> str:
    return hashlib.sha256("\n".join(titles).encode()).hexdigest()
