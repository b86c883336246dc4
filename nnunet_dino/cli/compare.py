"""``nnunet-dino compare``."""

from __future__ import annotations

from typing import Any

import click


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
@click.option("--baseline", metavar="NAME", help="Result to compare with; default: stock nnUNetTrainer.")
@click.option("--common", is_flag=True, help="Compare only the cases that all results share, instead of refusing.")
def compare(**options: Any) -> None:
    """Compare results with a baseline: table, tests and pictures, as a page, Markdown and CSV.

    \b
    nnunet-dino compare -d 9
    nnunet-dino compare -d 9 -tr nnUNetTrainer -tr nnUNetTrainerDINOv3L -c 3d_fullres
    nnunet-dino compare --folder stock=predA --folder dino=predB --labels-folder labelsTs

    Results are read from the validation of each fold; Dice of folders is computed as nnUNetv2_evaluate_folder does.
    """
    from nnunet_dino.compare.command import run as compare_and_write

    compare_and_write(click.echo, **options)
