"""What the dense probe can be asked; the fields are options of the command line as well."""

from __future__ import annotations

from dataclasses import MISSING, dataclass

from nnunet_dino._errors import UserError
from nnunet_dino.backbones.rgb_names import REPEAT, RGB
from nnunet_dino.backbones.spec import PATCH_PX
from nnunet_dino.probes.options import MAX_SEED, OVERWRITE, SEED, check, option

ALL = "all"
LAST = "last"


@dataclass(frozen=True, kw_only=True)
class DenseRequest:
    """What the dense probe is asked.

    Attributes:
        backbones: See :func:`nnunet_dino.probes.dense_backbones.open_backbones`.
        device: Where backbones compute.
        pictures: Test cases to draw.
        command: The command line, for the report.
    """

    device: str
    pictures: int
    command: str
    dataset: str = option(MISSING, "-d", "Number or full name of a preprocessed data set with labels.", "ID")
    configuration: str = option(MISSING, "-c", "Configuration of its plans.", "NAME")
    plans: str = option("nnUNetPlans", "-p", "Name of its plans.", "NAME")
    fold: int = option(0, "-f", "Fold: its training cases teach, the others judge.")
    backbones: tuple[str, ...] = option(
        (),
        "--backbone",
        "Name, random:NAME, file or folder of weights, folder of a pretraining, or pixels; may repeat.",
        "[TITLE=]WHAT",
        multiple=True,
    )
    output: str = option(MISSING, "-o", "Folder for the report.", "PATH")
    overwrite: bool = option(*OVERWRITE)


@dataclass(frozen=True)
class DenseOptions:
    """How tokens are made, labelled and judged.

    Attributes:
        sizes: How many training cases to learn from, each a number or ``all``; empty for 1, 5 and all, as far as there are.
    """

    sizes: str = option("", "--cases", "Training cases to learn from; default: 1,5,all.", "N,N…")
    token_stride_px: int = option(8, "--stride", "Pixels per token; the trainers' is 8.", "PX", least=1, most=PATCH_PX)
    rgb: str = option(REPEAT, "--rgb", f"What is shown as colours: {', '.join(RGB)}.", "HOW", known=RGB)
    blocks: str = option(
        LAST, "--blocks", "Tokens of the last block, or of all that the trainers tap.", "WHICH", known=(LAST, ALL)
    )
    share: float = option(0.3, "--share", "A token has a class that fills this share of its cell.", "S", above=0, most=1)
    max_slices: int = option(32, "--slices", "Slices of a case, evenly spread, at most.", least=1)
    num_neighbours: int = option(20, "-k", "Neighbours.", least=1)
    num_rounds: int = option(1000, "--rounds", "Bootstrap rounds.", least=1)
    seed: int = option(0, SEED[1], "Of the order of cases, of what is drawn, and of the bootstrap.", least=0, most=MAX_SEED)

    def __post_init__(self) -> None:
        check(self)
        self.numbers_of_cases(10**9)

    def numbers_of_cases(self, available: int) -> list[int]:
        """Returns how many training cases to learn from, in rising order.

        Raises:
            UserError: More are asked for than there are, or something else than numbers.
        """
        if not self.sizes:
            return sorted({min(number, available) for number in (1, 5, available)})
        words = [word.strip() for word in self.sizes.split(",")]
        if not all(word == ALL or (word.isdecimal() and int(word)) for word in words):
            raise UserError(f"--cases: required whole numbers from 1, or {ALL!r}, with commas · got {self.sizes!r}")
        numbers = sorted({available if word == ALL else int(word) for word in words})
        if numbers[-1] > available:
            raise UserError(
                f"--cases: required at most the {available} training cases of the fold · got {numbers[-1]} · ask for fewer"
            )
        return numbers
