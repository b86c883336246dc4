"""Public names of a package, imported when first asked for."""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers take it for true; importing the real one takes longer than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any


def names_of(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Returns a ``__getattr__`` for ``package``, so that importing it alone imports none of ``modules``.

    Args:
        package: ``__name__`` of the package.
        modules: The public names by the module that has them, below the root package.
    """
    module_of = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"nnunet_dino.{module_of[name]}"), name)

    return get
