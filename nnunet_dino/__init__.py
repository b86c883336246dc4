"""nnunet-dino: DINOv3 slice encoders inside stock nnU-Net."""

__version__ = "0.1.0"
