"""The checks of the doctor. None of them imports torch or nnU-Net into this process, so a broken library cannot end it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from nnunet_dino._environment import unknown_variables
from nnunet_dino._nnunet_folders import PURPOSE, command_to_set
from nnunet_dino.nnunet.discovery.boot import switched_off
from nnunet_dino.nnunet.doctor.ask import ask
from nnunet_dino.nnunet.doctor.finding import Check, Finding, Level

PACKAGE = Path(__file__).parent.parent
LOW_DISK_GB = 10
_LIBRARIES_FIRST = "mend the libraries above first"
_SHOWN = ("nnunetv2", "torch", "torchvision", "timm", "peft", "dynamic-network-architectures")


def versions() -> Iterator[Finding]:
    """Python, this package and what it requires, against the version windows that this package declares."""
    yield Finding("ok", f"Python {sys.version.split()[0]} · {sys.executable}")
    try:
        ours = metadata.distribution("nnunet-dino")
    except metadata.PackageNotFoundError:
        yield Finding("FAIL", "nnunet-dino is not installed, only importable", f"pip install -e {PACKAGE.parent}")
        requirements = []
    else:
        yield Finding("ok", f"nnunet-dino {ours.version} · {PACKAGE}")
        requirements = ours.requires or []
    windows = _windows(requirements)
    for name in dict.fromkeys([*_SHOWN, *windows]):
        window = windows.get(name, "")
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding("FAIL", f"{name} is not installed", f'pip install "{name}{window}"')
            continue
        if window and not _fits(version, window):
            yield Finding("FAIL", f"{name} {version} · required {window}", f'pip install "{name}{window}"')
        elif name in _SHOWN:
            yield Finding("ok", f"{name} {version}")
    if importlib.util.find_spec("distutils") is None:
        yield Finding("FAIL", "distutils is missing, which nnUNetv2_preprocess imports", "pip install setuptools")


def libraries() -> Iterator[Finding]:
    """Whether the compiled packages load and work together."""
    answers = ask()
    for name in ("torch", "timm", "peft"):
        if why := answers.error(name):
            yield Finding("FAIL", f"{name} cannot be imported · {why}", f"pip install --force-reinstall {name}")
    if answers.values.get("torchvision") is True:
        yield Finding("ok", "torch and torchvision are a matched pair")
    else:
        why = answers.error("torchvision") or "its operators return wrong values"
        remedy = "pip install --force-reinstall torch torchvision (both from the same index)"
        yield Finding("FAIL", f"torch and torchvision do not match · {why}", remedy)
    if answers.values.get("backbone") is True:
        yield Finding("ok", "a backbone is built with LoRA and encodes an image")
    else:
        why = answers.error("backbone") or "its tokens are not finite"
        yield Finding("FAIL", f"no backbone can be built with LoRA · {why}", "pip install --upgrade timm peft")


def devices() -> Iterator[Finding]:
    """What nnU-Net can train on, and in which precision the backbone computes there."""
    answers = ask()
    if why := answers.error("devices"):
        yield Finding("FAIL", f"devices unknown · {why}", _LIBRARIES_FIRST)
        return
    found = answers.values["devices"]
    for device in found:
        yield Finding("ok", f"{device['name']} · {device['text']} · backbone in {device['dtype']}")
    if len(found) == 1:
        yield Finding("note", "no GPU: nnUNetv2_train and nnUNetv2_predict need -device cpu; extract, look and probe find out")


def folders() -> Iterator[Finding]:
    """nnU-Net's three folders."""
    for variable, purpose in PURPOSE.items():
        value = os.environ.get(variable, "")
        place = Path(value)
        if not value:
            yield Finding("FAIL", f"{variable} is not set ({purpose})", f'{command_to_set(variable)} && mkdir -p "${variable}"')
        elif not place.is_dir():
            yield Finding("FAIL", f"{variable} = {value} · no such folder", f'mkdir -p "{value}"')
        elif variable != "nnUNet_raw" and not _writable(place):
            remedy = f'chmod u+w "{value}", or point {variable} at a folder of yours'
            yield Finding("FAIL", f"{variable} = {value} · cannot be written to", remedy)
        else:
            free = shutil.disk_usage(place).free / 1e9
            text = f"{variable} = {value} · {free:.0f} GB free"
            if free < LOW_DISK_GB and variable != "nnUNet_raw":
                yield Finding("warn", text, "free some space, or point it at another disk")
            else:
                yield Finding("ok", text)


