"""``nnunet-dino pretrain``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from nnunet_dino.cli._group import OneLineGroup

DEFAULT_VERB = "train"


class _GroupThatTrains(OneLineGroup):
    """A group in which whatever is no other verb belongs to ``train``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts the default verb in front."""
        return super().parse_args(ctx, self.with_verb(args))

    def with_verb(self, args: list[str]) -> list[str]:
        """Returns arguments that begin with a verb, unless they ask for help or there are none."""
        is_complete = not args or args[0] in self.commands or args[0] in ("-h", "--help")
        return args if is_complete else [DEFAULT_VERB, *args]


@click.group("pretrain", cls=_GroupThatTrains, context_settings={"help_option_names": ["-h", "--help"]})
def pretrain() -> None:
    """Adapt a backbone to unlabelled, preprocessed scans; see also `pretrain train --help`."""


@pretrain.command("train")
@click.argument("datasets", nargs=-1, required=True)
@click.option("-c", "configuration", required=True, metavar="NAME", help="Configuration whose preprocessed data are read.")
@click.option("-p", "plans", default="nnUNetPlans", show_default=True, metavar="NAME", help="Plans.")
@click.option("--backbone", metavar="NAME", help="See nnunet-dino weights list, or a file; default: dinov3_vits16.")
@click.option("--from", "from_folder", type=click.Path(path_type=Path), metavar="DIR", help="Begin with that run's heads, too.")
@click.option(
    "--recipe", "recipe_name", default="adapt", show_default=True, metavar="NAME", help="adapt, anchor, sharpen, scratch."
)
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a field of the recipe; several times.")
@click.option("-o", "folder", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder for the run.")
@click.option("--exclude", type=click.Path(path_type=Path), metavar="FILE", help="Cases to leave out, one a line.")
@click.option("--holdout", "num_held_out", type=int, metavar="N", help="Cases kept for the monitors; default: one in twenty.")
@click.option("--monitor", multiple=True, metavar="ID", help="Labelled data set for the dense probe; keeps the best weights.")
@click.option("--workers", "num_workers", default=2, show_default=True, metavar="N", help="Processes that prepare batches.")
@click.option("--device", default="auto", show_default=True, metavar="NAME", help="cpu or cuda; auto: CUDA if any.")
@click.option("--compile", "compiles", is_flag=True, help="Compile the transformer; worth it on GPUs.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what it would take, from twenty timed steps; train nothing.")
def train(recipe_name: str, changes: Sequence[str], only_plan: bool, **given: Any) -> None:
    """Pretrain a backbone on DATASETS that nnU-Net has preprocessed; the same command goes on with an interrupted run.

    \b
    nnunet-dino pretrain 101 102 -c 3d_fullres --backbone dinov3_vitb16 --recipe adapt -o DIR
    torchrun --nproc-per-node 8 --no-python nnunet-dino pretrain 101 -c 3d_fullres --set batch=512 -o DIR

    Labels are not read. The result, DIR/teacher.safetensors, is what nnUNet_dino_weights takes.
    """
    from nnunet_dino.pretrain.recipe import get_recipe
    from nnunet_dino.pretrain.run import Options
    from nnunet_dino.pretrain.run import pretrain as run

    run(Options(recipe=get_recipe(recipe_name, changes), **given), click.echo, only_plan)
