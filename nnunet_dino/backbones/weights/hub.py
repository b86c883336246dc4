"""Weights on the Hugging Face hub: which repositories, what its cache holds, and downloading when a person asks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_dino._errors import UserError
from nnunet_dino._files import exclusive
from nnunet_dino.backbones.catalogue import BackboneSpec
from nnunet_dino.backbones.model_folder import CONFIGS
from nnunet_dino.backbones.spec import NO_LICENCE
from nnunet_dino.backbones.weights.reading import FILES_OF_A_FOLDER, INDEX_FILE, parts_of

HUB_URL = "https://huggingface.co"
META_PAGE = "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads"


@dataclass(frozen=True)
class Source:
    """One repository with the weights of a backbone.

    Attributes:
        repository: ``owner/name`` on the hub.
        files: Names the weights file may have there; the first is the one to download.
        gated: True where access has to be asked for.
        mirror: True where others than the authors serve the weights.
    """

    repository: str
    files: tuple[str, ...]
    gated: bool = False
    mirror: bool = False

    @property
    def address(self) -> str:
        """Where it is downloaded from: the hub, or the mirror that ``HF_ENDPOINT`` names."""
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{self.repository}"

    @property
    def page(self) -> str:
        """Address of the repository."""
        return f"{HUB_URL}/{self.repository}"

    @property
    def short_name(self) -> str:
        """Name of the repository without its owner; what a cloned folder is called."""
        return self.repository.partition("/")[2]


def sources(spec: BackboneSpec) -> list[Source]:
    """Returns the repositories with the weights of ``spec``, those open to all first."""
    found = []
    if spec.timm_hub:
        found.append(Source(spec.timm_hub, ("model.safetensors", "pytorch_model.bin"), mirror=True))
    if spec.open_hub:
        found.append(Source(spec.open_hub, (spec.open_file,)))
    if spec.gated_hub:
        found.append(Source(spec.gated_hub, FILES_OF_A_FOLDER, gated=True))
    return found


def cached(spec: BackboneSpec, cache_folder: Path | None = None) -> list[Path]:
    """Returns the weights of ``spec`` that a hub cache holds, at most one per repository; never uses the network.

    Args:
        spec: The backbone.
        cache_folder: A folder in the layout of the hub's cache; by default the user's.
    """
    from huggingface_hub import try_to_load_from_cache

    found = []
    for source in sources(spec):
        for name in source.files:
            path = try_to_load_from_cache(source.repository, name, cache_dir=cache_folder)
            path = path if isinstance(path, str) else _carried_by_hand(source, name, cache_folder)
            if path and _is_complete(Path(path)):
                found.append(Path(path))
                break
    return found


def _carried_by_hand(source: Source, name: str, cache_folder: Path | None) -> str | None:
    """Returns the file of the one snapshot that has it, where the cache does not say which is the newest, or says it badly."""
    from huggingface_hub import constants

    repository = Path(cache_folder or constants.HF_HUB_CACHE, f"models--{source.repository.replace('/', '--')}")
    found = list(repository.glob(f"snapshots/*/{name}"))
    return str(found[0]) if len(found) == 1 else None


def _is_complete(path: Path) -> bool:
    """A model in several parts counts only when all its parts are there; a damaged list of them is found when it is read."""
    try:
        return path.name != INDEX_FILE or all((path.parent / part).is_file() for part in parts_of(path).values())
    except UserError:
        return True


def _refuse_offline(what: str, otherwise: str) -> None:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise UserError(f"download of {what}: required a network · got HF_HUB_OFFLINE=1 · unset it, or {otherwise}")


def download(spec: BackboneSpec, look_again: Callable[[], Path | None] = lambda: None, replace: bool = False) -> Path:
    """Downloads the weights of ``spec`` into the user's hub cache and returns the file.

    The open repositories are tried first; a gated one only where the user is logged in. Of several processes one downloads.

    Args:
        spec: The backbone.
        look_again: Asked when it is this process's turn: what another has downloaded meanwhile.
        replace: Also download a file that the cache has, because it is damaged.

    Raises:
        UserError: The backbone is on no hub, the network is switched off, or no repository could be read.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import logging

    available = sources(spec)
    if not available:
        raise UserError(
            f"weights: required a backbone that can be downloaded · got {spec.name}, which is on no hub · {random_hint(spec)}"
        )
    _refuse_offline(spec.name, by_hand(spec))
    logging.set_verbosity_error()  # it would print every retry
    failures = []
    with exclusive(Path(constants.HF_HUB_CACHE, ".locks", f"nnunet_dino-{spec.file_stem}.lock")):
        if found := look_again():
            return found
        for source in available:
            if source.gated and not get_token():
                continue
            try:
                return _download_from(source, spec, {"force_download": True} if replace else {})
            except Exception as error:  # the hub client passes on errors of whichever HTTP library it is built on
                failures.append(f"{source.address}: {_in_short(error)}")
    hints = [
        f"{name} is set to {os.environ[name]}" for name in ("HF_ENDPOINT", "HTTPS_PROXY", "https_proxy") if os.environ.get(name)
    ]
    got = "; ".join(failures + hints)
    raise UserError(f"download of {spec.name}: required a reachable repository · got {got} · {by_hand(spec)}")


