"""Domain-adaptive pretraining of a slice encoder on preprocessed data, after DINOv3 (arXiv 2508.10104)."""
