"""The predictions of a probe as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from nnunet_dino.probes.labels import Labelled

PREDICTIONS = "predictions.csv"


def predictions_csv(labelled: Labelled, scores: Any, extra: dict[str, Sequence[Any]] | None = None) -> bytes:
    """Returns one row per input: id, patient, part, and every label's truth and score."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [column for name in labelled.names for column in (name, f"score {name}")]
    writer.writerow(["id", "patient", "split", *(extra or {}), *columns])
    for position, name in enumerate(labelled.ids):
        pairs = zip(labelled.targets[position], scores[position], strict=True)
        cells = [cell for target, score in pairs for cell in (int(target), f"{score:.6g}")]
        others = [values[position] for values in (extra or {}).values()]
        writer.writerow([name, labelled.patients[position], labelled.split[position], *others, *cells])
    return text.getvalue().encode("utf-8")
