"""What the verbs ``nnunet-dino weights …`` print."""

from __future__ import annotations

from pathlib import Path

from nnunet_dino.backbones.catalogue import get_spec
from nnunet_dino.backbones.weights import hub, store
from nnunet_dino.backbones.weights import load as weights


def table() -> str:
    """Returns the table of ``weights list``."""
    rows = store.rows()
    cells = [["NAME", "WIDTH", "PARAMETERS", "TAPS", "LICENCE", "FOUND"]]
    for row in rows:
        cells.append(
            [
                row.spec.name,
                str(row.spec.embed_dim),
                f"{row.spec.num_parameters / 1e6:.1f} M",
                ",".join(str(tap) for tap in row.spec.taps),
                row.spec.licence.partition(" (")[0],
                row.found,
            ]
        )
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    lines.append("")
    lines += sorted({f"Licence: {row.spec.licence}" for row in rows if "(" in row.spec.licence})
    untested = [row.spec.name for row in rows if not row.spec.tested]
    if untested:
        lines.append(f"Untested: {', '.join(untested)}")
    lines.append(f"Looked in: {weights.places()}")
    return "\n".join(lines)


def fetched(name: str, loaded: weights.LoadedWeights) -> str:
    """Returns what ``weights fetch`` says at its end."""
    spec = get_spec(name)
    lines = [f"file: {loaded.source}", f"digest: {loaded.digest}", f"licence: {spec.licence}"]
    for source in hub.sources(spec):
        kind = (
            "open mirror, same licence" if source.mirror else "authors, access on request" if source.gated else "authors, open"
        )
        lines.append(f"page: {source.page} ({kind})")
    return "\n".join(lines)


def imported(target: Path, checked: store.Checked) -> str:
    """Returns what ``weights import`` says at its end."""
    lines = [verified(checked), f"stored: {target}"]
    if weights.wants_random() or weights.named_model() is not None:
        lines.append(f"note: {weights.ENVIRONMENT_VARIABLE} is set and comes before the store; unset it to use the stored file")
    return "\n".join(lines)


def verified(checked: store.Checked) -> str:
    """Returns what ``weights verify`` says about a good file."""
    licences = " or ".join(dict.fromkeys(get_spec(name).licence for name in checked.names))
    return "\n".join(
        [
            f"file: {checked.loaded.source}",
            f"fits: {' or '.join(checked.names)}",
            *checked.loaded.report.lines(),
            f"digest: {checked.loaded.digest}",
            f"licence: {licences}",
        ]
    )
