"""Run by the doctor in a fresh Python: do the compiled packages work together, on which devices, with which weights?

A broken library can end the process, so each answer is printed as one line of JSON, ``[name, value]``, as soon as it is known.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def say(name: str, ask: Callable[[], Any]) -> None:
    """Prints the answer, or the error as ``{"error": text}``."""
    try:
        value = ask()
    except BaseException as error:
        value = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    print("\n" + json.dumps([name, value]), flush=True)


def torchvision_works() -> bool:
    """Calls an operator that exists only where torchvision was built for this torch."""
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]])
    return torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0]


def devices() -> list[dict[str, Any]]:
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


def weights() -> dict[str, str]:
    """Returns for each published backbone where its weights lie: a path, an error, or nothing."""
    from nnunet_dino._errors import UserError
    from nnunet_dino.backbones.catalogue import CATALOGUE, NO_LICENCE
    from nnunet_dino.backbones.weights import locate

    answer = {}
    for name in [name for name, spec in CATALOGUE.items() if spec.licence != NO_LICENCE]:
        try:
            answer[name] = str(locate(name) or "")
        except UserError as error:
            answer[name] = f"error: {error}"
    return answer


def random_weights() -> bool:
    """Returns whether the environment asks for random weights."""
    from nnunet_dino.backbones.weights import wants_random

    return wants_random()


def main() -> None:
    say("torch", lambda: __import__("torch").__version__)
    say("torchvision", torchvision_works)
    say("timm", lambda: __import__("timm").__version__)
    say("peft", lambda: __import__("peft").__version__)
    say("devices", devices)
    say("random", random_weights)
    say("weights", weights)


if __name__ == "__main__":
    main()
