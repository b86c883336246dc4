"""From the options of a command line to the records that probes take."""

from __future__ import annotations

import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from nnunet_dino._errors import UserError
from nnunet_dino.probes.evaluation import Judging
from nnunet_dino.probes.labels import LabelColumns
from nnunet_dino.probes.prepare import Request, Splitting


def request(given: dict[str, Any]) -> Request:
    """Returns what all probes are asked.

    Raises:
        UserError: An option is wrong.
    """
    return Request(
        store=given["store"],
        output=given["output"],
        overwrite=given["overwrite"],
        features=given["features"],
        columns=_columns(given),
        splitting=record(Splitting, {**given, "fractions": _fractions(given["fractions"])}),
        judging=record(Judging, {**given, "rule": given["threshold"]}),
        device=given["device"],
        command=shlex.join(["nnunet-dino", *sys.argv[1:]]),
    )


def _columns(given: dict[str, Any]) -> LabelColumns | None:
    """Returns where the labels are; None if no label file is named."""
    if given["labels"] is None:
        return None
    for name in ("target", "patient"):
        if not given[name]:
            raise UserError(f"--{name}: required a column of {given['labels']} · got none")
    return LabelColumns(
        file=Path(given["labels"]),
        targets=given["target"],
        patient=given["patient"],
        id=given["id_column"],
        split=given["split"],
        separator=given["separator"],
        negative=given["negative"],
    )


def record(kind: type, given: dict[str, Any]) -> Any:
    """Returns a record whose fields are options of the same names."""
    return kind(**{field.name: given[field.name] for field in fields(kind)})


def _fractions(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"--fractions: required three numbers that add up to 1, for example 0.7,0.1,0.2 · got {text!r}"
        ) from None
