"""The options of a network in its checkpoints, so that weights are never used with others than they were trained with."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_dino._errors import UserError

OPTIONS_KEY = "options_record"
_START_OR_TRAINING = ("weights", "drop_path", "gate_start")  # they say nothing of what a trained network computes


def record_options(slice_encoder: nn.Module, entry: dict[str, Any]) -> None:
    """Writes ``entry`` into every state of ``slice_encoder``, and compares the one in every state that is loaded.

    Loading raises :class:`UserError` if an option differs that changes what the network computes. A state without a record, of
    a version that wrote none, is taken.
    """
    slice_encoder.options = {key: value for key, value in _flat(entry).items() if key not in _START_OR_TRAINING}  # type: ignore[assignment]
    slice_encoder.register_state_dict_post_hook(_write)
    slice_encoder.register_load_state_dict_pre_hook(_compare)


def different_options(encoded: Tensor, options: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns the options that differ from recorded ones: what was recorded and what is now, by name."""
    recorded = json.loads(bytes(encoded.tolist()).decode())
    now = json.loads(json.dumps(options))
    unused = "lora" if now["adaptation"] != "lora" and recorded.get("adaptation") != "lora" else "-"
    keys = [key for key in recorded if key in now and not key.startswith(f"{unused}.")]
    return {key: (recorded[key], now[key]) for key in keys if recorded[key] != now[key]}


def _write(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    text = json.dumps(module.options, sort_keys=True)
    state[prefix + OPTIONS_KEY] = torch.tensor(list(text.encode()), dtype=torch.uint8)


def _compare(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    encoded = state.pop(prefix + OPTIONS_KEY, None)
    if encoded is None:
        return
    assert isinstance(module.options, dict)
    for key, (recorded, now) in different_options(encoded, module.options).items():
        raise UserError(
            f"checkpoint: required dino.{key} {recorded!r}, with which it was trained · got {now!r} · use the trainer and "
            "plans that it was trained with, or a subclass of the trainer that sets it"
        )


def _flat(entry: dict[str, Any]) -> dict[str, Any]:
    """Returns ``lora.rank`` and so on beside the other options."""
    lora = {f"lora.{key}": value for key, value in entry["lora"].items()}
    return {key: value for key, value in entry.items() if key != "lora"} | lora
