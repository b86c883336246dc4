"""nnunet-dino: DINOv3 slice encoders inside stock nnU-Net."""

from nnunet_dino.nnunet.discovery.boot import register as _register

__version__ = "0.1.0"

_register()
