"""``nnUNetv2_train -pretrained_weights FILE`` for networks with a DINOv3 side.

nnU-Net asks that every parameter of the new network is in the file. A stock checkpoint has none of the DINOv3 side, so for
our networks (and only for them) the loading is done here.
"""

from __future__ import annotations

import sys
from pathlib import Path

from nnunetv2.run import run_training
from torch import Tensor, nn

from nnunet_dino._checkpoints import read_checkpoint
from nnunet_dino._errors import UserError
from nnunet_dino.backbones.adaptation import canonical_name, is_adapter
from nnunet_dino.backbones.adapted import RECORD_KEY
from nnunet_dino.backbones.weights.unwrapping import OPTIONS_KEY, STATISTICS_RECORD, adapter_scale, merge_adapters
from nnunet_dino.networks.meddinov3_checkpoint import from_published, is_published
from nnunet_dino.networks.options_record import different_options
from nnunet_dino.nnunet.whole_weights import embed_backbone

OPTIONS = f"slice_encoder.{OPTIONS_KEY}"
SEGMENTATION_HEADS = ".seg_layers."
CONVOLUTIONAL_PART = ("encoder.", "decoder.")
BACKBONE = "slice_encoder.backbone."
_stock_loader = run_training.load_pretrained_weights


def install_loader() -> None:
    """Makes nnU-Net's training command use :func:`load_pretrained` for networks that have a slice encoder."""
    run_training.load_pretrained_weights = _dispatch


def check_start() -> None:
    """Raises :class:`UserError` if ``-pretrained_weights`` of the running training names a file that cannot be read.

    nnU-Net reads the file only after it has made a folder for results, and tells nobody its name before.
    """
    frame = sys._getframe().f_back
    while frame is not None:
        if frame.f_globals.get("__name__") == run_training.__name__ and frame.f_locals.get("pretrained_weights"):
            read_checkpoint(frame.f_locals["pretrained_weights"])
            return
        frame = frame.f_back


def _dispatch(network: nn.Module, fname: str, verbose: bool = False) -> None:
    inner = unwrap(network)
    if hasattr(inner, "slice_encoder"):
        load_pretrained(inner, fname, verbose)
    else:
        _stock_loader(network, fname, verbose)


def unwrap(network: nn.Module) -> nn.Module:
    """Returns the module inside DistributedDataParallel and ``torch.compile``."""
    network = getattr(network, "module", network)
    return getattr(network, "_orig_mod", network)


def load_pretrained(network: nn.Module, path: str, verbose: bool = False) -> list[str]:
    """Starts ``network`` from an nnU-Net checkpoint; segmentation heads are left as they are.

    A checkpoint of the same kind gives everything, and so does one of MedDINOv3's published trainer. A stock nnU-Net
    checkpoint of the same plans gives the convolutional part, and the DINOv3 side starts as initialised. Adapters that
    ``network`` does not have are merged into the backbone; adapters that the file does not have start as initialised.

    Returns:
        The keys taken over.

    Raises:
        UserError: the file is missing or unreadable, or a needed key is missing or has another shape.
    """
    given = _read(path)
    recorded = given.pop(OPTIONS, None)
    given, adapters = _with_adapters_of(network, given, recorded, path)
    if is_published(given):
        given, _ = from_published(network, given, path)
    own = {key: value for key, value in network.state_dict().items() if key != OPTIONS}
    has_dino_side = any(not key.startswith(CONVOLUTIONAL_PART) for key in given)
    backbone_comes_from_file = {key for key in given if _belongs_to_backbone(key)}
    has_record = any(key.endswith(RECORD_KEY) for key in given)
    needed = []
    for key in own:
        if SEGMENTATION_HEADS in key or not (has_dino_side or key.startswith(CONVOLUTIONAL_PART)):
            continue
        if (
            key.endswith((RECORD_KEY, STATISTICS_RECORD))
            or (has_record and _belongs_to_backbone(key))
            or (is_adapter(key) and key not in given)
        ):
            continue
        _check_fits(path, key, own[key], given)
        needed.append(key)
    taken = sorted({*needed, *backbone_comes_from_file} if has_dino_side else needed)
    kept = own
    if has_dino_side:  # the backbone, or the record of it, is the file's
        kept = {key: value for key, value in own.items() if not _belongs_to_backbone(key)}
    network.load_state_dict({**kept, **{key: given[key] for key in taken}})
    part = "all parameters but the segmentation heads" if has_dino_side else "the convolutional part (a stock checkpoint)"
    print(f"nnunet-dino: {path} starts {part}: {len(taken)} tensors{adapters if has_dino_side else ''}")
    if recorded is not None:
        for key, (before, now) in different_options(recorded, network.slice_encoder.options).items():
            print(f"nnunet-dino: {path} was trained with dino.{key} {before!r}, this network has {now!r}")
    if verbose:
        print("\n".join(f"  {key} {tuple(given[key].shape)}" for key in taken))
    return taken


def _with_adapters_of(
    network: nn.Module, given: dict[str, Tensor], recorded: Tensor | None, path: str
) -> tuple[dict[str, Tensor], str]:
    """Returns the file's tensors with the adapters that ``network`` has, and what was done to them."""
    states = (network.state_dict(), given)
    own, theirs = ({key: tensor.shape for key, tensor in state.items() if is_adapter(key)} for state in states)
    scale = adapter_scale({OPTIONS: recorded}) if theirs and recorded is not None else None
    done = "; adapters start anew" if own and not theirs else ""
    if theirs and (theirs != own or scale not in (None, adapter_scale(network.state_dict()))):
        given = embed_backbone(given, Path(path))
        if scale is None:
            raise UserError(
                f"{path}: required the scale of its adapters to merge them · got a checkpoint of a version that did not record "
                "it · start from a trainer with the same LoRA options"
            )
        given, done = (
            merge_adapters(given, scale),
            "; its adapters merged into the backbone" + ("; new ones added" if own else ""),
        )
    if own and not any(is_adapter(key) for key in given):
        base = {canonical_name(key): key for key, _ in network.named_parameters() if ".base_layer." in key}
        given = {base.get(key, key): tensor for key, tensor in given.items()}
    return given, done


def _belongs_to_backbone(key: str) -> bool:
    return key.startswith(BACKBONE) and not is_adapter(key)


def _check_fits(path: str, key: str, own: Tensor, given: dict[str, Tensor]) -> None:
    if key not in given:
        raise UserError(
            f"{path}: required a checkpoint of the same plans and trainer · got one without {key} · check -p and -tr"
        )
    if given[key].shape != own.shape:
        raise UserError(
            f"{path}: required shape {tuple(own.shape)} for {key} · got {tuple(given[key].shape)} · "
            "use a checkpoint of the same plans and configuration"
        )


def _read(path: str) -> dict[str, Tensor]:
    weights = read_checkpoint(path)["network_weights"]
    return {key.removeprefix("module."): value for key, value in weights.items()}
