"""Reading a store of features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open

from nnunet_dino._errors import UserError, nearest
from nnunet_dino.features.items import NOTE
from nnunet_dino.features.store.index import COLUMNS, missing_units
from nnunet_dino.features.store.layout import INDEX, StoreFacts, read_facts, read_units
from nnunet_dino.features.store.units import COORDINATES, INSTANCES

AGAIN = "remove it and run the same `nnunet-dino extract` again"
NUMBERS = ("row", "first_instance", "num_instances", "tile_px", "mpp")  # of the index; "" in them is no number
CLASS, MEAN, BOTH = "class", "mean", "both"
TOKENS_OF = {
    CLASS: ("class_token",),
    MEAN: ("patch_mean",),
    BOTH: ("class_token", "patch_mean"),
    "class4": ("class_tokens",),
    "both4": ("class_tokens", "patch_mean"),
    "all": ("class_token", "patch_mean", "class_tokens"),
    "map": ("patch_map",),
}


@dataclass(frozen=True)
class Bag:
    """The slices or tiles of one input.

    Attributes:
        id: Of the input.
        features: ``n e``.
        coordinates: Upper left corners of tiles at full resolution, x and y, ``n 2``; None for slices.
    """

    id: str
    features: np.ndarray
    coordinates: np.ndarray | None


class FeatureStore:
    """A complete store of features.

    Attributes:
        folder: Where it is.
        facts: What all its features have in common.
        index: One row per input, in order; unreadable ones have an ``error``.

    Raises:
        UserError: There is no store, or it is not complete.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.facts: StoreFacts = read_facts(self.folder)
        if missing := missing_units(self.folder, self.facts):
            count = len({*read_units(self.folder, self.facts.items_per_file).values()})
            raise UserError(
                f"required a complete store · got {self.folder}, where {len(missing)} of {count} files are missing · run the "
                "same `nnunet-dino extract` again, in all its shards"
            )
        if not (self.folder / INDEX).exists():
            raise UserError(f"required a complete store · got {self.folder} without {INDEX} · run `nnunet-dino extract` again")
        self.index = _read_index(self.folder / INDEX, self.facts.num_items)

    @property
    def good(self) -> pd.DataFrame:
        """The rows of the index that have features."""
        return self.index[self.index["error"] == ""]

    @property
    def failed(self) -> pd.DataFrame:
        """The rows of the index of unreadable inputs."""
        return self.index[self.index["error"] != ""]

    @property
    def notes(self) -> list[str]:
        """What had to be decided while inputs were read, each with the ids that it is about."""
        if NOTE not in self.index:
            return []
        noted = self.good[self.good[NOTE] != ""]
        return [f"{about(note, rows['id'].tolist())}." for note, rows in noted.groupby(NOTE, sort=False)]

    def vectors(self, features: str = BOTH) -> tuple[list[str], np.ndarray]:
        """Returns one vector per input that could be read: of volumes the mean over slices, of slides the mean over tiles.

        Args:
            features: ``class`` token, ``mean`` of the patch tokens, or ``both`` one after the other; ``class4`` and ``both4``
                with the class tokens of the last four blocks.

        Returns:
            Ids, and ``n e`` float32.

        Raises:
            UserError: The store does not hold them, or they are not finite.
        """
        names = self._names(features)
        good = self.good.reset_index(drop=True)
        found: dict[int, np.ndarray] = {}
        for file, rows in good.groupby("file", sort=False):
            if self.facts.kind == "slides":
                tiles = self._read(file, names, INSTANCES)
                places = zip(rows["first_instance"].astype(int), rows["num_instances"].astype(int), strict=True)
                means = [tiles[first : first + count].mean(0) for first, count in places]
                found |= dict(zip(rows.index, means, strict=True))
            else:
                found |= dict(zip(rows.index, self._read(file, names)[rows["row"].astype(int)], strict=True))
        if not found:
            raise UserError(f"{self.folder}: required at least one readable input · got none")
        vectors = np.stack([found[place] for place in range(len(good))]).astype(np.float32)
        if not (finite := np.isfinite(vectors).all(1)).all():
            raise self._not_finite(self.good.iloc[int(finite.argmin())])
        return self.good["id"].tolist(), vectors

    def bags(self, features: str = MEAN, ids: Sequence[str] | None = None) -> list[Bag]:
        """Returns the slices or tiles of inputs, all of them or those named.

        Raises:
            UserError: The store does not hold them, an id is unknown or could not be read, or a bag is empty or not finite.
        """
        names = self._names(features)
        if not self.facts.keeps_instances:
            raise UserError(
                f"{self.folder}: required features of single slices or tiles · got a store of whole {self.facts.kind} "
                "· extract volumes with --per-slice, or slides"
            )
        return [self._bag(row, names) for row in self._rows(ids)]

    def patch_map(self, id: str) -> np.ndarray:
        """Returns the patch map of an image, ``e gh gw``, or of all slices or tiles, ``n e gh gw``.

        Raises:
            UserError: As for :meth:`bags`.
        """
        (name,) = self._names("map")
        (row,) = self._rows([id])
        if self.facts.kind == "images":
            return self._read(row["file"], [name])[int(row["row"])]
        first, count = int(row["first_instance"]), int(row["num_instances"])
        return self._read(row["file"], [name], INSTANCES)[first : first + count]

    def _rows(self, ids: Sequence[str] | None) -> list[pd.Series]:
        """Returns the rows of inputs, of all where none is named."""
        rows = self.good.set_index("id", drop=False)
        wanted = rows.index.tolist() if ids is None else ids
        if unknown := [name for name in wanted if name not in rows.index]:
            raise UserError(f"{self.folder}: required a readable input · got {unknown[0]}{nearest(unknown[0], rows.index)}")
        return [rows.loc[name] for name in wanted]

    def _bag(self, row: pd.Series, names: Sequence[str]) -> Bag:
        first, count = int(row["first_instance"]), int(row["num_instances"])
        values = self._read(row["file"], names, INSTANCES)[first : first + count].astype(np.float32)
        if not len(values):
            raise UserError(f"{self.folder}: required at least one slice or tile in every bag · got none in {row['id']}")
        is_slide = self.facts.kind == "slides"
        places = self._read(row["file"], [COORDINATES])[first : first + count] if is_slide else None
        if not np.isfinite(values).all():
            raise self._not_finite(row)
        return Bag(row["id"], values, places)

    def _not_finite(self, row: pd.Series) -> UserError:
        return UserError(
            f"{self.folder / row['file']}: required finite features · got NaN or infinity for {row['id']} · remove this "
            "file of features (not the input) and run the same `nnunet-dino extract` again"
        )

    def _names(self, features: str) -> tuple[str, ...]:
        if features not in TOKENS_OF:
            known = ", ".join(TOKENS_OF)
            raise UserError(f"--features: required one of {known} · got {features!r}{nearest(features, TOKENS_OF)}")
        held = [name for name, tokens in TOKENS_OF.items() if set(tokens) <= set(self.facts.tokens)]
        if features not in held:
            raise UserError(
                f"{self.folder}: required a store with {features!r} · got one with {', '.join(held)} · extract again"
            )
        return TOKENS_OF[features]

    def _read(self, file: str, names: Sequence[str], prefix: str = "") -> np.ndarray:
        """Returns tensors of a file, side by side."""
        try:
            with safe_open(self.folder / file, framework="numpy") as opened:
                return np.concatenate([opened.get_tensor(prefix + name) for name in names], axis=1)
        except (OSError, SafetensorError) as error:
            raise UserError(f"required a readable file of features · got {self.folder / file}: {error} · {AGAIN}") from error


def _read_index(file: Path, num_items: int) -> pd.DataFrame:
    try:
        index = pd.read_csv(
            file,
            dtype=dict.fromkeys(("id", "path", "error", NOTE, "file", "backbone", "weights"), str),
            keep_default_na=False,
            na_values={name: [""] for name in NUMBERS},
        )
        if not {*COLUMNS} <= set(index) or len(index) != num_items:
            raise ValueError(f"{len(index)} rows with the columns {', '.join(map(str, index))}"[:150])
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"{file}: required the index that `nnunet-dino extract` wrote · got {reason} · {AGAIN}") from error
    return index


def about(note: str, ids: Sequence[str]) -> str:
    """Returns a note with the inputs that it is about."""
    more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
    return f"{', '.join(ids[:3])}{more}: {note}"


def open_store(folder: str | Path) -> FeatureStore:
    """Opens a store of features that ``nnunet-dino extract`` made.

    Raises:
        UserError: There is none, or it is not complete.
    """
    return FeatureStore(folder)
