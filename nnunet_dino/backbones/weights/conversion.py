"""A checkpoint on its way from the file's names to timm's, and what became of every tensor."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from nnunet_dino._errors import UserError


class Dropped(NamedTuple):
    """A tensor of the file that the backbone has no use for."""

    key: str
    reason: str


@dataclass(frozen=True)
class ConversionReport:
    """What became of every tensor of a checkpoint.

    Attributes:
        format: Name of the format that was recognised.
        used: Names, as in the file, of the tensors that were taken over.
        dropped: Tensors that were left out, and why.
        filled: Names, as in timm, of tensors that the file does not have and that were set to zero.
        notes: Further remarks, one sentence each.
    """

    format: str
    used: tuple[str, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    filled: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Returns the report as text, one remark a line, similar tensors of the blocks taken together."""
        result = [f"format: {self.format}", f"used: {len(self.used)} tensors"]
        reasons: dict[str, list[str]] = {}
        for key, reason in self.dropped:
            reasons.setdefault(reason, []).append(key)
        result += [f"dropped: {', '.join(_grouped(keys))} ({reason})" for reason, keys in reasons.items()]
        if self.filled:
            result.append(f"filled with zeros: {', '.join(_grouped(self.filled))}")
        return result + [f"note: {note}" for note in self.notes]


def _grouped(keys: Iterable[str]) -> list[str]:
    counts = Counter(re.sub(r"\d+", "*", key) for key in keys)
    return [f"{count} times {name}" if count > 1 else name for name, count in counts.items()]


@dataclass
class Conversion:
    """Tensors under timm's names, not yet compared with any backbone.

    Attributes:
        format: Name of the file's format.
        where: What to call the checkpoint in messages.
        state: Tensors by timm's names; types as in the file.
        periods: The periods of the rotary position embedding that the file carries, if any; ``head_dim / 4`` values.
        origin: Name in the file of every tensor in ``state`` (several, joined by ", ", where tensors were joined).
        used: Names in the file of what was taken over.
        dropped: What was not, and why.
        notes: Remarks for the report.
    """

    format: str
    where: object
    state: dict[str, Tensor] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    periods: Tensor | None = None

    def put(self, name: str, tensor: Tensor, key: str) -> None:
        """Adds what the file calls ``key`` under timm's ``name``.

        Raises:
            UserError: There is a tensor of this name already.
        """
        if name in self.state:
            raise UserError(
                f"damaged weights: required one tensor for {name} · got both {self.origin[name]!r} and {key!r} in {self.where} "
                "· take the file as its authors published it"
            )
        self.state[name] = tensor
        self.origin[name] = key

    def take(self, name: str) -> tuple[str, Tensor]:
        """Removes a tensor and returns what the file calls it, and the tensor."""
        return self.origin.pop(name), self.state.pop(name)

    def drop(self, key: str, reason: str) -> None:
        """Notes that what the file calls ``key`` is not used."""
        if key in self.used:
            self.used.remove(key)
        self.dropped.append(Dropped(key, reason))
