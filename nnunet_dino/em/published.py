"""Published splits of volumes into sections to train on and sections to test on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Split:
    """How a volume is split.

    Attributes:
        shape: Of the volume, ``d h w``; checked.
        train: First section to train on and the one after the last; None if it is for tests only.
        test: Likewise for tests.
        spacing_nm: Voxel size, ``d h w``; None if it has to be given.
    """

    shape: tuple[int, int, int]
    train: tuple[int, int] | None
    test: tuple[int, int] | None
    spacing_nm: tuple[float, float, float] | None


# Source: Liu et al. 2025 (arXiv 2509.06467), section on EM; FIB-25 as far as its labelled sample goes, split by this project.
SPLITS = {
    "cremi": Split((125, 1250, 1250), (0, 100), (100, 125), (40, 4, 4)),
    "ac4": Split((100, 1024, 1024), (0, 80), None, (30, 6, 6)),
    "ac3": Split((256, 1024, 1024), None, (0, 100), (30, 6, 6)),
    "wafer4": Split((125, 1250, 1250), (0, 100), (100, 125), None),
    "fib25": Split((170, 250, 250), (0, 130), (130, 170), (10, 10, 10)),
}
