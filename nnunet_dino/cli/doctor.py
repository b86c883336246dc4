"""``nnunet-dino doctor`` and ``trainers-path``: how stock commands find the classes."""

from __future__ import annotations

import click


@click.command("doctor")
@click.option("--dataset", metavar="NAME", help="Look over this data set in nnUNet_raw instead; number or name.")
@click.option("--probes", is_flag=True, help="What extract, look and probe need, instead of what training needs.")
def doctor(dataset: str | None, probes: bool) -> int:
    """Show what is there and what is missing, with the command that mends it; exit code 1 if training could not start."""
    from nnunet_dino._errors import UserError
    from nnunet_dino.nnunet.doctor.report import run as examine

    if dataset is not None and probes:
        raise UserError(f"--probes: required without --dataset · got both, {dataset} · leave one out")
    if probes:
        from nnunet_dino.nnunet.doctor.checks import OF_PROBES

        return examine(click.echo, OF_PROBES, "Probing")
    if dataset is None:
        return examine(click.echo)
    from nnunet_dino.nnunet.doctor.raw_dataset import checks_of

    return examine(click.echo, checks_of(dataset))


@click.command("trainers-path")
def trainers_path() -> None:
    """Print the folder for nnUNet_extTrainer (nnU-Net 2.8 and later), for use without the start-up hook."""
    from nnunet_dino.nnunet.discovery.registry import EXTERNAL_TRAINERS

    click.echo(EXTERNAL_TRAINERS)
