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
_BY_GROUP = ("base_lrs", "lr_lambdas", "min_lrs", "max_lrs", "base_momentums", "max_momentums")  # of torch's schedules
_ELSEWHERE = {  # what nnU-Net 1 and others call it
    "num_epochs": ("epochs", "n_epochs", "max_epochs", "max_num_epochs"),
    "initial_lr": ("lr", "learning_rate", "base_lr"),
    "num_iterations_per_epoch": ("num_batches_per_epoch", "iterations_per_epoch"),
}


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
        if name.startswith("_") or hasattr(value, "__get__") or name in (*dir(ours), *ours.__annotations__):
            continue
        if name in vars(trainer) and vars(trainer)[name] is not None:
            setattr(trainer, name, value)
        elif name in (*vars(trainer), *_OF_PLANS) and value is not None:
            raise UserError(
                f"{type(trainer).__name__}: required a class body without {name}, which nnU-Net sets itself · got {value!r} · "
                f"{'write it into the plans' if name in _OF_PLANS else 'override the method that sets it'}"
            )
        elif name not in vars(trainer) and (meant := _meant(trainer, name, [*vars(trainer), *ours.__annotations__])):
            raise UserError(
                f"{type(trainer).__name__}: required {meant}, which is its name here, in a class body · got {name} · correct it"
            )


def _meant(trainer: nnUNetTrainer, name: str, known: Iterable[str]) -> str | None:
    """Returns the known name that ``name`` is a slip of the pen of, or another word for where no method reads it."""
    if close := difflib.get_close_matches(name, known, 1, ALIKE):
        return close[0]
    meant = next((ours for ours, others in _ELSEWHERE.items() if name in others), None)
    methods = (getattr(value, "__func__", value) for cls in type(trainer).__mro__ for value in vars(cls).values())
    if meant and any(name in method.__code__.co_names for method in methods if hasattr(method, "__code__")):
        return None
    return meant


def separating(
    trainer: nnUNetTrainer, backbone: Callable[[], Iterable[nn.Parameter]], backbone_lr: Callable[[], float | None]
) -> Callable[..., tuple[Optimizer, Any]]:
    """Wraps ``configure_optimizers`` so that a group of the backbone and the rest becomes two if the backbone has a rate.

    Variants of nnU-Net give all parameters one learning rate. Their schedules set it for all groups alike, with every epoch or
    every batch, so :func:`follow` is called before each step.
    """
    configure = trainer.configure_optimizers

    def configure_optimizers(*args: Any, **kwargs: Any) -> tuple[Optimizer, Any]:
        pair = configure(*args, **kwargs)
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise UserError(
                f"{type(trainer).__name__}: required an optimiser and a schedule of {OPTIMISES} · got {type(pair).__name__} · "
                "return both"
            )
        optimizer, schedule = pair
        if (vit_lr := backbone_lr()) is None:
            return optimizer, schedule
        of_backbone = {id(p) for p in backbone()}
        for number, group in enumerate(list(optimizer.param_groups)):
            apart = [p for p in group["params"] if id(p) in of_backbone]
            if 0 < len(apart) < sum(p.requires_grad for p in group["params"]):
                group["params"] = [p for p in group["params"] if id(p) not in of_backbone]
                share = vit_lr / max(group.get(rate, 0) for rate in ("lr", "initial_lr", "max_lr"))  # a schedule may start low
                optimizer.add_param_group({**group, "params": apart, "lr": vit_lr, _FOLLOWS: (number, share)})
                for one in (schedule, *_schedules_of(optimizer, (schedule, vars(trainer)), [])):
                    _show(one, number, len(optimizer.param_groups))
        follow(optimizer)
        optimizer.register_step_pre_hook(lambda stepped, *_: follow(stepped))
        return optimizer, schedule

    return configure_optimizers


def _schedules_of(optimizer: Optimizer, things: Iterable[Any], found: list[Any]) -> list[Any]:
    """Returns ``found`` with the schedules of ``optimizer`` among ``things`` and in these, and those that they are made of."""
    for thing in things:
        if isinstance(thing, (dict, list, tuple)):
            _schedules_of(optimizer, thing.values() if isinstance(thing, dict) else thing, found)
        elif getattr(thing, "optimizer", None) is optimizer and all(thing is not one for one in found):
            found.append(thing)
            _schedules_of(optimizer, getattr(thing, "__dict__", {}).values(), found)
    return found


def _show(schedule: Any, number: int, num_groups: int) -> None:
    """Tells a schedule of the last of so many groups, which is like group ``number``."""
    for name in _BY_GROUP:
        if (values := getattr(schedule, name, None)) and len(values) < num_groups:
            values.append(values[number])


def follow(optimizer: Optimizer) -> None:
    """Sets the learning rate of a separated backbone: its share of that of the group it was in."""
    for group in optimizer.param_groups:
        if _FOLLOWS in group:
            number, share = group[_FOLLOWS]
            group["lr"] = optimizer.param_groups[number]["lr"] * share
