"""The report of the dense probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_dino import reports
from nnunet_dino.backbones.adapted import AdaptedBackbone
from nnunet_dino.features.encoder import pick_device
from nnunet_dino.features.progress import progress
from nnunet_dino.probes.dense import PIXELS, DenseProbe
from nnunet_dino.probes.dense_backbones import NamedBackbone, open_backbones
from nnunet_dino.probes.dense_metrics import DenseScore
from nnunet_dino.probes.dense_options import DenseOptions, DenseRequest
from nnunet_dino.probes.dense_pictures import case_picture
from nnunet_dino.probes.dense_tables import (
    LINEAR,
    METHODS,
    Asked,
    classes_table,
    costs_table,
    curves,
    difference,
    differences_table,
    means_table,
)
from nnunet_dino.probes.encoder_cost import num_parameters
from nnunet_dino.probes.options import check_number
from nnunet_dino.probes.report import PACKAGES
from nnunet_dino.probes.result_tables import listed, with_interval
from nnunet_dino.reports import Block, Heading, Report
from nnunet_dino.reports.folder import NUMBERS, PAGE, TEXT

FEW_PATIENTS = 10


def report_dense(request: DenseRequest, options: DenseOptions, echo: Callable[[str], object]) -> Report:
    """Asks every backbone and writes the report.

    Raises:
        UserError: The folder cannot be written to; a backbone or the data set is unknown or does not fit; see
            :class:`nnunet_dino.probes.dense.DenseProbe`.
    """
    folder, device = Path(request.output), pick_device(request.device)
    check_number("--pictures", request.pictures, least=0)
    reports.check_folder(folder, request.overwrite)
    probe = DenseProbe.open(
        request.dataset, request.configuration, request.plans, request.fold, options, drawn=request.pictures
    )
    backbones = open_backbones(request.backbones)
    asked = []
    for named in backbones:
        echo(f"{named.title}: {named.description}")
        asked.append(_ask(probe, named, device))
    report = compose(request, probe, asked, str(device))
    reports.write_report(report, folder, overwrite=request.overwrite)
    echo(f"\n{reports.report_text(report)}")
    echo(f"\nReport: {folder / PAGE}\n  also: {TEXT}, {NUMBERS}")
    return report


def _ask(probe: DenseProbe, named: NamedBackbone, device: torch.device) -> Asked:
    backbone, count, time_ms = named.backbone, None, None
    if not isinstance(backbone, str):
        backbone.to(device)
        count, time_ms = num_parameters(backbone.name), probe.milliseconds_per_slice(backbone, device)
    return Asked(named, probe(backbone, device, partial(progress, unit="case")), count, time_ms)


def compose(request: DenseRequest, probe: DenseProbe, asked: Sequence[Asked], device: str) -> Report:
    """Puts the report together."""
    cases, options = probe.cases, probe.options
    most = probe.numbers_of_cases[-1]
    blocks: list[Block] = [means_table(probe, asked)]
    blocks += [curves(probe, asked)] if len(probe.numbers_of_cases) > 1 else []
    blocks += [differences_table(probe, asked)] if len(asked) > 1 else []
    blocks += [classes_table(probe, asked, most), costs_table(probe, asked, device)]
    if probe.drawn:
        blocks += [Heading("Slices")]
        blocks += [
            case_picture(probe, case, {one.named.title: one.result.predictions[case] for one in asked}) for case in probe.drawn
        ]
    return Report(
        title=f"Dense probe: {cases.dataset}, {cases.configuration}",
        sentences=_sentences(probe, asked),
        warnings=_warnings(probe, asked),
        blocks=blocks,
        method=_method(probe, asked),
        origin=reports.origin(request.command, PACKAGES),
        numbers={
            "probe": "dense",
            "dataset": cases.dataset,
            "configuration": cases.configuration,
            "plans": cases.plans_name,
            "fold": cases.fold,
            "options": asdict(options),
            "training_cases": probe.learned_from,
            "test_cases": cases.test,
            "backbones": [
                {
                    "title": one.named.title,
                    "what": one.named.description,
                    "num_parameters": one.num_parameters,
                    "ms_per_slice": one.ms_per_slice,
                    "scores": [_numbers(s) for s in one.result.scores],
                }
                for one in asked
            ],
        },
    )


def _numbers(score: DenseScore) -> dict[str, Any]:
    return {key: value for key, value in asdict(replace(score, rounds=np.zeros(0))).items() if key != "rounds"}


def _sentences(probe: DenseProbe, asked: Sequence[Asked]) -> list[str]:
    most = probe.numbers_of_cases[-1]
    best = max(asked, key=lambda one: np.nan_to_num(one.result.score(LINEAR, most).average_precision.value, nan=-1.0))
    score = best.result.score(LINEAR, most)
    return [
        f"Best by the linear probe with {most} training cases: {best.named.title}, mean average precision "
        f"{with_interval(score.average_precision)}, mean Dice of tokens {with_interval(score.dice)} "
        f"({len(probe.cases.test)} test patients)."
    ]


def _warnings(probe: DenseProbe, asked: Sequence[Asked]) -> list[str]:
    warnings = [
        f"The weights of {one.named.title} are random: a control, which says nothing about DINOv3."
        for one in asked
        if one.named.weights_are_random
    ]
    of_colours = ((one.named.title, one.named.backbone) for one in asked)
    said = ((title, b.says_of_colours(probe.cases.dino.rgb)) for title, b in of_colours if isinstance(b, AdaptedBackbone))
    warnings += [f"{title}: {sentence}." for title, sentence in said if sentence]
    scores = asked[0].result
    for count in probe.numbers_of_cases:
        of = scores.score(LINEAR, count).classes
        if absent := [c.name for c in of if c.absent == "training"]:
            warnings.append(
                f"With {count} training case{'s' * (count > 1)}, absent in them: {listed(absent)}; left out of the means."
            )
    if absent := [c.name for c in scores.score(LINEAR, probe.numbers_of_cases[-1]).classes if c.absent == "test"]:
        warnings.append(
            f"Absent in the test cases, as no token has {probe.options.share:.0%} of its cell of it: {listed(absent)}."
        )
    if len(probe.cases.test) < FEW_PATIENTS:
        warnings.append(f"{len(probe.cases.test)} test patients: intervals from so few are rough.")
    warnings += _against_pixels(probe, asked)
    by_what: dict[str, list[str]] = {}
    for one in asked:
        by_what.setdefault(one.named.description, []).append(one.named.title)
    warnings += [f"The same weights: {' and '.join(titles)}." for titles in by_what.values() if len(titles) > 1]
    return warnings


def _against_pixels(probe: DenseProbe, asked: Sequence[Asked]) -> list[str]:
    pixels = next((one for one in asked if one.named.backbone == PIXELS), None)
    if pixels is None:
        return []
    count = probe.numbers_of_cases[-1]
    found = []
    for one in asked:
        for method in METHODS:
            if one is not pixels and not difference(one, pixels, method, count).low > 0:
                found.append(
                    f"{one.named.title}: no better than raw pixels and their position, {method} with {count} training cases."
                )
    return found


def _method(probe: DenseProbe, asked: Sequence[Asked]) -> list[str]:
    cases, options = probe.cases, probe.options
    tokens = "the last block" if options.blocks == "last" else "all tapped blocks, one after the other"
    return [
        f"Slices: {cases.plane}, padded as nnU-Net pads, whole; of every case at most {options.max_slices}, evenly spread. "
        f"Tokens of {tokens}. A token has a class that fills {options.share:.0%} of the known part of its cell; tokens that "
        "are mostly padding or ignore label do not count.",
        f"Cases: fold {cases.fold} of nnU-Net's splits_final.json, or of the same split where there is no file yet. The probes "
        f"learn from the first {', '.join(map(str, probe.numbers_of_cases))} of its {len(cases.training)} training cases in an "
        f"order drawn with seed {options.seed} and are judged on the {len(cases.test)} others. Every case counts as a patient.",
        "Linear: ridge regression of every class on standardised features, in closed form. Its penalty is the one with the "
        "best mean average precision, and the thresholds of Dice are the best, on fifths of the training cases (of one case: "
        "of its slices) that are held out in turn.",
        f"k-NN: {options.num_neighbours} neighbours by cosine, weighted by the softmax of similarity / 0.07; of many tokens "
        "those with a class and as many others are kept. Thresholds as above.",
        "Average precision: sum over the steps of the precision-recall curve of all test tokens. Dice: of all test tokens "
        "together. Backbones: " + "; ".join(f"{one.named.title}: {one.named.description}" for one in asked) + ".",
    ]
