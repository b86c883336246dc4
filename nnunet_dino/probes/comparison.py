"""Reports of two or more probes on the same test inputs, compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from nnunet_dino import reports
from nnunet_dino._errors import UserError
from nnunet_dino.features.inputs import read_csv
from nnunet_dino.probes.paired import PairedDifference, paired_difference
from nnunet_dino.probes.report import PACKAGES, PREDICTIONS
from nnunet_dino.probes.result_tables import number, with_interval
from nnunet_dino.reports import Report, Table
from nnunet_dino.reports.folder import PAGE

NOT_LABELS = ("id", "patient", "split", "fold")
LEVEL = 0.05


@dataclass(frozen=True)
class _Predictions:
    """The test inputs of one report: truth and scores by label."""

    name: str
    table: pd.DataFrame

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
) -> Report:
    """Compares the scores of further reports with those of the first, label by label, and writes a report.

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
    report = _report(first, found, patients, num_rounds, seed, command)
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
    predictions = _Predictions(folder, table)
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
        blocks=[Table("Difference of AUROC", headers, rows, caption, num_text_columns=2, in_terminal=True)],
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


def _sentence(first: str, other: str, label: str, one: PairedDifference) -> str:
    if one.p_bootstrap >= LEVEL:
        return f"{label}: no difference was shown between {other} and {first} (AUROC {one.second:.3f} and {one.first:.3f})."
    better, worse = (other, first) if one.difference.value > 0 else (first, other)
    high, low = max(one.first, one.second), min(one.first, one.second)
    return f"{label}: {better} beats {worse}, AUROC {high:.3f} against {low:.3f} (p = {_p(one.p_bootstrap)}, patients drawn)."


def _p(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2g}"
