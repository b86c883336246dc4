"""``nnunet-dino plan``."""

from __future__ import annotations

import click


@click.command("plan")
@click.option("-d", "dataset", required=True, metavar="ID", help="Number or full name of the data set.")
@click.option("-pl", "planner", default="nnUNetPlannerDINOv3L", show_default=True, metavar="NAME", help="The planner.")
@click.option("-gpu_memory_target", "gpu_memory_gb", type=float, metavar="GB", help="GPU memory to fill.")
@click.option("-overwrite_plans_name", "plans_name", metavar="NAME", help="Name of the plans, if not the planner's own.")
def plan(dataset: str, planner: str, gpu_memory_gb: float | None, plans_name: str | None) -> None:
    """Do what nnUNetv2_plan_experiment does, without the start-up hook."""
    from nnunet_dino.nnunet.plan_dataset import plan_dataset

    click.echo(f"plans written to {plan_dataset(dataset, planner, gpu_memory_gb, plans_name)}")
