"""Several processes as ``torchrun`` starts them; with one process everything here does nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from nnunet_dino._errors import UserError

T = TypeVar("T")


@contextmanager
def process_group(device: str) -> Iterator[torch.device]:
    """Joins the processes that ``torchrun`` started and yields this one's device.

    Args:
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``; of several GPUs each process takes the one of its local rank.

    Raises:
        UserError: the device is unknown or not there.
    """
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        raise UserError(f"--device: required auto, cpu, or cuda where there is a GPU · got {device!r} · leave it out")
    chosen = torch.device("cpu")
    if kind == "cuda":
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"torchrun: required at most one process per GPU · got local rank {local_rank} and "
                f"{torch.cuda.device_count()} GPUs · lower --nproc-per-node"
            )
        chosen = torch.device("cuda", local_rank)
        torch.cuda.set_device(chosen)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield chosen
        return
    dist.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=timedelta(minutes=30))
    try:
        yield chosen
    finally:
        dist.destroy_process_group()


def is_distributed() -> bool:
    """Tells whether this is one of several processes."""
    return dist.is_initialized()


def rank() -> int:
    """Returns the number of this process, from 0."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Returns how many processes there are."""
    return dist.get_world_size() if is_distributed() else 1


def all_sum(value: Tensor) -> Tensor:
    """Returns the sum of the processes' tensors."""
    return _reduced(value, dist.ReduceOp.SUM)


def all_max(value: Tensor) -> Tensor:
    """Returns the maximum of the processes' tensors, element by element."""
    return _reduced(value, dist.ReduceOp.MAX)


def _reduced(value: Tensor, operation: Any) -> Tensor:
    if not is_distributed():
        return value
    value = value.detach().clone()
    dist.all_reduce(value, operation)
    return value


def gathered(tokens: Tensor) -> Tensor:
    """Returns the rows of all processes, which have equally many; gradients find their way back."""
    return _Gather.apply(tokens) if is_distributed() else tokens


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tokens: Tensor) -> Tensor:
        parts = [torch.empty_like(tokens) for _ in range(world_size())]
        dist.all_gather(parts, tokens.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return all_sum(gradient).chunk(world_size())[rank()]


def summed(value: Tensor) -> Tensor:
    """Returns the sum of the processes' tensors; gradients find their way back."""
    return _Sum.apply(value) if is_distributed() else value


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        return all_sum(value)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return all_sum(gradient)


def gather_objects(value: T) -> list[T]:
    """Returns what each process has."""
    if not is_distributed():
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found


def on_first(function: Callable[[], T]) -> T:
    """Returns what ``function`` returns in the first process, in all of them.

    Raises:
        UserError: it did; then in all processes.
    """
    if not is_distributed():
        return function()
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = function()
        except UserError as error:
            outcome[1] = str(error)
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise UserError(outcome[1])
    return outcome[0]
