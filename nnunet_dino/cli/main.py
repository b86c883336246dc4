"""The command ``nnunet-dino``: every verb calls one public function of the room it belongs to."""

from __future__ import annotations

import click

from nnunet_dino import __version__
from nnunet_dino._environment import require_known_variables
from nnunet_dino.cli import (
    compare,
    demo,
    doctor,
    em,
    export,
    extract,
    look,
    plan,
    pretrain,
    pretrain_prepare,
    probe,
    probe_dense,
    study,
    tiles,
    weights,
)
from nnunet_dino.cli._group import OneLineGroup


@click.group(cls=OneLineGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nnunet-dino")
@click.pass_context
def main(context: click.Context) -> None:
    """DINOv3 slice encoders inside stock nnU-Net.

    Training and prediction are nnU-Net's own commands (nnUNetv2_train … -tr nnUNetTrainerDINOv3L). The verbs here do the rest.
    """
    if context.invoked_subcommand != "doctor":  # which says it among the rest
        require_known_variables()


for verb in (
    weights.weights,
    doctor.doctor,
    doctor.trainers_path,
    plan.plan,
    compare.compare,
    export.export,
    demo.demo,
    extract.extract,
    probe.probe,
    look.look,
    tiles.tiles,
    pretrain.pretrain,
    em.em,
    study.study,
):
    main.add_command(verb)
probe.probe.add_command(probe_dense.dense)
pretrain.pretrain.add_command(pretrain_prepare.prepare)


def run() -> None:
    """Entry point of the console script."""
    main(prog_name="nnunet-dino")


if __name__ == "__main__":
    run()
