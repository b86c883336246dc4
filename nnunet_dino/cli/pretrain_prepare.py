"""``nnunet-dino pretrain prepare``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("prepare")
@click.option(
    "--images", required=True, type=click.Path(path_type=Path), metavar="FOLDER", help="NIfTI or DICOM scans; searched."
)
@click.option("--like", required=True, metavar="ID", help="Data set whose plans and normalisation are used.")
@click.option("-c", "configuration", required=True, metavar="NAME", help="Configuration of its plans.")
@click.option("-p", "plans", default="nnUNetPlans", show_default=True, metavar="NAME", help="Name of its plans.")
@click.option(
    "-o",
    "output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="NAME",
    help="DatasetXXX_NAME, a new one in nnUNet_preprocessed; or a path that ends so.",
)
@click.option("--skip-broken", is_flag=True, help="Leave out scans that cannot be read, and list them.")
def prepare(images: Path, like: str, configuration: str, plans: str, output: Path, skip_broken: bool) -> None:
    """Preprocess unlabelled scans as nnU-Net preprocesses those of a data set; the same command goes on where it stopped.

    \b
    nnunet-dino pretrain prepare --images archive/ --like 101 -c 3d_fullres -o Dataset900_Archive
    """
    from nnunet_dino.pretrain.prepare import Options
    from nnunet_dino.pretrain.prepare import prepare as run

    run(Options(images, like, plans, configuration, output, skip_broken), click.echo)
