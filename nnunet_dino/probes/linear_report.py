"""A linear probe from features and labels to its report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save

from nnunet_dino.features.encoder import pick_device
from nnunet_dino.features.store.layout import StoreFacts
from nnunet_dino.features.store.reader import FeatureStore
from nnunet_dino.probes.evaluation import check_parts, evaluate
from nnunet_dino.probes.labels import labelled_vectors
from nnunet_dino.probes.linear import LinearProbe, train_linear
from nnunet_dino.probes.options import LinearOptions, Request
from nnunet_dino.probes.report import report_scores
from nnunet_dino.probes.splits import divide
from nnunet_dino.reports import Report, check_folder

WEIGHTS = "linear.safetensors"


def report_linear(request: Request, options: LinearOptions, echo: Callable[[str], object] = print) -> Report:
    """Trains a linear layer on a store, evaluates it and writes the report.

    Raises:
        UserError: The store, the labels or an option cannot be used.
    """
    check_folder(Path(request.output), request.overwrite)
    device = pick_device(request.device)
    store = FeatureStore(request.store)
    labelled, vectors = labelled_vectors(store, request.label_columns, request.features)
    labelled = labelled.with_split(*divide(labelled.split, labelled.patients, request.splitting))
    untrained = check_parts(labelled, request.evaluation)
    train, val = labelled.split == "train", labelled.split == "val"
    validation = (vectors[val], labelled.targets[val]) if val.any() else None
    probe = train_linear(vectors[train], labelled.targets[train], labelled.is_exclusive, options, validation, device)
    scores = probe.scores(vectors)
    return report_scores(
        request,
        store,
        labelled,
        scores,
        evaluate(labelled, scores, request.evaluation),
        echo,
        probe="linear",
        what="Linear probe",
        title=f"Linear probe of {store.facts.backbone}",
        method=_method(options, labelled.is_exclusive),
        numbers={"options": asdict(options)},
        untrained=untrained,
        files={WEIGHTS: _weights_file(probe, labelled.names, store.facts, request.features)},
    )


def _method(options: LinearOptions, is_exclusive: bool) -> str:
    loss = "cross-entropy" if is_exclusive else "binary cross-entropy per label"
    scaled = "features standardised by the training part, " if options.standardise else ""
    return (
        f"Probe: one linear layer, {scaled}{loss}, {options.optimizer}, learning rate {options.lr:g} ({options.schedule}), "
        f"weight decay {options.weight_decay:g}, batch {options.batch}, {options.epochs} epochs, {options.keep} epoch kept, "
        f"seed {options.seed}."
    )


def _weights_file(probe: LinearProbe, names: tuple[str, ...], facts: StoreFacts, features: str) -> bytes:
    made_for = {"labels": names, "is_exclusive": probe.is_exclusive, "features": features, "backbone": facts.backbone}
    metadata = {"nnunet_dino_probe": json.dumps({**made_for, "weights": facts.weights, "preprocessing": facts.preprocessing})}
    tensors = {name: getattr(probe, name) for name in ("weight", "bias", "shift", "scale")}
    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
