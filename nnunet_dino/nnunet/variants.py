"""Our trainers together with nnU-Net's variants: ``class Mine(A, B)`` means the same in either order, or is refused."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn
from torch.optim import Optimizer

from nnunet_dino._errors import UserError

OPTIMISES, BUILDS = "configure_optimizers", "build_network_architecture"
_FOLLOWS = "follows"
ALIKE = 0.85  # of a name that is a slip of the pen
_OF_PLANS = ("batch_size", "patch_size", "spacing")


def check_combination(trainer: type, ours: type, builds: bool, optimises: bool) -> None:
    """Refuses a class whose bases undo each other.

    Args:
        trainer: The class, a subclass of ``ours``.
        ours: The class that all trainers of this package share.
        builds: It builds a network of this package.
        optimises: It has an optimiser that is not nnU-Net's.

    Raises:
        UserError: A variant of nnU-Net builds a network or sets an optimiser as well, or a base is named behind a trainer that
            defines the same, so that it would never be called.
    """
    bases = [cls for cls in trainer.__mro__ if cls not in nnUNetTrainer.__mro__ and not issubclass(cls, ours)]
    own = next(cls.__name__ for cls in trainer.__mro__ if cls.__module__ == "nnunet_dino.trainers" or cls is ours)
    for cls in bases:
        if not issubclass(cls, nnUNetTrainer):
            _refuse_if_shadowed(trainer, cls)
        elif builds and BUILDS in vars(cls):
            raise UserError(
                f"{trainer.__name__}: required one class that builds the network · got {cls.__name__} and {own} · train plans "
                f"of a DINOv3 planner with -tr {cls.__name__} alone, which builds the network that is planned"
            )
        elif optimises and OPTIMISES in vars(cls):
            raise UserError(
                f"{trainer.__name__}: required one class that sets the optimiser · got {cls.__name__} and {own} · leave one "
                "out, or take the trainer of this network that trains with nnU-Net's SGD"
            )
        else:
            _refuse_if_replaced(trainer, cls, bases[: bases.index(cls)])


def _refuse_if_replaced(trainer: type, variant: type, before: list[type]) -> None:
    """Refuses two variants of nnU-Net of which the first defines what the second does, without calling it."""
    for name in vars(variant):
        first = next((cls for cls in before if name in vars(cls) and not issubclass(cls, variant)), None)
        if first and not name.startswith("__") and callable(getattr(variant, name)) and not _calls_super(vars(first)[name]):
            raise UserError(
                f"{trainer.__name__}: required that {name} of {variant.__name__} is called · got {first.__name__} before it, "
                f"which defines {name} anew · leave one out, or write {name} in {trainer.__name__} itself"
            )


def _calls_super(method: Any) -> bool:
    code = getattr(getattr(method, "__func__", method), "__code__", None)
    return code is not None and "super" in code.co_names


def _refuse_if_shadowed(trainer: type, mixin: type) -> None:
    before = trainer.__mro__[: trainer.__mro__.index(mixin)]
    for name in vars(mixin):
        first = next(
            (cls for cls in before if issubclass(cls, nnUNetTrainer) and cls is not trainer and name in vars(cls)), None
        )
        if first and not name.startswith("__"):
            raise UserError(
                f"{trainer.__name__}: required that {name} of {mixin.__name__} is called · got it behind that of "
                f"{first.__name__} · name {mixin.__name__} first in the class statement"
            )


def honour_class_body(trainer: nnUNetTrainer, ours: type) -> None:
    """Gives what nnU-Net sets in ``__init__`` the value that a subclass has in its class body: ``num_epochs = 50``.

    Raises:
        UserError: nnU-Net would set it to something else later, or knows another name that is nearly the same.
    """
    written: dict[str, Any] = {}
    for cls in type(trainer).__mro__:
        if cls is not ours and cls not in nnUNetTrainer.__mro__:
            written = {**vars(cls), **written}
    for name, value in written.items():
        if name.startswith("_") or hasattr(value, "__get__") or hasattr(ours, name):
            continue
        if name in vars(trainer) and vars(trainer)[name] is not None:
            setattr(trainer, name, value)
        elif name in (*vars(trainer), *_OF_PLANS) and value is not None:
            raise UserError(
                f"{type(trainer).__name__}: required a class body without {name}, which nnU-Net sets itself · got {value!r} · "
                f"{'write it into the plans' if name in _OF_PLANS else 'override the method that sets it'}"
            )
        elif name not in vars(trainer) and (meant := difflib.get_close_matches(name, vars(trainer), 1, ALIKE)):
            raise UserError(
                f"{type(trainer).__name__}: required {meant[0]}, as nnU-Net calls it, in a class body · got {name} · correct it"
            )


def separating(
    configure: Callable[..., tuple[Optimizer, Any]], backbone: Callable[[], Iterable[nn.Parameter]], vit_lr: float
) -> Callable[..., tuple[Optimizer, Any]]:
    """Wraps ``configure_optimizers`` so that a group of the backbone and the rest becomes two, the backbone's with ``vit_lr``.

    Variants of nnU-Net give all parameters one learning rate. Their schedules set it for all groups alike, so
    :func:`follow` has to be called after each of their steps.
    """

    def configure_optimizers(*args: Any, **kwargs: Any) -> tuple[Optimizer, Any]:
        optimizer, schedule = configure(*args, **kwargs)
        of_backbone = {id(p) for p in backbone()}
        for number, group in enumerate(list(optimizer.param_groups)):
            apart = [p for p in group["params"] if id(p) in of_backbone]
            if 0 < len(apart) < sum(p.requires_grad for p in group["params"]):
                group["params"] = [p for p in group["params"] if id(p) not in of_backbone]
                share = vit_lr / group.get("initial_lr", group["lr"])
                optimizer.add_param_group({**group, "params": apart, "lr": vit_lr, _FOLLOWS: (number, share)})
                if hasattr(schedule, "base_lrs"):
                    schedule.base_lrs.append(vit_lr)
        follow(optimizer)
        return optimizer, schedule

    return configure_optimizers


def follow(optimizer: Optimizer) -> None:
    """Sets the learning rate of a separated backbone: its share of that of the group it was in."""
    for group in optimizer.param_groups:
        if _FOLLOWS in group:
            number, share = group[_FOLLOWS]
            group["lr"] = optimizer.param_groups[number]["lr"] * share
