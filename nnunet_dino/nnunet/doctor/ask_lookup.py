"""Run by the doctor in a fresh Python, as text: does nnU-Net find our classes there, and by which way?

Imports nothing of nnunet_dino itself, because that would switch on the way it is to judge.
"""

import json
import os
import sys

# A stock command does not see the current folder; `python -c` would.
sys.path[:] = [entry for entry in sys.path if entry]

TRAINER = "nnUNetTrainerDINOv3Tiny"
PLANNER = "nnUNetPlannerDINOv3Tiny"


def say(name, ask):
    """Prints the answer, or the error as ``{"error": text}``."""
    try:
        value = ask()
    except BaseException as error:
        value = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    print("\n" + json.dumps([name, value]), flush=True)


def extended():
    """Returns whether the start-up hook has extended nnU-Net's look-up."""
    from nnunetv2.utilities import find_class_by_name

    return hasattr(find_class_by_name.recursive_find_python_class, "extended_by_nnunet_dino")


def find(folder, module, name):
    """Returns the module of the class ``name`` as nnU-Net's own search finds it, or an empty string."""
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    found = recursive_find_python_class(os.path.join(nnunetv2.__path__[0], *folder), name, module)
    return found.__module__ if found else ""


def find_trainer():
    """Returns the module of our smallest trainer as nnUNetv2_train finds it, or an empty string."""
    try:
        from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
    except ModuleNotFoundError:  # nnU-Net 2.7
        return find(("training", "nnUNetTrainer"), "nnunetv2.training.nnUNetTrainer", TRAINER)
    try:
        return recursive_find_trainer_class_by_name(TRAINER).__module__
    except RuntimeError as error:
        if "Could not find" in str(error):
            return ""
        raise


say("hook", extended)
say("trainer", find_trainer)
say("planner", lambda: find(("experiment_planning",), "nnunetv2.experiment_planning", PLANNER))
