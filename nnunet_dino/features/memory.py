"""Whether a forward pass of a frozen backbone fits into memory, before it is tried."""

from __future__ import annotations

import psutil
import torch

from nnunet_dino._errors import UserError

FLOATS_PER_WIDTH = 16  # of a token in a block at once: its states, queries, keys, values, the hidden layer of the MLP
COPIES_OF_IMAGE = 5  # as read, resized, in three channels, standardised, cut into patches
SHARE = 0.9  # of what is free
FLOAT_BYTES = 4


def estimated_bytes(size_px: int, patch_px: int, embed_dim: int) -> int:
    """Returns about how many bytes one image takes while it is encoded; rather more than less.

    Attention is computed in pieces (PyTorch's fused kernels), so that memory grows with the number of tokens, not its square.
    """
    num_tokens = (size_px // patch_px) ** 2
    return FLOAT_BYTES * (num_tokens * FLOATS_PER_WIDTH * embed_dim + COPIES_OF_IMAGE * 3 * size_px**2)


def free_bytes(device: torch.device) -> int:
    """Returns how much memory is free where images are encoded."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return int(psutil.virtual_memory().available)


def check_memory(batch: int, size_px: int, patch_px: int, embed_dim: int, device: torch.device) -> None:
    """Refuses a batch that will not fit into memory.

    Raises:
        UserError: It will not; with the batch or the size that would.
    """
    one, free = estimated_bytes(size_px, patch_px, embed_dim), free_bytes(device)
    most = int(SHARE * free) // one
    if batch <= most:
        return
    have = f"about {free / 2**30:.1f} GiB are free on {device.type}"
    if most:
        raise UserError(f"--batch: required at most {most} images of {size_px} px, as {have} · got {batch} · give fewer")
    largest = max(patch_px, int(size_px * (SHARE * free / one) ** 0.5) // patch_px * patch_px)
    raise UserError(
        f"--size: required images that fit into memory, at most {largest} px, as {have} · got {size_px}, of which one takes "
        f"about {one / 2**30:.1f} GiB · give a smaller one"
    )
