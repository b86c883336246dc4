"""One job of a study: finds the command that it still takes, writes it into the log, and becomes that command."""

from __future__ import annotations

import os
import shlex
import sys
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

from nnunet_dino._errors import UserError
from nnunet_dino._files import claim_for_life
from nnunet_dino._nnunet_folders import read_json, require_folder
from nnunet_dino.study.jobs import PREPROCESSED, RESULTS, Job, Jobs, Subset, Training
from nnunet_dino.study.subsets import write_subset

FINAL = "checkpoint_final.pth"
UNFINISHED = ("checkpoint_latest.pth", "checkpoint_best.pth")
Command = tuple[list[str], Mapping[str, str]]
"""Words, and environment variables beside those of this process."""


def run_step(jobs: Jobs, job: Job, folder: Path) -> None:
    """Does a job; where it takes a command this process becomes it and does not return.

    Waits for another process that does the same job, such as one that a killed run left behind.
    """
    log = folder / job.log
    log.parent.mkdir(parents=True, exist_ok=True)
    claim_for_life(folder / job.lock)
    with log.open("a", encoding="utf-8") as file:
        for target in (sys.stdout, sys.stderr):
            target.flush()
            os.dup2(file.fileno(), target.fileno())
    command = command_of(jobs, job, folder)
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    if command is None:
        print(f"# {stamp} nothing left to do", flush=True)
        return
    words, environment = command
    line = " ".join([*(f"{name}={shlex.quote(value)}" for name, value in environment.items()), shlex.join(words)])
    print(f"# {stamp}\n$ {line}", flush=True)
    try:
        os.execvpe(words[0], words, {**os.environ, "PYTHONUNBUFFERED": "1", **environment})  # a killed job's log is whole
    except FileNotFoundError:
        raise UserError(f"required the command {words[0]} · got none on the path · run: pip install nnunet-dino") from None


def command_of(jobs: Jobs, job: Job, folder: Path) -> Command | None:
    """Returns the command that a job still takes; None where nothing is left to do.

    Raises:
        UserError: What is there was made with other plans.
    """
    match job.kind:
        case "train":
            return train_command(jobs, jobs.trainings[job.name], folder)
        case "subset":
            dataset, name = job.name.split("__")[:2]
            write_subset(jobs, dataset, next(subset for subset in jobs.subsets if subset.name == name), folder)
            return None
        case "compare" | "score":
            return compare_command(jobs, job, folder)
        case "predict":
            return predict_command(jobs, job, folder)
        case "best":
            return best_command(jobs, job.name)
    return preparing_command(jobs, job)


def preparing_command(jobs: Jobs, job: Job) -> Command | None:
    """Fingerprint, plan or preprocess, unless nnU-Net's folder has it: what a user has planned is not planned again."""
    dataset, _, plans = job.name.partition("__")
    folder, number = require_folder(PREPROCESSED) / dataset, str(int(dataset[7:10]))  # these commands take numbers only
    if job.kind == "fingerprint":
        done = (folder / "dataset_fingerprint.json").is_file()
        return None if done else (["nnUNetv2_extract_fingerprint", "-d", number, "-np", "2"], {})
    if job.kind == "plan":
        planner = jobs.study.plans[plans]
        words = ["nnUNetv2_plan_experiment", "-d", number, "-pl", planner, "-overwrite_plans_name", plans]
        return None if (folder / f"{plans}.json").is_file() else (words, {})
    missing = [name for name in jobs.study.configurations if not is_preprocessed(folder, plans, name)]
    words = ["nnUNetv2_preprocess", "-d", number, "-plans_name", plans, "-np", "2", "-c", *missing]
    return (words, {}) if missing else None


def is_preprocessed(folder: Path, plans: str, configuration: str) -> bool:
    """Whether a configuration's preprocessed data are there, with a file of properties for each training case.

    Raises:
        UserError: The plans do not have the configuration.
    """
    content = read_json(folder / f"{plans}.json", dict)["configurations"]
    if configuration not in content:
        raise UserError(
            f"configurations: required those in {folder / plans}.json ({', '.join(content)}) · got {configuration!r} · "
            "leave it out"
        )
    data = folder / str(inherited(content, configuration, "data_identifier"))
    references = len(list((folder / "gt_segmentations").glob("*")))
    return 0 < references == sum(file.stat().st_size > 0 for file in data.glob("*.pkl"))  # empty: killed while it was written


def inherited(configurations: Mapping, name: str | None, key: str) -> object:
    """Returns a value of a configuration in plans, or of the one that it inherits from; None if there is none."""
    while name is not None:
        if key in configurations[name]:
            return configurations[name][key]
        name = configurations[name].get("inherits_from")
    return None


def environment_of(subset: Subset, folder: Path) -> dict[str, str]:
    return {variable: str(subset.root(variable, folder.absolute())) for variable in (PREPROCESSED, RESULTS)}


