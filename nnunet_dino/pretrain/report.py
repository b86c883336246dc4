"""The page with the curves of a pretraining, drawn anew as it runs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from nnunet_dino.pretrain.folder import BEST
from nnunet_dino.pretrain.monitor import NUM_SLICES, best_probe, dino_over_log_k, ibot_over_log_k, warnings_of
from nnunet_dino.pretrain.recipe import Recipe
from nnunet_dino.probes.dense_backbones import TEACHER
from nnunet_dino.reports import Plot, Report, Table, origin, write_report
from nnunet_dino.reports.plot import Theme, themed

Rows = Sequence[dict[str, float]]
_CURVES = {
    "rank": ("Effective rank of class tokens and of mean patch tokens.", ("rank_class", "rank_patch")),
    "entropy": ("Entropy of the teacher's sharpened logits over its largest value.", ("entropy",)),
    "patches": (
        "Patches of one image: mean cosine between two of them, between them and the class token, and of their matrix of "
        "cosines "
        "with that of the start weights.",
        ("patch_cosine", "class_patch_cosine", "gram_to_start"),
    ),
    "gradients": ("Gradient norms before clipping.", ("gradient_backbone", "gradient_dino_head", "gradient_ibot_head")),
    "speed": ("Slices per second.", ("slices_per_second",)),
}


def draw_report(folder: Path, record: dict[str, Any], recipe: Recipe, history: Rows, num_skipped: int) -> None:
    """Writes the page.

    Args:
        folder: Of the pretraining.
        record: What is run.
        recipe: Its recipe.
        history: Rows of measurements.
        num_skipped: Steps that were left out.

    Raises:
        UserError: It cannot be written.
    """
    report = Report(
        title=f"Pretraining of {record['backbone']} on {', '.join(record['datasets'])}",
        sentences=_sentences(record, recipe, history),
        warnings=warnings_of(history, recipe, num_skipped),
        blocks=[*_plots(recipe, history), _recipe_table(recipe)],
        method=[
            f"Monitors look at the teacher on {NUM_SLICES} crops of {len(record['cases']['held_out'])} cases that training "
            "does not "
            "see. Effective rank: exp of the entropy of the normalised singular values.",
            f"Weights: {TEACHER} is the teacher's transformer, for nnUNet_dino_weights. Licence: {record['licence']}.",
            *record["planes"],
        ],
        origin=origin(shlex.join(["nnunet-dino", *sys.argv[1:]]), ("nnunet-dino", "torch", "timm")),
        numbers={"record": {**record, "cases": {k: len(v) for k, v in record["cases"].items()}}, "history": list(history)},
    )
    write_report(report, folder, overwrite=True)


def _sentences(record: dict[str, Any], recipe: Recipe, history: Rows) -> list[str]:
    cases = {part: len(titles) for part, titles in record["cases"].items()}
    seen = f"{cases['train']} cases, {cases['held_out']} held out for monitors, {cases['excluded']} excluded"
    sentences = [f"Recipe {recipe.name} from {record['start']['source']}; {seen}."]
    losses = [row for row in history if "loss_dino" in row]
    if losses:
        last = losses[-1]
        sentences.append(
            f"Step {last['step']:.0f} of {recipe.iterations}: the loss of class tokens is "
            f"{dino_over_log_k(last, recipe):.3f}, that of "
            f"masked patches {ibot_over_log_k(last, recipe):.3f} of the one of a student that predicts nothing; "
            f"{last['slices_per_second']:.3g} slices per second, {100 * last['waiting']:.1f} % of the time waiting for data."
        )
    probes = [row for row in history if "probe" in row]
    if probes:
        best = best_probe(probes)
        sentences.append(
            f"Dense probe with few labels: {probes[-1]['probe']:.3f} now, best {best['probe']:.3f} at step {best['step']:.0f} "
            f"({BEST}), start weights {probes[0]['probe_start']:.3f}."
        )
    return sentences


def _plots(recipe: Recipe, history: Rows) -> list[Plot]:
    losses = [
        {"step": row["step"], "class tokens": dino_over_log_k(row, recipe), "masked patches": ibot_over_log_k(row, recipe)}
        for row in history
        if "loss_dino" in row
    ]
    plots = []
    if losses:
        text = "Losses over the logarithm of the number of prototypes: 1 is a student that predicts nothing."
        plots.append(_plot("losses", text, losses, ("class tokens", "masked patches"), 1.0))
    rows = [row for row in history if "probe" in row]
    if rows:
        text = "Dense probe with few labels on the monitored data; the line is what the start weights have."
        plots.append(_plot("probe", text, rows, ("probe",), rows[0]["probe_start"]))
    for name, (text, keys) in _CURVES.items():
        rows = [row for row in history if keys[0] in row]
        if rows:
            plots.append(_plot(name, text, rows, keys))
    return plots


def _plot(name: str, text: str, rows: Rows, keys: Sequence[str], line: float | None = None) -> Plot:
    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(8, 2.6))
        axes = figure.add_axes((0.08, 0.19, 0.91, 0.78))
        for key, colour, style in zip(keys, (theme.better, theme.worse, theme.ink), ("-", "--", ":"), strict=False):
            axes.plot([row["step"] for row in rows], [row[key] for row in rows], style, color=colour, lw=1.4, label=key)
        if line is not None:
            axes.axhline(line, color=theme.faint, lw=1)
        axes.set_xlabel("step")
        axes.legend(frameon=False, labelcolor=theme.ink, fontsize=8.5, ncols=len(keys), loc="best")
        return figure

    return themed(name, text, draw)


def _recipe_table(recipe: Recipe) -> Table:
    rows = [
        (key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)) for key, value in recipe.to_json().items()
    ]
    momentum = recipe.scaled_momentum(recipe.momentum)
    effective = f"With this batch the learning rate is {recipe.scaled_lr:.3g} and the momentum {momentum:.5f}."
    return Table("Recipe", ("Field", "Value"), rows, effective, num_text_columns=2)
