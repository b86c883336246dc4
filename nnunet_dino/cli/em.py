"""``nnunet-dino em``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from nnunet_dino._errors import UserError
from nnunet_dino.cli._group import OneLineGroup


@click.group("em", cls=OneLineGroup)
def em() -> None:
    """Neurons in electron microscopy: make a data set, score segmentations."""


@em.command("convert")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-d", "number", required=True, type=int, metavar="N", help="Number of the data set.")
@click.option("--name", required=True, metavar="NAME", help="Name of the data set.")
@click.option("--labels", multiple=True, type=click.Path(path_type=Path), metavar="PATH", help="Ids of each; repeatable.")
@click.option("--split", multiple=True, metavar="NAME", help="Published: cremi, ac3, ac4, wafer4, fib25; one, or one each.")
@click.option("--train", metavar="FIRST:AFTER", help="Sections to train on; default: all that are not for tests.")
@click.option("--test", metavar="FIRST:AFTER", help="Sections to test on; default: none.")
@click.option("--validation", type=int, metavar="N", help="Last training sections, to validate fold 0; default: a fifth.")
@click.option("--spacing", "spacing_nm", nargs=3, type=float, metavar="Z Y X", help="Voxel size in nm, if the file is silent.")
@click.option("--image-key", metavar="KEY", help="Data set of the image in HDF5 files.")
@click.option("--labels-key", metavar="KEY", help="Data set of the ids in HDF5 files.")
@click.option("--components", "has_components", is_flag=True, help="Ids are the components of every section's labels.")
def convert(images: tuple[Path, ...], train: str | None, test: str | None, **given: Any) -> None:
    """Write volumes (HDF5, TIFF stacks, folders of sections) with neuron ids as a data set into $nnUNet_raw.

    \b
    nnunet-dino em convert fib25.h5 -d 540 --name FIB25 --split fib25
    nnunet-dino em convert sample_A.hdf sample_B.hdf sample_C.hdf -d 541 --name CREMI --split cremi
    nnunet-dino em convert image --labels label --components -d 542 --name ISBI --spacing 50 4 4
    """
    from nnunet_dino.em.convert import Conversion
    from nnunet_dino.em.convert import convert as convert_volumes

    sections: dict[str, Any] = {"train": _sections("--train", train), "test": _sections("--test", test)}
    if given["split"] and any(sections.values()):
        raise UserError("--split: required without --train and --test · got both · leave one out")
    target = convert_volumes(Conversion(images, **sections, **given), click.echo)
    click.echo(f"written: {target}")


def _sections(flag: str, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match:
        raise UserError(f"{flag}: required FIRST:AFTER, such as 0:100 · got {text!r}")
    return int(match[1]), int(match[2])


@em.command("score")
@click.argument("predictions", type=click.Path(path_type=Path))
@click.argument("truth", type=click.Path(path_type=Path))
@click.option("-o", "output", type=click.Path(path_type=Path), metavar="FILE", help="Default: summary.json in PREDICTIONS.")
def score(predictions: Path, truth: Path, output: Path | None) -> None:
    """Score the segmentations in the folder PREDICTIONS against the ids in the folder TRUTH: VOI and ARAND.

    \b
    nnunet-dino em score predictions $nnUNet_raw/Dataset540_FIB25/labelsTs
    """
    from nnunet_dino.em.score_folder import score_folder

    for line in score_folder(predictions, truth, output):
        click.echo(line)
