"""nnU-Net trainer classes; installed as ``nnunet_dino.trainers``."""
