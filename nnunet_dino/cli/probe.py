"""``nnunet-dino probe``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from nnunet_dino._errors import UserError
from nnunet_dino.cli._group import OneLineGroup
from nnunet_dino.cli._options import DEVICE, options_of
from nnunet_dino.probes.options import (
    LBFGS,
    MAX_SEED,
    EvaluationOptions,
    FewShotOptions,
    FoldOptions,
    KnnOptions,
    LabelColumns,
    LinearOptions,
    MilFolds,
    MilOptions,
    Request,
    SplitOptions,
    check_number,
)

T = TypeVar("T")
OF_LABELS = ("target", "patient", "id", "separator", "negative", "uncertain", "split")
OF_SPLIT = ("split", "make_split")


@click.group("probe", cls=OneLineGroup)
def probe() -> None:
    """Judge frozen features: a linear layer, nearest neighbours, attention over bags."""


def options(*kinds: type, has_labels: bool = False, **defaults: str) -> Callable[..., Any]:
    """Returns the argument and the options of a probe, made from the fields of records; each name is one option.

    Args:
        kinds: Records that only this probe has.
        has_labels: Whether the store may hold the labels itself.
        defaults: Other defaults than those of the records, by name of the option.
    """
    optional = (LabelColumns,) if has_labels else ()
    made = made_options((Request, LabelColumns, SplitOptions, EvaluationOptions, *kinds), optional, **defaults)
    return options_of(click.argument("store"), *made, DEVICE)


def made_options(kinds: Iterable[type], optional: tuple[type, ...] = (), **defaults: str) -> list[Callable[..., Any]]:
    """Returns the options that are made from the fields of records; of two with one name, the first.

    Args:
        kinds: The records.
        optional: Those of them whose fields without a default may be left out.
        defaults: Other defaults than those of the records, by name of the option.
    """
    made: dict[str, Callable[..., Any]] = {}
    for kind in kinds:
        for each in fields(kind):
            if name := _name(each):
                is_needed = each.default is MISSING and kind not in optional
                made.setdefault(name, _option(name, each, is_needed, defaults.get(name, each.default)))
    return list(made.values())


def _name(each: Field) -> str:
    """Returns the name of a field's option; empty if it is none."""
    return each.metadata.get("flag", "").split("/")[0].lstrip("-").replace("-", "_")


def _option(name: str, each: Field, is_needed: bool, default: Any) -> Callable[..., Any]:
    how = {"metavar": each.metadata["metavar"], "help": each.metadata["meaning"]}
    if each.metadata.get("multiple"):
        how |= {"multiple": True}
    elif isinstance(default, tuple):
        default = ",".join(map(str, default))
    if each.default is MISSING:
        return click.option(each.metadata["flag"], name, required=is_needed, **how)
    is_shown = default is not None and default is not False and default != ""
    return click.option(
        each.metadata["flag"], name, default=default, is_flag=isinstance(default, bool), show_default=is_shown, **how
    )


@probe.command("linear")
@options(FoldOptions, LinearOptions, FewShotOptions)
def linear(**given: Any) -> None:
    """Train one linear layer on the features in STORE, and report.

    \b
    nnunet-dino probe linear store --labels labels.csv --target pneumonia --patient patient -o report
    """
    from nnunet_dino.probes import report_linear

    _check_folds(given)
    if given["optimizer"] == LBFGS:
        _refuse_beside("--optimizer lbfgs", "which has no steps to set", ("lr", "sweep", "batch", "epochs", "schedule", "keep"))
    elif _given(("l2",)):
        raise UserError("--l2: required with --optimizer lbfgs · got it alone · leave it out, or use --weight-decay")
    if given["sweep"]:
        _refuse_beside("--sweep", "which chooses by one val part", ("lr", "features", "folds"))
    shots = record(FewShotOptions, given)
    report_linear(_request(given), record(LinearOptions, given), record(FoldOptions, given), click.echo, shots)


@probe.command("knn")
@options(FoldOptions, KnnOptions)
def knn(**given: Any) -> None:
    """Let the nearest neighbours in STORE vote on every label, and report.

    \b
    nnunet-dino probe knn store --labels labels.csv --target pneumonia --patient patient -o report
    """
    from nnunet_dino.probes import report_knn

    if given["leave_one_out"]:
        _refuse_beside("--leave-one-out", "which has no parts", (*OF_SPLIT, "folds"))
    _check_folds(given)
    report_knn(_request(given), record(KnnOptions, given), record(FoldOptions, given), click.echo)


@probe.command("mil")
@options(MilFolds, MilOptions, has_labels=True, features="mean", threshold="0.5")
@click.option("--maps", default=20, show_default=True, metavar="N", help="Slides whose attention is drawn, at most.")
def mil(maps: int, **given: Any) -> None:
    """Train gated attention over the tiles or slices in STORE, and report.

    \b
    nnunet-dino probe mil slides --labels labels.csv --target tumour --patient patient -o report
    nnunet-dino probe mil musk1.npz --folds 10 --repeats 5 -o report

    STORE may also be an .npz file with instances (N, e), offsets (bags + 1) and labels (bags, 0 or 1).
    """
    from nnunet_dino.probes import report_mil

    _check_folds(given)
    report_mil(_request(given), record(MilOptions, given), record(MilFolds, given), maps, click.echo)


