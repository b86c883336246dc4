"""Which floating-point type the backbone computes in on a device."""

from __future__ import annotations

import os

import torch

from nnunet_dino._errors import UserError

ENVIRONMENT_VARIABLE = "nnUNet_dino_precision"
_BY_NAME = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def is_exporting() -> bool:
    """Tells whether a network is being written down (ONNX, ``torch.export``, ``torch.jit.trace``) rather than run."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()


def backbone_dtype(device: torch.device) -> torch.dtype:
    """Returns bfloat16 where the processor computes in it, else float32.

    DINOv3 overflows in float16, so nnU-Net's float16 autocast never reaches the backbone. bfloat16 is used on CUDA devices of
    compute capability 8 or higher and on CPUs with AVX512-BF16 or AMX. ``nnUNet_dino_precision`` (``bfloat16`` or
    ``float32``) overrides the choice. While exporting it is always float32.

    Raises:
        UserError: the environment variable holds another word.
    """
    if is_exporting():
        return torch.float32
    wanted = os.environ.get(ENVIRONMENT_VARIABLE)
    if wanted:
        if wanted not in _BY_NAME:
            raise UserError(f"{ENVIRONMENT_VARIABLE}: required {' or '.join(_BY_NAME)} · got {wanted!r} · correct or unset it")
        return _BY_NAME[wanted]
    return torch.bfloat16 if _computes_in_bfloat16(device) else torch.float32


def _computes_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False
