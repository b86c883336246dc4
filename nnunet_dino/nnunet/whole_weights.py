"""From a slim checkpoint to weights that hold their backbone."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from nnunet_dino._errors import UserError
from nnunet_dino.backbones import weights as weight_files
from nnunet_dino.backbones.adapted import RECORD_KEY, decode_record


def embed_backbone(network_weights: dict[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Returns network weights in which the record of a backbone is replaced by the backbone's own weights.

    Weights that hold everything already are returned as they are.

    Args:
        network_weights: What a checkpoint holds.
        source: The checkpoint, for messages.

    Raises:
        UserError: the record cannot be read, or the weights are not on this machine or are others than the recorded ones.
    """
    record = next((key for key in network_weights if key.endswith(f".{RECORD_KEY}")), None)
    if record is None:
        return network_weights
    try:
        name, digest = decode_record(network_weights[record])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{source}: required the name and digest of a backbone in {record} · got something else ({error}) · "
            "use a checkpoint that nnU-Net wrote"
        ) from error
    if weight_files.locate(name) is None:
        raise UserError(weight_files.missing_weights_message(name, digest))
    loaded = weight_files.load(name)
    if loaded.digest != digest:
        raise UserError(
            f"export: required {name} weights with digest {digest} · got {loaded.digest} from {loaded.source} · "
            f"set {weight_files.ENVIRONMENT_VARIABLE} to the file the model was trained with"
        )
    prefix = f"{record.removesuffix(RECORD_KEY)}backbone.vit."
    result = {key: value for key, value in network_weights.items() if key != record}
    for key, tensor in loaded.state.items():
        module, _, parameter = key.rpartition(".")
        has_adapter = f"{prefix}{module}.lora_A.default.weight" in network_weights
        result[f"{prefix}{module}.base_layer.{parameter}" if has_adapter else prefix + key] = tensor.clone()
    return result