@probe.command("compare")
@click.argument("reports", nargs=-1, required=True)
@click.option("-o", "output", required=True, metavar="PATH", help="Folder for the report.")
@click.option("--overwrite", is_flag=True, help="Write into a folder that holds files; replaces those of an earlier report.")
@click.option("--rounds", default=10_000, show_default=True, metavar="N", help="Bootstrap rounds.")
@click.option("--seed", default=0, show_default=True, metavar="N", help="Of the bootstrap.")
@click.option("--time", "time_on", metavar="DEVICE", help="Time the encoders there, with random weights: cpu, cuda …")
def compare(reports: tuple[str, ...], output: str, overwrite: bool, rounds: int, seed: int, time_on: str | None) -> None:
    """Test whether probes differ that were tested on the same inputs: the first of REPORTS against each of the others.

    \b
    nnunet-dino probe compare linear_a linear_b -o a_against_b
    """
    from nnunet_dino.probes import compare_probes

    check_number("--rounds", rounds, least=100)
    check_number("--seed", seed, least=0, most=MAX_SEED)
    compare_probes(reports, output, rounds, seed, overwrite, _command(), click.echo, time_on)


def _command() -> str:
    return shlex.join(["nnunet-dino", *sys.argv[1:]])


@probe.command("apply")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("inputs", nargs=-1, required=True)
@click.option("-o", "output", required=True, metavar="PATH", type=click.Path(path_type=Path), help="Folder for the report.")
@click.option("--overwrite", is_flag=True, help="Write into a folder that holds files; replaces those of an earlier report.")
@click.option(
    "--maps", "num_maps", default=20, show_default=True, metavar="N", help="Slides whose attention is drawn, at most."
)
@DEVICE
def apply(num_maps: int, **given: Any) -> int:
    """Score new INPUTS with MODEL, the report of `probe linear` or `probe mil`.

    \b
    nnunet-dino probe apply report new_images/ -o scores
    nnunet-dino probe apply slide_report/mil.safetensors store -o scores

    INPUTS: as for `extract`, and shown as the training images were; or one store. Exit code 1 if an input could not be read.
    """
    from nnunet_dino.probes import apply_probe

    check_number("--maps", num_maps, least=0)
    return bool(apply_probe(**given, num_maps=num_maps, command=shlex.join(["nnunet-dino", *sys.argv[1:]]), echo=click.echo))


def _request(given: dict[str, Any]) -> Request:
    """Returns what all probes are asked."""
    if given["split"]:
        _refuse_beside("--split", "which names the parts", ("make_split",))
    from nnunet_dino.features.store.layout import FACTS, read_facts

    store = Path(given["store"])
    if _given(("features",)):
        if given["labels"] and store.exists() and not (store / FACTS).exists():
            required = "--features: required a store of `nnunet-dino extract`, which holds several"
            raise UserError(f"{required} · got {store} · leave it out")
    elif (store / FACTS).is_file():
        has_mean_only = read_facts(store).tokens == ("patch_mean",)  # of encoders without a class token
        given["features"] = "mean" if has_mean_only else given["features"]
    return record(
        Request,
        given,
        store=given["store"],
        columns=_columns(given),
        splitting=record(SplitOptions, given, fractions=_fractions(given["fractions"])),
        evaluation=record(EvaluationOptions, given),
        device=given["device"],
        command=_command(),
    )


def _columns(given: dict[str, Any]) -> LabelColumns | None:
    """Returns where the labels are; None if no label file is named."""
    if given["labels"] is None:
        if flag := _given((*OF_LABELS, "features")):
            raise UserError(f"{flag}: required with --labels FILE · got none")
        return None
    for name in ("target", "patient"):
        if not given[name]:
            raise UserError(f"--{name}: required a column of {given['labels']} · got none")
    return record(LabelColumns, given, file=Path(given["labels"]))


def _given(names: tuple[str, ...]) -> str:
    """Returns the first of some options that stands on the command line; empty if none does."""
    context = click.get_current_context()
    flags = {str(parameter.name): parameter.opts[0] for parameter in context.command.params}
    return next((flags[name] for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE), "")


def _refuse_beside(flag: str, why: str, others: tuple[str, ...]) -> None:
    """Refuses options that would be passed over."""
    if other := _given(others):
        raise UserError(f"{other}: required without {flag}, {why} · got both · leave one out")


def _check_folds(given: dict[str, Any]) -> None:
    if given["folds"]:
        _refuse_beside("--folds", "which makes parts of its own", OF_SPLIT)


def record(kind: type[T], given: dict[str, Any], **more: Any) -> T:
    """Returns a record from the options that its fields are made to, and from what is none."""
    return kind(**{each.name: given[_name(each)] for each in fields(kind) if _name(each)} | more)  # type: ignore[arg-type]


def _fractions(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"--fractions: required three numbers that add up to 1, for example 0.7,0.1,0.2 · got {text!r}"
        ) from None
