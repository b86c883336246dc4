"""The command ``nnunet-dino``: every verb calls one public function of the room it belongs to."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import click

from nnunet_dino import __version__, cli_probes
from nnunet_dino.errors import UserError, leave, nearest


class OneLineGroup(click.Group):
    """A group of verbs whose errors are one line on standard error and exit code 2."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Shows the verbs where none is given."""
        if not args:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the verb; an unknown one is answered with the nearest known.

        Raises:
            UserError: There is no such verb.
        """
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            verbs = self.list_commands(ctx)
            raise UserError(f"unknown verb: required one of {', '.join(verbs)} · got {name!r}{nearest(name, verbs)}")
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Runs a command line; the process ends here unless ``standalone_mode`` is false."""
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **extra)
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore", FutureWarning)  # torch and timm warn their own developers at import
            try:
                code = super().main(*args, standalone_mode=False, **extra)
            except UserError as error:
                leave(error)
            except click.UsageError as error:
                asked = error.ctx.command_path if error.ctx else "nnunet-dino"
                leave(UserError(f"{error.format_message().rstrip('.')} · see `{asked} --help`"))
            except click.ClickException as error:
                leave(UserError(error.format_message()))
            except click.Abort:
                print("nnunet-dino: interrupted", file=sys.stderr)
                code = 130
        sys.exit(code if isinstance(code, int) else 0)


@click.group(cls=OneLineGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nnunet-dino")
def main() -> None:
    """DINOv3 slice encoders inside stock nnU-Net.

    Training and prediction are nnU-Net's own commands (nnUNetv2_train … -tr nnUNetTrainerDINOv3L). The verbs here do the rest.
    """


@main.group(cls=OneLineGroup)
def weights() -> None:
    """Find, fetch, import and check the weights of the backbones."""


@weights.command("list")
def weights_list() -> None:
    """Show every backbone and where its weights are on this machine."""
    from nnunet_dino.backbones import listing

    click.echo(listing.table())


@weights.command("fetch")
@click.argument("name")
def weights_fetch(name: str) -> None:
    """Download the weights of the backbone NAME, unless this machine has them."""
    from nnunet_dino.backbones import listing, store

    click.echo(listing.fetched(name, store.fetch(name)))


@weights.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--as", "name", metavar="NAME", help="The backbone; needed where FILE fits several.")
@click.option("--force", is_flag=True, help="Replace different weights of that backbone.")
def weights_import(file: Path, name: str | None, force: bool) -> None:
    """Convert FILE (or a folder) of any known format and keep it in the store."""
    from nnunet_dino.backbones import listing, store

    click.echo(listing.imported(*store.import_file(file, name, force)))


@weights.command("verify")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--as", "name", metavar="NAME", help="The backbone that FILE must fit.")
def weights_verify(file: Path, name: str | None) -> None:
    """Say what FILE (or a folder) holds, and fail if it is not the good weights of a backbone."""
    from nnunet_dino.backbones import listing, store

    click.echo(listing.verified(store.check(file, name)))


@main.command("doctor")
def doctor() -> int:
    """Show what is there and what is missing, with the command that mends it; exit code 1 if training could not start."""
    from nnunet_dino.discovery.doctor import run as examine

    return examine(click.echo)


@main.command("trainers-path")
def trainers_path() -> None:
    """Print the folder for nnUNet_extTrainer (nnU-Net 2.8 and later), for use without the start-up hook."""
    from nnunet_dino.discovery.registry import EXTERNAL_TRAINERS

    click.echo(EXTERNAL_TRAINERS)


@main.command("plan")
@click.option("-d", "dataset", required=True, metavar="ID", help="Number or full name of the data set.")
@click.option("-pl", "planner", default="nnUNetPlannerDINOv3L", show_default=True, metavar="NAME", help="The planner.")
@click.option("-gpu_memory_target", "gpu_memory_gb", type=float, metavar="GB", help="GPU memory to fill.")
@click.option("-overwrite_plans_name", "plans_name", metavar="NAME", help="Name of the plans, if not the planner's own.")
def plan(dataset: str, planner: str, gpu_memory_gb: float | None, plans_name: str | None) -> None:
    """Do what nnUNetv2_plan_experiment does, without the start-up hook."""
    from nnunet_dino.discovery.plan import plan_dataset

    click.echo(f"plans written to {plan_dataset(dataset, planner, gpu_memory_gb, plans_name)}")


@main.command("compare")
@click.option("-d", "dataset", metavar="ID", help="Number or full name of a data set with results in $nnUNet_results.")
@click.option("--folder", multiple=True, metavar="[NAME=]PATH", help="A folder of predictions; several times, instead of -d.")
@click.option("-o", "output", metavar="PATH", help="Folder for the report; default: nnunet_dino_compare in the results.")
@click.option("--overwrite", is_flag=True, help="Also replace files there that are not an unchanged earlier report.")
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


@main.command("export")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "target", required=True, type=click.Path(path_type=Path), metavar="ZIP", help="The file to write.")
@click.option("-chk", "checkpoint", default="checkpoint_final.pth", show_default=True, metavar="NAME", help="The checkpoint.")
@click.option("--overwrite", is_flag=True, help="Replace ZIP if it exists.")
def export(model: Path, target: Path, checkpoint: str, overwrite: bool) -> None:
    """Write the trained MODEL folder with its backbone inside, so that it needs no weights where it is used.

    \b
    nnunet-dino export $nnUNet_results/Dataset009_Spleen/nnUNetTrainerDINOv3L__nnUNetPlans__3d_fullres -o spleen.zip
    nnUNetv2_install_pretrained_model_from_zip spleen.zip
    """
    from tqdm import tqdm

    from nnunet_dino.training.export import export_model

    export_model(model, target, checkpoint, overwrite, lambda folds: tqdm(folds, unit="fold"))
    click.echo(f"written: {target} ({target.stat().st_size / 1e6:.1f} MB)")


@main.command("demo")
@click.option("-o", "folder", default="nnunet-dino-demo", show_default=True, type=click.Path(path_type=Path), help="Folder.")
@click.option("--cases", "num_cases", default=20, show_default=True, metavar="N", help="Cases to train and validate with.")
@click.option("--test-cases", "num_test", default=8, show_default=True, metavar="N", help="Cases that training never sees.")
@click.option("--epochs", "num_epochs", default="5", show_default=True, type=click.Choice(["5", "50", "250"]), help="Of each.")
@click.option("--seed", default=0, show_default=True, metavar="N", help="Seed of the phantoms.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]), help="auto: any CUDA.")
@click.option("--fresh", is_flag=True, help="Delete what an earlier demo wrote into the folder and start anew.")
def demo(folder: Path, num_epochs: str, device: str, fresh: bool, **numbers: int) -> int:
    """Make phantom CT scans, train stock nnU-Net and a small DINOv3 network on them, predict, and compare.

    Uses nnU-Net's own commands, in a folder of its own; takes minutes on two processor cores. Exit code 1 if a stage failed.
    """
    from nnunet_dino.demo.folder import DemoOptions
    from nnunet_dino.demo.run import run_demo

    return run_demo(folder, DemoOptions(num_epochs=int(num_epochs), **numbers), device, fresh, click.echo)


for verb in cli_probes.VERBS:
    main.add_command(verb)


def run() -> None:
    """Entry point of the console script."""
    main(prog_name="nnunet-dino")


if __name__ == "__main__":
    run()
