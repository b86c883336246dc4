"""``nnunet-dino plan``."""

from __future__ import annotations

import click


@click.command("plan")
@click.option("-d", "dataset", required=True, metavar="ID", help="Number or full name of the data set.")
@click.option("-pl", "planner", default="nnUNetPlannerDINOv3L", show_default=True, metavar="NAME", help="The planner.")
@click.option("-gpu_memory_target", "gpu_memory_gb", type=float, metavar="GB", help="GPU memory to fill.")
@click.option("-overwrite_plans_name", "plans_name", metavar="NAME", help="Name of the plans, if not the planner's own.")
@click.option(
    "-overwrite_target_spacing",
    "spacing_mm",
    type=float,
    nargs=3,
    metavar="D H W",
    help="Spacing of 3d_fullres in mm, if not the median; the data get a folder of their own.",
)
@click.option("--sees", type=int, multiple=True, metavar="N", help="Channel that the transformer sees, from 0; may repeat.")
@click.option("-preprocessor_name", "preprocessor", default="DefaultPreprocessor", show_default=True, metavar="NAME")
def plan(
    dataset: str,
    planner: str,
    gpu_memory_gb: float | None,
    plans_name: str | None,
    spacing_mm: tuple[float, float, float] | None,
    preprocessor: str,
    sees: tuple[int, ...],
) -> None:
    """Do what nnUNetv2_plan_experiment does, without the start-up hook."""
    from nnunet_dino.nnunet.plan_dataset import plan_dataset

    file = plan_dataset(dataset, planner, gpu_memory_gb, plans_name, spacing_mm, preprocessor, sees)
    click.echo(f"plans written to {file}")