def download_named(repository: str) -> None:
    """Downloads configuration and weights of a repository that a user named, with the user's token if there is one.

    Raises:
        UserError: It cannot be read, or holds no weights of a known name.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    page = f"{HUB_URL}/{repository}"
    _refuse_offline(repository, "name a folder")
    print(f"nnunet-dino: downloading from {page}; mind its licence", file=sys.stderr, flush=True)
    for names in (CONFIGS, [name for name in FILES_OF_A_FOLDER if name != INDEX_FILE]):
        for name in names:
            try:
                hf_hub_download(repository, name)
                break
            except EntryNotFoundError:
                continue
            except Exception as error:  # of whichever HTTP library the hub client is built on
                raise UserError(
                    f"download of {repository}: required a reachable repository · got {_in_short(error)} · if it is gated, ask "
                    f"for access at {page}, then `hf auth login`"
                ) from error
        else:
            raise UserError(f"download of {repository}: required one of {', '.join(names)} · got none of them at {page}")


def _download_from(source: Source, spec: BackboneSpec, how: dict[str, Any]) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download

    name = source.files[0]
    message = f"downloading {spec.name} from {source.address} ({name}); licence: {spec.licence}"
    print(f"nnunet-dino: {message}", file=sys.stderr, flush=True)
    if not source.gated:
        return Path(hf_hub_download(source.repository, name, token=False, **how))  # an expired token would be refused
    folder = Path(snapshot_download(source.repository, allow_patterns=["*.safetensors", INDEX_FILE, "config.json"], **how))
    return next(folder / name for name in source.files if (folder / name).is_file())


def _in_short(error: BaseException) -> str:
    from huggingface_hub.errors import FileMetadataError, LocalEntryNotFoundError

    if isinstance(error, LocalEntryNotFoundError):
        return _in_short(error.__cause__) if error.__cause__ else "no connection"
    if isinstance(error, FileMetadataError):
        return "an answer that is not the hub's, such as a login page or an incomplete mirror"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"HTTP {status}: refused, by a proxy or for a token without access (unset HF_TOKEN, or `hf auth login`)"
    if status is not None:
        return f"HTTP {status}"
    first_line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__} {first_line[:200]}".strip()


def by_hand(spec: BackboneSpec) -> str:
    """Returns how to get the weights of ``spec`` without this machine's network, as the remedy of an error."""
    steps = []
    for source in sources(spec):
        if source.gated:
            steps.append(f"ask for access at {source.page}" + (f" or {META_PAGE}" if spec.meta_file else ""))
        else:
            kind = "open mirror, same licence" if source.mirror else "open"
            steps.append(f"on a machine with network get {source.files[0]} from {source.page} ({kind})")
    return f"{', or '.join(steps)}; then run `nnunet-dino weights import FILE --as {spec.name}`"


def random_hint(spec: BackboneSpec) -> str:
    """Returns the remedy for a backbone that is on no hub, or that exists with random weights only."""
    if spec.licence != NO_LICENCE:
        return f"get its file from its authors, then run `nnunet-dino weights import FILE --as {spec.name}`"
    return "it exists with random weights only, for tests: export nnUNet_dino_weights=random"