def discovery() -> Iterator[Finding]:
    """By which way stock commands find our trainers and planners, tried in a fresh Python."""
    answers = ask()
    if why := answers.error("hook"):
        yield Finding("FAIL", f"nnU-Net's class look-up cannot be tried · {why}", _LIBRARIES_FIRST)
        return
    way = "the start-up hook" if answers.values["hook"] else "nnUNet_extTrainer"
    for kind, command in (("trainer", "nnUNetv2_train"), ("planner", "nnUNetv2_plan_experiment")):
        if why := answers.error(kind):
            yield Finding("FAIL", f"{kind}s are found but cannot be loaded · {why}", "mend what it names, then run this again")
        elif answers.values[kind]:
            yield Finding("ok", f"{command} finds our {kind}s · by {way}")
        elif kind == "trainer":
            yield Finding("FAIL", f"{command} does not find our trainers · {_why_no_hook()}", _way_to_be_found())
        else:
            yield Finding("note", f"{command} does not find our planners", "nnunet-dino plan -d 9 does the same without it")
    yield from _commands()


def variables() -> Iterator[Finding]:
    """Variables that nobody reads, because of a slip in their names."""
    for name, hint in unknown_variables().items():
        yield Finding("FAIL", f"{name} is not read by nnunet-dino{hint}", f"unset {name}")


def weights() -> Iterator[Finding]:
    """Where the weights of the published backbones lie."""
    answers = ask()
    if answers.values.get("random") is True:
        yield Finding("warn", "nnUNet_dino_weights=random: backbones are not pretrained", "unset nnUNet_dino_weights")
        return
    if why := answers.error("weights"):
        yield Finding("warn", f"weights not looked for · {why}", _LIBRARIES_FIRST)
        return
    found = answers.values["weights"]
    for name, place in found.items():
        if place.startswith("error: "):
            yield Finding("warn", f"{name} · {place}", "correct what it names, then run this again")
        elif place:
            yield Finding("ok", f"{name} · {place}")
    missing = [name for name, place in found.items() if not place]
    if missing:
        level: Level = "warn" if len(missing) == len(found) else "note"
        text = f"not on this machine: {', '.join(missing)} (a training fetches its own at the start)"
        yield Finding(level, text, "nnunet-dino weights fetch NAME, or nnunet-dino weights import FILE")


def _windows(requirements: list[str]) -> dict[str, str]:
    """Returns the version window of each required package, extras left out."""
    from packaging.requirements import Requirement

    parsed = [Requirement(text) for text in requirements]
    return {r.name: str(r.specifier) for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})}


def _fits(version: str, window: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(window).contains(version, prereleases=True)


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _why_no_hook() -> str:
    if switched_off():
        return f"nnUNet_dino_hook={os.environ['nnUNet_dino_hook']} switches the start-up hook off"
    if importlib.util.find_spec("_nnunet_dino_boot") is None:
        return "the start-up hook is not installed"
    return "Python does not run the start-up hook, because it lies in no site-packages folder of this environment"


def _way_to_be_found() -> str:
    by_variable = 'export nnUNet_extTrainer="$(nnunet-dino trainers-path)" (nnU-Net 2.8 and later)'
    if switched_off():
        return f"unset nnUNet_dino_hook, or {by_variable}"
    return f"pip install --force-reinstall --no-deps nnunet-dino (in a checkout: -e .), or {by_variable}"


def _commands() -> Iterator[Finding]:
    """Whether the nnUNetv2 commands on PATH are those of this environment."""
    command = shutil.which("nnUNetv2_train")
    here = Path(sys.executable).parent
    if command is None:
        yield Finding("warn", "the command nnUNetv2_train is not on PATH", f'export PATH="{here}:$PATH"')
    elif Path(command).parent.resolve() != here.resolve():
        text = f"nnUNetv2_train on PATH is {command}, not the one of this environment"
        yield Finding("warn", text, f'export PATH="{here}:$PATH", or install nnunet-dino in the other environment')


def slides() -> Iterator[Finding]:
    """What whole slides need beside the rest."""
    for package, purpose in (("openslide", "reads whole slides"), ("h5py", "writes h5 files for CLAM")):
        if importlib.util.find_spec(package) is None:
            yield Finding("note", f"{package} is not installed, which {purpose}", "pip install 'nnunet-dino[wsi]'")
        else:
            yield Finding("ok", f"{package} {purpose}")


CHECKS: dict[str, Check] = {
    "versions": versions,
    "libraries": libraries,
    "devices": devices,
    "nnU-Net folders": folders,
    "variables": variables,
    "discovery": discovery,
    "weights": weights,
}
OF_PROBES: dict[str, Check] = {
    "versions": versions,
    "libraries": libraries,
    "devices": devices,
    "variables": variables,
    "weights": weights,
    "slides": slides,
}
