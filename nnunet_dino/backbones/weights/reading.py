"""Checkpoint files -> tensors, without running any code that a file may hold."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import warnings
import zipfile
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nnunet_dino._errors import UserError
from nnunet_dino.backbones.weights.formats import FORMATS_READ

INDEX_FILE = "model.safetensors.index.json"
FILES_OF_A_FOLDER = (INDEX_FILE, "model.safetensors", "pytorch_model.bin", "model.pth")
AGAIN = "get the file again"
_HASH_IN_NAME = re.compile(r"[-_]([0-9a-f]{8})\.[a-z]+")


@dataclass(frozen=True)
class RawCheckpoint:
    """The tensors of a checkpoint under the file's own names, memory-mapped where the format allows.

    Attributes:
        tensors: Tensors by name.
        config: Content of a ``config.json`` beside the weights; empty if there is none.
        metadata: Text that a safetensors file carries.
    """

    tensors: dict[str, Tensor]
    config: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


def weights_file(folder: Path) -> Path | None:
    """Returns the file in ``folder`` that holds a model's weights or lists its parts, if there is one."""
    return next((folder / name for name in FILES_OF_A_FOLDER if (folder / name).is_file()), None)


def read_checkpoint(path: Path) -> RawCheckpoint:
    """Reads a checkpoint file, an index of several, or a folder that holds either.

    Raises:
        UserError: Nothing there, not a checkpoint, damaged, or the file holds code.
    """
    if path.is_dir():
        inside = weights_file(path)
        if inside is None:
            raise _error(path, f"a folder without {', '.join(FILES_OF_A_FOLDER)}", "name the file itself")
        path = inside
    if not path.is_file():
        raise _error(path, "no such file", "check the path")
    try:
        if path.name.endswith(".index.json"):
            return _read_parts(path)
        return _read_file(path)
    except OSError as error:
        raise _error(path, f"an unreadable file ({error.strerror or error})", "check its permissions") from error


def _error(path: Path, got: str, remedy: str) -> UserError:
    return UserError(f"weights: required {FORMATS_READ} · got {path}: {got} · {remedy}")


def _read_file(path: Path) -> RawCheckpoint:
    with open(path, "rb") as file:
        start = file.read(512)
    kind = _kind_of(start, path)
    _check_hash_in_name(path)
    if kind == "safetensors":
        tensors, metadata = _read_safetensors(path)
        return RawCheckpoint(tensors, _config_beside(path), metadata)
    return RawCheckpoint(_read_torch(path, mapped=kind == "zip"), _config_beside(path))


def _kind_of(start: bytes, path: Path) -> str:
    text = start.lstrip().lower()
    if not start.strip(b"\0 \n\r\t"):
        raise _error(path, "an empty file" if not start else "a file of zeros", AGAIN)
    if start.startswith(b"version https://git-lfs"):
        raise _error(path, "a git-lfs pointer, not the weights themselves", "run `git lfs pull` in its folder")
    if text.startswith(b"<"):
        raise _error(path, "a web page", "the link may have expired or ask for a login: " + AGAIN)
    if text.startswith(b"{"):
        raise _error(path, "a JSON text", "name the weights file beside it, or the folder")
    if start.startswith(b"PK"):
        return "zip"
    if start[8:9] == b"{":
        return "safetensors"
    if start.startswith(b"\x80"):
        return "pickle"
    raise _error(path, f"a file of unknown kind (it begins with {start[:8]!r})", AGAIN)


def _check_hash_in_name(path: Path) -> None:
    match = _HASH_IN_NAME.search(path.name)
    if match is None or _is_date(match[1]):
        return
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)
    if not found.startswith(match[1]):
        raise _error(
            path,
            f"a file whose sha256 begins with {found[:8]}, not with {match[1]} as its name says",
            f"it is incomplete or was changed: {AGAIN}",
        )


def _sha256(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _is_date(digits: str) -> bool:
    try:
        return 1990 <= datetime.strptime(digits, "%Y%m%d").year < 2100
    except ValueError:
        return False


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except SafetensorError as error:
        raise _error(path, f"a truncated or damaged safetensors file ({error})", AGAIN) from error


def _read_torch(path: Path, mapped: bool) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is raised as an error
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)|(Unsupported operand \d+)", str(error))
        if code is None:
            raise _error(path, "a truncated or damaged PyTorch file", AGAIN) from error
        got = f"a file with pickled code ({code[1] or code[2]}), which is never run here"
        raise _error(path, got, "ask for a file with tensors only, best as .safetensors") from error
    except (RuntimeError, EOFError, zipfile.BadZipFile, KeyError, ValueError, IndexError) as error:
        raise _error(path, "a truncated or damaged PyTorch file", AGAIN) from error
    content = content.get("teacher", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not content:
        raise _error(path, f"a PyTorch file that holds a {type(content).__name__} and no tensors by name", AGAIN)
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise _error(path, f"a PyTorch file with entries that are no tensors ({', '.join(others[:4])})", "name another file")
    return {str(name): tensor for name, tensor in content.items()}


def _read_parts(index: Path) -> RawCheckpoint:
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise _error(index, "a damaged index of parts", AGAIN) from error
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(parts.values())):
        part = index.parent / name
        if not part.is_file():
            raise _error(index, f"an index whose part {name} is not there", f"get {name} into the same folder")
        tensors.update(_read_file(part).tensors)
    missing = sorted(set(parts) - set(tensors))
    if missing:
        raise _error(index, f"parts without {missing[0]} and {len(missing) - 1} more", AGAIN)
    return RawCheckpoint(tensors, _config_beside(index))


def _config_beside(path: Path) -> dict[str, Any]:
    """Returns the ``config.json`` beside a file that is named as in a model folder."""
    config = path.parent / "config.json"
    if path.name not in FILES_OF_A_FOLDER or not config.is_file():
        return {}
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _error(config, "a damaged config.json", AGAIN) from error
    return content if isinstance(content, dict) else {}
