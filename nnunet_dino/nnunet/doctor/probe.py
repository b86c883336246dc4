"""Run by the doctor in a fresh Python, as text: what works there?

A broken library can end the process, so each answer is printed as one line of JSON, ``[name, value]``, as soon as it is known.
nnunet_dino itself is not imported before nnU-Net's look-up has been tried, because that would switch on the way it is to judge.
"""

import json
import os
import sys

TRAINER = "nnUNetTrainerDINOv3Tiny"
PLANNER = "nnUNetPlannerDINOv3Tiny"


def say(name, ask):
    """Prints the answer, or the error as ``{"error": text}``."""
    try:
        value = ask()
    except BaseException as error:
        value = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    print("\n" + json.dumps([name, value]), flush=True)


def torchvision_works():
    """Calls an operator that exists only where torchvision was built for this torch."""
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]])
    return torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0]


def hook_is_active():
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


def devices():
    """Returns name, description and backbone precision of each device that nnU-Net can train on."""
    import torch

    from nnunet_dino.backbones.precision import backbone_dtype

    found = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        text = f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, capability {facts.major}.{facts.minor}"
        found.append((torch.device("cuda", index), text))
    if torch.backends.mps.is_available():
        found.append((torch.device("mps"), "Apple GPU"))
    found.append((torch.device("cpu"), f"{torch.get_num_threads()} threads"))
    return [{"name": str(d), "text": text, "dtype": str(backbone_dtype(d)).removeprefix("torch.")} for d, text in found]


def builds_a_backbone():
    """Builds the smallest backbone with LoRA and encodes one image: torch, timm and peft work together."""
    import torch

    from nnunet_dino import load_backbone

    encoder = load_backbone("dinov3_tiny", "lora", weights="random")
    maps = encoder(torch.zeros(1, 3, 32, 32)).patch_maps
    return all(bool(torch.isfinite(patch_map).all()) for patch_map in maps)


def weights():
    """Returns for each published backbone where its weights lie: a path, an error, or nothing."""
    from nnunet_dino.backbones.catalogue import CATALOGUE, NO_LICENCE
    from nnunet_dino.backbones.weights import locate

    answer = {}
    for name in [name for name, spec in CATALOGUE.items() if spec.licence != NO_LICENCE]:
        try:
            answer[name] = str(locate(name) or "")
        except (ValueError, OSError) as error:
            answer[name] = f"error: {error}"
    return answer


def weights_are_random():
    """Returns whether the environment asks for random weights."""
    from nnunet_dino.backbones.weights import wants_random

    return wants_random()


if __name__ == "__main__":
    sys.path[:] = [entry for entry in sys.path if entry]  # a stock command does not see the current folder; `python -c` would
    for library in ("torch", "timm", "peft"):
        say(library, lambda: __import__(library).__version__)  # noqa: B023 (called at once)
    say("torchvision", torchvision_works)
    say("hook", hook_is_active)
    say("trainer", find_trainer)
    say("planner", lambda: find(("experiment_planning",), "nnunetv2.experiment_planning", PLANNER))
    say("backbone", builds_a_backbone)
    say("devices", devices)
    say("random", weights_are_random)
    say("weights", weights)
