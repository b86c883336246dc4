"""For ``nnUNet_extTrainer``: re-exports the trainers of nnunet-dino to nnU-Net's search, each only when it is asked for.

nnU-Net forgets the modules of this folder after a search, so no class may be defined here: worker processes could not unpickle
it.
"""

from __future__ import annotations


def __getattr__(name: str) -> type | None:
    from nnunet_dino.nnunet.command_errors import report_in_one_line
    from nnunet_dino.nnunet.discovery.registry import TRAINERS, resolve

    if name not in TRAINERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    report_in_one_line()
    return resolve(name)
