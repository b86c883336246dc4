"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
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
    click.option("--window", default="auto", show_default=True, metavar="HU", help="lung, bone … or LOW,HIGH; three are RGB."),
    click.option("--mean", nargs=3, type=float, metavar="R G B", help="Of the colours that the backbone was trained with."),
    click.option("--std", nargs=3, type=float, metavar="R G B", help="Likewise; default: what the weights say, or ImageNet's."),
    click.option("--plane", default="axial", show_default=True, metavar="NAME", help="Of volumes: axial, coronal, sagittal."),
    click.option("--volume", type=int, metavar="N", help="Of inputs with several volumes (4D, phases), from 0."),
)
TILING = options_of(
    click.option("--tissue", default="default", show_default=True, metavar="RULE", help="default, biopsy, resection or tcga."),
    click.option("--mpp", type=float, metavar="UM", help="Micrometres per pixel of tiles; default: full resolution."),
    click.option("--mag", type=float, metavar="X", help="Magnification of tiles instead: 20 is 0.5 micrometres per pixel."),
    click.option(
        "--slide-mpp", type=float, metavar="UM", help="Micrometres per pixel of slides whose files are wrong or silent."
    ),
    click.option("--grid", default="tissue", show_default=True, metavar="FROM", help="Tiles begin at the tissue, or at slide."),
    click.option("--overlap", default=0.0, show_default=True, metavar="F", help="Of neighbouring tiles: share of the edge."),
    click.option("--min-tissue", default=0.0, metavar="F", help="Share of a tile; default: one of four points in it."),
    click.option("--drop-pen", is_flag=True, help="Green, blue and black are no tissue; for haematoxylin and eosin."),
    click.option(
        "--drop-blur", default=0.0, metavar="V", help="Leave out tiles whose Laplacian has a smaller variance, 50 for example."
    ),
)


def tiling(options: dict[str, Any]) -> Any:
    """Takes from the options of a verb those of :data:`TILING`, and returns how slides are cut."""
    from nnunet_dino.features import Tiling

    return Tiling(**{each.name: options.pop(each.name) for each in fields(Tiling)})


def statistics(mean: Any, std: Any) -> Any:
    """Returns what ``--mean`` and ``--std`` ask for; None for neither.

    Raises:
        UserError: Only one is there, or they cannot be used.
    """
    from nnunet_dino.backbones.weights.model_config import check_statistics

    return None if mean is None and std is None else check_statistics(mean, std, "--mean and --std")
