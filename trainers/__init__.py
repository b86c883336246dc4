"""nnU-Net trainer classes, made from :mod:`nnunet_dino.nnunet.presets`; installed as ``nnunet_dino.trainers``."""

from nnunet_dino.nnunet.presets import TRAINERS


def __getattr__(name: str) -> type:
    from nnunet_dino.nnunet.classes import trainer_class

    if name not in TRAINERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return trainer_class(name)


def __dir__() -> list[str]:
    return list(TRAINERS)
