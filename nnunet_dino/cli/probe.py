"""``nnunet-dino probe``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from nnunet_dino.cli._group import OneLineGroup
from nnunet_dino.cli._options import DEVICE, options_of


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
        click.option("--negative", default="No Finding", show_default=True, metavar="TEXT", help="No label, in such a cell."),
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
    from nnunet_dino.probes.linear import LinearOptions
    from nnunet_dino.probes.linear_command import run
    from nnunet_dino.probes.options import record, request

    run(click.echo, request(options), record(LinearOptions, options))


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
    from nnunet_dino.probes.knn import KnnOptions
    from nnunet_dino.probes.knn_command import run
    from nnunet_dino.probes.options import record, request

    run(click.echo, request(options), record(KnnOptions, options))


@probe.command("mil")
@labels(False)
@features("mean")
@threshold("0.5")
@click.option("--folds", default=0, show_default=True, metavar="N", help="Cross-validation instead of one split.")
@click.option("--repeats", default=1, show_default=True, metavar="N", help="How often, with other folds.")
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
    from nnunet_dino.probes.mil_command import FoldOptions, run
    from nnunet_dino.probes.mil_training import MilOptions
    from nnunet_dino.probes.options import record, request

    run(click.echo, request(options), record(MilOptions, options), record(FoldOptions, options))
