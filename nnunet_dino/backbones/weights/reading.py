"""Checkpoint files -> tensors, without running any code that a file may hold.

The one place that reads files of weights, so that whatever a file holds ends in tensors or in one line that names it.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from nnunet_dino._checkpoints import numpy_types
from nnunet_dino._errors import UserError
from nnunet_dino.backbones.weights.releases import first_digits
from nnunet_dino.backbones.weights.unwrapping import descend

FORMATS_READ = (
    "a DINOv3 vision transformer as Meta's .pth, a DINOv3-trainer checkpoint {'teacher': {'backbone.…'}}, "
    "a Hugging Face DINOv3ViTModel, or timm safetensors"
)
INDEX_FILE = "model.safetensors.index.json"
OF_OPEN_CLIP = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
# A new file beside an old index counts.
FILES_OF_A_FOLDER = ("model.safetensors", INDEX_FILE, "pytorch_model.bin", "model.pth", *OF_OPEN_CLIP)
_IN_A_FOLDER = (*FILES_OF_A_FOLDER, "pytorch_model.bin.index.json")
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
AGAIN = "get the file again (`nnunet-dino weights fetch` replaces one of the Hugging Face cache)"
LONGEST_NAME = 200
_NAME_OF_META = re.compile(r"dinov3_\w+_pretrain_\w+-([0-9a-f]{8})\.pth")  # ends with the first digits of the file's sha256
_PART = re.compile(r"-\d{5}-of-\d{5}$")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class RawCheckpoint:
    """The tensors of a checkpoint under the file's own names, memory-mapped where the format allows.

    Attributes:
        tensors: Tensors by name; all dense and on the CPU.
        config: Content of a ``config.json`` beside the weights; empty if there is none.
        metadata: Text that a safetensors file carries.
        inside: Names of the levels in the file that the tensors were under.
        preprocessor: What a ``preprocessor_config.json`` (``processor_config.json``) beside the weights says; empty if
            there is none.
    """

    tensors: dict[str, Tensor]
    config: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    inside: tuple[str, ...] = ()
    preprocessor: dict[str, Any] = field(default_factory=dict)


def weights_file(folder: Path) -> Path | None:
    """Returns the file in ``folder`` that holds a model's weights or lists its parts, if there is one."""
    return next((folder / name for name in _IN_A_FOLDER if (folder / name).is_file()), None)


def read_checkpoint(path: Path) -> RawCheckpoint:
    """Reads a checkpoint file, an index of several, or a folder that holds either.

    Raises:
        UserError: Nothing there, not a checkpoint, damaged, or the file holds code.
    """
    shown = str(path).encode("utf-8", "replace").decode()
    if shown != str(path):
        raise _error(Path(shown), "a name that is no UTF-8 text, which torch cannot open", "rename it")
    try:
        if path.is_dir():
            inside = weights_file(path)
            if inside is None and (path / ".metadata").is_file():
                raise _sharded(path, path)
            if inside is None and (path / "adapter_config.json").is_file():
                raise _error(
                    path, "adapters of peft without their backbone", "merge them there (peft: merge_and_unload) and save it"
                )
            if inside is None:
                raise _error(path, f"a folder without {', '.join(FILES_OF_A_FOLDER)}", "name the file itself")
            path = inside
        if not path.is_file():
            raise _error(path, "no such file", where_else(str(path)))
        if _PART.search(path.stem):
            raise _error(path, "one of several parts of a model", "name their folder, or the index beside them")
        if path.suffix == ".distcp" or path.name == ".metadata":
            raise _sharded(path, path.parent)
        return _read_parts(path) if path.name.endswith(".index.json") else _read_file(path)
    except OSError as error:
        got = f"an unreadable file ({error.strerror or error})"
        raise _error(Path(error.filename or path), got, "check its name and permissions") from error


def _sharded(path: Path, folder: Path) -> UserError:
    join = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} FILE.pth"
    return _error(path, "a sharded checkpoint of a training in several processes", f"run `{join}` and name FILE.pth")


def where_else(path: str) -> str:
    """Returns the remedy for a file that is not there."""
    if re.match(r"https?:/", path):
        return "that is an address: download the file and name it, or run `nnunet-dino weights fetch NAME`"
    if _REPOSITORY.fullmatch(path):
        return "if it is a repository of the Hugging Face hub, run `nnunet-dino weights fetch NAME`; else check the path"
    return "check the path"


def _error(path: Path, got: str, remedy: str) -> UserError:
    return UserError(f"weights: required {FORMATS_READ} · got {path}: {' '.join(got.split())[:400]} · {remedy}")