def train_command(jobs: Jobs, training: Training, folder: Path) -> Command | None:
    """Trains, goes on with a training that was interrupted (``--c``), or validates one that has ended (``--val``).

    Checkpoints that a kill cut off are put aside first.
    """
    output = training.output(folder)
    check_plans(training, folder)
    for name in (FINAL, *UNFINISHED):
        put_aside_if_cut(output / name)
    ended = (output / FINAL).is_file()
    if ended and is_summarised(output / "validation" / "summary.json"):
        return None
    words = ["nnUNetv2_train", training.dataset, training.configuration, str(training.fold), "-tr", training.trainer]
    words += ["-p", training.plans, "-device", jobs.study.device]
    words += ["--npz"] if jobs.study.ensemble else []
    if ended:
        words.append("--val")
    elif any((output / name).is_file() for name in UNFINISHED):
        words.append("--c")
    return words, environment_of(training.subset, folder)


def is_summarised(summary: Path) -> bool:
    """Whether a validation's summary is there, written to its end."""
    try:
        read_json(summary, dict)
    except UserError:
        return False
    return True


def put_aside_if_cut(checkpoint: Path) -> None:
    """Renames a checkpoint that a killed training did not write to its end, so that nnU-Net goes on from an earlier one."""
    if checkpoint.is_file() and not zipfile.is_zipfile(checkpoint):
        print(f"# {checkpoint} was not written to its end: it is {checkpoint.name}.cut now", flush=True)
        checkpoint.replace(checkpoint.with_name(f"{checkpoint.name}.cut"))


DECIDING = ("spacing", "patch_size", "batch_size", "normalization_schemes", "data_identifier")


def check_plans(training: Training, folder: Path) -> None:
    """Refuses a folder of results that was made with other plans of the same name.

    Raises:
        UserError: Spacing, patch, batch, normalisation or data differ.
    """
    model = training.output(folder).parent
    plans = training.subset.root(PREPROCESSED, folder) / training.dataset / f"{training.plans}.json"
    if not (model / "plans.json").is_file() or not plans.is_file():
        return
    theirs, ours = (read_json(file, dict).get("configurations", {}) for file in (model / "plans.json", plans))
    name = training.configuration
    if name not in ours or name not in theirs:
        return
    for key in DECIDING:
        was, now = inherited(theirs, name, key), inherited(ours, name, key)
        if was != now:
            raise UserError(
                f"required results of the plans in {plans} · got {model}, trained with {key} {was} where the plans have {now} "
                "· move that folder away, or name other plans in study.yaml"
            )


def best_command(jobs: Jobs, dataset: str) -> Command:
    study = jobs.study
    words = [
        "nnUNetv2_find_best_configuration",
        dataset,
        "-p",
        *study.plans,
        "-c",
        *study.configurations,
        "-tr",
        *study.trainers,
    ]
    words += ["-f", *map(str, study.folds), "-np", "2"]
    return words + ([] if study.ensemble else ["--disable_ensembling"]), environment_of(Subset(), Path())


def predict_command(jobs: Jobs, job: Job, folder: Path) -> Command:
    """Predicts a test set with all folds of a model; goes on where an earlier run was."""
    dataset, subset, trainer, plans, configuration = job.name.split("__")
    study = jobs.study
    words = ["nnUNetv2_predict", "-d", dataset, "-i", str(study.test_sets[jobs.test_sets[dataset]].images.expanduser())]
    words += ["-o", str(predictions(folder, job.name)), "-tr", trainer, "-p", plans, "-c", configuration]
    words += ["-f", *map(str, study.folds), "-device", study.device, "--continue_prediction"]
    return words, environment_of(next(one for one in jobs.subsets if one.name == subset), folder)


def predictions(folder: Path, name: str) -> Path:
    return folder.absolute() / "predictions" / name


def compare_command(jobs: Jobs, job: Job, folder: Path) -> Command:
    """Compares the validation of all trainings of a data set and subset, or their predictions of its test set."""
    dataset, name = job.name.split("__")[:2]
    subset, study = next(one for one in jobs.subsets if one.name == name), jobs.study
    words = ["nnunet-dino", "compare", "-o", str(folder.absolute() / job.kind / job.name), "--overwrite", "--no-pictures"]
    words += [word for metric in study.metrics for word in ("--metric", metric)]
    if job.kind == "score":
        test = study.test_sets[jobs.test_sets[dataset]]
        description = require_folder("nnUNet_raw") / dataset / "dataset.json"
        for training in jobs.trainings.values():
            if (training.dataset, training.subset, training.fold) == (dataset, subset, study.folds[0]):
                words += ["--folder", f"{training.model}={predictions(folder, f'{job.name}__{training.model}')}"]
        words += ["--labels-folder", str(test.labels.expanduser()), "--dataset-json", str(description)]
        return words, {}
    words += ["-d", dataset, *(word for one in study.trainers for word in ("-tr", one))]
    words += [word for one in study.plans for word in ("-p", one)] + [
        word for one in study.configurations for word in ("-c", one)
    ]
    words += ["-f", ",".join(map(str, study.folds))]
    return words + (["--baseline", study.baseline] if study.baseline else []), environment_of(subset, folder)
