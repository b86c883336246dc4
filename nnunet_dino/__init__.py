"""nnunet-dino: DINOv3 slice encoders inside stock nnU-Net."""

from __future__ import annotations

from nnunet_dino._lazy import names_of
from nnunet_dino.nnunet.discovery.boot import register as _register

TYPE_CHECKING = False  # type checkers take it for true
if TYPE_CHECKING:
    from nnunet_dino.backbones.adapted import LoraOptions as LoraOptions
    from nnunet_dino.backbones.image_encoder import load_backbone as load_backbone
    from nnunet_dino.compare import compare_results as compare_results
    from nnunet_dino.features import open_store as open_store
    from nnunet_dino.networks import DinoOptions as DinoOptions

__version__ = "0.1.0"
_ROOMS = {
    "networks": ("DinoOptions",),
    "backbones.adapted": ("LoraOptions",),
    "compare": ("compare_results",),
    "backbones.image_encoder": ("load_backbone",),
    "features": ("open_store",),
}
__all__ = ["__version__", *(name for names in _ROOMS.values() for name in names)]

__getattr__ = names_of(__name__, _ROOMS)  # importing the package alone imports neither torch nor nnU-Net

_register()


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
