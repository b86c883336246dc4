"""Frozen features of images, volumes and slides: on disk, and looked at.

from nnunet_dino.features import extract, open_store

extract(["scans/"], "scan_features", "dinov3_vits16", preprocessing=Preprocessing(window="lung"))
ids, features = open_store("scan_features").vectors("class")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnunet_dino._lazy import names_of

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

# Imported when first asked for, so that the room alone does not import torch.
_PUBLIC = {
    "features.store.reader": ("Bag", "FeatureStore", "open_store"),
    "features.extraction": ("Outcome", "extract"),
    "features.pixels": ("Preprocessing",),
    "features.volume": ("Slicing",),
    "features.tiling": ("Tiling",),
    "features.views": ("look",),
}
__all__ = [name for names in _PUBLIC.values() for name in names]
__getattr__ = names_of(__name__, _PUBLIC)
