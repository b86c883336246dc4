"""``nnunet-dino probe``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from nnunet_dino._errors import UserError
from nnunet_dino.cli._group import OneLineGroup
from nnunet_dino.cli._options import DEVICE, options_of

if TYPE_CHECKING:
    from nnunet_dino.probes import LabelColumns, Request

T = TypeVar("T")
OF_LABELS = ("target", "patient", "id_column", "separator", "negative", "uncertain", "split")
OF_SPLIT = ("split", "rule")


@click.group("probe", cls=OneLineGroup)
def probe() -> None:
    """Judge frozen features: a linear layer, nearest neighbours, attention over bags."""


def labels(are_needed: bool) -> Callable[..., Any]:
    """Returns the options about the report, the labels and the parts."""
    return options_of(
        click.argument("store"),
        click.option("-o", "output", required=True, metavar="PATH", help="Folder for the report."),
        click.option(
            "--overwrite", is_flag=True, help="Write into a folder that holds files; replaces those of an earlier report."
        ),
        click.option("--labels", required=are_needed, metavar="FILE", help="CSV file with a row per input."),
        click.option("--target", multiple=True, required=are_needed, metavar="COLUMN", help="Classes, or 0 and 1; may repeat."),
        click.option("--patient", required=are_needed, metavar="COLUMN", help="Whose the inputs are."),
        click.option("--id", "id_column", metavar="COLUMN", help="Names of the inputs; default: id, path, file …"),
        click.option("--separator", metavar="TEXT", help="Between labels in one cell, for example '|'."),
        click.option(
            "--negative",
            default="No Finding",
            show_default=True,
            metavar="TEXT",
            help="No label, in such a cell or of two words.",
        ),
        click.option("--uncertain", default="", metavar="HOW", help="-1 beside 0 and 1: drop, positive or negative."),
        click.option("--split", metavar="COLUMN", help="train, val and test; default: parts are made."),
        click.option("--make-split", "rule", default="patients", show_default=True, metavar="HOW", help="patients, rsna-mgca."),
        click.option(
            "--fractions", default="0.7,0.1,0.2", show_default=True, metavar="A,B,C", help="Of patients in the parts."
        ),
        click.option("--val-fraction", default=0.1, show_default=True, metavar="F", help="Of train, where there is no val."),
        click.option(
            "--threshold-on", "tuned_on", default="val", show_default=True, metavar="PART", help="val; test flatters."
        ),
        click.option("--rounds", "num_rounds", default=1000, show_default=True, metavar="N", help="Bootstrap rounds."),
        click.option("--seed", default=0, show_default=True, metavar="N", help="Of parts, training and bootstrap."),
        DEVICE,
    )


def threshold(default: str) -> Callable[..., Any]:
    """Returns the option about the rule for thresholds."""
    return click.option("--threshold", default=default, show_default=True, metavar="RULE", help="0.5, youden or corner.")


def features(default: str) -> Callable[..., Any]:
    """Returns the option about the tokens used."""
    return click.option("--features", default=default, show_default=True, metavar="WHICH", help="class, mean or both.")


@probe.command("linear")
@labels(True)
@features("both")
@threshold("youden")
@click.option("--lr", default=0.005, show_default=True, metavar="RATE", help="Learning rate.")
@click.option("--batch", default=1024, show_default=True, metavar="N", help="Inputs per step.")
@click.option("--epochs", default=50, show_default=True, metavar="N", help="Passes over train.")
@click.option("--optimizer", default="adamw", show_default=True, metavar="NAME", help="adamw, adam or sgd.")
@click.option("--weight-decay", default=0.0, show_default=True, metavar="W", help="Of the optimizer.")
@click.option("--schedule", default="constant", show_default=True, metavar="NAME", help="constant or cosine.")
@click.option("--keep", default="last", show_default=True, metavar="WHICH", help="last epoch, or best by the loss on val.")
@click.option("--standardise", is_flag=True, help="Zero mean and unit variance of every feature, by train.")
def linear(**options: Any) -> None:
    """Train one linear layer on the features in STORE, and report.

    \b
    nnunet-dino probe linear store --labels labels.csv --target pneumonia --patient patient -o report
    """
    from nnunet_dino.probes import LinearOptions, report_linear

    report_linear(_request(options), _record(LinearOptions, options), click.echo)


@probe.command("knn")
@labels(True)
@features("both")
@threshold("youden")
@click.option("-k", "numbers", default="5,10,20,50,100,200", show_default=True, metavar="K,K…", help="Numbers of neighbours.")
@click.option("--temperature", default=0.07, show_default=True, metavar="T", help="Of the softmax votes.")
@click.option("--leave-one-out", is_flag=True, help="No parts: every input against those of all other patients.")
def knn(**options: Any) -> None:
    """Let the nearest neighbours in STORE vote on every label, and report.

    \b
    nnunet-dino probe knn store --labels labels.csv --target pneumonia --patient patient -o report
    """
    from nnunet_dino.probes import KnnOptions, report_knn

    if options["leave_one_out"]:
        _refuse_beside("--leave-one-out", "which has no parts", OF_SPLIT)
    report_knn(_request(options), _record(KnnOptions, options), click.echo)


@probe.command("mil")
@labels(False)
@features("mean")
@threshold("0.5")
@click.option("--folds", default=0, show_default=True, metavar="N", help="Cross-validation instead of one split.")
@click.option("--repeats", default=1, show_default=True, metavar="N", help="How often, with other folds.")
@click.option("--workers", default=0, show_default=True, metavar="N", help="Trainings at a time; 0: one per processor.")
@click.option("--projection", default="512", show_default=True, metavar="N,N…", help="Widths of the projection.")
@click.option("--attention", default=256, show_default=True, metavar="N", help="Width of the gated attention.")
@click.option("--relu", is_flag=True, help="A ReLU after every layer of the projection.")
@click.option("--dropout", default=0.0, show_default=True, metavar="RATE", help="After every layer of the projection.")
@click.option("--optimizer", default="sgd", show_default=True, metavar="NAME", help="sgd, adam or adamw.")
@click.option("--lr", default=2e-4, show_default=True, metavar="RATE", help="Learning rate.")
@click.option("--weight-decay", default=1e-5, show_default=True, metavar="W", help="Of the optimizer.")
@click.option("--epochs", default=200, show_default=True, metavar="N", help="At most.")
@click.option("--patience", default=20, show_default=True, metavar="N", help="Epochs without progress on val; 0: train all.")
@click.option("--min-epochs", default=50, show_default=True, metavar="N", help="Before it may stop.")
@click.option("--bags", default=1, show_default=True, metavar="N", help="Bags per step.")
@click.option("--balanced/--every-bag", default=True, show_default=True, help="Classes equally often, or every bag once.")
@click.option("--standardise", is_flag=True, help="Zero mean and unit variance of every feature, by the training bags.")
@click.option("--maps", default=20, show_default=True, metavar="N", help="Slides whose attention is drawn, at most.")
def mil(**options: Any) -> None:
    """Train gated attention over the tiles or slices in STORE, and report.

    \b
    nnunet-dino probe mil slides --labels labels.csv --target tumour --patient patient -o report
    nnunet-dino probe mil musk1.npz --folds 10 --repeats 5 -o report

    STORE may also be an .npz file with instances (N, e), offsets (bags + 1) and labels (bags, 0 or 1).
    """
    from nnunet_dino.probes import FoldOptions, MilOptions, report_mil

    if options["folds"]:
        _refuse_beside("--folds", "which makes parts of its own", OF_SPLIT)
    mil_options, cross = _record(MilOptions, options), _record(FoldOptions, options)
    report_mil(_request(options), mil_options, cross, options["maps"], click.echo)


def _request(given: dict[str, Any]) -> Request:
    """Returns what all probes are asked."""
    from nnunet_dino.probes import EvaluationOptions, Request, SplitOptions

    if given["split"]:
        _refuse_beside("--split", "which names the parts", ("rule",))
    return Request(
        store=given["store"],
        output=given["output"],
        overwrite=given["overwrite"],
        features=given["features"],
        columns=_columns(given),
        splitting=_record(SplitOptions, {**given, "fractions": _fractions(given["fractions"])}),
        evaluation=_record(EvaluationOptions, {**given, "rule": given["threshold"]}),
        device=given["device"],
        command=shlex.join(["nnunet-dino", *sys.argv[1:]]),
    )


def _columns(given: dict[str, Any]) -> LabelColumns | None:
    """Returns where the labels are; None if no label file is named."""
    from nnunet_dino.probes import LabelColumns

    if given["labels"] is None:
        if option := _given((*OF_LABELS, "features")):
            raise UserError(f"{option}: required with --labels FILE · got none")
        return None
    for name in ("target", "patient"):
        if not given[name]:
            raise UserError(f"--{name}: required a column of {given['labels']} · got none")
    named = {"file": Path(given["labels"]), "targets": given["target"], "id": given["id_column"]}
    return _record(LabelColumns, {**given, **named})


def _given(names: tuple[str, ...]) -> str:
    """Returns the first of some options that stands on the command line; empty if none does."""
    context = click.get_current_context()
    options = {str(parameter.name): parameter.opts[0] for parameter in context.command.params}
    given = (options[name] for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE)
    return next(given, "")


def _refuse_beside(option: str, why: str, others: tuple[str, ...]) -> None:
    """Refuses options that would be passed over.

    Raises:
        UserError: One of them was given.
    """
    if other := _given(others):
        raise UserError(f"{other}: required without {option}, {why} · got both · leave one out")


def _record(kind: type[T], given: dict[str, Any]) -> T:
    """Returns a record whose fields are options of the same names."""
    return kind(**{field.name: given[field.name] for field in fields(kind)})  # type: ignore[arg-type]


def _fractions(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"--fractions: required three numbers that add up to 1, for example 0.7,0.1,0.2 · got {text!r}"
        ) from None
