"""Encodes every distinct slice once while nnU-Net predicts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_dino._errors import one_line_in_stock_commands
from nnunet_dino.networks.fingerprint import Key, slice_keys
from nnunet_dino.networks.inference_tensors import make_ordinary
from nnunet_dino.networks.memo_bytes import budget_bytes
from nnunet_dino.networks.slice_memo import SliceMemo

Encode = Callable[[Tensor], Sequence[Tensor]]

SHARE_OF_TOKENS = 0.25


class SliceReuse:
    """What is remembered of slices at prediction, so that each is encoded once.

    Two things are remembered of a slice: the maps that the backbone returned, which serve every fold of an image if the
    backbone is frozen, and its tokens after the neck, which are several times smaller and serve one fold. They are forgotten

    - when the network is put in training mode;
    - when a weight they depend on is written to, replaced or moved, or slices come in another size, type or precision;
    - at every ``eval()``, which nnU-Net calls once per image and fold, but for the maps of a frozen backbone;
    - when the device runs out of memory;
    - beyond the budget (:mod:`nnunet_dino.networks.memo_bytes`), the least useful first
      (:mod:`nnunet_dino.networks.retention`).

    A copy, also a pickled one, begins empty.

    Attributes:
        num_asked: Slices asked for since the network was built.
        num_encoded: Those of them that went through the backbone.
    """

    def __init__(self) -> None:
        self.num_asked = 0
        self.num_encoded = 0
        self._maps = SliceMemo()
        self._tokens = SliceMemo()
        self._circumstances: dict[SliceMemo, Hashable] = {}
        self._budget: int | None = None
        self._share = 1.0

    def __reduce__(self) -> tuple[type[SliceReuse], tuple[()]]:
        return SliceReuse, ()

    @property
    def num_bytes(self) -> int:
        """Bytes held at present."""
        return self._maps.num_bytes + self._tokens.num_bytes

    def forget(self) -> None:
        """Forgets everything."""
        self._maps.clear()
        self._tokens.clear()

    def next_pass(self, keep_maps: bool) -> None:
        """Says that the next image or fold begins."""
        self._tokens.clear()
        if keep_maps:
            self._maps.next_generation()
        else:
            self._maps.clear()
        self._budget = None

    @torch.compiler.disable
    def maps(self, slices: Tensor, encode: Encode, weights: nn.Module, at_least: int) -> tuple[Tensor, ...]:
        """Returns ``encode(slices)`` and calls it with the distinct slices that are not remembered.

        Args:
            slices: ``n c h w``.
            encode: Takes slices and returns maps, each with one row per slice.
            weights: What ``encode`` depends on beside the slices.
            at_least: Slices that ``encode`` gets at a time, where there are as many; some are repeated if need be. Matrix
                products with very few rows are summed in another order, so their last bits differ.
        """
        keys = self._keys(slices)
        if keys is None:
            return tuple(encode(slices))
        return self._maps_of(slices, keys, encode, weights, at_least, share=1.0)

    @torch.compiler.disable
    def tokens(
        self, slices: Tensor, encode: Encode, weights: nn.Module, at_least: int, neck: nn.Module, keep_maps: bool
    ) -> Tensor:
        """Returns ``neck(encode(slices))``, calling both only for what is not remembered.

        Args:
            slices: As for :meth:`maps`, as are ``encode``, ``weights`` and ``at_least``.
            neck: Takes all maps and returns tokens with one row per slice.
            keep_maps: Remember the maps as well.
        """
        keys = self._keys(slices)
        if keys is None:
            return neck(tuple(encode(slices)))

        def compute(positions: list[int]) -> list[Tensor]:
            chosen = _at_least(at_least, positions, len(slices))
            those = slices[chosen]
            if keep_maps:
                maps = self._maps_of(those, [keys[i] for i in chosen], encode, weights, at_least, 1 - SHARE_OF_TOKENS)
            else:
                self.num_encoded += len(positions)
                maps = tuple(encode(those))
            return [neck(maps)[: len(positions)]]

        self._use(self._tokens, _circumstances(slices, weights, neck), SHARE_OF_TOKENS if keep_maps else 1.0)
        return self._tokens.fetch(keys, compute)[0]

    @torch.compiler.disable(recursive=False)
    def run(self, network: nn.Module, x: Tensor) -> Any:
        """Returns ``network._forward(x)``; if memory runs out and some is held here, frees it and calls once more.

        nnU-Net takes any such error for its own and begins the image anew, so it is met here. From then on half as much may be
        held.
        """
        if torch.is_inference_mode_enabled():
            make_ordinary(network)
        try:
            return network._forward(x)
        except torch.OutOfMemoryError:
            if not self.num_bytes:
                raise
        self.forget()
        self._share /= 2
        self._budget = None
        torch.cuda.empty_cache()
        return network._forward(x)

    def _keys(self, slices: Tensor) -> list[Key] | None:
        self.num_asked += len(slices)
        if self._budget is None:
            with one_line_in_stock_commands():
                self._budget = int(self._share * budget_bytes(slices.device, self.num_bytes))
        if self._budget:
            return slice_keys(slices)
        self.num_encoded += len(slices)
        return None

    def _maps_of(
        self, slices: Tensor, keys: list[Key], encode: Encode, weights: nn.Module, at_least: int, share: float
    ) -> tuple[Tensor, ...]:
        def compute(positions: list[int]) -> list[Tensor]:
            self.num_encoded += len(positions)
            maps = encode(slices[_at_least(at_least, positions, len(slices))])
            return [each[: len(positions)] for each in maps]

        self._use(self._maps, _circumstances(slices, weights), share)
        return self._maps.fetch(keys, compute)

    def _use(self, memo: SliceMemo, circumstances: Hashable, share: float) -> None:
        if circumstances is None or self._circumstances.get(memo) != circumstances:
            memo.clear()
            self._circumstances[memo] = circumstances
        memo.set_budget(int(share * (self._budget or 0)))


def _at_least(number: int, positions: list[int], num_slices: int) -> list[int]:
    return positions + positions[-1:] * (min(number, num_slices) - len(positions))


def _circumstances(slices: Tensor, *modules: nn.Module) -> Hashable:
    """Returns what must be the same for a result to be the same, but for the slice; None if that cannot be told.

    Writing to a parameter raises its version; inference tensors have none.
    """
    parameters = [parameter for module in modules for parameter in module.parameters()]
    if any(parameter.is_inference() for parameter in parameters):
        return None
    kind = slices.device.type
    return (
        slices.shape[1:],
        slices.dtype,
        slices.device,
        torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind),
        tuple((parameter.data_ptr(), parameter.dtype, parameter._version) for parameter in parameters),
    )
