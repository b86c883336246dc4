"""A frozen backbone that turns images into feature vectors and patch maps, with the digest of its weights."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from nnunet_dino._errors import UserError
from nnunet_dino.backbones import weights
from nnunet_dino.backbones.adapted import AdaptedBackbone
from nnunet_dino.backbones.image_encoder import FoundBackbone, find_backbone
from nnunet_dino.backbones.spec import NO_LICENCE, PATCH_PX
from nnunet_dino.backbones.vit import NUM_PREFIX_TOKENS, TOKENS_AT_ONCE
from nnunet_dino.backbones.weights.model_config import Statistics

RANDOM_SEED = 0
NUM_BLOCKS = 4  # DINOv2 (github.com/facebookresearch/dinov2 at e1277af), eval/linear.py


class Features(NamedTuple):
    """What the last blocks say about ``n`` images, after the final LayerNorm, on the encoder's device.

    Attributes:
        class_token: ``n e``; None of a backbone that has none.
        patch_mean: Mean over the patch tokens that show the image, ``n e``.
        patch_map: ``n e gh gw``.
        class_tokens: Those of the last four blocks, one after the other, ``n 4e``; None of a backbone that has none.
    """

    class_token: Tensor | None
    patch_mean: Tensor
    patch_map: Tensor
    class_tokens: Tensor | None = None


class FrozenEncoder:
    """Encodes images with a backbone; weights of one that is named, and no file, are looked for as for training.

    Random weights (``nnUNet_dino_weights=random``) are drawn from a fixed seed, so that every process has the same.

    Args:
        backbone: See :func:`nnunet_dino.backbones.image_encoder.find_backbone`.
        device: Where to compute.
        statistics: Mean and deviation of red, green and blue; by default those that the weights came with, else ImageNet's.

    Attributes:
        name: Of the backbone.
        patch_px: Pixels along a token.
        embed_dim: Width ``e`` of a token.
        has_class_token: Whether it has one.
        licence: Of its weights.
        digest: Content digest of the weights.
        weights_are_random: Whether they were drawn instead of loaded.
        dtype: Type the backbone computes in.
        statistics: What images are standardised with.

    Raises:
        UserError: The backbone is unknown, or there are no weights and they cannot be downloaded.
    """

    def __init__(self, backbone: str | FoundBackbone, device: torch.device, statistics: Statistics | None = None) -> None:
        spec, loaded = find_backbone(backbone)
        self.name, self.patch_px, self.embed_dim = spec.name, spec.patch_px, spec.embed_dim
        self.has_class_token = spec.num_prefix_tokens > 0
        self.device = device
        self.weights_are_random = loaded is None and weights.wants_random()
        if loaded is None and not self.weights_are_random:
            weights.ensure_local(spec.name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            self._backbone = AdaptedBackbone(spec.name, loaded=loaded)
        self._backbone.require_weights()
        whole = self._backbone.backbone
        if whole.spec.is_vit:  # of the blocks that networks tap, only the last is of use here
            whole.spec = replace(whole.spec, taps=tuple(range(whole.spec.taps[-1] + 1))[-NUM_BLOCKS:])
        self.digest = self._backbone.digest or weights.digest_of(self._backbone.backbone.vit.state_dict())
        self.licence = NO_LICENCE if self.weights_are_random else self._backbone.licence
        self._backbone.to(device)
        self.dtype = self._backbone.settle(device)
        self.statistics = statistics or self._backbone.statistics
        self._mean, self._std = (torch.tensor(values, device=device).view(3, 1, 1) for values in self.statistics)

    @torch.inference_mode()
    def __call__(self, images: Tensor, shows_image: Tensor | None = None) -> Features:
        """Encodes images.

        Args:
            images: ``n 3 h w`` or, grey, ``n 1 h w``; intensities 0..1; ``h`` and ``w`` multiples of the patch.
            shows_image: Which tokens show the image and not only padding, ``n gh gw``; None for all.
        """
        images = images.to(self.device, torch.float32, non_blocking=True).expand(-1, 3, -1, -1)
        tokens = self._backbone.tokens((images - self._mean) / self._std)
        patch_map = tokens.patch_maps[-1].float()
        if shows_image is None:
            patch_mean = patch_map.mean((2, 3))
        else:
            weights = shows_image.to(patch_map)[:, None]
            patch_mean = (patch_map * weights).sum((2, 3)) / weights.sum((2, 3))
        class_token = tokens.class_tokens[-1].float() if tokens.class_tokens else None
        class_tokens = torch.cat(tokens.class_tokens, 1).float() if tokens.class_tokens else None
        return Features(class_token, patch_mean, patch_map, class_tokens)


def default_batch(size_px: int, patch_px: int = PATCH_PX) -> int:
    """Returns how many images of ``size_px`` are encoded at once: as many as have 16,384 tokens of at most 16 px together."""
    return max(1, TOKENS_AT_ONCE // ((size_px // min(patch_px, PATCH_PX)) ** 2 + NUM_PREFIX_TOKENS))


def pick_device(name: str = "auto", option: str = "--device") -> torch.device:
    """Returns the device called ``name``; ``auto`` is CUDA if there is one.

    Under ``torchrun`` every process takes the GPU of its local rank.

    Raises:
        UserError: There is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and torch.cuda.is_available():
        rank = os.environ.get("LOCAL_RANK", "0")
        if not rank.isdecimal():
            raise UserError(f"LOCAL_RANK: required a number, as torchrun sets it · got {rank!r} · unset it")
        return torch.device("cuda", int(rank) % torch.cuda.device_count())
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"{option}: required a device of this machine, for example cpu · got {name!r}") from error
    return device