def _read_file(path: Path) -> RawCheckpoint:
    with open(path, "rb") as file:
        start = file.read(512)
    kind = _kind_of(start, path)
    _check_hash_in_name(path)
    metadata: dict[str, str] = {}
    inside: list[str] = []
    if kind == "safetensors":
        tensors, metadata = _read_safetensors(path)
    else:
        tensors, inside = _read_torch(path, mapped=kind == "zip")
    for name, tensor in tensors.items():
        _check_tensor(name, tensor, path)
    return RawCheckpoint(tensors, _beside(path, "config.json"), metadata, tuple(inside), _beside(path, *PROCESSORS))


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
    match = _NAME_OF_META.fullmatch(path.name)
    if match is None:
        return
    found = first_digits(path)
    if found != match[1]:
        got = f"a file whose sha256 begins with {found}, not with {match[1]} as its name says"
        raise _error(path, got, f"it is incomplete or was changed: {AGAIN}")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except Exception as error:  # a damaged header reaches several layers, each with errors of its own
        raise _error(path, f"a truncated or damaged safetensors file ({error})", AGAIN) from error


def _read_torch(path: Path, mapped: bool) -> tuple[dict[str, Tensor], list[str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is raised as an error
            with torch.serialization.safe_globals(numpy_types()):  # the log in a checkpoint of nnU-Net
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged file makes torch's reader raise whatever its parts do
        code = re.search(r"GLOBAL (\S+)|(Unsupported operand \d+)", str(error))
        if not isinstance(error, pickle.UnpicklingError) or code is None:
            raise _error(path, "a truncated or damaged PyTorch file", AGAIN) from error
        got = f"a file with pickled code ({code[1] or code[2]}), which is never run here"
        raise _error(path, got, "ask for a file with tensors only, best as .safetensors") from error
    content, inside = descend(content)
    if not isinstance(content, dict) or not content:
        raise _error(path, f"a PyTorch file that holds a {type(content).__name__} and no tensors by name", AGAIN)
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise _error(path, f"a PyTorch file with entries that are no tensors ({', '.join(others[:4])})", "name another file")
    return {str(name): tensor for name, tensor in content.items()}, inside


def _check_tensor(name: str, tensor: Tensor, path: Path) -> None:
    plain = "ask for a file with plain tensors"
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise _error(path, f"a tensor with the odd name {name[:LONGEST_NAME]!r}", AGAIN)
    if tensor.is_nested or tensor.is_quantized or tensor.layout != torch.strided:
        kind = "nested" if tensor.is_nested else "quantised" if tensor.is_quantized else str(tensor.layout).partition(".")[2]
        raise _error(path, f"a {kind} tensor for {name}", plain)
    if tensor.device.type != "cpu":
        raise _error(path, f"a tensor without values (device {tensor.device}) for {name}", plain)
    if tensor.numel() > path.stat().st_size:
        raise _error(path, f"{tensor.numel()} numbers for {name}, more than the file has bytes", plain)


def _read_parts(index: Path) -> RawCheckpoint:
    parts = parts_of(index)
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(parts.values())):
        part = index.parent / name
        if not part.is_file():
            raise _error(index, f"an index whose part {name} is not there", f"get {name} into the same folder")
        tensors.update(_read_file(part).tensors)
    missing = sorted(set(parts) - set(tensors))
    if missing:
        raise _error(index, f"parts without {missing[0]} and {len(missing) - 1} more", AGAIN)
    return RawCheckpoint(tensors, _beside(index, "config.json"), preprocessor=_beside(index, *PROCESSORS))


def parts_of(index: Path) -> dict[str, str]:
    """Returns the file, in the folder of ``index``, of every tensor that an index lists.

    Raises:
        UserError: The index is damaged or names a file elsewhere.
    """
    parts = _read_json(index, "a damaged index of parts").get("weight_map")
    if not isinstance(parts, dict) or not parts:
        raise _error(index, f"a damaged index of parts (weight_map: {str(parts)[:40]})", AGAIN)
    for part in parts.values():
        if not isinstance(part, str) or part in ("", "..") or part != re.split(r"[/\\]", part)[-1]:
            raise _error(index, f"an index that names {str(part)[:80]!r} as a part", "put its parts into its own folder")
    return parts


def _beside(path: Path, *names: str) -> dict[str, Any]:
    """Returns the content of the first of some files beside one that is named as in a model folder.

    How images are prepared Hugging Face writes into a file of its own, in newer ones below ``image_processor``.
    """
    file = next((path.parent / name for name in names if (path.parent / name).is_file()), None)
    if path.name not in _IN_A_FOLDER or file is None:
        return {}
    content = _read_json(file, f"a damaged {file.name}")
    inner = content.get("image_processor")
    return inner if isinstance(inner, dict) else content


def _read_json(path: Path, damaged: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _error(path, damaged, AGAIN) from error
    if not isinstance(content, dict):
        raise _error(path, f"{damaged} (a {type(content).__name__})", AGAIN)
    return content
