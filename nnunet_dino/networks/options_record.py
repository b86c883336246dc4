"""The options of a network in its checkpoints, so that weights are never used with others than they were trained with."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nnunet_dino._errors import UserError
from nnunet_dino.backbones.records import from_tensor, to_tensor
from nnunet_dino.backbones.weights.unwrapping import OPTIONS_KEY

_START_OR_TRAINING = ("weights", "drop_path", "gate_start")  # they say nothing of what a trained network computes


def record_options(slice_encoder: nn.Module, entry: dict[str, Any]) -> None:
    """Writes ``entry`` into every state of ``slice_encoder``, and compares the one in every state that is loaded.

    Loading raises :class:`UserError` if an option differs that changes what the network computes. A state without a record, of
    a version that wrote none, is taken.
    """
    slice_encoder.options = {key: value for key, value in flat_options(entry).items() if key not in _START_OR_TRAINING}  # type: ignore[assignment]
    slice_encoder.register_state_dict_post_hook(_write)
    slice_encoder.register_load_state_dict_pre_hook(_compare)


def recorded_entry(slice_encoder: nn.Module) -> dict[str, Any]:
    """Returns the ``dino`` entry of plans that builds ``slice_encoder``, for weights that a checkpoint holds."""
    options = slice_encoder.options
    assert isinstance(options, dict)
    lora = {key.removeprefix("lora."): value for key, value in options.items() if key.startswith("lora.")}
    return {key: value for key, value in options.items() if not key.startswith("lora.")} | {"lora": lora, "weights": "random"}


def different_options(encoded: Tensor, options: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns the options that differ from recorded ones: what was recorded and what is now, by name."""
    recorded, now = from_tensor(encoded), from_tensor(to_tensor(options))  # tuples become lists in a record
    keys = [key for key in recorded if key in now and recorded[key] != now[key]]
    if "lora" not in (recorded.get("adaptation"), now["adaptation"]):
        keys = [key for key in keys if not key.startswith("lora.")]
    return {key: (recorded[key], now[key]) for key in keys}


def _write(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    state[prefix + OPTIONS_KEY] = to_tensor(module.options)


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


def flat_options(entry: dict[str, Any]) -> dict[str, Any]:
    """Returns ``lora.rank`` and so on beside the other options."""
    lora = {f"lora.{key}": value for key, value in entry["lora"].items()}
    return {key: value for key, value in entry.items() if key != "lora"} | lora
