"""``nnunet-dino export``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("export")
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

    from nnunet_dino.nnunet.export import export_model

    export_model(model, target, checkpoint, overwrite, lambda folds: tqdm(folds, unit="fold"))
    click.echo(f"written: {target} ({target.stat().st_size / 1e6:.1f} MB)")
