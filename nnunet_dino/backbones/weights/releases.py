"""Which public release is a file? By the first digits of its sha256, which Meta writes into the names of its files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from nnunet_dino.backbones.catalogue import CATALOGUE

# dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth and dinov3_vit7b16_pretrain_sat493m-a6675841.pth, from Meta's list of downloads.
SATELLITE = {"eadcf0ff": "dinov3_vitl16", "a6675841": "dinov3_vit7b16"}
_RELEASED = {spec.meta_file.rpartition("-")[2].removesuffix(".pth"): spec.name for spec in CATALOGUE.values() if spec.meta_file}


def first_digits(path: Path) -> str:
    """Returns the first eight hexadecimal digits of the file's sha256."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:8]


def is_satellite(path: Path) -> bool:
    """Whether a file, whatever its name, is a release trained on satellite images."""
    return path.is_file() and path.suffix in (".pth", ".pt", ".bin") and first_digits(path) in SATELLITE


def release(path: Path) -> str:
    """Returns what ``weights verify`` says of a file's origin."""
    digits = first_digits(path) if path.is_file() else ""
    if digits in _RELEASED:
        return f"Meta's file of {_RELEASED[digits]}, trained on LVD-1689M"
    return "unknown (of the public files only Meta's own are recognised; a converted or tuned one is not)"
