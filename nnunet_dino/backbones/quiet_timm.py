"""timm, imported without the warning that recent versions of torch give to timm's developers."""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*torch.jit.interface.*", category=FutureWarning)
    import timm
    import timm.layers

__all__ = ["timm"]
