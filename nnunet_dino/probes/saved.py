"""A trained probe in one file, with what images must be shown to and how."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from nnunet_dino._errors import UserError
from nnunet_dino.features.store.layout import StoreFacts
from nnunet_dino.probes.fold_tables import Judged

LINEAR, MIL = "linear", "mil"
FILES = {LINEAR: "linear.safetensors", MIL: "mil.safetensors"}
KEY = "nnunet_dino_probe"
SAME = ("kind", "backbone", "weights")
CALIBRATION = ("slide_mpp",)  # a fact about one slide file, not a choice of how it is shown


@dataclass(frozen=True)
class SavedProbe:
    """What a file of a trained probe says beside its tensors.

    Attributes:
        probe: ``linear`` or ``mil``.
        labels: Names of the labels or classes.
        is_exclusive: Whether every input has exactly one of the classes.
        thresholds: Per label; scores from here upwards count as found. None for exclusive classes, and where folds differ.
        features: A name of :data:`nnunet_dino.features.store.reader.TOKENS_OF`.
        kind: ``images``, ``volumes`` or ``slides``.
        backbone: A row of the catalogue.
        weights: Content digest of the backbone's weights.
        precision: Type the backbone computed in.
        preprocessing: All that changed the pixels.
        network: How the network is built: arguments of the class beside widths of features and outputs.
    """

    probe: str
    labels: tuple[str, ...]
    is_exclusive: bool
    thresholds: tuple[float, ...] | None
    features: str
    kind: str
    backbone: str
    weights: str
    precision: str
    preprocessing: dict[str, Any]
    network: dict[str, Any]


def saved_probe(
    probe: str, judged: Judged, features: str, facts: StoreFacts, network: Mapping[str, Any] | None = None
) -> SavedProbe:
    """Describes a probe that was trained on a store; thresholds that are NaN are none."""
    labelled, thresholds = judged.labelled, [one.threshold for one in judged.evaluations["test"].metrics.labels]
    has_thresholds = not labelled.is_exclusive and all(value == value for value in thresholds)
    return SavedProbe(
        probe=probe,
        labels=labelled.names,
        is_exclusive=labelled.is_exclusive,
        thresholds=tuple(thresholds) if has_thresholds else None,
        features=features,
        network=dict(network or {}),
        **{name: getattr(facts, name) for name in ("kind", "backbone", "weights", "precision", "preprocessing")},
    )


def probe_file(saved: SavedProbe, tensors: Mapping[str, Tensor]) -> bytes:
    """Returns the content of a file of a trained probe."""
    return save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, {KEY: json.dumps(asdict(saved))})


def numbered(networks: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Returns the tensors of the networks of all folds, each name behind the network's number and a point."""
    return {f"{number}.{name}": value for number, one in enumerate(networks) for name, value in one.items()}


def networks_of(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Returns the tensors of every network of a file; names without a number are of the only one."""
    numbers = {name.split(".", 1)[0] for name in tensors}
    if not any(number.isdigit() for number in numbers):
        return [dict(tensors)]
    prefixes = [f"{number}." for number in range(len(numbers))]
    return [{name.removeprefix(at): value for name, value in tensors.items() if name.startswith(at)} for at in prefixes]


def read_probe(path: Path) -> tuple[SavedProbe, dict[str, Tensor]]:
    """Reads a trained probe.

    Args:
        path: Its file, or the folder of its report.

    Raises:
        UserError: There is none, or the file is damaged, of another program or of an earlier version.
    """
    required = "required a trained probe: the report of `probe linear` or `probe mil`, or linear.safetensors or mil.safetensors"
    if path.is_dir():
        found = [path / name for name in FILES.values() if (path / name).exists()]
        if len(found) != 1:
            raise UserError(f"{required} · got {path}, which holds {'both' if found else 'none'} · name one")
        (path,) = found
    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads((file.metadata() or {}).get(KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values()), "NaN or infinity in it"
        saved = SavedProbe(**said)
    except Exception as error:  # a damaged file reaches several layers, each with errors of its own
        raise UserError(f"{required} · got {path}: {' '.join(str(error).split())[:150]} · train the probe again") from error
    listed = {"labels": tuple(saved.labels), "thresholds": saved.thresholds and tuple(saved.thresholds)}
    return SavedProbe(**{**asdict(saved), **listed}), tensors


def require_same(saved: SavedProbe, facts: StoreFacts, where: str) -> None:
    """Refuses features that are not of the backbone and preprocessing that a probe was trained with.

    Raises:
        UserError: They are of another kind, backbone, weights or preprocessing.
    """
    pairs = [(name, getattr(saved, name), getattr(facts, name)) for name in SAME]
    names = sorted({*saved.preprocessing, *facts.preprocessing} - {*CALIBRATION})
    pairs += [(name, saved.preprocessing.get(name), facts.preprocessing.get(name)) for name in names]
    for name, old, new in pairs:
        if old != new:
            raise UserError(
                f"{where}: required features with the {name} that the probe was trained with, {old} · got {new} · extract "
                "again with it, or train a probe on these features"
            )
