"""The folder of a pretraining: its record, its checkpoint, its weights.

::

    DIR/pretraining.json       what is run: recipe, cases, start weights; a run goes on only if the command still says the same
        checkpoint.pt          student, teacher, optimiser, step: goes on from here, and the next stage begins here
        teacher.safetensors    the transformer alone, for the trainers; best.safetensors: the one that was best on --monitor
        report.html            curves
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nnunet_dino._errors import UserError
from nnunet_dino._files import write_atomically
from nnunet_dino._nnunet_folders import read_json
from nnunet_dino.pretrain.recipe import recipe_from_json

RECORD, CHECKPOINT, BEST = "pretraining.json", "checkpoint.pt", "best.safetensors"
LICENCE_KEY = "licence"


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
            f"-o: required a new folder, or one of a pretraining · got {folder}, which holds {sorted(held)[0]} and no {RECORD} "
            "· give another one"
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
            f"-o: required the command that began {folder} · got another: {'; '.join(differences[:6])} · give another folder, "
            "or begin a next stage with --from"
        )


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes what is run.

    Raises:
        UserError: It cannot be written.
    """
    write_atomically(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


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
