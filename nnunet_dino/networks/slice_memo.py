"""Remembers what a function returned for a slice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from nnunet_dino.networks.fingerprint import Key

Row = tuple[Tensor, ...]


class SliceMemo:
    """Tensors by the key of the slice they were computed from. What was asked for longest ago is forgotten first."""

    def __init__(self) -> None:
        self.clear()

    @property
    def num_bytes(self) -> int:
        """Bytes held at present."""
        return len(self._rows) * self._row_bytes

    def clear(self) -> None:
        """Forgets everything."""
        self._rows: dict[Key, Row] = {}
        self._row_bytes = 0

    def fetch(
        self, keys: Sequence[Key], compute: Callable[[list[int]], Sequence[Tensor]], budget_bytes: int
    ) -> tuple[Tensor, ...]:
        """Returns what ``compute`` returns for all slices, calling it only for distinct slices that are not held.

        Args:
            keys: One per slice.
            compute: Takes positions in ``keys`` and returns tensors with one row per position. It must treat every slice by
                itself, and every row has the same shape in every call until :meth:`clear`.
            budget_bytes: How much may be held.

        Returns:
            Tensors with one row per key; none shares memory with what is held.
        """
        position: dict[Key, int] = {}
        for i, key in enumerate(keys):
            position.setdefault(key, i)
        missing = [key for key in position if key not in self._rows]
        computed = tuple(compute([position[key] for key in missing])) if missing else ()
        fresh = {key: tuple(tensor[i] for tensor in computed) for i, key in enumerate(missing)}
        if len(missing) == len(keys):
            result = computed
        else:
            rows = [fresh.get(key) or self._rows[key] for key in keys]
            result = tuple(torch.stack(column) for column in zip(*rows, strict=True))
        self._hold(position, fresh, budget_bytes)
        return result

    def _hold(self, keys: Iterable[Key], fresh: dict[Key, Row], budget_bytes: int) -> None:
        for key in keys:
            if key in self._rows:
                self._rows[key] = self._rows.pop(key)
        for key, row in fresh.items():
            self._row_bytes = sum(tensor.nbytes for tensor in row)
            num_others = budget_bytes // self._row_bytes - 1
            if num_others < 0:
                return
            while len(self._rows) > num_others:
                del self._rows[next(iter(self._rows))]
            self._rows[key] = tuple(tensor.clone() for tensor in row)  # a view would keep its whole batch alive
