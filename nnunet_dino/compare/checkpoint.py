"""Counting the parameters in an nnU-Net checkpoint without loading them."""

from __future__ import annotations

import pickle
from pathlib import Path

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def count_parameters(checkpoint: Path, notes: list[str]) -> int | None:
    """Counts the distinct parameters among a checkpoint's network weights.

    nnU-Net's U-Nets register some modules under two names (the encoder again inside the decoder, convolutions again in
    ``all_modules``), so that a state dict holds the same tensor several times; tensors that share storage count once.
    Batch-normalisation statistics are no parameters and are left out. The file is memory-mapped, and nothing in it is
    executed: beside tensors only NumPy scalars, which nnU-Net's log holds, are accepted.

    Args:
        checkpoint: A file written by nnU-Net.
        notes: Gets a line if the file cannot be read this way.

    Returns:
        The count, or None with a note.
    """
    import torch

    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            content = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)
        weights = content["network_weights"]
        tensors = {name: tensor for name, tensor in weights.items() if name.rsplit(".", 1)[-1] not in BUFFERS}
        distinct = {
            (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tuple(tensor.shape)): tensor.numel()
            for tensor in tensors.values()
        }
    except (OSError, RuntimeError, pickle.UnpicklingError, KeyError, TypeError, AttributeError, EOFError) as error:
        reason = " ".join(str(error).split()).split(". ")[0][:160]
        notes.append(f"Parameters of {checkpoint} could not be counted ({type(error).__name__}: {reason}).")
        return None
    return sum(distinct.values())


def _numpy_scalars() -> list:
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    # NumPy 1 and 2 pickle a scalar by different module names
    names = [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
    return [*names, np.dtype, *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "b1"))]
