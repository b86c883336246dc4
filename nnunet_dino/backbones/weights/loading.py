"""A file or folder -> the weights of a backbone, with the digest of their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from nnunet_dino._errors import UserError
from nnunet_dino.backbones.catalogue import CATALOGUE, BackboneSpec, get_spec
from nnunet_dino.backbones.timm_models import timm_state
from nnunet_dino.backbones.weights.conversion import Conversion, ConversionReport, Dropped
from nnunet_dino.backbones.weights.formats import to_timm
from nnunet_dino.backbones.weights.matching import closest, fitting, match
from nnunet_dino.backbones.weights.model_config import TRAINED_ELSEWHERE, Statistics, statistics, trained_elsewhere
from nnunet_dino.backbones.weights.reading import FILES_OF_A_FOLDER, RawCheckpoint, read_checkpoint
from nnunet_dino.backbones.weights.releases import SATELLITE, is_satellite
from nnunet_dino.backbones.weights.unwrapping import recorded_statistics

NAME_KEY = "nnunet_dino_name"
DIGEST_KEY = "nnunet_dino_digest"
PRETRAINING_KEY = "nnunet_dino_pretraining"


@dataclass(frozen=True)
class LoadedWeights:
    """Weights ready for ``Backbone(spec).vit.load_state_dict``.

    Attributes:
        names: The backbones they fit; several where those differ in nothing but the values.
        state: Exactly the tensors of the backbone by timm's names, float32, on the CPU; they may be memory-mapped.
        digest: See :func:`digest_of`.
        source: Where they came from, for messages.
        report: What was used, dropped and filled.
        licence: What the file says, or that of the release if its name says it is one.
        statistics: Mean and deviation of red, green and blue that the model was trained with, if its files say so.
        pretraining: What ``nnunet-dino pretrain`` writes of itself, as JSON; empty for others.
        pretrained_rgb: How it showed slices as red, green and blue, see :mod:`nnunet_dino.backbones.rgb`; empty for others.
    """

    names: tuple[str, ...]
    state: dict[str, Tensor]
    digest: str
    source: str
    report: ConversionReport
    licence: str
    statistics: Statistics | None = None
    pretraining: str = ""
    pretrained_rgb: str = ""


def digest_of(state: Mapping[str, Tensor]) -> str:
    """Returns the sha256, in hex digits, of float32 tensors: names, shapes and little-endian values, sorted by name.

    It depends on the values alone, not on the file format that they came in.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        array = state[name].detach().contiguous().numpy().astype("<f4", copy=False)
        shape = ",".join(str(length) for length in array.shape)
        digest.update(f"{name} {shape}\n".encode())
        digest.update(array.reshape(-1).view("u1").data)
    return digest.hexdigest()


def load_file(path: Path, spec: BackboneSpec | None = None) -> LoadedWeights:
    """Loads a file or folder as the weights of ``spec``, or of whichever backbone of the catalogue it fits.

    Raises:
        UserError: It is damaged, of an unknown format, fits no backbone (or not ``spec``), says it is of another one, or its
            values are not those that were imported.
    """
    raw = read_checkpoint(path)
    if spec is None and NAME_KEY in raw.metadata:
        spec = get_spec(raw.metadata[NAME_KEY], f"backbone that {path} names")
    if spec is not None and not spec.is_dinov3:
        names = [spec.name]
        _check_what_it_says(spec, path, raw.metadata)
        state, surplus = timm_state(raw.tensors, spec, path)
        dropped = tuple(Dropped(key, "the transformer has no such tensor") for key in surplus)
        report = ConversionReport("timm", tuple(state), dropped, (), ())
    else:
        conversion = to_timm(raw.tensors, path)
        if raw.inside:
            conversion.notes.append(f"taken from {' / '.join(raw.inside)} in the file")
        names = [spec.name] if spec else _names(path, raw, conversion)
        spec = spec or get_spec(names[0])
        _check_what_it_says(spec, path, raw.metadata)
        state, report = match(conversion, spec, raw.config)
    shown = statistics(raw.metadata, raw.config, raw.preprocessor, path) or recorded_statistics(raw.tensors)
    digest = digest_of(state)
    stated = raw.metadata.get(DIGEST_KEY, digest)
    if stated != digest:
        raise UserError(
            f"damaged weights: required digest {stated}, which {path} states · got {digest} · import the original again: "
            f"`nnunet-dino weights import FILE --as {spec.name} --force`"
        )
    licence, pretraining = _licence(path, raw.metadata, names), raw.metadata.get(PRETRAINING_KEY, "")
    rgb = _pretrained_rgb(pretraining, path)
    return LoadedWeights(tuple(names), state, digest, str(path), report, licence, shown, pretraining, rgb)


def _pretrained_rgb(pretraining: str, path: Path) -> str:
    try:
        return str(json.loads(pretraining)["recipe"]["rgb"]) if pretraining else ""
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"damaged weights: required the recipe of a pretraining in {PRETRAINING_KEY} of {path} · got {pretraining[:80]!r} "
            "· take the file that the pretraining wrote"
        ) from error


def _names(path: Path, raw: RawCheckpoint, conversion: Conversion) -> list[str]:
    stated = _stated_name(path, raw.metadata)
    if stated and stated not in CATALOGUE:
        raise UserError(
            f"unknown backbone: required one of {', '.join(CATALOGUE)} · got {path}, which says {stated} "
            "· take another file, or the version of nnunet-dino that wrote it"
        )
    return [stated] if stated else fitting(conversion) or [closest(conversion).name]


def _check_what_it_says(spec: BackboneSpec, path: Path, metadata: Mapping[str, str]) -> None:
    """Refuses a file that says it is of another backbone, which may have the same shapes."""
    said = _stated_name(path, metadata)
    if said and said != spec.name:
        raise UserError(
            f"wrong weights: required those of {spec.name} · got {path}, which holds {said} "
            f"· take the file of {spec.name} (nnUNet_dino_weights may also name a folder with one file per backbone)"
        )
    names = [path.name, path.parent.name if path.name in FILES_OF_A_FOLDER else ""]
    names += [part for part in path.parts if part.startswith("models--")]  # the hub's cache
    may_be_satellite = spec.name in SATELLITE.values() and path.name != spec.meta_file  # that name's digits were checked
    if any(TRAINED_ELSEWHERE in name.lower() for name in names) or (may_be_satellite and is_satellite(path)):
        raise trained_elsewhere(spec, path)


def _licence(path: Path, metadata: Mapping[str, str], names: list[str]) -> str:
    """Others may have trained weights of the same shapes, and have given them another licence."""
    named = [get_spec(name) for name in names]
    released = " or ".join(dict.fromkeys(spec.licence for spec in named))
    specs = CATALOGUE.values()
    hubs = [name for spec in [*specs, *named] for name in (spec.timm_hub, spec.gated_hub, spec.open_hub)]
    repositories = {name.partition("/")[2] for name in hubs} - {""}
    parts = {part.rpartition("--")[2] for part in path.absolute().parts}
    is_release = (
        path.name in {spec.meta_file for spec in specs} or bool(repositories & parts) or any(spec.place for spec in named)
    )
    if metadata.get("licence") or is_release:
        return metadata.get("licence") or released
    return f"of this file unknown; {' or '.join(names)} as released: {released}"


def _stated_name(path: Path, metadata: Mapping[str, str]) -> str:
    """Returns the backbone that a file says it is of, by what an import wrote into it or by Meta's file name, or ""."""
    return metadata.get(NAME_KEY) or next((spec.name for spec in CATALOGUE.values() if spec.meta_file == path.name), "")
