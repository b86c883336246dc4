"""Classification probes: features on disk, linear layer, nearest neighbours, attention over bags."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from nnunet_dino.features.store.reader import FeatureStore


def open_store(folder: str | Path) -> FeatureStore:
    """Opens a store of features that ``nnunet-dino extract`` made.

    Raises:
        UserError: There is none, or it is not complete.
    """
    from nnunet_dino.features.store.reader import FeatureStore

    return FeatureStore(folder)
