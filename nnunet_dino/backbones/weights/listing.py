"""What the verbs ``nnunet-dino weights …`` print."""

from __future__ import annotations

from pathlib import Path

from nnunet_dino._errors import UserError
from nnunet_dino.backbones.catalogue import CATALOGUE, BackboneSpec, get_spec
from nnunet_dino.backbones.spec import NO_LICENCE
from nnunet_dino.backbones.weights import hub, places
from nnunet_dino.backbones.weights.loading import LoadedWeights, load_file
from nnunet_dino.backbones.weights.releases import release


def table() -> str:
    """Returns the table of ``weights list``: every backbone and where its weights are; never uses the network.

    Raises:
        UserError: The environment variable names nothing, or a file that is not good.
    """
    named = places.named_model()
    fits = load_file(named).names if named else ()
    cells = [["NAME", "WIDTH", "PARAMETERS", "TAPS", "LICENCE", "FOUND"]]
    for spec in CATALOGUE.values():
        found = _found(spec) if named is None or spec.name in fits else _NAMED_OTHER
        taps = ",".join(str(tap) for tap in spec.taps)
        size = f"{spec.num_parameters / 1e6:.1f} M"
        cells.append([spec.name, str(spec.embed_dim), size, taps, spec.licence.partition(" (")[0], found])
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    lines.append("")
    lines += sorted({f"Licence: {spec.licence}" for spec in CATALOGUE.values() if "(" in spec.licence})
    untested = [spec.name for spec in CATALOGUE.values() if not spec.tested]
    if untested:
        lines.append(f"Untested: {', '.join(untested)}")
    lines.append(f"Looked in: {places.places()}")
    return "\n".join(lines)


_NAMED_OTHER = f"not found ({places.ENVIRONMENT_VARIABLE} names another backbone's weights)"


def _found(spec: BackboneSpec) -> str:
    """Returns where the weights are, or why there are none; what is wrong with those of one backbone leaves the others."""
    if places.wants_random():
        return f"random ({places.ENVIRONMENT_VARIABLE})"
    try:
        path = places.locate(spec.name)
    except UserError as error:
        return f"cannot be used: {error}"
    return str(path) if path else "random weights only" if spec.licence == NO_LICENCE else "not found"


def fetched(name: str, loaded: LoadedWeights) -> str:
    """Returns what ``weights fetch`` says at its end."""
    spec = get_spec(name)
    lines = [f"file: {loaded.source}", f"digest: {loaded.digest}", f"licence: {spec.licence}"]
    for source in hub.sources(spec):
        kind = (
            "open mirror, same licence" if source.mirror else "authors, access on request" if source.gated else "authors, open"
        )
        lines.append(f"page: {source.page} ({kind})")
    return "\n".join(lines)


def imported(target: Path, loaded: LoadedWeights) -> str:
    """Returns what ``weights import`` says at its end."""
    lines = [verified(loaded), f"stored: {target}"]
    if places.wants_random() or places.named_model() is not None:
        lines.append(f"note: {places.ENVIRONMENT_VARIABLE} is set and comes before the store; unset it to use the stored file")
    return "\n".join(lines)


def verified(loaded: LoadedWeights) -> str:
    """Returns what ``weights verify`` says about a good file."""
    return "\n".join(
        [
            f"file: {loaded.source}",
            f"fits: {' or '.join(loaded.names)}",
            *loaded.report.lines(),
            f"digest: {loaded.digest}",
            f"licence: {loaded.licence}",
            f"release: {release(Path(loaded.source))}",
            *([f"input: mean {loaded.statistics[0]}, deviation {loaded.statistics[1]}"] if loaded.statistics else []),
        ]
    )
