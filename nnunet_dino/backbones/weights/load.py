"""Where a backbone's weights are, what they are, and loading them.

Looked for, in this order: the environment variable ``nnUNet_dino_weights`` (a file, a folder, or the word ``random``), this
package's own store, the cache of the Hugging Face hub. Only :func:`ensure_local` uses the network.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from nnunet_dino._errors import UserError
from nnunet_dino.backbones.catalogue import CATALOGUE, BackboneSpec, get_spec
from nnunet_dino.backbones.weights import hub
from nnunet_dino.backbones.weights.fit import fit
from nnunet_dino.backbones.weights.formats import Conversion, ConversionReport, to_timm
from nnunet_dino.backbones.weights.reading import RawCheckpoint, read_checkpoint, weights_file

RANDOM = "random"
ENVIRONMENT_VARIABLE = "nnUNet_dino_weights"
STORE_VARIABLE = "nnUNet_dino_store"
NAME_KEY = "nnunet_dino_name"
DIGEST_KEY = "nnunet_dino_digest"


@dataclass(frozen=True)
class LoadedWeights:
    """Weights ready for ``Backbone(spec).vit.load_state_dict``.

    Attributes:
        state: Exactly the tensors of the backbone by timm's names, float32, on the CPU; they may be memory-mapped.
        digest: See :func:`digest_of`.
        source: Where they came from, for messages.
        report: What was used, dropped and filled.
    """

    state: dict[str, Tensor]
    digest: str
    source: str
    report: ConversionReport


def digest_of(state: Mapping[str, Tensor]) -> str:
    """Returns the sha256, in hex digits, of float32 tensors: names, shapes and little-endian values, sorted by name.

    It depends on the values alone, not on the file format that they came in.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        array = state[name].detach().contiguous().numpy().astype("<f4", copy=False)
        shape = ",".join(str(length) for length in array.shape)
        digest.update(f"{name} {shape}\n".encode())
        digest.update(array.reshape(-1).view("u1").data)
    return digest.hexdigest()


def wants_random() -> bool:
    """Returns whether the environment variable asks for random weights."""
    return _setting() == RANDOM


def _setting() -> str:
    return os.environ.get(ENVIRONMENT_VARIABLE, "").strip()


def store_folder() -> Path:
    """Returns the folder of this package's own store, which may not exist yet.

    The folder that ``nnUNet_dino_weights`` names, or else ``nnUNet_dino_store``, or else a folder in the user's cache.
    """
    setting = _setting()
    if setting and setting != RANDOM and Path(setting).expanduser().is_dir():
        return Path(setting).expanduser()
    return _default_store()


def _default_store() -> Path:
    if named := os.environ.get(STORE_VARIABLE, "").strip():
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME", "").strip()
    return (Path(cache) if cache else Path.home() / ".cache") / "nnunet_dino" / "weights"


def locate(name: str) -> Path | None:
    """Returns the file or folder with the weights of the backbone ``name``, or None; never uses the network.

    Raises:
        UserError: ``name`` is unknown, the environment variable names nothing that exists, or two different candidates lie in
            one place.
    """
    spec = get_spec(name)
    if wants_random():
        return None
    if (named := named_model()) is not None:
        return named
    folders = [Path(_setting()).expanduser()] if _setting() else []
    folders.append(_default_store())
    for folder in folders:
        if candidates := _candidates(spec, folder):
            return _the_one(spec, candidates)
    if in_cache := hub.cached(spec):
        return in_cache[0]
    return None


def named_model() -> Path | None:
    """Returns the file or model folder that the environment variable names, or None if it names a folder to search, or nothing.

    Raises:
        UserError: It names something that does not exist.
    """
    setting = _setting()
    if not setting or setting == RANDOM:
        return None
    place = Path(setting).expanduser()
    if not place.exists():
        raise UserError(
            f"weights: required a file, a folder or the word {RANDOM!r} in {ENVIRONMENT_VARIABLE} · got {setting}, which "
            f"does not exist · correct or unset {ENVIRONMENT_VARIABLE}"
        )
    is_model_folder = (place / "config.json").is_file() and weights_file(place) is not None
    return place if place.is_file() or is_model_folder else None


def _candidates(spec: BackboneSpec, folder: Path) -> list[Path]:
    """Returns what ``folder`` holds under the known names of ``spec``: store file, Meta file, clones and caches of the hub."""
    if not folder.is_dir():
        return []
    names = [f"{spec.name}.safetensors", f"{spec.name}.pth"] + ([spec.meta_file] if spec.meta_file else [])
    found = [folder / name for name in names if (folder / name).is_file()]
    for source in hub.sources(spec):
        for name in (source.short_name, source.repository.replace("/", "--")):
            if (folder / f"{name}.safetensors").is_file():
                found.append(folder / f"{name}.safetensors")
            inside = weights_file(folder / name)
            if inside is not None:
                found.append(inside)
    return found + hub.cached(spec, folder)


