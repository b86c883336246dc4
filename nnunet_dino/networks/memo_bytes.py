"""How many bytes the memory of slices may take."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from nnunet_dino._errors import UserError

ENVIRONMENT_VARIABLE = "nnUNet_dino_cache_gb"
SHARE_OF_DEVICE_MEMORY = 0.5
SHARE_OF_HOST_MEMORY = 0.25  # nnU-Net's preprocessing and export run beside the network
WHERE_UNKNOWN = 1 << 30


def budget_bytes(device: torch.device, held_bytes: int) -> int:
    """Returns how many bytes may be held on ``device``: a share of the free memory, or what ``nnUNet_dino_cache_gb`` says.

    Half of what is free on a CUDA device, a quarter of what is free on the host; in both, what is held already counts as free.

    Args:
        device: Where the slices are.
        held_bytes: Bytes held at present.

    Raises:
        UserError: the environment variable is not a number of gibibytes.
    """
    wanted = os.environ.get(ENVIRONMENT_VARIABLE)
    if wanted:
        return _in_bytes(wanted)
    if device.type == "cuda":
        reserved_but_unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + reserved_but_unused
        return int(SHARE_OF_DEVICE_MEMORY * (free + held_bytes))
    free = free_host_bytes()
    return WHERE_UNKNOWN if free is None else int(SHARE_OF_HOST_MEMORY * (free + held_bytes))


def free_host_bytes(root: Path = Path("/")) -> int | None:
    """Returns the memory that is free for this process, as Linux and its control groups (container, batch job) say; else None.

    Args:
        root: Where ``proc`` and ``sys`` are mounted.
    """
    candidates = [_available(root / "proc/meminfo")]
    candidates += [_left_in(folder) for folder in _control_groups(root)]
    return min((candidate for candidate in candidates if candidate is not None), default=None)


def _in_bytes(text: str) -> int:
    try:
        gibibytes = float(text)
    except ValueError:
        gibibytes = -1.0
    if not 0 <= gibibytes < float("inf"):
        raise UserError(f"{ENVIRONMENT_VARIABLE}: required a number of GiB · got {text!r} · correct or unset it")
    return int(gibibytes * (1 << 30))


def _available(meminfo: Path) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _control_groups(root: Path) -> list[Path]:
    """Returns the folders of this process's memory control groups, with all that they lie in."""
    mount, folders = root / "sys/fs/cgroup", []
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" or controllers == "memory":
            top = mount / controllers
            inner = top / path.lstrip("/")
            folders += [inner, *(parent for parent in inner.parents if parent == top or top in parent.parents)]
    return folders


def _left_in(group: Path) -> int | None:
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            left = int((group / limit).read_text()) - int((group / used).read_text()) + int(stat.get(cached, 0))
        except (OSError, ValueError):  # no such group, or no limit ("max")
            continue
        return max(0, left)
    return None
