"""``nnunet-dino export``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from nnunet_dino._errors import UserError


@click.command("export")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "target", required=True, type=click.Path(path_type=Path), metavar="PATH", help="The zip, or the folder.")
@click.option("--onnx", is_flag=True, help="One ONNX graph a fold, into a folder.")
@click.option("--torch-export", is_flag=True, help="One program of torch.export a fold, into a folder.")
@click.option("-chk", "checkpoint", default="checkpoint_final.pth", show_default=True, metavar="NAME", help="The checkpoint.")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
def export(model: Path, target: Path, onnx: bool, torch_export: bool, checkpoint: str, overwrite: bool) -> None:
    """Write the trained MODEL folder with its backbone inside, so that it needs no weights where it is used.

    \b
    nnunet-dino export $nnUNet_results/Dataset009_Spleen/nnUNetTrainerDINOv3L__nnUNetPlans__3d_fullres -o spleen.zip
    nnUNetv2_install_pretrained_model_from_zip spleen.zip
    nnunet-dino export $nnUNet_results/Dataset009_Spleen/nnUNetTrainerDINOv3L__nnUNetPlans__3d_fullres -o graphs --onnx
    """
    from tqdm import tqdm

    from nnunet_dino.nnunet.export import export_model

    def progress(folds: Iterable[Path]) -> Iterable[Path]:
        return tqdm(folds, unit="fold")

    if onnx and torch_export:
        raise UserError("--onnx: required without --torch-export · got both · run the command once for each")
    if onnx or torch_export:
        from nnunet_dino.nnunet.export_graph import export_graphs

        for graph in export_graphs(model, target, "onnx" if onnx else "torch-export", checkpoint, overwrite, progress):
            click.echo(f"written: {graph} ({graph.stat().st_size / 1e6:.1f} MB)")
        return
    export_model(model, target, checkpoint, overwrite, progress, lambda line: click.echo(line, err=True))
    click.echo(f"written: {target} ({target.stat().st_size / 1e6:.1f} MB)")
