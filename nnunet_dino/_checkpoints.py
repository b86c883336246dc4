"""Reading a checkpoint of nnU-Net without executing anything in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nnunet_dino._errors import UserError


def read_checkpoint(path: str | Path, memory_map: bool = False) -> dict[str, Any]:
    """Returns the content of a checkpoint; tensors lie on the processor.

    Beside tensors and Python's own containers only NumPy's numbers and arrays are accepted, which nnU-Net's log holds.

    Args:
        path: A file written by nnU-Net.
        memory_map: Leave the tensors in the file until they are used.

    Raises:
        UserError: The file is missing, cannot be read, or is no checkpoint whose ``network_weights`` are tensors by name.
    """
    import torch

    if not os.path.isfile(path):
        raise UserError(f"{path}: required a checkpoint of nnU-Net · got no such file · check the path")
    if os.path.getsize(path) == 0:
        raise UserError(f"{path}: required a checkpoint of nnU-Net · got an empty file · {_REMEDY}")
    try:
        with torch.serialization.safe_globals(numpy_types()):
            content = torch.load(path, map_location="cpu", mmap=memory_map or None, weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # damaged files make the reader fail in any way
        raise UserError(f"{path}: required a checkpoint of nnU-Net · got {_reason(error)} · {_REMEDY}") from error
    weights = content.get("network_weights") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in weights.items()
    ):
        what = "no network_weights" if weights is None else "network_weights that are not tensors by name"
        raise UserError(f"{path}: required a checkpoint of nnU-Net · got a file with {what} · use one that nnU-Net wrote")
    return content


_REMEDY = "copy it again, or use another checkpoint of that training"


def _reason(error: Exception) -> str:
    """Returns the part of torch's message that says what is wrong, without its advice to load unsafely."""
    text = " ".join(str(error).split())
    if "Unsupported global" in text or "Unsupported class" in text or "Unsupported operand" in text:
        name = text.split("GLOBAL ")[-1].split()[0] if "GLOBAL " in text else "code"
        return f"a file with {name} in it, which is never executed"
    return f"a damaged or foreign file ({type(error).__name__}: {text.split('. ')[0][:120]})"


def numpy_types() -> list[Any]:
    """Returns the types of NumPy's numbers and arrays, for ``torch.serialization.safe_globals``."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    array = np.zeros(1).__reduce__()[0]
    renamed = [  # NumPy 1 and 2 pickle these under different module names
        (function, f"{module}.multiarray.{name}")
        for function, name in ((scalar, "scalar"), (array, "_reconstruct"))
        for module in ("numpy.core", "numpy._core")
    ]
    return [*renamed, np.dtype, np.ndarray, *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "b1"))]