def _the_one(spec: BackboneSpec, candidates: list[Path]) -> Path:
    first, *others = candidates
    for other in others:
        digests = [load_file(spec, path).digest for path in (first, other)]
        if digests[0] != digests[1]:
            raise UserError(
                f"weights of {spec.name}: required one set · got {first} (digest {digests[0][:12]}) and {other} "
                f"(digest {digests[1][:12]}) · remove one, or name the file in {ENVIRONMENT_VARIABLE}"
            )
    return first


def load(name: str, path: Path | None = None) -> LoadedWeights:
    """Loads the weights of the backbone ``name`` from ``path``, or from where :func:`locate` finds them.

    Raises:
        UserError: There are none, or the file is damaged, of an unknown format or of another backbone.
    """
    spec = get_spec(name)
    if path is None:
        if wants_random():
            raise UserError(_random_message(name))
        path = locate(name)
        if path is None:
            raise UserError(missing_weights_message(name))
    return load_file(spec, path)


def _random_message(name: str) -> str:
    return (
        f"weights of {name}: required a file · got {ENVIRONMENT_VARIABLE}={RANDOM}, and random weights are made, not loaded "
        f"· unset {ENVIRONMENT_VARIABLE}"
    )


def load_file(spec: BackboneSpec, path: Path) -> LoadedWeights:
    """Loads the weights of ``spec`` from a file or folder.

    Raises:
        UserError: As for :func:`load`.
    """
    raw = read_checkpoint(path)
    return convert(spec, path, raw, to_timm(raw.tensors, path))


def convert(spec: BackboneSpec, path: Path, raw: RawCheckpoint, renamed: Conversion) -> LoadedWeights:
    """Turns a checkpoint that has been read and renamed into the weights of ``spec``.

    Raises:
        UserError: It is of another backbone, or its values are not those that were imported.
    """
    _check_name(spec, path, raw.metadata)
    state, report = fit(renamed, spec, path, raw.config)
    digest = digest_of(state)
    stated = raw.metadata.get(DIGEST_KEY, digest)
    if stated != digest:
        raise UserError(
            f"damaged weights: required digest {stated}, which {path} states · got {digest} · import the original again: "
            f"`nnunet-dino weights import FILE --as {spec.name} --force`"
        )
    return LoadedWeights(state, digest, str(path), report)


def _check_name(spec: BackboneSpec, path: Path, metadata: Mapping[str, str]) -> None:
    """Refuses a file that says it is of another backbone, which may have the same shapes."""
    said = stated_name(path, metadata)
    if said and said != spec.name:
        raise UserError(
            f"wrong weights: required those of {spec.name} · got {path}, which holds {said} "
            f"· take the file of {spec.name} ({ENVIRONMENT_VARIABLE} may also name a folder with one file per backbone)"
        )


def stated_name(path: Path, metadata: Mapping[str, str]) -> str:
    """Returns the backbone that a file says it is of, by what an import wrote into it or by Meta's file name, or ""."""
    return metadata.get(NAME_KEY) or next((spec.name for spec in CATALOGUE.values() if spec.meta_file == path.name), "")


def ensure_local(name: str) -> Path:
    """Returns the weights of the backbone ``name``, downloading them if this machine has none.

    Raises:
        UserError: Random weights are asked for, or there are none and they cannot be downloaded.
    """
    if wants_random():
        raise UserError(_random_message(name))
    return locate(name) or hub.download(get_spec(name))


def missing_weights_message(name: str, digest: str | None = None) -> str:
    """Returns one line for an error: the weights of ``name`` are not on this machine, and how to get them.

    Args:
        name: A backbone.
        digest: The digest of the very weights that are needed, if it matters.
    """
    spec = get_spec(name)
    which = f"the weights of {name}" + (f" with digest {digest}" if digest else "")
    if not hub.sources(spec):
        return f"missing weights: required {which} · got none in {places()} · {hub.random_hint()}"
    return (
        f"missing weights: required {which} · got none in {places()} "
        f"· run `nnunet-dino weights fetch {name}`; without network: {hub.by_hand(spec)}"
    )


def places() -> str:
    """Returns where weights are looked for, in this order, for messages."""
    return f"{ENVIRONMENT_VARIABLE} ({_setting() or 'unset'}), {_default_store()} and the Hugging Face cache"
