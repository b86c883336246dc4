"""Remembers what a function returned for a slice."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nnunet_dino.networks.fingerprint import Key
from nnunet_dino.networks.retention import Retention

Row = tuple[Tensor, ...]


class SliceMemo:
    """Tensors by the key of the slice they were computed from, bounded in bytes.

    Attributes:
        num_bytes: What is held.
        num_computed: Slices that were computed.
    """

    def __init__(self) -> None:
        self.num_computed = 0
        self._budget = 0
        self.clear()

    @property
    def num_bytes(self) -> int:
        return len(self._rows) * self._row_bytes

    def clear(self) -> None:
        self._rows: dict[Key, Row] = {}
        self._row_bytes = 0
        self._retention = Retention()

    def next_generation(self) -> None:
        """Says that a new pass over an image begins."""
        self._retention.next_generation()

    def set_budget(self, num_bytes: int) -> None:
        """Changes how many bytes may be held, and forgets what is beyond."""
        self._budget = num_bytes
        if self._row_bytes:
            self._forget_what_is_beyond()

    def fetch(self, keys: Sequence[Key], compute: Callable[[list[int]], Sequence[Tensor]]) -> tuple[Tensor, ...]:
        """Returns what ``compute`` returns for all slices, calling it only for distinct slices that are not held.

        Args:
            keys: One per slice.
            compute: Takes positions in ``keys`` and returns tensors with one row per position. It must treat every slice by
                itself, and every row has the same shape in every call until :meth:`clear`.

        Returns:
            Tensors with one row per key; none shares memory with what is held.
        """
        position: dict[Key, int] = {}
        for i, key in enumerate(keys):
            position.setdefault(key, i)
        missing = [key for key in position if key not in self._rows]
        computed = tuple(compute([position[key] for key in missing])) if missing else ()
        self.num_computed += len(missing)
        fresh = {key: tuple(tensor[i] for tensor in computed) for i, key in enumerate(missing)}
        if len(missing) == len(keys):
            result = computed
        else:
            rows = [fresh.get(key) or self._rows[key] for key in keys]
            result = tuple(torch.stack(column) for column in zip(*rows, strict=True))
        self._hold(list(position), fresh)
        return result

    def _hold(self, keys: list[Key], fresh: dict[Key, Row]) -> None:
        if fresh:
            self._row_bytes = sum(tensor.nbytes for tensor in next(iter(fresh.values())))
        self._retention.ask(keys)
        self._rows.update(fresh)
        self._forget_what_is_beyond()
        for key in fresh.keys() & self._rows.keys():
            self._rows[key] = tuple(tensor.clone() for tensor in fresh[key])  # a row alone keeps its whole batch alive

    def _forget_what_is_beyond(self) -> None:
        self._retention.set_capacity(self._budget // self._row_bytes)
        for key in self._retention.shrink():
            del self._rows[key]
