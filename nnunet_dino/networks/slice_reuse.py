"""Encodes every distinct slice once while nnU-Net predicts an image."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_dino.backbones.precision import is_exporting
from nnunet_dino.networks.fingerprint import slice_keys
from nnunet_dino.networks.inference_tensors import make_ordinary
from nnunet_dino.networks.memo_bytes import budget_bytes
from nnunet_dino.networks.slice_memo import SliceMemo


class SliceReuse:
    """What is remembered of the slices of an image at prediction, so that each is encoded once.

    It is forgotten

    - at every ``eval()`` and ``train()``; nnU-Net calls ``eval()`` when an image or fold begins;
    - when a weight it depends on is written to, replaced or moved, or slices come in another size, type or precision;
    - when the device runs out of memory;
    - beyond the budget (:mod:`nnunet_dino.networks.memo_bytes`), the least recently used first.

    A copy, also a pickled one, begins empty.

    Attributes:
        num_asked: Slices asked for since the network was built.
        num_encoded: Those of them that went through the backbone.
    """

    def __init__(self) -> None:
        self.num_asked = 0
        self.num_encoded = 0
        self._memo = SliceMemo()
        self._circumstances: Hashable = None
        self._budget: int | None = None
        self._share = 1.0

    def __reduce__(self) -> tuple[type[SliceReuse], tuple[()]]:
        return SliceReuse, ()

    @property
    def num_bytes(self) -> int:
        """Bytes held at present."""
        return self._memo.num_bytes

    def forget(self) -> None:
        """Forgets everything; how much may be held is asked anew."""
        self._memo.clear()
        self._budget = None

    def fetch(
        self,
        slices: Tensor,
        encode: Callable[[Tensor], Sequence[Tensor]],
        weights: Sequence[nn.Module],
        at_least: int,
        they_return: bool,
    ) -> tuple[Tensor, ...]:
        """Returns ``encode(slices)`` and calls it with the distinct slices that are not remembered.

        Args:
            slices: ``n c h w``.
            encode: Takes slices and returns tensors, each with one row per slice.
            weights: What ``encode`` depends on beside the slices.
            at_least: Slices that ``encode`` gets at a time, where there are as many; some are repeated if need be. Matrix
                products with very few rows are summed in another order, so their last bits differ.
            they_return: The same slices will be asked for again. If not, nothing is remembered.
        """
        self.num_asked += len(slices)
        budget = self._budget_on(slices.device) if they_return else 0
        circumstances = _circumstances(slices, weights)
        if not budget or circumstances is None:
            self.num_encoded += len(slices)
            return tuple(encode(slices))
        if circumstances != self._circumstances:
            self._memo.clear()
            self._circumstances = circumstances

        def compute(positions: list[int]) -> list[Tensor]:
            self.num_encoded += len(positions)
            repeated = positions[-1:] * (min(at_least, len(slices)) - len(positions))
            return [tensor[: len(positions)] for tensor in encode(slices[positions + repeated])]

        return self._memo.fetch(slice_keys(slices), compute, budget)

    def run(self, network: nn.Module, x: Tensor) -> Any:
        """Returns ``network._forward(x)``; if memory runs out and some is held here, frees it and calls once more.

        nnU-Net takes any such error for its own and begins the image anew, so it is met here. From then on half as much may be
        held. While a network is exported nothing is held, and nothing but its forward pass is written down.
        """
        return network._forward(x) if is_exporting() else self._run(network, x)

    @torch.compiler.disable(recursive=False)
    def _run(self, network: nn.Module, x: Tensor) -> Any:
        if torch.is_inference_mode_enabled():
            make_ordinary(network)
        try:
            return network._forward(x)
        except torch.OutOfMemoryError:
            if not self.num_bytes:
                raise
        self.forget()
        self._share /= 2
        torch.cuda.empty_cache()
        return network._forward(x)

    def _budget_on(self, device: torch.device) -> int:
        if self._budget is None:
            self._budget = int(self._share * budget_bytes(device))
        return self._budget


def _circumstances(slices: Tensor, modules: Sequence[nn.Module]) -> Hashable:
    """Returns what must be the same for a result to be the same, but for the slice; None if that cannot be told.

    Writing to a parameter raises its version. Parameters that were created in inference mode have none.
    """
    kind = slices.device.type
    parameters = [parameter for module in modules for parameter in module.parameters()]
    try:
        weights = tuple((parameter.data_ptr(), parameter.dtype, parameter._version) for parameter in parameters)
    except RuntimeError:
        return None
    return (
        slices.shape[1:],
        slices.dtype,
        slices.device,
        torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind),
        weights,
    )
