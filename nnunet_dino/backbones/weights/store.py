"""What the verbs ``nnunet-dino weights list | fetch | import | verify`` do."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from nnunet_dino._errors import UserError
from nnunet_dino.backbones.catalogue import CATALOGUE, BackboneSpec, get_spec
from nnunet_dino.backbones.weights import hub
from nnunet_dino.backbones.weights import load as weights
from nnunet_dino.backbones.weights.fit import closest, fitting
from nnunet_dino.backbones.weights.formats import Conversion, to_timm
from nnunet_dino.backbones.weights.reading import RawCheckpoint, read_checkpoint


@dataclass(frozen=True)
class Row:
    """One backbone as ``weights list`` shows it.

    Attributes:
        spec: The row of the catalogue.
        found: Where the weights are, or why there are none.
    """

    spec: BackboneSpec
    found: str


@dataclass(frozen=True)
class Checked:
    """A file that holds good weights.

    Attributes:
        names: The backbones it fits; several where they differ in nothing but the values.
        loaded: Its weights.
    """

    names: tuple[str, ...]
    loaded: weights.LoadedWeights


def rows() -> list[Row]:
    """Returns every backbone of the catalogue and where its weights are; never uses the network.

    Raises:
        UserError: The environment variable names nothing, a file that cannot be read, or a place with contradictions.
    """
    return [Row(spec, _found(spec)) for spec in CATALOGUE.values()]


def _found(spec: BackboneSpec) -> str:
    if weights.wants_random():
        return f"random ({weights.ENVIRONMENT_VARIABLE})"
    path = weights.locate(spec.name)
    if path is None:
        return "not found" if hub.sources(spec) else "random weights only"
    if path == weights.named_model() and spec.name not in check(path).names:
        return f"not found ({weights.ENVIRONMENT_VARIABLE} names another backbone's weights)"
    return str(path)


def fetch(name: str) -> weights.LoadedWeights:
    """Returns the weights of ``name``, downloaded into the hub's cache unless this machine has them.

    Raises:
        UserError: They cannot be downloaded, or what is there is not good.
    """
    spec = get_spec(name)
    path = None if weights.wants_random() else weights.locate(name)
    return weights.load_file(spec, path or hub.download(spec))


def check(path: Path, name: str | None = None) -> Checked:
    """Reads ``path`` as the weights of ``name``, or of whichever backbone it fits.

    Raises:
        UserError: It is damaged, of an unknown format, or fits no backbone (or not ``name``).
    """
    raw = read_checkpoint(path)
    renamed = to_timm(raw.tensors, path)
    names = _names(path, raw, renamed, name)
    return Checked(tuple(names), weights.convert(get_spec(names[0]), path, raw, renamed))


def _names(path: Path, raw: RawCheckpoint, renamed: Conversion, name: str | None) -> list[str]:
    if name is not None:
        return [get_spec(name).name]
    if stated := weights.stated_name(path, raw.metadata):
        return [stated]
    return fitting(renamed) or [closest(renamed).name]


def import_file(path: Path, name: str | None = None, force: bool = False) -> tuple[Path, Checked]:
    """Writes the weights in ``path`` into the store in canonical form and returns where, and what they are.

    Args:
        path: A file or folder of any known format.
        name: The backbone; it may be left out where the file fits exactly one.
        force: Replace different weights of that backbone in the store.

    Raises:
        UserError: The file is not good, fits several backbones, the store has other weights, or it cannot be written.
    """
    checked = check(path, name)
    if len(checked.names) > 1:
        options = " or ".join(f"--as {fitted}" for fitted in checked.names)
        raise UserError(f"import: required the backbone's name · got {path}, which fits {len(checked.names)} · add {options}")
    spec, loaded = get_spec(checked.names[0]), checked.loaded
    target = weights.store_folder() / f"{spec.name}.safetensors"
    if target.exists():
        there = _digest_there(spec, target)
        if there == loaded.digest:
            return target, checked
        if not force:
            raise UserError(
                f"import: required no other weights of {spec.name} in the store · got {target} with digest {there[:12]}, "
                f"the new one is {loaded.digest[:12]} · --force replaces it"
            )
    metadata = {
        weights.NAME_KEY: spec.name,
        weights.DIGEST_KEY: loaded.digest,
        "source": path.name,
        "licence": spec.licence,
        "format": "pt",
    }
    try:
        _write(target, loaded, metadata)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"import: required a store that can be written and {4 * spec.num_parameters / 1e6:.0f} MB free "
            f"· got {error} for {target} · free some space or name another folder in {weights.STORE_VARIABLE}"
        ) from error
    return target, checked


def _digest_there(spec: BackboneSpec, target: Path) -> str:
    try:
        return weights.load_file(spec, target).digest
    except UserError:
        return "unreadable"


def _write(target: Path, loaded: weights.LoadedWeights, metadata: dict[str, str]) -> None:
    """Writes beside ``target`` first and renames at the end, so that ``target`` is always whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        save_file(loaded.state, unfinished, metadata)
        os.chmod(unfinished, _usual_mode())  # safetensors makes files that only their owner can read
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, target)
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()


def _usual_mode() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
