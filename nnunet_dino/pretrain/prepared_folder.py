"""The folder that prepared scans are written into: a new data set, never one that something else has made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nnunet_dino._errors import UserError
from nnunet_dino._files import write_atomically
from nnunet_dino._nnunet_folders import existing_folder, read_json, require_folder

RECORD = "prepared.json"


def new_folder(named: Path) -> Path:
    """Returns the folder to write; a mere name lies in ``nnUNet_preprocessed``."""
    if not (
        len(named.name) > 11 and named.name.startswith("Dataset") and named.name[7:10].isdecimal() and named.name[10] == "_"
    ):
        raise UserError(
            f"-o: required DatasetXXX_NAME with three digits, or a path that ends so · got {str(named)!r} · for example "
            "Dataset900_Archive"
        )
    output = require_folder("nnUNet_preprocessed") / named if len(named.parts) == 1 else named
    others = {place.name for place in output.parent.glob(f"{named.name[:11]}*")} | _raw_with_number(named.name[:11])
    if other := sorted(others - {named.name}):
        raise UserError(
            f"-o: required a number that no data set has · got {named.name}, beside {other[0]} · take another number"
        )
    return output


def _raw_with_number(beginning: str) -> set[str]:
    roots = [existing_folder(variable) for variable in ("nnUNet_raw", "nnUNet_preprocessed")]
    return {place.name for root in roots if root for place in root.glob(f"{beginning}*")}


def check_folder(output: Path, settings: dict[str, Any]) -> None:
    """Refuses a folder that something else has made, or this with other settings."""
    record = output / RECORD
    if output.exists() and not output.is_dir():
        raise UserError(f"-o: required a folder · got the file {output} · give another name")
    if not record.is_file():
        if output.is_dir() and (held := sorted(place.name for place in output.iterdir() if not place.name.startswith("."))):
            raise UserError(
                f"-o: required a new data set, or one that this command began · got {output}, which holds {held[0]} · give "
                "another name"
            )
        return
    before = read_json(record, dict).get("settings", {})
    for key, value in settings.items():
        if before.get(key) != value:
            raise UserError(
                f"-o: required the settings with which {output} was begun ({key} {before.get(key)}) · got {key} {value} · give "
                "another name, or the same settings"
            )


def begin(output: Path, settings: dict[str, Any], plans: dict[str, Any], name: str, description: dict[str, Any]) -> None:
    """Writes what makes a folder a data set of nnU-Net: plans and dataset.json; at first the record of the settings."""
    if not (output / RECORD).is_file():
        write_record(output, settings, {})
    write_atomically(output / f"{name}.json", json.dumps(plans, indent=2) + "\n")
    write_atomically(output / "dataset.json", json.dumps(description, indent=2) + "\n")


def write_record(output: Path, settings: dict[str, Any], broken: dict[str, str]) -> None:
    """Writes the settings, and the scans that could not be read with the reason."""
    write_atomically(output / RECORD, json.dumps({"settings": settings, "broken": broken}, indent=1, ensure_ascii=False) + "\n")
