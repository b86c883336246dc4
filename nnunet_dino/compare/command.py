"""What ``nnunet-dino compare`` does."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from nnunet_dino._errors import UserError
from nnunet_dino.compare.api import compare_folders, compare_results, default_output
from nnunet_dino.compare.report import CASES, SUMMARY, write_report
from nnunet_dino.reports import check_folder, report_text
from nnunet_dino.reports.folder import PAGE, TEXT


def run(
    echo: Callable[[str], object],
    *,
    dataset: str | None,
    folder: Sequence[str],
    output: str | None,
    overwrite: bool,
    pictures: bool,
    trainer: Sequence[str],
    plans: Sequence[str],
    configuration: Sequence[str],
    folds: Sequence[str],
    labels_folder: str | None,
    images_folder: str | None,
    dataset_json: str | None,
    baseline: str | None,
    common: bool,
) -> None:
    """Compares what the options name, writes the report and shows the short part of it.

    Raises:
        UserError: The options do not fit together, or anything :func:`compare_results`, :func:`compare_folders` or
            :func:`write_report` refuses.
    """
    filters = {"--trainer": trainer, "--plans": plans, "--configuration": configuration, "--folds": folds}
    of_folders = {"--labels-folder": labels_folder, "--images-folder": images_folder, "--dataset-json": dataset_json}
    if (dataset is None) == (not folder):
        got = "both" if dataset is not None else "neither"
        raise UserError(f"-d, --folder: required one of both · got {got} · for example `nnunet-dino compare -d 9`")
    odd = [option for option, value in (of_folders if dataset is not None else filters).items() if value]
    if odd:
        other = "--folder" if dataset is not None else "-d"
        raise UserError(f"{', '.join(odd)}: required with {other} only · got it without · leave it out")
    target = Path(output) if output else default_output(dataset)
    check_folder(target, overwrite)
    if dataset is not None:
        comparison = compare_results(
            dataset,
            trainers=trainer,
            plans=plans,
            configurations=configuration,
            baseline=baseline,
            common=common,
            folds=[fold for text in folds for fold in text.replace(",", " ").split()],
        )
    else:
        comparison = compare_folders(
            folder,
            labels_folder=labels_folder,
            images_folder=images_folder,
            dataset_json=dataset_json,
            baseline=baseline,
            common=common,
        )
    command = shlex.join(["nnunet-dino", *sys.argv[1:]])
    report = write_report(comparison, target, overwrite=overwrite, pictures=pictures, command=command)
    echo(report_text(report))
    echo(f"\nReport: {target / PAGE}\n  also: {TEXT}, {SUMMARY}, {CASES}")
