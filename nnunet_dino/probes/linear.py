"""One linear layer on frozen features, from a store to its report."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_dino._errors import UserError
from nnunet_dino.features.progress import progress
from nnunet_dino.features.store.reader import FeatureStore
from nnunet_dino.probes.evaluation import check_parts
from nnunet_dino.probes.few_shot import Shots, check_shots, few_shot, few_shot_blocks
from nnunet_dino.probes.fold_splits import fold_splits
from nnunet_dino.probes.fold_tables import judged
from nnunet_dino.probes.logistic import fit_logistic
from nnunet_dino.probes.options import LBFGS, OPTIMIZERS, FewShotOptions, FoldOptions, LinearOptions, Request
from nnunet_dino.probes.report import open_request, report_scores
from nnunet_dino.probes.saved import FILES, LINEAR, numbered, probe_file, saved_probe
from nnunet_dino.probes.splits import divide
from nnunet_dino.probes.sweep import sweep_linear
from nnunet_dino.reports import Plot, Report, Table

INITIAL_STD = 0.01


@dataclass(frozen=True)
class LinearProbe:
    """A trained linear layer.

    Attributes:
        weight: ``c e``.
        bias: ``c``.
        shift: Subtracted from features, ``e``.
        scale: Features are divided by it, ``e``.
        is_exclusive: Whether scores of classes add up to 1.
    """

    weight: Tensor
    bias: Tensor
    shift: Tensor
    scale: Tensor
    is_exclusive: bool

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What a file of it holds."""
        return {name: getattr(self, name) for name in ("weight", "bias", "shift", "scale")}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], num_outputs: int, is_exclusive: bool) -> LinearProbe:
        """Returns the layer whose tensors a file holds.

        Raises:
            ValueError: It has others.
        """
        shapes = {name: tuple(value.shape) for name, value in tensors.items()}
        width = shapes.get("weight", ())[-1:]
        if shapes != {"weight": (num_outputs, *width), "bias": (num_outputs,), "shift": width, "scale": width}:
            raise ValueError(", ".join(f"{name} {shape}" for name, shape in shapes.items()))
        return cls(**tensors, is_exclusive=is_exclusive)

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Returns probabilities of labels or classes for features ``n e``: ``n c``."""
        inputs = (torch.from_numpy(features) - self.shift) / self.scale
        logits = (inputs @ self.weight.T + self.bias).double()
        return (logits.softmax(1) if self.is_exclusive else logits.sigmoid()).numpy()


def train_linear(
    features: np.ndarray,
    targets: np.ndarray,
    is_exclusive: bool,
    options: LinearOptions,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    device: torch.device | None = None,
) -> LinearProbe:
    """Trains a linear layer: cross-entropy for exclusive classes, else binary cross-entropy per label.

    Args:
        features: ``n e`` of the training part.
        targets: ``n c``, 0 or 1.
        is_exclusive: Whether every input has exactly one class.
        options: How.
        validation: Features and targets by which the best epoch is chosen, if it is asked for.
        device: Where to compute; the CPU by default.

    Raises:
        UserError: The best epoch is asked for without ``validation``.
    """
    if options.keep == "best" and validation is None:
        raise UserError("--keep best: required a val part · got none · keep the last epoch, or give one")
    device = device or torch.device("cpu")
    generator = torch.Generator().manual_seed(options.seed)
    shift, scale = torch.zeros(features.shape[1]), torch.ones(features.shape[1])
    if options.standardise:
        shift = torch.from_numpy(features.mean(0, dtype=np.float64).astype(np.float32))
        scale = torch.from_numpy(features.std(0, dtype=np.float64).astype(np.float32)).clamp(min=1e-6)

    if options.optimizer == LBFGS:
        scaled = (features - shift.numpy()) / scale.numpy()
        weight, bias = (torch.from_numpy(v).float() for v in fit_logistic(scaled, targets, is_exclusive, options.l2))
        return LinearProbe(weight, bias, shift, scale, is_exclusive)

    def on_device(vectors: np.ndarray, goals: np.ndarray) -> tuple[Tensor, Tensor]:
        return ((torch.from_numpy(vectors) - shift) / scale).to(device), torch.from_numpy(goals).to(device)

    layer = nn.Linear(features.shape[1], targets.shape[1])
    nn.init.normal_(layer.weight, std=INITIAL_STD, generator=generator)
    nn.init.zeros_(layer.bias)
    layer.to(device)
    inputs, goals = on_device(features, targets)
    held_out = on_device(*validation) if validation is not None and options.keep == "best" else None
    kind, more = OPTIMIZERS[options.optimizer]
    optimizer = getattr(torch.optim, kind)(layer.parameters(), lr=options.lr, weight_decay=options.weight_decay, **more)
    num_steps = options.epochs * -(-len(inputs) // options.batch)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps) if options.schedule == "cosine" else None
    best_loss, best_state = float("inf"), layer.state_dict()  # shares memory with the layer: the last epoch, if none is kept
    for _ in range(options.epochs):
        for chosen in torch.randperm(len(inputs), generator=generator).to(device).split(options.batch):
            optimizer.zero_grad()
            _loss(layer(inputs[chosen]), goals[chosen], is_exclusive).backward()
            optimizer.step()
            if cosine is not None:
                cosine.step()
        if held_out is not None:
            with torch.no_grad():
                loss = float(_loss(layer(held_out[0]), held_out[1], is_exclusive))
            if loss < best_loss:
                best_loss, best_state = loss, copy.deepcopy(layer.state_dict())
    layer.load_state_dict(best_state)
    if not torch.isfinite(layer.weight).all():
        raise UserError(
            f"--lr: required one with which training converges · got {options.lr:g} · try a smaller one, or --standardise"
        )
    return LinearProbe(layer.weight.detach().cpu(), layer.bias.detach().cpu(), shift, scale, is_exclusive)


def _loss(logits: Tensor, targets: Tensor, is_exclusive: bool) -> Tensor:
    return F.cross_entropy(logits, targets) if is_exclusive else F.binary_cross_entropy_with_logits(logits, targets)


def report_linear(
    request: Request,
    options: LinearOptions,
    cross: FoldOptions,
    echo: Callable[[str], object] = print,
    shots: FewShotOptions | None = None,
) -> Report:
    """Trains a linear layer on a store, or one per fold, evaluates it and writes the report.

    Raises:
        UserError: The store, the labels or an option cannot be used.
    """
    device, store, labelled, vectors = open_request(request)
    untrained: list[str] = []
    if cross.folds:
        has_val = options.keep == "best" or (request.evaluation.needs_val and not labelled.is_exclusive)
        splits, how_split = fold_splits(labelled, cross, request.splitting, has_val)
    else:
        split, how_split = divide(labelled.split, labelled.patients, request.splitting)
        splits, untrained = [split], check_parts(labelled.with_split(split), request.evaluation)
    shots = shots or FewShotOptions()
    for one in splits:
        check_shots(labelled.with_split(one), shots)

    def fit(vectors: np.ndarray, train: np.ndarray, split: np.ndarray, options: LinearOptions) -> LinearProbe:
        val = split == "val"
        validation = (vectors[val], labelled.targets[val]) if val.any() else None
        return train_linear(vectors[train], labelled.targets[train], labelled.is_exclusive, options, validation, device)

    blocks: list[Table | Plot] = []
    split = splits[0]
    if options.sweep:
        swept = sweep_linear(
            store, labelled.with_split(split), options, lambda v, how: fit(v, split == "train", split, how).scores(v)
        )
        request, options, vectors = replace(request, features=swept.features), swept.options, swept.vectors
        blocks.append(swept.table)
    probes = [fit(vectors, one == "train", one, options) for one in progress(splits, len(splits), "training")]
    curve: list[Shots] = []
    if shots.numbers:
        curve = few_shot(labelled, splits, lambda rows, one: fit(vectors, rows, one, options).scores(vectors), shots)
        blocks += few_shot_blocks(curve)
    scores = [probe.scores(vectors) for probe in probes]
    found = judged(labelled, splits, scores, cross, request.evaluation, how_split, {})
    files = {}
    if isinstance(store, FeatureStore):  # of features that others made nobody could make further ones
        saved = saved_probe(LINEAR, found, request.features, store.facts)
        layers = [one.tensors for one in probes[: cross.folds]]  # of the first repeat
        files = {FILES[LINEAR]: probe_file(saved, numbered(layers) if layers else probes[0].tensors)}
    return report_scores(
        request,
        store,
        found,
        echo,
        probe="linear",
        what="Linear probe",
        title=f"Linear probe of {store.facts.backbone}",
        method=_method(options, labelled.is_exclusive),
        numbers={
            "options": asdict(options),
            "cross_validation": asdict(cross),
            "repeats": found.numbers,
            "few_shot": [asdict(one) for one in curve],
        },
        untrained=untrained,
        tables=blocks,
        files=files,
    )


def _method(options: LinearOptions, is_exclusive: bool) -> str:
    loss = "cross-entropy" if is_exclusive else "binary cross-entropy per label"
    scaled = "features standardised by the training part, " if options.standardise else ""
    if options.optimizer == LBFGS:
        return (
            f"Probe: logistic regression to convergence by L-BFGS, {scaled}{loss} summed, squared weights times "
            f"{options.l2:g} / 2."
        )
    swept = ", chosen on val with the features" if options.sweep else ""
    return (
        f"Probe: one linear layer, {scaled}{loss}, {options.optimizer}, learning rate {options.lr:g}{swept} "
        f"({options.schedule}), weight decay {options.weight_decay:g}, batch {options.batch}, {options.epochs} epochs, "
        f"{options.keep} epoch kept, seed {options.seed}."
    )
