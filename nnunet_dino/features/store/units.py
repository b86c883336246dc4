"""One file of a store: the features of some consecutive inputs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nnunet_dino._errors import UserError
from nnunet_dino._files import write_atomically
from nnunet_dino.features.store.layout import AFTER_A_FAILED_WRITE

RECORDS_KEY = "nnunet_dino_items"  # one key only: the order of several would differ from file to file
INSTANCES = "instances/"
COORDINATES = "coordinates"


@dataclass
class ItemFeatures:
    """The features of one input, or the reason why there are none.

    Attributes:
        id: Of the input.
        error: The reason, or "".
        facts: Shape and whatever else the index shows.
        item: Vectors of the whole input, each ``e``; or the patch map of a picture, ``e gh gw``.
        instances: Features of its slices or tiles, each ``n e`` or ``n e gh gw``.
        coordinates: Of tiles, ``n 2``.
    """

    id: str
    error: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    item: dict[str, Tensor] = field(default_factory=dict)
    instances: dict[str, Tensor] = field(default_factory=dict)
    coordinates: Tensor | None = None

    @property
    def num_instances(self) -> int:
        return len(next(iter(self.instances.values()))) if self.instances else 0


def write_unit(file: Path, results: list[ItemFeatures]) -> None:
    """Writes the features of a unit: items stacked, instances one after the other."""
    good = [result for result in results if not result.error]
    tensors: dict[str, Tensor] = {}
    if good:
        tensors |= {name: torch.stack([result.item[name] for result in good]) for name in good[0].item}
        tensors |= {INSTANCES + name: torch.cat([result.instances[name] for result in good]) for name in good[0].instances}
        if good[0].coordinates is not None:
            tensors[COORDINATES] = torch.cat([result.coordinates for result in good if result.coordinates is not None])
    records = [
        {"id": r.id, "error": r.error, "num_instances": r.num_instances, **({"facts": r.facts} if r.facts else {})}
        for r in results
    ]
    metadata = {RECORDS_KEY: json.dumps(records)}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_atomically(str(file), lambda path: save_file(tensors, path, metadata), AFTER_A_FAILED_WRITE)


def read_records(file: Path) -> list[dict[str, Any]]:
    """Returns what a unit says of its inputs, without reading features.

    Raises:
        UserError: The file is damaged.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            records: list[dict[str, Any]] = json.loads((opened.metadata() or {})[RECORDS_KEY])
            return [{"facts": {}, **record, "error": record["error"]} for record in records]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"required a readable file of features · got {file}: {error} · remove it and extract again") from error
