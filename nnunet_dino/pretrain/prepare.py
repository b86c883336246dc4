"""A preprocessed folder from unlabelled scans: nnU-Net's own preprocessor, with the plans of a planned data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_dino._errors import UserError
from nnunet_dino._files import LOCK, exclusive, write_atomically
from nnunet_dino._nnunet_folders import dataset_name, read_json, require_folder
from nnunet_dino.features.items import Unreadable, is_of_the_machine
from nnunet_dino.features.progress import progress
from nnunet_dino.nnunet.check_plans import planned_configuration, read_plans
from nnunet_dino.pretrain.prepared_folder import RECORD, begin, check_folder, new_folder, write_record
from nnunet_dino.pretrain.scans import Scan, find_scans, orientation_of, read_scan

PREPROCESSOR = "DefaultPreprocessor"


@dataclass(frozen=True)
class Options:
    """What is prepared.

    Attributes:
        images: Folder of scans.
        like: Number or name of the data set whose plans are used.
        plans: Name of the plans.
        configuration: Of the plans.
        output: ``DatasetXXX_NAME``, a new one in ``nnUNet_preprocessed``, or a path that ends so.
        skips_broken: Go on when a scan cannot be read.
    """

    images: Path
    like: str
    plans: str
    configuration: str
    output: Path
    skips_broken: bool


@dataclass(frozen=True)
class _Work:
    """Everything that is needed for each scan."""

    plans: Any
    configuration: Any
    dataset_json: dict[str, Any]
    orientation: str
    folder: Path


def prepare(options: Options, echo: Callable[[str], object]) -> Path:
    """Prepares every scan that has not been prepared yet; the same call goes on after an interruption.

    Labels are not looked for. Every case becomes ``CASE.b2nd``, float32, compressed slice by slice, and ``CASE.pkl``.

    Returns:
        The folder of the new data set.

    Raises:
        UserError: The data set or its plans are unknown; there are no scans; the output is another data set, or was made in
            another way; or a scan cannot be read and ``skips_broken`` is false.
    """
    like = require_folder("nnUNet_preprocessed") / dataset_name(options.like, ["nnUNet_preprocessed"])
    plans = read_plans(like, options.plans)
    planned = planned_configuration(plans, options.configuration)
    if planned.get("preprocessor_name") != PREPROCESSOR:
        raise UserError(
            f"--like: required plans with nnU-Net's {PREPROCESSOR} · got {planned.get('preprocessor_name')} in {options.plans} "
            "· use other plans"
        )
    scans = find_scans(options.images, len(planned["normalization_schemes"]))
    orientation, doubt = orientation_of(like / planned["data_identifier"])
    output = new_folder(options.output)
    description = read_json(like / "dataset.json", dict)
    settings = {
        "like": like.name,
        "plans": options.plans,
        "configuration": options.configuration,
        "orientation": orientation,
        "digest_of_plans": hashlib.sha256(json.dumps(plans, sort_keys=True).encode()).hexdigest(),
    }
    check_folder(output, settings)
    echo(f"{len(scans)} scans in {options.images}, like {like.name} ({options.plans}, {options.configuration}) in {output}")
    names = {scan.name for scan in scans}
    if beside := min((name for name in names if f"{name}_0001" in names), default=None):
        echo(f"Note: {beside} and {beside}_0001 are taken for two scans, as {like.name} has one channel")
    if doubt:
        echo(f"Note: orientation: {doubt}")
    with exclusive(output / LOCK, wait_s=0, busy="wait until it has finished"):
        check_folder(output, settings)
        left = [scan for scan in scans if not _is_done(scan, output / planned["data_identifier"])]
        channels = {"channel_names": description["channel_names"], "labels": {"background": 0}, "numTraining": len(scans)}
        begin(
            output,
            settings,
            {**plans, "dataset_name": output.name},
            options.plans,
            channels | {"file_ending": description.get("file_ending", ".nii.gz")},
        )
        work = _work(output / planned["data_identifier"], plans, options.configuration, description, orientation)
        if len(left) < len(scans):
            echo(f"{len(scans) - len(left)} of them are done already")
        broken = _run(left, work, options.skips_broken, echo)
        write_record(output, settings, broken)
        echo(
            f"{len(scans) - len(broken)} cases in {work.folder}" + (f"; {len(broken)} left out, see {RECORD}" if broken else "")
        )
        echo(f"next: nnunet-dino pretrain {int(output.name[7:10])} -c {options.configuration} -p {options.plans} -o DIR")
    return output


def _work(folder: Path, plans: dict[str, Any], configuration: str, description: dict[str, Any], orientation: str) -> _Work:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    folder.mkdir(parents=True, exist_ok=True)
    return _Work(manager, manager.get_configuration(configuration), description, orientation, folder)


def _run(scans: list[Scan], work: _Work, skips_broken: bool, echo: Callable[[str], object]) -> dict[str, str]:
    """Prepares scans; returns the names of those that cannot be read, with the reason."""
    broken: dict[str, str] = {}
    for scan in progress(scans, len(scans), "scan"):
        try:
            _prepare_one(scan, work)
        except (Unreadable, _Unusable) as error:
            broken[scan.name] = f"{scan.sources[0]}: {error}"
            if not skips_broken:
                raise UserError(
                    f"--images: required scans that can be read · got {broken[scan.name]} · mend or remove it, or leave such "
                    "scans out with --skip-broken; the same command goes on where it stopped"
                ) from error
            echo(f"left out: {broken[scan.name]}")
    return broken


class _Unusable(ValueError):
    """A scan that was read and cannot be preprocessed."""


def _is_done(scan: Scan, folder: Path) -> bool:
    """Whether a case is there whole.

    Raises:
        UserError: It was made of another scan.
    """
    if not (folder / f"{scan.name}.b2nd").is_file():
        return False
    from batchgenerators.utilities.file_and_folder_operations import load_pickle

    source = load_pickle(str(folder / f"{scan.name}.pkl")).get("source")
    if source != scan.sources:
        raise UserError(
            f"--images: required a name of its own for every scan · got {scan.name!r} of {scan.sources[0]}, where {folder} has "
            f"one of {source} · rename one, or give another -o"
        )
    return True


def _prepare_one(scan: Scan, work: _Work) -> None:
    import blosc2
    from batchgenerators.utilities.file_and_folder_operations import write_pickle

    values, spacing_mm, notes = read_scan(scan, work.orientation)
    preprocessor = work.configuration.preprocessor_class(verbose=False)
    properties: dict[str, Any] = {"spacing": spacing_mm, "source": scan.sources, "notes": notes}
    try:
        data, _, properties = preprocessor.run_case_npy(
            values, None, properties, work.plans, work.configuration, work.dataset_json
        )
    except Exception as error:
        if isinstance(error, MemoryError) or is_of_the_machine(error):
            raise UserError(
                f"{scan.name}: required memory to resample it · got {error} · free some and run the same command again"
            ) from error
        raise _Unusable(" ".join(f"{type(error).__name__}: {error}".split())[:200]) from error
    data = np.ascontiguousarray(data, np.float32)
    if not np.isfinite(data).all():
        raise _Unusable("after normalisation some values are not finite")
    blosc2.set_nthreads(1)
    chunks = (1, 1, *data.shape[2:])
    target = work.folder / f"{scan.name}.b2nd"
    write_atomically(target.with_suffix(".pkl"), lambda path: write_pickle(properties, path))
    write_atomically(target, lambda path: _compressed(data, path, chunks))


def _compressed(data: np.ndarray, path: str, chunks: tuple[int, ...]) -> None:
    import blosc2

    Path(path).unlink()  # blosc2 makes its file itself
    blosc2.asarray(data, urlpath=path, chunks=chunks, cparams={"codec": blosc2.Codec.LZ4HC, "clevel": 5, "nthreads": 1})
