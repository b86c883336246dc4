"""The environment variables of this package, so that a slip in a name is not without effect in silence."""

from __future__ import annotations

import os

from nnunet_dino._errors import UserError, nearest

VARIABLES = (
    "nnUNet_dino_cache_gb",
    "nnUNet_dino_em_threshold",
    "nnUNet_dino_hook",
    "nnUNet_dino_precision",
    "nnUNet_dino_store",
    "nnUNet_dino_weights",
)
_PREFIX = "nnUNet_dino_"


def unknown_variables() -> dict[str, str]:
    """Returns the variables that are set and look like ours but are not read, each with a hint at the one that was meant."""
    names = [name for name in os.environ if name not in VARIABLES and (name.startswith(_PREFIX) or _in_other_case(name))]
    return {name: nearest(_PREFIX + name[len(_PREFIX) :].lower(), VARIABLES) for name in names}


def require_known_variables() -> None:
    """Raises :class:`UserError` if a variable looks like ours but is not read."""
    for name, hint in unknown_variables().items():
        raise UserError(f"environment: required variables that nnunet-dino reads · got {name}{hint} · correct or unset it")


def _in_other_case(name: str) -> bool:
    """Windows does not tell cases apart and lists all names in capitals."""
    return os.name != "nt" and name.lower() in {known.lower() for known in VARIABLES}
