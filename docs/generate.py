"""Writes the tables that the documentation makes from the code: ``python docs/generate.py``.

A page says where a table belongs with the comments ``<!-- table: NAME -->`` and ``<!-- end of table -->``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

from nnunet_dino.networks.options import DinoOptions
from nnunet_dino.nnunet.presets import PLANNERS, TRAINERS, UNETS
from nnunet_dino.pretrain.recipe import RECIPES, Recipe, text_of

DOCS = Path(__file__).parent
_PLACE = re.compile(r"(?<=<!-- table: )(\w+)( -->\n)(.*?)(?=<!-- end of table -->)", re.DOTALL)


def trainers() -> Iterator[tuple[str, ...]]:
    yield "Trainer", "Backbone", "Adaptation", "Token stride, px", "Recipe", "Learning rate of the backbone"
    for preset in TRAINERS.values():
        if preset.num_epochs is None:
            cells = ("none", "–", "–")
            if preset.network:
                dino = DinoOptions(**preset.dino)
                cells = (f"`{dino.backbone}`", dino.adaptation, str(dino.token_stride_px))
            rate = "–" if preset.vit_lr is None else f"{preset.vit_lr:.0e}".replace("e-0", "e-")
            yield f"`{preset.name}`", *cells, preset.recipe, rate


def planners() -> Iterator[tuple[str, ...]]:
    yield "Planner", "Plans", "Backbone", "U-Net"
    for preset in PLANNERS.values():
        yield (
            f"`{preset.name}`",
            f"`{preset.plans_name}`",
            f"`{preset.dino['backbone']}`" if preset.dino else "–",
            UNETS[preset.unet][1],
        )


def recipes() -> Iterator[tuple[str, ...]]:
    yield "Field", "Meaning", *(f"`{name}`" for name in RECIPES)
    presets = [make() for make in RECIPES.values()]
    meanings = dict(re.findall(r"^ {8}(\w+): (.+)$", Recipe.__doc__ or "", re.MULTILINE))
    for field in fields(Recipe):
        if field.name != "name":
            yield f"`{field.name}`", meanings[field.name], *(text_of(getattr(preset, field.name)) for preset in presets)


TABLES: dict[str, Callable[[], Iterator[tuple[str, ...]]]] = {"trainers": trainers, "planners": planners, "recipes": recipes}


def generated(page: str) -> str:
    """Returns the text of a page with its tables made anew."""
    return _PLACE.sub(lambda place: place[1] + place[2] + _markdown(list(TABLES[place[1]]())), page)


def _markdown(rows: list[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:], ""])


def main() -> None:
    for page in DOCS.rglob("*.md"):
        page.write_text(generated(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
