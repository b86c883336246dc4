"""``nnunet-dino compare``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from nnunet_dino._errors import UserError

OF_RESULTS = ("trainer", "plans", "configuration", "folds")
OF_FOLDERS = ("labels_folder", "images_folder", "dataset_json", "resample")


@click.command("compare")
@click.option("-d", "dataset", metavar="ID", help="Number or full name of a data set with results in $nnUNet_results.")
@click.option("--folder", multiple=True, metavar="[NAME=]PATH", help="A folder of predictions; several times, instead of -d.")
@click.option("-o", "output", metavar="PATH", help="Folder for the report; default: nnunet_dino_compare in the results.")
@click.option("--overwrite", is_flag=True, help="Write into a folder that holds files; replaces those of an earlier report.")
@click.option("--pictures/--no-pictures", default=True, help="Whether to draw plots and single cases.")
@click.option("--trainer", "-tr", multiple=True, metavar="NAME", help="Only this trainer; may be repeated.")
@click.option("--plans", "-p", multiple=True, metavar="NAME", help="Only these plans; may be repeated.")
@click.option("--configuration", "-c", multiple=True, metavar="NAME", help="Only this configuration; may be repeated.")
@click.option("--folds", "-f", multiple=True, metavar="0,1,…", help="Only these folds; all numbered ones by default.")
@click.option("--labels-folder", metavar="PATH", help="Reference segmentations for --folder; else its summary.json is read.")
@click.option("--images-folder", metavar="PATH", help="Images for --folder (CASE_0000…), for pictures of single cases.")
@click.option("--dataset-json", metavar="FILE", help="Label names for --folder; looked for beside predictions and references.")
@click.option("--resample", is_flag=True, help="Take predictions in --folder to the grid of their reference.")
@click.option("--baseline", metavar="NAME", help="Result to compare with; default: stock nnUNetTrainer.")
@click.option("--metric", "-m", "metrics", multiple=True, metavar="NAME", help="dice, hd95, nsd@2mm, fpv, fnv … beside Dice.")
@click.option("--block", nargs=3, type=int, metavar="D H W", help="Of neurons: score blocks of so many voxels.")
@click.option("--common", is_flag=True, help="Compare only the cases that all results share, instead of refusing.")
def compare(
    dataset: str | None,
    folder: Sequence[str],
    output: str | None,
    overwrite: bool,
    pictures: bool,
    baseline: str | None,
    common: bool,
    metrics: Sequence[str],
    block: tuple[int, int, int] | None,
    **options: Any,
) -> None:
    """Compare results with a baseline: table, tests and pictures, as a page, Markdown and CSV.

    \b
    nnunet-dino compare -d 9
    nnunet-dino compare -d 9 -tr nnUNetTrainer -tr nnUNetTrainerDINOv3L -c 3d_fullres
    nnunet-dino compare --folder stock=predA --folder dino=predB --labels-folder labelsTs

    Results are read from the validation of each fold; Dice of folders is computed as nnUNetv2_evaluate_folder does.
    Of affinity models VOI and ARAND are compared; lower is better.
    """
    from nnunet_dino.compare import compare_folders, compare_results, default_output, write_report
    from nnunet_dino.compare.metric_tables import check_metrics
    from nnunet_dino.compare.report import CASES, SUMMARY
    from nnunet_dino.reports import check_folder, report_text
    from nnunet_dino.reports.folder import PAGE, TEXT

    _check_options(dataset, folder, options)
    target = Path(output) if output else default_output(dataset)
    check_folder(target, overwrite)
    check_metrics(metrics)
    if dataset is not None:
        comparison = compare_results(
            dataset,
            trainers=options["trainer"],
            plans=options["plans"],
            configurations=options["configuration"],
            folds=[fold for text in options["folds"] for fold in text.replace(",", " ").split()],
            baseline=baseline,
            common=common,
            block=block,
        )
    else:
        chosen = {name: options[name] for name in OF_FOLDERS}
        comparison = compare_folders(folder, **chosen, baseline=baseline, common=common, block=block)
    command = shlex.join(["nnunet-dino", *sys.argv[1:]])
    report = write_report(comparison, target, overwrite=overwrite, pictures=pictures, command=command, metrics=metrics)
    click.echo(report_text(report))
    click.echo(f"\nReport: {target / PAGE}\n  also: {TEXT}, {SUMMARY}, {CASES}")


def _check_options(dataset: str | None, folder: Sequence[str], options: dict[str, Any]) -> None:
    if (dataset is None) == (not folder):
        got = "both" if folder else "neither"
        raise UserError(f"-d, --folder: required one of both · got {got} · for example `nnunet-dino compare -d 9`")
    names, other = (OF_FOLDERS, "--folder") if dataset is not None else (OF_RESULTS, "-d")
    odd = [f"--{name.replace('_', '-')}" for name in names if options[name]]
    if odd:
        raise UserError(f"{', '.join(odd)}: required with {other} only · got it without · leave it out")
