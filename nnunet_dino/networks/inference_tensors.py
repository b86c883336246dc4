"""Makes ordinary tensors of a network's inference tensors."""

from __future__ import annotations

import torch
from torch import nn


def make_ordinary(network: nn.Module) -> None:
    """Replaces the values of parameters and buffers that are inference tensors by copies that are none.

    nnU-Net moves a network to the GPU inside ``torch.inference_mode()``, which makes an inference tensor of every parameter and
    buffer. Such tensors do not count what is written to them, so nobody could tell whether a remembered result still holds.
    Parameters stay the same objects.
    """
    with torch.inference_mode(False):
        for parameter in network.parameters():
            if parameter.is_inference():
                parameter.data = parameter.data.clone()
        for module in network.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and buffer.is_inference():
                    module._buffers[name] = buffer.clone()
