"""``nnunet-dino demo``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("demo")
@click.option("-o", "folder", default="nnunet-dino-demo", show_default=True, type=click.Path(path_type=Path), help="Folder.")
@click.option("--cases", "num_cases", default=20, show_default=True, metavar="N", help="Cases to train and validate with.")
@click.option("--test-cases", "num_test", default=8, show_default=True, metavar="N", help="Cases that training never sees.")
@click.option(
    "--epochs", "num_epochs", default="2", show_default=True, type=click.Choice(["2", "5", "50", "250"]), help="Of each."
)
@click.option("--seed", default=0, show_default=True, metavar="N", help="Seed of the phantoms.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]), help="auto: any CUDA.")
@click.option("--fresh", is_flag=True, help="Delete an earlier demo in the folder and start anew.")
def demo(folder: Path, num_epochs: str, device: str, fresh: bool, num_cases: int, num_test: int, seed: int) -> int:
    """Make phantom CT scans, train stock nnU-Net and a small DINOv3 network on them, predict, and compare.

    Uses nnU-Net's own commands, in a folder of its own; takes minutes on two processor cores. Exit code 1 if a command failed.
    """
    from nnunet_dino.demo.run import DemoOptions, run_demo

    return run_demo(folder, DemoOptions(num_cases, int(num_epochs), num_test, seed), device, fresh, click.echo)
