"""nnU-Net planner classes, made from :mod:`nnunet_dino.nnunet.presets`; installed as ``nnunet_dino.planners``."""

from nnunet_dino.nnunet.presets import PLANNERS


def __getattr__(name: str) -> type:
    from nnunet_dino.nnunet.classes import planner_class

    if name not in PLANNERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return planner_class(name)


def __dir__() -> list[str]:
    return list(PLANNERS)
