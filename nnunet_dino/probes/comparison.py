"""Reports of two or more probes on the same test inputs, compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from nnunet_dino import reports
from nnunet_dino._errors import UserError
from nnunet_dino._nnunet_folders import read_json
from nnunet_dino.features.encoder import pick_device
from nnunet_dino.features.inputs import read_csv
from nnunet_dino.probes.encoder_cost import BATCH, milliseconds_per_image, num_parameters
from nnunet_dino.probes.paired import PairedDifference, paired_difference
from nnunet_dino.probes.report import PACKAGES, PREDICTIONS
from nnunet_dino.probes.result_tables import number, with_interval
from nnunet_dino.reports import Report, Table
from nnunet_dino.reports.folder import NUMBERS, PAGE

NOT_LABELS = ("id", "patient", "split", "fold")
LEVEL = 0.05


@dataclass(frozen=True)
class _Predictions:
    """The test inputs of one report: truth and scores by label; and what its store says, if it had one."""

    name: str
    table: pd.DataFrame
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        return [name for name in self.table if f"score {name}" in self.table and name not in NOT_LABELS]

    def truth(self, label: str) -> np.ndarray:
        return self.table[label].to_numpy(float)

    def scores(self, label: str) -> np.ndarray:
        return self.table[f"score {label}"].to_numpy(float)


def compare_probes(
    folders: Sequence[str],
    output: str,
    num_rounds: int = 10_000,
    seed: int = 0,
    overwrite: bool = False,
    command: str | None = None,
    echo: Callable[[str], object] = print,
    time_on: str | None = None,
) -> Report:
    """Compares the scores of further reports with those of the first, by label and on average, and writes a report.

    The encoders of ``time_on`` are timed there, for example ``cuda``; by default none is.

    Raises:
        UserError: There are fewer than two reports, one is none, or their test inputs, patients, labels or truths differ.
    """
    reports.check_folder(Path(output), overwrite)
    if len(folders) < 2 or len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise UserError(f"required two or more reports, each once · got {', '.join(folders) or 'none'}")
    first, *others = (_read(folder) for folder in folders)
    for other in others:
        _check_same(first, other)
    labels = [label for label in first.labels if len(np.unique(first.truth(label))) == 2]
    if not labels:
        raise UserError(f"{first.name}: required a label with both classes on test · got none")
    patients = first.table["patient"].to_numpy(str)
    found = {
        (other.name, label): paired_difference(
            first.truth(label), first.scores(label), other.scores(label), patients, num_rounds, seed
        )
        for other in others
        for label in labels
    }
    truth, scores = _stacked(first.truth, labels), _stacked(first.scores, labels)
    means = {
        other.name: paired_difference(truth, scores, _stacked(other.scores, labels), patients, num_rounds, seed)
        for other in others
    }
    encoders = _encoders([first, *others], means, pick_device(time_on, "--time") if time_on else None)
    report = _report(first, found, patients, num_rounds, seed, command, encoders)
    reports.write_report(report, Path(output), overwrite=overwrite)
    echo(reports.report_text(report))
    echo(f"\nReport: {Path(output) / PAGE}")
    return report


def _read(folder: str) -> _Predictions:
    file = Path(folder, PREDICTIONS)
    if not file.is_file():
        raise UserError(f"required the folder of a probe's report, with {PREDICTIONS} · got {folder}")
    table = read_csv(file)
    if missing := [name for name in NOT_LABELS[:3] if name not in table]:
        raise UserError(f"{file}: required the columns {', '.join(NOT_LABELS[:3])} · got none called {missing[0]}")
    table = table[table["split"] == "test"].set_index("id", drop=False).sort_index()
    if not len(table) or table.index.has_duplicates:
        raise UserError(f"{file}: required every test input once · got {len(table)} rows of {table.index.nunique()} inputs")
    said = read_json(Path(folder, NUMBERS), dict) if Path(folder, NUMBERS).is_file() else {}
    facts = said.get("store", said.get("numbers", {}).get("store"))
    predictions = _Predictions(folder, table, facts if isinstance(facts, dict) else {})
    for label in predictions.labels:
        for name in (label, f"score {label}"):
            values = pd.to_numeric(table[name], errors="coerce")
            if not np.isfinite(values).all():
                raise UserError(
                    f"{file}: required a number in every row of {name!r} · got {table[name][values.isna()].iloc[0]!r}"
                )
    return predictions


def _check_same(first: _Predictions, other: _Predictions) -> None:
    """Refuses reports that were not tested on the same."""
    if odd := sorted(set(first.table.index) ^ set(other.table.index)):
        where = first.name if odd[0] in first.table.index else other.name
        raise UserError(
            f"{other.name}: required the same test inputs as {first.name} · got {len(odd)} in one only, for example "
            f"{odd[0]} in {where} · use one --split column, or the same --seed and inputs"
        )
    if first.labels != other.labels:
        raise UserError(
            f"{other.name}: required the labels {', '.join(first.labels)} of {first.name} · got {', '.join(other.labels)}"
        )
    for name in ("patient", *first.labels):
        differs = (first.table[name] != other.table[name]).to_numpy()
        if differs.any():
            raise UserError(
                f"{other.name}: required the same {name} of every input as in {first.name} · got another one of "
                f"{first.table.index[int(differs.argmax())]}"
            )


def _report(
    first: _Predictions,
    found: dict[tuple[str, str], PairedDifference],
    patients: np.ndarray,
    num_rounds: int,
    seed: int,
    command: str | None,
    encoders: Table,
) -> Report:
    rows = [
        [
            other,
            label,
            number(one.first),
            number(one.second),
            with_interval(one.difference),
            _p(one.p_bootstrap),
            _p(one.p_delong),
        ]
        for (other, label), one in found.items()
    ]
    headers = ["Report", "Label", "AUROC of first", "AUROC", "Difference", "p, patients drawn", "p, DeLong"]
    caption = (
        f"Against {first.name}, on the same {len(patients)} test inputs; difference with its 95 % interval from drawing "
        f"patients with replacement. p is two-sided and not corrected for the number of rows ({len(rows)})."
    )
    num_patients, warnings = len(np.unique(patients)), []
    if num_patients < len(patients):
        warnings.append(
            f"{len(patients)} inputs are of {num_patients} patients. DeLong's test takes them for independent; believe the p "
            "from drawn patients."
        )
    if "fold" in first.table:
        warnings.append("Scores of several folds are pooled; they come from different networks.")
    return Report(
        title="Probes compared",
        sentences=[_sentence(first.name, other, label, one) for (other, label), one in found.items()][:10],
        warnings=warnings,
        blocks=[encoders, Table("Difference of AUROC by label", headers, rows, caption, num_text_columns=2, in_terminal=True)],
        method=[
            f"Drawn patients: {num_rounds:,} drawings with seed {seed}, the same for both; p is twice the share of drawings on "
            "the other side of no difference. DeLong: DeLong et al. 1988 for correlated curves."
        ],
        origin=reports.origin(command, PACKAGES),
        numbers={
            "first": first.name,
            "differences": [{"report": other, "label": label, **asdict(one)} for (other, label), one in found.items()],
        },
    )


def _stacked(read: Callable[[str], np.ndarray], labels: Sequence[str]) -> np.ndarray:
    return np.stack([read(label) for label in labels], axis=1)


def _encoders(compared: Sequence[_Predictions], means: Mapping[str, PairedDifference], device: torch.device | None) -> Table:
    """Returns one row per report: which encoder, how good, how sure, at what cost."""
    rows = []
    area = next(iter(means.values())).first
    for report in compared:
        facts, one = report.facts, means.get(report.name)
        size = facts["preprocessing"]["size_px"] if facts else None
        count = num_parameters(facts["backbone"]) if facts else None
        cost = [f"{count / 1e6:.1f} M" if count else "–"]
        if device:
            cost.append(f"{milliseconds_per_image(facts, device):.1f}" if facts and count else "–")
        tested = [with_interval(one.difference), _p(one.p_bootstrap)] if one else ["first", "–"]
        encoder = facts["backbone"] if facts else "–"
        rows.append([report.name, encoder, str(size or "–"), number(one.second if one else area), *tested, *cost])
    headers = ["Report", "Encoder", "Size, px", "AUROC", "Difference to first", "p", "Parameters"]
    headers += ["ms an image"] if device else []
    where = f"on {device}, {BATCH} images at a time" if device else "not measured; --time DEVICE measures it"
    caption = f"AUROC is the mean over the labels; interval and p from drawn patients. Time of the encoder alone: {where}."
    return Table("Encoders", headers, rows, caption, num_text_columns=2, in_terminal=True)


def _sentence(first: str, other: str, label: str, one: PairedDifference) -> str:
    if one.p_bootstrap >= LEVEL:
        return f"{label}: no difference was shown between {other} and {first} (AUROC {one.second:.3f} and {one.first:.3f})."
    better, worse = (other, first) if one.difference.value > 0 else (first, other)
    high, low = max(one.first, one.second), min(one.first, one.second)
    return f"{label}: {better} beats {worse}, AUROC {high:.3f} against {low:.3f} (p = {_p(one.p_bootstrap)}, patients drawn)."


def _p(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:#.2g}"
