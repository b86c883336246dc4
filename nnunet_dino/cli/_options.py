"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def options_of(*options: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a decorator that adds several options, in their order."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


DEVICE = click.option("--device", default="auto", show_default=True, metavar="NAME", help="cuda, cpu …; auto: CUDA if any.")
BACKBONE = click.option(
    "--backbone",
    default="dinov3_vits16",
    show_default=True,
    metavar="NAME",
    help="See nnunet-dino weights list; timm:NAME; hf-hub:OWNER/NAME; a file or folder of weights.",
)
PIXELS = options_of(
    click.option(
        "--fit",
        default="pad",
        show_default=True,
        metavar="HOW",
        help="pad, stretch or crop what is not square; own: as timm does.",
    ),
    click.option("--window", default="auto", show_default=True, metavar="HU", help="lung, mediastinum, bone … or LOW,HIGH."),
    click.option("--mean", nargs=3, type=float, metavar="R G B", help="Of the colours that the backbone was trained with."),
    click.option("--std", nargs=3, type=float, metavar="R G B", help="Likewise; default: what the weights say, or ImageNet's."),
    click.option("--plane", default="axial", show_default=True, metavar="NAME", help="Of volumes: axial, coronal, sagittal."),
    click.option("--volume", type=int, metavar="N", help="Of inputs with several volumes (4D, phases), from 0."),
    click.option("--tissue", default="default", show_default=True, metavar="RULE", help="default, biopsy, resection or tcga."),
    click.option("--mpp", type=float, metavar="UM", help="Micrometres per pixel of tiles; default: full resolution."),
    click.option(
        "--slide-mpp", type=float, metavar="UM", help="Micrometres per pixel of slides whose files are wrong or silent."
    ),
)


def statistics(mean: Any, std: Any) -> Any:
    """Returns what ``--mean`` and ``--std`` ask for; None for neither.

    Raises:
        UserError: Only one is there, or they cannot be used.
    """
    from nnunet_dino.backbones.weights.model_config import check_statistics

    return None if mean is None and std is None else check_statistics(mean, std, "--mean and --std")
