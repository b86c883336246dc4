"""Frozen features of images, volumes and slides: on disk, and looked at.

from nnunet_dino.features import extract, open_store

extract(["scans/"], "scan_features", "dinov3_vits16", preprocessing=Preprocessing(window="lung"))
ids, features = open_store("scan_features").vectors("class")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunet_dino.features.extraction import Outcome as Outcome
    from nnunet_dino.features.extraction import extract as extract
    from nnunet_dino.features.pixels import Preprocessing as Preprocessing
    from nnunet_dino.features.store.reader import Bag as Bag
    from nnunet_dino.features.store.reader import FeatureStore as FeatureStore
    from nnunet_dino.features.store.reader import open_store as open_store
    from nnunet_dino.features.tiling import Tiling as Tiling
    from nnunet_dino.features.views import look as look
    from nnunet_dino.features.volume import Slicing as Slicing

_MODULES = {
    "Bag": "store.reader",
    "FeatureStore": "store.reader",
    "Outcome": "extraction",
    "Preprocessing": "pixels",
    "Slicing": "volume",
    "Tiling": "tiling",
    "extract": "extraction",
    "look": "views",
    "open_store": "store.reader",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    """Imports what is asked for; importing the room alone does not import torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
