"""``nnunet-dino doctor`` and ``trainers-path``: how stock commands find the classes."""

from __future__ import annotations

import click


@click.command("doctor")
def doctor() -> int:
    """Show what is there and what is missing, with the command that mends it; exit code 1 if training could not start."""
    from nnunet_dino.nnunet.doctor.report import run as examine

    return examine(click.echo)


@click.command("trainers-path")
def trainers_path() -> None:
    """Print the folder for nnUNet_extTrainer (nnU-Net 2.8 and later), for use without the start-up hook."""
    from nnunet_dino.nnunet.discovery.registry import EXTERNAL_TRAINERS

    click.echo(EXTERNAL_TRAINERS)
