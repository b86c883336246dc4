"""What an encoder costs: its parameters, and the time for an image, which does not depend on the values of its weights."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from nnunet_dino._errors import UserError
from nnunet_dino.backbones.adapted import RANDOM, AdaptedBackbone
from nnunet_dino.backbones.catalogue import get_spec

BATCH, NUM_TIMED = 8, 3


def num_parameters(name: str) -> int | None:
    """Returns the parameters of a backbone; None where it is not known on this machine."""
    try:
        return get_spec(name).num_parameters
    except UserError:
        return None


def milliseconds_per_image(facts: Mapping[str, Any], device: torch.device) -> float:
    """Returns the median over batches of eight images of a store's size, see :func:`milliseconds`.

    Raises:
        UserError: The backbone is not known on this machine.
    """
    backbone = AdaptedBackbone(facts["backbone"], RANDOM).to(device)
    size_px = facts["preprocessing"]["size_px"]
    images = torch.zeros(BATCH, 3, size_px, size_px, device=device)
    return milliseconds(lambda: backbone.tokens(images), device) / BATCH


def milliseconds(encode: Callable[[], object], device: torch.device) -> float:
    """Returns the median of three timed calls, after one that is not timed."""
    seconds = []
    for _ in range(1 + NUM_TIMED):
        began = time.perf_counter()
        with torch.inference_mode():
            encode()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds[1:])
