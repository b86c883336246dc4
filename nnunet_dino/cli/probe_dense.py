"""``nnunet-dino probe dense``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Any

import click

from nnunet_dino.cli._options import DEVICE, options_of
from nnunet_dino.cli.probe import made_options, record
from nnunet_dino.probes.dense_options import DenseOptions


@click.command("dense")
@click.option("-d", "dataset", required=True, metavar="ID", help="Number or full name of a preprocessed data set with labels.")
@click.option("-c", "configuration", required=True, metavar="NAME", help="Configuration of its plans.")
@click.option("-p", "plans", default="nnUNetPlans", show_default=True, metavar="NAME", help="Name of its plans.")
@click.option("-f", "fold", default=0, show_default=True, metavar="N", help="Fold: its training cases teach, the others judge.")
@click.option(
    "--backbone",
    "backbones",
    multiple=True,
    metavar="[TITLE=]WHAT",
    help="Name, random:NAME, file or folder of weights, folder of a pretraining, or pixels; may repeat.",
)
@click.option("-o", "output", required=True, metavar="PATH", help="Folder for the report.")
@click.option("--overwrite", is_flag=True, help="Write into a folder that holds files; replaces those of an earlier report.")
@options_of(*made_options([DenseOptions]))
@click.option("--pictures", default=3, show_default=True, metavar="N", help="Test cases of which a slice is drawn.")
@DEVICE
def dense(
    dataset: str,
    configuration: str,
    plans: str,
    fold: int,
    backbones: Sequence[str],
    output: str,
    overwrite: bool,
    pictures: int,
    device: str,
    **given: Any,
) -> None:
    """Ask patch tokens where the classes of a preprocessed data set are, without training a network, and report.

    \b
    nnunet-dino probe dense -d 9 -c 3d_fullres --backbone dinov3_vits16 --backbone pixels -o report
    nnunet-dino probe dense -d 9 -c 3d_fullres --backbone before=old.pth --backbone after=pretraining/ -o report
    """
    from nnunet_dino.probes.dense_report import DenseRequest, report_dense

    request = DenseRequest(
        dataset=dataset,
        configuration=configuration,
        plans=plans,
        fold=fold,
        backbones=backbones,
        output=output,
        overwrite=overwrite,
        device=device,
        pictures=pictures,
        command=shlex.join(["nnunet-dino", *sys.argv[1:]]),
    )
    report_dense(request, record(DenseOptions, given), click.echo)
