"""Packages that only some installations have."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from nnunet_dino._errors import UserError


def require(name: str, extra: str, purpose: str) -> ModuleType:
    """Returns a package of an extra of this one.

    Args:
        name: As it is imported.
        extra: Which of ``nnunet-dino[…]`` brings it.
        purpose: What it is for, before the message.

    Raises:
        UserError: It is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"{purpose}: required the package {name} · got none on this machine ({error}) · run: pip install "
            f"'nnunet-dino[{extra}]'"
        ) from error
