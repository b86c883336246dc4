"""What every probe is asked."""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_dino._errors import UserError
from nnunet_dino.probes.evaluation import EvaluationOptions
from nnunet_dino.probes.splits import SplitOptions
from nnunet_dino.probes.targets import LabelColumns


@dataclass(frozen=True)
class Request:
    """What every probe is asked.

    Attributes:
        store: Folder of the features; for attention also an ``.npz`` file of bags.
        output: Folder for the report.
        overwrite: Whether foreign files of the same names may be replaced.
        features: ``class``, ``mean`` or ``both``.
        columns: Where the labels are; None if the store itself holds them.
        splitting: Where the parts come from.
        evaluation: How scores are evaluated.
        device: Where to compute.
        command: The command line, for the report.

    Raises:
        UserError: No folder for the report is named.
    """

    store: str
    output: str
    overwrite: bool
    features: str
    columns: LabelColumns | None
    splitting: SplitOptions
    evaluation: EvaluationOptions
    device: str
    command: str

    def __post_init__(self) -> None:
        if not self.output.strip():
            raise UserError(f"-o: required a folder for the report · got {self.output!r}")

    @property
    def label_columns(self) -> LabelColumns:
        """Where the labels are, for features that come without.

        Raises:
            UserError: Nobody said.
        """
        if self.columns is None:
            raise UserError(f"--labels: required with --target and --patient for {self.store} · got none")
        return self.columns
