"""``nnunet-dino probe dense``."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import click

from nnunet_dino.cli._options import DEVICE, options_of
from nnunet_dino.cli.probe import made_options, record
from nnunet_dino.probes.dense_options import DenseOptions, DenseRequest


@click.command("dense")
@options_of(*made_options([DenseRequest, DenseOptions]))
@click.option("--pictures", default=3, show_default=True, metavar="N", help="Test cases of which a slice is drawn.")
@DEVICE
def dense(pictures: int, device: str, **given: Any) -> None:
    """Ask patch tokens where the classes of a preprocessed data set are, without training a network, and report.

    \b
    nnunet-dino probe dense -d 9 -c 3d_fullres --backbone dinov3_vits16 --backbone pixels -o report
    nnunet-dino probe dense -d 9 -c 3d_fullres --backbone before=old.pth --backbone after=pretraining/ -o report
    """
    from nnunet_dino.probes.dense_report import report_dense

    asked = {"device": device, "pictures": pictures, "command": shlex.join(["nnunet-dino", *sys.argv[1:]])}
    report_dense(record(DenseRequest, given, **asked), record(DenseOptions, given), click.echo)
