"""How many bytes the memory of slices may take."""

from __future__ import annotations

import os

import psutil
import torch

from nnunet_dino._errors import UserError

ENVIRONMENT_VARIABLE = "nnUNet_dino_cache_gb"
SHARE_OF_DEVICE_MEMORY = 0.5
SHARE_OF_HOST_MEMORY = 0.25  # nnU-Net's preprocessing and export run beside the network
MOST_ON_HOST = 4 << 30  # holds a layer of windows; a container may allow less than the machine seems to have


def budget_bytes(device: torch.device) -> int:
    """Returns how many bytes may be held on ``device``.

    Half of what is free on a CUDA device; a quarter of what is free on the host, at most 4 GiB; or what the environment
    variable ``nnUNet_dino_cache_gb`` says.

    Raises:
        UserError: the environment variable is not a number of gibibytes.
    """
    wanted = os.environ.get(ENVIRONMENT_VARIABLE)
    if wanted:
        return _in_bytes(wanted)
    if device.type == "cuda":
        reserved_but_unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(SHARE_OF_DEVICE_MEMORY * (torch.cuda.mem_get_info(device)[0] + reserved_but_unused))
    return min(int(SHARE_OF_HOST_MEMORY * psutil.virtual_memory().available), MOST_ON_HOST)


def _in_bytes(text: str) -> int:
    try:
        gibibytes = float(text)
    except ValueError:
        gibibytes = -1.0
    if not 0 <= gibibytes < float("inf"):
        raise UserError(f"{ENVIRONMENT_VARIABLE}: required a number of GiB · got {text!r} · correct or unset it")
    return int(gibibytes * (1 << 30))
