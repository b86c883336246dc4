"""Facts written as tensors of bytes, so that they live in any state dict and pass through every loader of tensors."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor


def to_tensor(content: Any) -> Tensor:
    """Writes what JSON can hold."""
    return torch.tensor(list(json.dumps(content, sort_keys=True).encode()), dtype=torch.uint8)


def from_tensor(record: Tensor) -> Any:
    """Reads what :func:`to_tensor` wrote.

    Raises:
        ValueError: It is something else.
    """
    return json.loads(bytes(record.tolist()).decode())
