"""A trained probe on images that nobody has labelled: a score and a decision for every input."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor

from nnunet_dino import reports
from nnunet_dino._errors import UserError
from nnunet_dino._files import csv_text
from nnunet_dino.backbones.catalogue import get_spec
from nnunet_dino.backbones.weights.model_config import check_statistics
from nnunet_dino.features import Preprocessing, Slicing, Tiling, extract
from nnunet_dino.features.encoder import pick_device
from nnunet_dino.features.inputs import VOLUMES
from nnunet_dino.features.items import counted
from nnunet_dino.features.store.layout import FACTS, recorded
from nnunet_dino.features.store.reader import FeatureStore
from nnunet_dino.probes.attention_map import ATTENTION, attention_pictures
from nnunet_dino.probes.bags import bags_of
from nnunet_dino.probes.linear import LinearProbe
from nnunet_dino.probes.mil import AttentionMIL
from nnunet_dino.probes.mil_training import TrainedMIL
from nnunet_dino.probes.report import PACKAGES
from nnunet_dino.probes.result_tables import method_of_features
from nnunet_dino.probes.saved import CALIBRATION, LINEAR, SavedProbe, networks_of, read_probe, require_same
from nnunet_dino.reports import Block, Heading, Report, Table

SCORES = "scores.csv"
NUM_SHOWN = 50

Scored = tuple[list[str], np.ndarray, list[np.ndarray]]
"""Ids, scores ``n c``, and the attention in every bag, which a linear layer has not."""


def apply_probe(
    model: Path,
    inputs: Sequence[str],
    output: Path,
    *,
    device: str = "auto",
    num_maps: int = 20,
    overwrite: bool = False,
    command: str | None = None,
    echo: Callable[[str], object] = print,
) -> list[tuple[str, str]]:
    """Scores images, volumes or slides with a trained probe, and writes a table, and heat maps of slides.

    Args:
        model: File or report of the probe.
        inputs: As for :func:`nnunet_dino.features.extract`; or one store of features.
        output: Folder for the report.
        device: Where to compute.
        num_maps: Slides whose attention is drawn, at most.
        overwrite: Whether an earlier report is replaced.
        command: The command line, for the report.
        echo: Takes the short part.

    Returns:
        Id and reason of every input that could not be read.

    Raises:
        UserError: The probe cannot be read, or the features are of another backbone or preprocessing.
    """
    reports.check_folder(output, overwrite)
    where = pick_device(device)
    saved, tensors = read_probe(model)
    score = _scorer(saved, tensors, model, where)
    with tempfile.TemporaryDirectory() as scratch:
        if len(inputs) == 1 and (Path(inputs[0]) / FACTS).exists():
            folder = inputs[0]
        else:
            folder = str(Path(scratch, "store"))
            _extract(saved, inputs, folder, device)
        store = FeatureStore(folder)
        require_same(saved, store.facts, folder)
        if not len(store.good):
            name, why = store.failed[["id", "error"]].iloc[0]
            raise UserError(f"{inputs[0]}: required at least one readable input · got {name}: {why}")
        ids, scores, attention = score(store)
        aggregator = saved.network.get("aggregator")
        pictures, notes = attention_pictures(store, ids, attention, scores, saved.labels, aggregator, num_maps)
    failed = list(zip(store.failed["id"], store.failed["error"], strict=True))
    decisions = _decisions(saved, scores)
    rows = [
        [name, decision, *(f"{score:.3f}" for score in row)] for name, decision, row in zip(ids, decisions, scores, strict=True)
    ]
    blocks: list[Block] = [_shown(saved, rows)]
    blocks += [Heading("Attention"), *pictures] if pictures else []
    report = Report(
        title=f"Scores of {model.name}",
        sentences=[f"Scored for {', '.join(saved.labels)}: {counted(len(ids), saved.kind)}; nobody has said what is right."],
        warnings=[*_warnings(saved, store, failed), *notes],
        blocks=blocks,
        method=[method_of_features(store.facts, saved.features), _method(saved, len(networks_of(tensors)))],
        origin=reports.origin(command, PACKAGES),
        numbers={"model": asdict(saved), "store": asdict(store.facts), "failed": failed},
    )
    files = {SCORES: _table(saved, ids, decisions, scores, failed)}
    if attention:
        files[ATTENTION] = save(dict(zip(ids, attention, strict=True)))
    reports.write_report(report, output, files, overwrite)
    echo(reports.report_text(report))
    echo(f"\nTable: {output / SCORES}")
    return failed


def _extract(saved: SavedProbe, inputs: Sequence[str], store: str, device: str) -> None:
    """Encodes inputs as they were for the training of the probe."""
    pixels = saved.preprocessing
    norm = pixels["norm"]
    statistics = None if norm == "imagenet" else check_statistics(norm["mean"], norm["std"], "norm")
    chosen = {name: value for name, value in pixels.items() if name not in CALIBRATION}
    extract(
        inputs,
        store,
        saved.backbone,
        features=saved.features,
        kind=saved.kind,
        preprocessing=Preprocessing.of(
            get_spec(saved.backbone), pixels["size_px"], pixels["fit"], pixels["window"], statistics
        ),
        slicing=recorded(Slicing, chosen),
        tiling=recorded(Tiling, chosen),
        per_slice=saved.probe != LINEAR and saved.kind == VOLUMES,
        device=device,
        required_weights=saved.weights,
        show_progress=True,
    )


def _scorer(
    saved: SavedProbe, tensors: dict[str, Tensor], model: Path, device: torch.device
) -> Callable[[FeatureStore], Scored]:
    """Returns what scores the inputs of a store by the layers or networks of all folds.

    Raises:
        UserError: Such a probe has other tensors.
    """
    try:
        if saved.probe == LINEAR:
            layers = [LinearProbe.of(one, len(saved.labels), saved.is_exclusive) for one in networks_of(tensors)]
            return partial(_by_layers, saved, layers)
        return partial(_by_networks, saved, [_network(saved, one) for one in networks_of(tensors)], device)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        got = " ".join(str(error).split())[:150]
        raise UserError(
            f"{model}: required the tensors of a {saved.probe} probe · got {got} · train the probe again"
        ) from error


def _network(saved: SavedProbe, tensors: dict[str, Tensor]) -> TrainedMIL:
    shift, scale = tensors.pop("shift"), tensors.pop("scale")
    network = AttentionMIL(len(shift), max(2, len(saved.labels)), **saved.network)
    network.load_state_dict(tensors)
    return TrainedMIL(network.eval(), shift, scale.expand_as(shift), 0)


def _by_layers(saved: SavedProbe, layers: Sequence[LinearProbe], store: FeatureStore) -> Scored:
    ids, vectors = store.vectors(saved.features)
    return ids, np.mean([layer.scores(vectors) for layer in layers], axis=0), []


def _by_networks(saved: SavedProbe, networks: Sequence[TrainedMIL], device: torch.device, store: FeatureStore) -> Scored:
    ids = store.good["id"].tolist()
    bags = bags_of(store, ids, saved.features)
    outcomes = [network.on(device).predict(bags, range(len(ids))) for network in networks]  # one at a time on a GPU
    scores = np.mean([scores for scores, _ in outcomes], axis=0)
    attention = [np.mean(weights, axis=0) for weights in zip(*(weights for _, weights in outcomes), strict=True)]
    return ids, scores if saved.is_exclusive else scores[:, 1:], attention


def _decisions(saved: SavedProbe, scores: np.ndarray) -> list[str]:
    """Returns the class, or the labels that are found, of every input; "" where no threshold is known."""
    if saved.is_exclusive:
        return [saved.labels[place] for place in scores.argmax(1)]
    if saved.thresholds is None:
        return [""] * len(scores)
    return [
        " | ".join(name for name, is_found in zip(saved.labels, row, strict=True) if is_found) or "none"
        for row in scores >= np.array(saved.thresholds)
    ]


def _warnings(saved: SavedProbe, store: FeatureStore, failed: Sequence[tuple[str, str]]) -> list[str]:
    warnings = list(store.notes)
    if store.facts.weights_are_random:
        warnings.insert(0, "The backbone has random weights: the scores say nothing about DINOv3.")
    if store.facts.precision != saved.precision:
        warnings.append(
            f"The backbone computed in {store.facts.precision}, for the training of the probe in {saved.precision}: scores "
            "differ a little from those on the other device."
        )
    if failed:
        warnings.append(f"{len(failed)} could not be read: {'; '.join(f'{name} ({why})' for name, why in failed[:5])}.")
    return warnings


def _shown(saved: SavedProbe, rows: Sequence[Sequence[str]]) -> Table:
    title = f"Scores of the first {NUM_SHOWN}" if len(rows) > NUM_SHOWN else "Scores"
    return Table(title, ["Input", "Found", *saved.labels], rows[:NUM_SHOWN], _rule(saved), num_text_columns=2)


def _rule(saved: SavedProbe) -> str:
    if saved.is_exclusive:
        return "Found: the class with the highest score."
    if saved.thresholds is None:
        return "Nothing is decided: every fold had a threshold of its own."
    pairs = ", ".join(f"{name} {value:.4g}" for name, value in zip(saved.labels, saved.thresholds, strict=True))
    return f"Found: labels with a score from here upwards: {pairs}."


def _method(saved: SavedProbe, count: int) -> str:
    what = "one linear layer" if saved.probe == LINEAR else "attention over bags"
    return f"Probe: {what}" + (f", mean of the networks of {count} folds." if count > 1 else ".")


def _table(
    saved: SavedProbe, ids: Sequence[str], decisions: Sequence[str], scores: np.ndarray, failed: Sequence[tuple[str, str]]
) -> bytes:
    header = ["id", "found", *(f"score {name}" for name in saved.labels), "error"]
    scored = zip(ids, decisions, scores, strict=True)
    rows = [[name, decision, *(f"{score:.6g}" for score in row), ""] for name, decision, row in scored]
    rows += [[name, "", *[""] * len(saved.labels), why] for name, why in failed]
    return csv_text([header, *rows]).encode("utf-8")
