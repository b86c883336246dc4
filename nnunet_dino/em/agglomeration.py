"""From affinities to neurons: fragments are joined while the affinities between them are high."""

from __future__ import annotations

import ctypes
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_dino._errors import UserError
from nnunet_dino._packages import require

THRESHOLD = 0.5
# Median of the affinities between two fragments, from a histogram of 256 bins; as published.
SCORE = "OneMinus<HistogramQuantileAffinity<RegionGraphType, 50, ScoreValue, 256>>"


def agglomerate(
    affinities: NDArray[np.float32], fragments: NDArray[np.uint64], threshold: float = THRESHOLD
) -> NDArray[np.uint64]:
    """Joins fragments, the most alike first, until one minus the median affinity between any two is above ``threshold``.

    Args:
        affinities: ``3 d h w`` in [0, 1].
        fragments: ``d h w``, ids from 1.
        threshold: In [0, 1]; higher joins more.

    Returns:
        ``d h w``, ids of neurons.

    Raises:
        UserError: waterz is not installed, or the threshold is outside [0, 1].
    """
    check_threshold(threshold)
    waterz = require("waterz", "em", "neurons")
    affinities = np.ascontiguousarray(affinities, dtype=np.float32)
    with _silent():
        found = waterz.agglomerate(
            affinities, [threshold], fragments=fragments.copy(), scoring_function=SCORE, discretize_queue=256
        )
        return next(iter(found)).copy()  # waterz writes into one buffer


def check_threshold(threshold: float) -> None:
    """Raises :class:`UserError` unless ``threshold`` is in [0, 1]."""
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold: required a number from 0 to 1 · got {threshold} · 0.5 is the published one")


def renumbered(ids: NDArray[Any]) -> NDArray[np.uint32]:
    """Returns the same partition with ids from 1 without gaps; 0 stays 0."""
    known, places = np.unique(ids, return_inverse=True)
    first = 0 if known.size and known[0] == 0 else 1
    return (places.reshape(ids.shape) + first).astype(np.uint32)


@contextmanager
def _silent() -> Iterator[None]:
    """Sends what waterz prints, from Python and from C++, to nowhere."""
    with tempfile.TemporaryFile() as nowhere, redirect_stdout(io.StringIO()):
        _flush()
        kept = os.dup(1)
        try:
            os.dup2(nowhere.fileno(), 1)
            yield
        finally:
            _flush()  # what it printed waits in C's buffer, and would come out later
            os.dup2(kept, 1)
            os.close(kept)


def _flush() -> None:
    if os.name != "nt":
        ctypes.CDLL(None).fflush(None)
