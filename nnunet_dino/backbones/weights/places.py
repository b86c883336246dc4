"""Where a backbone's weights are looked for.

In this order: the environment variable ``nnUNet_dino_weights`` (a file, a folder, or the word ``random``), this package's own
store, the cache of the Hugging Face hub. Only :func:`ensure_local` uses the network.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from nnunet_dino._errors import UserError
from nnunet_dino._files import user_cache
from nnunet_dino.backbones.catalogue import CATALOGUE, BackboneSpec, get_spec
from nnunet_dino.backbones.weights import hub
from nnunet_dino.backbones.weights.loading import LoadedWeights, load_file
from nnunet_dino.backbones.weights.reading import weights_file, where_else

RANDOM = "random"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".distcp")
MAX_FILES = 1000  # looked at in a folder that is named
ENVIRONMENT_VARIABLE = "nnUNet_dino_weights"
STORE_VARIABLE = "nnUNet_dino_store"


def wants_random() -> bool:
    """Returns whether the environment variable asks for random weights."""
    return _setting() == RANDOM


def _setting() -> str:
    return os.environ.get(ENVIRONMENT_VARIABLE, "").strip()


def store_folder() -> Path:
    """Returns the folder of this package's own store, which may not exist yet.

    The folder that ``nnUNet_dino_weights`` names, or else ``nnUNet_dino_store``, or else a folder in the user's cache.
    """
    with _readable():
        setting = _setting()
        if setting and setting != RANDOM and _expanded(setting).is_dir():
            return _expanded(setting)
        store = _default_store()
    if store.parts[0] == "~":
        raise UserError(f"store: required a home folder · got none for this user · name a folder in {STORE_VARIABLE}")
    return store


def _default_store() -> Path:
    """Returns the store beside the environment variable; one in ``~`` where this user has no home folder, and so none."""
    if named := os.environ.get(STORE_VARIABLE, "").strip():
        return _expanded(named)
    return user_cache() / "weights"


def _expanded(path: str) -> Path:
    return Path(os.path.expanduser(path))  # which leaves what it cannot expand, where pathlib's raises


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"weights: required places that can be read · got {error.filename}: {error.strerror or error} · change its "
            f"permissions, or name another place in {ENVIRONMENT_VARIABLE} or {STORE_VARIABLE}"
        ) from error


def locate(name: str) -> Path | None:
    """Returns the file or folder with the weights of the backbone ``name``, or None; never uses the network.

    Raises:
        UserError: ``name`` is unknown, the environment variable names nothing that exists, a place cannot be read, or two
            different candidates lie in one place.
    """
    spec = get_spec(name)
    if wants_random():
        return None
    if spec.place:
        return Path(spec.place)
    if (named := named_model()) is not None:
        return named
    with _readable():
        if _setting():
            folder = _expanded(_setting())
            if candidates := _candidates(spec, folder):
                return _the_one(spec, candidates)
            _refuse_unknown_names(spec, folder)
        if candidates := _candidates(spec, _default_store()):
            return _the_one(spec, candidates)
        return next(iter(hub.cached(spec)), None)


def named_model() -> Path | None:
    """Returns the file or model folder that the environment variable names, or None if it names a folder to search, or nothing.

    Raises:
        UserError: It names something that does not exist.
    """
    setting = _setting()
    if not setting or setting == RANDOM:
        return None
    place = _expanded(setting)
    with _readable():
        if not place.exists():
            raise UserError(
                f"weights: required a file, a folder or the word {RANDOM!r} in {ENVIRONMENT_VARIABLE} · got {setting}, which "
                f"does not exist · correct or unset {ENVIRONMENT_VARIABLE}; {where_else(setting)}"
            )
        is_model_folder = weights_file(place) is not None or (place / ".metadata").is_file()
        return place if place.is_file() or is_model_folder else None


def _candidates(spec: BackboneSpec, folder: Path) -> list[Path]:
    """Returns what ``folder`` holds under the known names of ``spec``: store file, Meta file, clones and caches of the hub."""
    if not folder.is_dir():
        return []
    os.listdir(folder)  # a folder that may not be read would look empty
    found = [folder / name for name in _file_names(spec) if (folder / name).is_file()]
    for source in hub.sources(spec):
        for name in (source.short_name, source.repository.replace("/", "--")):
            if (inside := weights_file(folder / name)) is not None:
                found.append(inside)
    return found + hub.cached(spec, folder)


def _refuse_unknown_names(spec: BackboneSpec, folder: Path) -> None:
    """What is named is used: a folder with weights under names that no backbone has, also below, is not passed over."""
    known = {name for other in CATALOGUE.values() for name in _file_names(other)}
    known |= {Path(name).stem for name in known}  # folders of the same names
    found = (file.relative_to(folder) for file in folder.rglob("*") if file.suffix in SUFFIXES)
    files = sorted(
        str(file)
        for file in itertools.islice(found, MAX_FILES)
        if not known & {*file.parts} and not file.parts[0].startswith(("models--", "."))
    )
    if files:
        raise UserError(
            f"weights of {spec.name}: required a file named as in `nnunet-dino weights list` in the folder that "
            f"{ENVIRONMENT_VARIABLE} names · got {', '.join(files[:3])}{' …' if files[3:] else ''} in {folder} · name the file "
            f"itself in {ENVIRONMENT_VARIABLE}, or rename it to {spec.name}{Path(files[0]).suffix}"
        )


def _file_names(spec: BackboneSpec) -> list[str]:
    """Returns the names that a file of ``spec`` may have in a folder with several backbones."""
    names = [f"{spec.file_stem}.safetensors", f"{spec.file_stem}.pth"] + ([spec.meta_file] if spec.meta_file else [])
    for source in hub.sources(spec):
        names += [f"{name}.safetensors" for name in (source.short_name, source.repository.replace("/", "--"))]
    return names


def _the_one(spec: BackboneSpec, candidates: list[Path]) -> Path:
    first, *others = candidates
    for other in others:
        digests = [load_file(path, spec).digest for path in (first, other)]
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
        _refuse_random(name)
        path = locate(name)
        if path is None:
            raise UserError(missing_weights_message(name))
    return load_file(path, spec)


def _refuse_random(name: str) -> None:
    if wants_random():
        raise UserError(
            f"weights of {name}: required a file · got {ENVIRONMENT_VARIABLE}={RANDOM}, and random weights are made, not "
            f"loaded · unset {ENVIRONMENT_VARIABLE}"
        )


def ensure_local(name: str) -> Path:
    """Returns the weights of the backbone ``name``, downloading them if this machine has none.

    Of several processes that ask together one downloads and the others find its file.

    Raises:
        UserError: Random weights are asked for, or there are none and they cannot be downloaded.
    """
    _refuse_random(name)
    if (path := locate(name)) is None:
        return hub.download(get_spec(name), lambda: locate(name))
    if _setting() and not get_spec(name).place and not path.is_relative_to(_expanded(_setting())):
        message = f"{ENVIRONMENT_VARIABLE} ({_setting()}) has no weights of {name}; taken are those of {path}"
        print(f"nnunet-dino: {message}", file=sys.stderr, flush=True)
    return path


def missing_weights_message(name: str, digest: str | None = None) -> str:
    """Returns one line for an error: the weights of ``name`` are not on this machine, and how to get them.

    Args:
        name: A backbone.
        digest: The digest of the very weights that are needed, if it matters.
    """
    spec = get_spec(name)
    which = f"the weights of {name}" + (f" with digest {digest}" if digest else "")
    if not hub.sources(spec):
        return f"missing weights: required {which} · got none in {places()} · {hub.random_hint(spec)}"
    return (
        f"missing weights: required {which} · got none in {places()} "
        f"· run `nnunet-dino weights fetch {name}`; without network: {hub.by_hand(spec)}"
    )


def places() -> str:
    """Returns where weights are looked for, in this order, for messages."""
    return f"{ENVIRONMENT_VARIABLE} ({_setting() or 'unset'}), {_default_store()} and the Hugging Face cache"
