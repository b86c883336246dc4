"""The backbones of a dense probe by what a user calls them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nnunet_dino._errors import UserError
from nnunet_dino.backbones import weights
from nnunet_dino.backbones.adapted import RANDOM, AdaptedBackbone
from nnunet_dino.backbones.catalogue import get_spec, is_name
from nnunet_dino.backbones.image_encoder import find_backbone
from nnunet_dino.probes.dense import PIXELS

RANDOM_SEED = 0
TEACHER = "teacher.safetensors"
"""The weights in the folder of a pretraining."""


@dataclass(frozen=True)
class NamedBackbone:
    """A backbone to be asked.

    Attributes:
        title: What the report calls it.
        backbone: The backbone, or ``"pixels"``.
        description: Its name in the catalogue, and which weights.
        weights_are_random: Whether they were drawn instead of loaded.
    """

    title: str
    backbone: AdaptedBackbone | str
    description: str
    weights_are_random: bool = False


def open_backbones(named: Sequence[str]) -> list[NamedBackbone]:
    """Opens backbones.

    Args:
        named: Each a name of the catalogue, ``random:`` and such a name, a file or folder of weights, the folder of a
            pretraining, or ``pixels``; before it may stand ``TITLE=``. A title that is a name of the catalogue says which
            backbone a file is of.

    Raises:
        UserError: There is none, one is given twice, or one is unknown, has no weights or does not fit.
    """
    if not named:
        raise UserError("--backbone: required one or more · got none · for example --backbone dinov3_vits16 --backbone pixels")
    split = [_split(text) for text in named]
    titles = [title or _title(what) for title, what in split]
    for title in titles:
        if titles.count(title) > 1:
            raise UserError(
                f"--backbone: required different ones · got {title!r} {titles.count(title)} times · leave one out, or write "
                "TITLE=… before it"
            )
    return [_open(title, what, given) for title, (given, what) in zip(titles, split, strict=True)]


def _split(text: str) -> tuple[str, str]:
    """Returns title and what it is a title of; an existing path with ``=`` in it is a path."""
    title, equals, what = text.partition("=")
    return ("", text) if not equals or not title or "/" in title or Path(text).exists() else (title, what)


def _title(what: str) -> str:
    path = Path(what).expanduser().absolute()
    if what == PIXELS or is_name(what.removeprefix(f"{RANDOM}:")):
        return what
    return f"{path.parent.name}/{path.name}" if path.is_file() else path.name


def _open(title: str, what: str, given: str) -> NamedBackbone:
    if what == PIXELS:
        return NamedBackbone(title, PIXELS, "raw pixels of the cell, 8 × 8, and its position")
    if what.startswith(f"{RANDOM}:"):
        return _random(title, get_spec(what.removeprefix(f"{RANDOM}:")).name)
    if is_name(what):
        if weights.wants_random():
            return _random(title, what)
        return _loaded(title, AdaptedBackbone(what, loaded=weights.load(what, weights.ensure_local(what))))
    path = Path(what).expanduser()
    path = path / TEACHER if (path / TEACHER).is_file() else path
    found = find_backbone(path, "--backbone", given if is_name(given) else None)
    return _loaded(title, AdaptedBackbone(found.spec.name, loaded=found.loaded))


def _loaded(title: str, backbone: AdaptedBackbone) -> NamedBackbone:
    digest = str(backbone.digest)
    return NamedBackbone(title, backbone, f"{backbone.name}, weights with digest {digest[:12]}")


def _random(title: str, name: str) -> NamedBackbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        return NamedBackbone(title, AdaptedBackbone(name, RANDOM), f"{name}, random weights", True)
