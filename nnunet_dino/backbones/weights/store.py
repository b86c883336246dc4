"""Fetching weights into this machine's cache and importing files into the store."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from safetensors.torch import save_file

from nnunet_dino._errors import UserError
from nnunet_dino._files import remove_unfinished, write_atomically
from nnunet_dino.backbones.catalogue import BackboneSpec, get_spec
from nnunet_dino.backbones.spec import HUB
from nnunet_dino.backbones.weights import hub
from nnunet_dino.backbones.weights.loading import DIGEST_KEY, NAME_KEY, PRETRAINING_KEY, LoadedWeights, load_file
from nnunet_dino.backbones.weights.model_config import STATISTICS_KEY
from nnunet_dino.backbones.weights.places import STORE_VARIABLE, ensure_local, store_folder, wants_random


def fetch(name: str) -> LoadedWeights:
    """Returns the weights of ``name``, downloaded into the hub's cache unless this machine has good ones.

    Raises:
        UserError: They cannot be downloaded, or what is there is not good and lies elsewhere than in the hub's cache.
    """
    if name.startswith(HUB):
        hub.download_named(name.removeprefix(HUB))
    spec = get_spec(name)
    path = hub.download(spec) if wants_random() else ensure_local(name)
    try:
        return load_file(path, spec)
    except UserError as error:
        if path not in hub.cached(spec):
            raise
        print(f"nnunet-dino: downloading again: {error}", file=sys.stderr, flush=True)
    return load_file(hub.download(spec, replace=True), spec)


def import_file(path: Path, name: str | None = None, force: bool = False) -> tuple[Path, LoadedWeights]:
    """Writes the weights in ``path`` into the store in canonical form and returns where, and what they are.

    Args:
        path: A file or folder of any known format.
        name: The backbone; it may be left out where the file fits exactly one.
        force: Replace different weights of that backbone in the store.

    Raises:
        UserError: The file is not good, fits several backbones, the store has other weights, or it cannot be written.
    """
    loaded = load_file(path, None if name is None else get_spec(name, "--as"))
    if len(loaded.names) > 1:
        options = " or ".join(f"--as {fitted}" for fitted in loaded.names)
        raise UserError(f"import: required the backbone's name · got {path}, which fits {len(loaded.names)} · add {options}")
    spec = get_spec(loaded.names[0])
    target = store_folder() / f"{spec.file_stem}.safetensors"
    remove_unfinished(target.parent)
    there = _digest_there(spec, target)
    if there == loaded.digest:
        return target, loaded
    if there and not force:
        raise UserError(
            f"import: required no other weights of {spec.name} in the store · got {target} with digest {there[:12]}, "
            f"the new one is {loaded.digest[:12]} · --force replaces it"
        )
    metadata = {
        NAME_KEY: spec.name,
        DIGEST_KEY: loaded.digest,
        "source": path.name,
        "licence": loaded.licence,
        "format": "pt",
    }
    if loaded.statistics is not None:
        metadata[STATISTICS_KEY] = json.dumps(dict(zip(("mean", "std"), loaded.statistics, strict=True)))
    if loaded.pretraining:
        metadata[PRETRAINING_KEY] = loaded.pretraining
    remedy = f"free {4 * spec.num_parameters / 1e6:.0f} MB, or name a folder that can be written in {STORE_VARIABLE}"
    write_atomically(target, lambda unfinished: save_file(loaded.state, unfinished, metadata), remedy, overwrite=bool(there))
    return target, loaded


def _digest_there(spec: BackboneSpec, target: Path) -> str:
    """Returns the digest of what the store has, or "" where it has nothing."""
    try:
        return load_file(target, spec).digest if target.exists() else ""
    except OSError as error:
        raise UserError(
            f"import: required a store that can be read · got {target}: {error.strerror or error} "
            f"· change its permissions, or name another folder in {STORE_VARIABLE}"
        ) from error
    except UserError:
        return "unreadable"
