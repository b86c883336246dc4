"""``nnunet-dino study``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from nnunet_dino._errors import UserError
from nnunet_dino.cli._group import OneLineGroup

FOLDER = click.option("-o", "folder", default=".", type=click.Path(path_type=Path), help="Folder of the study; default: here.")


@click.group("study", cls=OneLineGroup)
def study() -> None:
    """Many data sets × trainers × folds as one study, run by Snakemake, on one page."""


@study.command("init")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-d", "datasets", multiple=True, required=True, metavar="ID", help="Data set; may be repeated.")
@click.option("-tr", "trainers", multiple=True, metavar="NAME", help="Trainer; may be repeated, the first is the baseline.")
@click.option("-c", "configurations", multiple=True, default=("3d_fullres",), metavar="NAME", help="Configuration.")
@click.option("-f", "folds", default="0, 1, 2, 3, 4", metavar="0,1,…", help="Folds.")
@click.option("--cases", default="all", metavar="5,10,all", help="Numbers of training cases.")
@click.option("--device", default="cuda", metavar="NAME", help="cuda, cpu or mps.")
def init(
    folder: Path,
    datasets: Sequence[str],
    trainers: Sequence[str],
    configurations: Sequence[str],
    folds: str,
    cases: str,
    device: str,
) -> None:
    """Write a commented study.yaml, and say how many trainings and hours that is."""
    from nnunet_dino._files import write_atomically
    from nnunet_dino.study import STUDY_FILE
    from nnunet_dino.study.template import study_yaml

    chosen = trainers or ("nnUNetTrainer", "nnUNetTrainerDINOv3L")
    if (folder / STUDY_FILE).exists():
        raise UserError(f"required a folder without a study · got {folder / STUDY_FILE} · edit it, or name another folder")
    write_atomically(folder / STUDY_FILE, study_yaml(datasets, chosen, configurations, folds, cases, device))
    write_atomically(
        folder / "Snakefile", "from nnunet_dino.study import SNAKEFILE\n\n\ninclude: str(SNAKEFILE)\n", overwrite=True
    )
    try:
        jobs = _checked(folder)
    except UserError:
        for name in (STUDY_FILE, "Snakefile"):
            (folder / name).unlink()
        raise
    usual = "" if trainers else ", as no -tr says others"
    click.echo(f"Trainers: {', '.join(chosen)}{usual}")
    click.echo(f"{folder / STUDY_FILE}: {_size(jobs, folder)}\nEdit it, then: nnunet-dino study run -o {folder}")


@study.command("run")
@FOLDER
@click.option("--cores", default=os.cpu_count() or 1, metavar="N", help="Processor cores for trainings; default: all.")
@click.option("--profile", default="local", metavar="NAME", help="local, slurm, or a folder with Snakemake's config.yaml.")
@click.option("--dry-run", "-n", is_flag=True, help="Say what would be done.")
@click.argument("more", nargs=-1, type=click.UNPROCESSED)
def run(folder: Path, cores: int, profile: str, dry_run: bool, more: Sequence[str]) -> None:
    """Run a study, or go on with it. What follows -- goes to Snakemake."""
    from nnunet_dino.study import SNAKEFILE
    from nnunet_dino.study.check import check_space
    from nnunet_dino.study.engine import require_snakemake, run_snakemake

    require_snakemake()
    jobs = _checked(folder)
    if not dry_run:
        check_space(jobs, folder)
    click.echo(_size(jobs, folder))
    run_snakemake(folder, SNAKEFILE, profile, cores, dry_run, more)


@study.command("status")
@FOLDER
def status(folder: Path) -> None:
    """Say what is done, running and failed, and where the logs are."""
    from nnunet_dino.study import jobs_of, read_study
    from nnunet_dino.study.states import status_of

    click.echo("\n".join(status_of(jobs_of(read_study(folder)), folder).lines()))


@study.command("report")
@FOLDER
def report(folder: Path) -> None:
    """Write the page of what there is by now, with CSV and LaTeX of every table."""
    from nnunet_dino.study import jobs_of, read_study
    from nnunet_dino.study.page import write_study_report

    click.echo(f"Report: {write_study_report(jobs_of(read_study(folder)), folder)}")


@study.command("step")
@click.argument("kind")
@click.argument("name")
def step(kind: str, name: str) -> None:
    """Do one job of the study in this folder; the rules of the Snakefile call it."""
    from nnunet_dino.study import jobs_of, read_study
    from nnunet_dino.study.steps import run_step

    jobs = jobs_of(read_study(Path()))
    if f"done/{kind}/{name}" not in jobs.by_marker:
        raise UserError(f"required a job of this study · got {kind} {name} · `nnunet-dino study status` names them")
    run_step(jobs, jobs.job(kind, name), Path())


def _checked(folder: Path):
    from nnunet_dino.study import jobs_of, read_study
    from nnunet_dino.study.check import check

    jobs = jobs_of(read_study(folder))
    check(jobs, folder)
    return jobs


def _size(jobs, folder: Path) -> str:
    from nnunet_dino.study.states import hours_of

    hours, measured = hours_of(jobs, folder)
    number = len(jobs.trainings)
    rates = f"rates of {measured} from logs, of {number - measured} as stated in study.yaml"
    return f"{number} trainings, {hours:.1f} hours one after another ({rates})"
