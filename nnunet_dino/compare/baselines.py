"""Which result is compared with which."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from nnunet_dino._errors import UserError, nearest
from nnunet_dino.compare.entries import Entry

STOCK_TRAINER = re.compile(r"nnUNetTrainer(_\d+epochs?)?")


def choose_baselines(entries: Sequence[Entry], baseline: str | None) -> list[tuple[int, int]]:
    """Returns pairs (result, its baseline) of positions in ``entries``.

    Without a name, stock trainers are the baselines, else the first trainer without a DINOv3 backbone, else the first result.
    Among several candidates (``baseline`` names a trainer, or there are stock results of several configurations) each
    result takes the one with its own configuration, then its own training length, then its own plans. A candidate is
    itself compared only if nothing is compared with it.
    """
    if baseline is None:
        candidates = [i for i, entry in enumerate(entries) if STOCK_TRAINER.fullmatch(entry.trainer)]
        without_backbone = [i for i, entry in enumerate(entries) if entry.trainer and not entry.facts.backbone]
        candidates = candidates or without_backbone[:1] or [0]
    else:
        candidates = [i for i, entry in enumerate(entries) if baseline in (entry.name, entry.identifier, entry.trainer)]
        if not candidates:
            names = list(dict.fromkeys([*(e.name for e in entries), *(e.identifier for e in entries)]))
            raise UserError(
                f"--baseline: required the name of a result · got {baseline!r}{nearest(baseline, names)} · "
                f"there are {', '.join(entry.name for entry in entries)}"
            )
    pairs = [
        (i, max(candidates, key=lambda j, i=i: _closeness(entries[i], entries[j])))
        for i in range(len(entries))
        if i not in candidates
    ]
    uses = Counter(base for _, base in pairs)
    main = max(candidates, key=lambda j: (uses[j], entries[j].configuration == "3d_fullres"))
    pairs += [(i, main) for i in candidates if i != main and not uses[i]]
    return sorted(pairs)


def _closeness(entry: Entry, candidate: Entry) -> tuple[bool, ...]:
    def length(trainer: str) -> str:
        return (re.findall(r"\d+epochs?", trainer) or [""])[0]

    return (
        entry.configuration == candidate.configuration,
        length(entry.trainer) == length(candidate.trainer),
        entry.plans == candidate.plans,
        candidate.plans == "nnUNetPlans",
    )
