"""How slides are cut into tiles, as a user chooses it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from nnunet_dino._errors import UserError, nearest
from nnunet_dino.features.tissue import GRIDS, TISSUE, tissue_rule

UM_TIMES_MAG = 10.0  # 40x is 0.25 micrometres per pixel
MAX_OVERLAP = 0.9
ALWAYS_RECORDED = ("tissue", "mpp", "slide_mpp")


@dataclass(frozen=True)
class Tiling:
    """How a slide is cut.

    Attributes:
        tissue: Name of a rule in :data:`nnunet_dino.features.tissue.TISSUE_RULES`.
        mpp: Micrometres per pixel at which tiles are shown; None for the slide's full resolution.
        slide_mpp: Micrometres per pixel of the slides themselves, where their files are wrong or silent.
        mag: Magnification at which tiles are shown, instead of ``mpp``: 10 micrometres per pixel divided by it.
        grid: Where tiles begin, one of :data:`nnunet_dino.features.tissue.GRIDS`.
        overlap: Of neighbouring tiles, as a share of their edge.
        min_tissue: Share of a tile that must be tissue; 0 for the rule of four points.
        drop_pen: Whether strokes of a pen are no tissue.
        drop_blur: Tiles whose :func:`nnunet_dino.features.tissue.sharpness` is less are left out; 0 for none.

    Raises:
        UserError: A value is none of these.
    """

    tissue: str = "default"
    mpp: float | None = None
    slide_mpp: float | None = None
    mag: float | None = None
    grid: str = TISSUE
    overlap: float = 0.0
    min_tissue: float = 0.0
    drop_pen: bool = False
    drop_blur: float = 0.0

    def __post_init__(self) -> None:
        tissue_rule(self.tissue)
        for option, number in (("--mpp", self.mpp), ("--slide-mpp", self.slide_mpp), ("--mag", self.mag)):
            if number is not None and not 0 < number < float("inf"):
                raise UserError(f"{option}: required a positive number · got {number:g}")
        if self.mpp is not None and self.mag is not None:
            raise UserError(f"--mag: required without --mpp, which says the same · got {self.mag:g} and {self.mpp:g}")
        if self.grid not in GRIDS:
            raise UserError(f"--grid: required one of {', '.join(GRIDS)} · got {self.grid!r}{nearest(self.grid, GRIDS)}")
        if not 0 <= self.overlap <= MAX_OVERLAP:
            raise UserError(f"--overlap: required a share of the edge from 0 to {MAX_OVERLAP:g} · got {self.overlap:g}")
        if not 0 <= self.drop_blur < float("inf"):
            raise UserError(f"--drop-blur: required a variance from 0 · got {self.drop_blur:g}")
        if not 0 <= self.min_tissue <= 1:
            raise UserError(f"--min-tissue: required a share of the tile from 0 to 1 · got {self.min_tissue:g}")

    @property
    def wanted_mpp(self) -> float | None:
        """Micrometres per pixel at which tiles are shown; None for the slide's full resolution."""
        return UM_TIMES_MAG / self.mag if self.mag is not None else self.mpp

    @property
    def asked(self) -> str:
        """The option by which a resolution was asked for."""
        return f"--mag {self.mag:g}" if self.mag is not None else f"--mpp {self.mpp:g}"

    def record(self) -> dict[str, Any]:
        """Returns all that decides which tiles there are; what is newer than some stores only where it is used."""
        changed = {each.name for each in fields(self) if getattr(self, each.name) != each.default}
        return {name: value for name, value in asdict(self).items() if name in ALWAYS_RECORDED or name in changed} | {
            "edge": "padded"  # stores of releases that dropped tiles at the edge are not continued
        }
