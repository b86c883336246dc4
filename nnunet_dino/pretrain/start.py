"""What a pretraining starts from: weights of a backbone, random ones, or an earlier pretraining with its heads."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from nnunet_dino._errors import UserError
from nnunet_dino._nnunet_folders import read_json
from nnunet_dino.backbones import weights as weight_files
from nnunet_dino.backbones.catalogue import CATALOGUE, NO_LICENCE, get_spec
from nnunet_dino.backbones.spec import PATCH_PX, BackboneSpec
from nnunet_dino.backbones.vit import Backbone
from nnunet_dino.pretrain.folder import LICENCE_KEY, RECORD, read
from nnunet_dino.pretrain.recipe import Recipe, recipe_from_json
from nnunet_dino.pretrain.student import SelfSupervisedViT

OF_HEADS = tuple(field.name for field in fields(Recipe) if field.name.startswith("head_") or "prototypes" in field.name)


@dataclass(frozen=True)
class Start:
    """The network at its start.

    Attributes:
        model: Transformer and heads.
        backbone: Row of the catalogue.
        weights: Digest of the start weights, or ``"random"``.
        source: Where they came from.
        licence: Theirs, which the result inherits.
    """

    model: SelfSupervisedViT
    backbone: str
    weights: str
    source: str
    licence: str


def start_from_weights(backbone: str, recipe: Recipe) -> Start:
    """Returns a network with new heads.

    Args:
        backbone: A name of the catalogue, or a file or folder of weights of any known format.
        recipe: Says whether the weights are random.

    Raises:
        UserError: The backbone is unknown or no DINOv3, or its weights are missing, damaged or of another backbone.
    """
    torch.manual_seed(recipe.seed)
    path = Path(backbone).expanduser()
    is_file = backbone not in CATALOGUE and path.exists()
    if recipe.start == "random" and is_file:
        raise UserError(
            f"--backbone: required a name of the catalogue for a recipe with random weights · got {backbone} · "
            "use --recipe adapt, or --set start=pretrained"
        )
    if not is_file:
        _require_dinov3(get_spec(backbone, "--backbone"))
    if recipe.start == "random" or (not is_file and weight_files.wants_random()):
        spec = get_spec(backbone)
        vit = Backbone(spec, random=True, drop_path=recipe.drop_path).vit
        _set_layer_scale(vit, recipe.layer_scale)
        return Start(SelfSupervisedViT(vit, spec.embed_dim, recipe), spec.name, "random", "random weights", NO_LICENCE)
    if is_file:
        loaded = weight_files.load_file(path)
        if len(loaded.names) > 1:
            raise UserError(
                f"--backbone: required weights of one backbone · got {path}, which fits {' and '.join(loaded.names)} · "
                "`nnunet-dino weights import FILE --as NAME`, then give the name"
            )
    else:
        loaded = weight_files.load(backbone)
    spec = get_spec(backbone if not is_file else loaded.names[0])
    _require_dinov3(spec)
    vit = Backbone(spec, drop_path=recipe.drop_path).vit
    vit.load_state_dict(loaded.state)
    licence = _licence_in(Path(loaded.source)) or spec.licence
    return Start(SelfSupervisedViT(vit, spec.embed_dim, recipe), spec.name, loaded.digest, loaded.source, licence)


def start_from_run(folder: Path, backbone: str | None, recipe: Recipe) -> Start:
    """Returns the teacher of an earlier pretraining, transformer and heads, for the next stage.

    Raises:
        UserError: It is no such folder, has another backbone, or heads of other sizes.
    """
    if not (folder / RECORD).is_file():
        raise UserError(f"--from: required the folder of a pretraining · got {folder}, without {RECORD} · check the path")
    record = read_json(folder / RECORD, dict)
    if backbone not in (None, record["backbone"]):
        raise UserError(
            f"--backbone: required the one of {folder}, {record['backbone']} · got {backbone!r} · leave --backbone out"
        )
    earlier = recipe_from_json(record["recipe"])
    odd = [name for name in OF_HEADS if getattr(recipe, name) != getattr(earlier, name)]
    if odd:
        settings = " ".join(f"--set {name}={str(getattr(earlier, name)).lower()}" for name in odd)
        raise UserError(f"--from: required a recipe with the heads of {folder} · got other {', '.join(odd)} · add {settings}")
    state = read(folder)
    spec = get_spec(record["backbone"])
    vit = Backbone(spec, random=True, drop_path=recipe.drop_path).vit
    model = SelfSupervisedViT(vit, spec.embed_dim, recipe)
    model.load_state_dict(state["teacher"])
    digest = weight_files.digest_of({name: value.float() for name, value in vit.state_dict().items()})
    return Start(model, spec.name, digest, f"step {state['step']} of {folder.name}", record[LICENCE_KEY])


def _require_dinov3(spec: BackboneSpec) -> None:
    """Refuses what crops, masks and heads are not made for."""
    if not spec.is_dinov3 or spec.patch_px != PATCH_PX:
        known = ", ".join(name for name, row in CATALOGUE.items() if row.is_dinov3 and row.patch_px == PATCH_PX)
        raise UserError(f"--backbone: required a DINOv3 with patches of {PATCH_PX} pixels: {known} · got {spec.name}")


def _set_layer_scale(vit: nn.Module, value: float) -> None:
    with torch.no_grad():
        for block in vit.blocks:
            block.gamma_1.fill_(value)
            block.gamma_2.fill_(value)


def _licence_in(path: Path) -> str:
    """Returns the licence that a file of weights states, or ""."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get(LICENCE_KEY, "")
    except (OSError, SafetensorError):
        return ""
