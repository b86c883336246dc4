"""Errors that a user can mend end nnU-Net's commands with one line and exit code 2, not with a traceback.

nnU-Net's commands know nothing of :class:`UserError`. What reaches the top of one of them is looked at here, once. In any
other program (a notebook, a script, a test) errors pass unchanged.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

from nnunet_dino._errors import EXIT_CODE, UserError, leave

_RAISED = f"{UserError.__module__}.{UserError.__name__}: "
_NO_DEVICE = (
    "Torch not compiled with CUDA enabled",
    "Found no NVIDIA driver",
    "No CUDA GPUs are available",
    "not linked with support for mps",
)


def report_in_one_line() -> None:
    """Lets uncaught errors of nnU-Net's commands pass through :func:`explained`; a second call does nothing."""
    if getattr(sys.excepthook, "of_nnunet_dino", False):
        return
    default, default_of_threads = sys.excepthook, threading.excepthook

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        known = explained(error) if _is_command() else None
        if known is None:
            default(kind, error, trace)
        else:
            leave(known)  # Python ends with the exit code of a SystemExit that is raised here

    def report_of_thread(args: Any) -> None:
        known = explained(args.exc_value) if _is_command() and args.exc_value else None
        if known is None:
            default_of_threads(args)
            return
        try:
            leave(known)
        except SystemExit:
            os._exit(EXIT_CODE)  # the main thread may be waiting for this one

    report.of_nnunet_dino = True  # type: ignore[attr-defined]
    sys.excepthook, threading.excepthook = report, report_of_thread


def explained(error: BaseException) -> UserError | None:
    """Returns what the user is to be told of an uncaught error; None if it is not one that a user can mend."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return cause
        for line in reversed(str(cause).splitlines()):  # torch hands on the traceback of a spawned process as text
            if line.startswith(_RAISED):
                return UserError(line.removeprefix(_RAISED))
        cause = cause.__cause__
    try:
        return _of_prediction(error) if isinstance(error, Exception) else None
    except UserError as found:
        return found


def _of_prediction(error: BaseException) -> UserError | None:
    """Explains why nnU-Net's predictor could not load a model or use a device.

    Raises:
        UserError: A checkpoint of the model cannot be read.
    """
    for frame in _frames(error.__traceback__):
        if frame.f_code.co_name == "initialize_from_trained_model_folder":
            return _of_model(frame.f_locals, error)
    if "nnunet_dino.networks" in sys.modules and any(text in str(error) for text in _NO_DEVICE):
        return UserError(f"-device: required a device that this machine has · got: {_first_line(error)} · use -device cpu")
    return None


def _of_model(local: dict[str, Any], error: BaseException) -> UserError | None:
    from nnunet_dino._checkpoints import read_checkpoint

    folder, name = local.get("model_training_output_dir"), local.get("checkpoint_name")
    if not folder or not name:
        return None
    first = None
    for fold in local.get("use_folds") or ():
        path = os.path.join(folder, f"fold_{fold}", name)
        content = read_checkpoint(path)
        first = first or path
        if missing := [key for key in ("trainer_name", "init_args", "network_weights") if key not in content]:
            return UserError(f"{path}: required a checkpoint that nnU-Net wrote · got one without {missing[0]} · train again")
    if first and "state_dict" in str(error):
        reason = " ".join(str(error).split())[:200]
        return UserError(f"{first}: required the weights of {local.get('trainer_name')}'s network · got {reason} · use its own")
    return None


def _frames(trace: TracebackType | None) -> Iterator[FrameType]:
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


def _is_command() -> bool:
    return os.path.basename(sys.argv[0] if sys.argv else "").startswith("nnUNetv2_")
