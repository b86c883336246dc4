"""``nnunet-dino doctor`` and ``trainers-path``: how stock commands find the classes."""

from __future__ import annotations

import click


@click.command("doctor")
@click.option("--dataset", metavar="NAME", help="Look over this data set in nnUNet_raw instead; number or name.")
def doctor(dataset: str | None) -> int:
    """Show what is there and what is missing, with the command that mends it; exit code 1 if training could not start."""
    from nnunet_dino.nnunet.doctor.report import run as examine

    if dataset is None:
        return examine(click.echo)
    from nnunet_dino.nnunet.doctor.raw_dataset import checks_of

    return examine(click.echo, checks_of(dataset))


@click.command("trainers-path")
def trainers_path() -> None:
    """Print the folder for nnUNet_extTrainer (nnU-Net 2.8 and later), for use without the start-up hook."""
    from nnunet_dino.nnunet.discovery.registry import EXTERNAL_TRAINERS

    click.echo(EXTERNAL_TRAINERS)
