"""What patch tokens know of the classes of a data set, without training a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from nnunet_dino._errors import UserError
from nnunet_dino.backbones.adapted import AdaptedBackbone
from nnunet_dino.backbones.rgb import IMAGENET, num_images
from nnunet_dino.backbones.spec import PATCH_PX
from nnunet_dino.networks.slices import SliceEncoder
from nnunet_dino.probes.dense_cases import LabelledCases, LabelledSlices, find_cases
from nnunet_dino.probes.dense_cells import raw_cells
from nnunet_dino.probes.dense_learners import Linear, Neighbours, Tokens, fit_linear, fit_neighbours
from nnunet_dino.probes.dense_metrics import DenseScore, dense_score
from nnunet_dino.probes.dense_options import LAST, DenseOptions
from nnunet_dino.probes.encoder_cost import BATCH, milliseconds
from nnunet_dino.probes.metrics import drawings

PIXELS = "pixels"
NUM_PARTS = 5
MAX_TOKENS = 2**19
MAX_TOKENS_PER_CASE = 2**13
BYTES_TO_KEEP = 2**30

Encode = Callable[[LabelledSlices], Tensor]
Progress = Callable[[Iterable[str], int], Iterator[str]]


@dataclass(frozen=True)
class DenseResult:
    """What one backbone knows.

    Attributes:
        scores: By method and number of training cases, in rising order.
        predictions: What the linear probe of all training cases finds in the slices to be drawn, by case: ``gh gw k``, boolean.
    """

    scores: tuple[DenseScore, ...]
    predictions: dict[str, np.ndarray] = field(repr=False)

    def score(self, method: str, num_cases: int) -> DenseScore:
        """Returns the one of ``scores``."""
        return next(score for score in self.scores if (score.method, score.num_cases) == (method, num_cases))


class DenseProbe:
    """Asks backbones, one after the other, where the classes of a data set are.

    ::

        slices ─► the trainers' slice encoder ─► tokens of the training cases ─► ridge, k-NN
                                                 tokens of the test cases ─────────► scores ─► average precision, Dice

    Every backbone sees the same slices, learns from the same tokens and is judged on the same ones.

    Args:
        cases: Which cases, and how they are shown.
        options: How tokens are labelled and judged.
        numbers_of_cases: How many training cases to learn from; by default as ``options`` say.
        drawn: For how many test cases a slice is predicted, to be drawn.

    Raises:
        UserError: A case cannot be read, or no token of the training or of the test cases has a class.

    Example::

        probe = DenseProbe.open(9, "3d_fullres", options=DenseOptions(sizes="5", max_slices=8))
        probe(backbone).score("linear", 5).average_precision.value
    """

    def __init__(self, cases: LabelledCases, options: DenseOptions, drawn: int = 0) -> None:
        self.cases, self.options = cases, options
        self.numbers_of_cases = options.numbers_of_cases(len(cases.training))
        self.learned_from = cases.training[: self.numbers_of_cases[-1]]
        self.drawings = np.concatenate([*drawings(np.array(cases.test), options.num_rounds, options.seed)])
        self.drawn = cases.test[:drawn]
        self._kept: dict[str, LabelledSlices] = {}
        self._bytes_kept = 0
        for part, names in (("training", self.learned_from), ("test", cases.test)):
            if not any(self.truth(case).any() for case in names):
                raise UserError(
                    f"{cases.dataset}: required {part} cases with one of {', '.join(cases.classes)} in {options.share:g} of a "
                    f"token's cell · got none in {len(names)} · take more --cases or --slices, a smaller --share or --stride"
                )

    @classmethod
    def open(
        cls,
        dataset: str | int,
        configuration: str,
        plans: str = "nnUNetPlans",
        fold: int = 0,
        options: DenseOptions | None = None,
        drawn: int = 0,
    ) -> DenseProbe:
        """Returns the probe of a data set in ``nnUNet_preprocessed``.

        Raises:
            UserError: See :func:`nnunet_dino.probes.dense_cases.find_cases`.
        """
        options = options or DenseOptions()
        return cls(find_cases(dataset, configuration, plans, fold, options), options, drawn)

    @torch.no_grad()
    def __call__(
        self,
        backbone: AdaptedBackbone | Callable[[Tensor], Tensor] | str,
        device: torch.device | None = None,
        progress: Progress | None = None,
    ) -> DenseResult:
        """Asks a backbone.

        Args:
            backbone: One of this package; or any function from images ``n 3 h w`` to patch maps ``n e gh gw`` or a tuple of
                them, shallow to deep; or ``"pixels"``.
            device: Where it computes; the CPU by default.
            progress: Wraps the names of the cases, given their number.

        Raises:
            UserError: A case cannot be read.
        """
        rng = np.random.default_rng(self.options.seed)
        encode = self._encoder(backbone, device or torch.device("cpu"))
        names = iter([*self.learned_from, *self.cases.test])
        if progress:
            names = progress(names, len(self.learned_from) + len(self.cases.test))
        learned = [self._tokens(encode, next(names), rng) for _ in self.learned_from]
        learners: dict[tuple[str, int], Linear | Neighbours] = {}
        is_learned: dict[int, np.ndarray] = {}
        for number in self.numbers_of_cases:
            tokens = _joined(learned[:number])
            is_learned[number] = tokens.is_learned
            learners["linear", number] = fit_linear(tokens, rng)
            learners["k-NN", number] = fit_neighbours(tokens, self.options.num_neighbours, rng)
        del learned
        return self._judge(encode, names, learners, is_learned)

    def milliseconds_per_slice(self, backbone: AdaptedBackbone, device: torch.device) -> float:
        """Returns how long a slice takes to encode, measured with at most eight of the first test case at a time."""
        slices = self.slices(self.cases.test[0])
        encode, few = self._encoder(backbone, device), replace(slices, images=slices.images[:BATCH])
        return milliseconds(lambda: encode(few), device) / len(few.images)

    def truth(self, case: str) -> Tensor:
        """Returns which classes every token of a case has, ``n gh gw k``, boolean."""
        return self._truth(self.slices(case))

    def slices(self, case: str) -> LabelledSlices:
        """Returns the slices of a case; as many cases as fit into a gibibyte are read once.

        Raises:
            UserError: It cannot be read.
        """
        if case in self._kept:
            return self._kept[case]
        slices = self.cases.read(case)
        size = sum(value.nbytes for value in vars(slices).values() if isinstance(value, Tensor))
        if self._bytes_kept + size <= BYTES_TO_KEEP:
            self._kept[case] = slices
            self._bytes_kept += size
        return slices

    def drawn_slice(self, case: str) -> int:
        """Returns the index, among the slices of a case, of the one to draw: with most classes, then most tokens of them."""
        truth = self.truth(case).flatten(1, 2)
        return int((truth.any(1).sum(1) * truth.shape[1] * truth.shape[2] + truth.sum((1, 2))).argmax())

    def _truth(self, slices: LabelledSlices) -> Tensor:
        return (slices.shares >= self.options.share - 1e-6) & slices.known[..., None]

    def _encoder(self, backbone: AdaptedBackbone | Callable[[Tensor], Tensor] | str, device: torch.device) -> Encode:
        if isinstance(backbone, str):
            return lambda slices: raw_cells(slices.images, slices.position)
        dino = self.cases.dino
        module = backbone if isinstance(backbone, AdaptedBackbone) else _Given(backbone)
        encoder = SliceEncoder(module, dino.channels, dino.token_stride_px, dino.pixel_aspect, dino.rgb, dino.sees)

        def encode(slices: LabelledSlices) -> Tensor:
            maps = encoder.encode(slices.images.to(device))
            if self.options.blocks == LAST:
                per_image = len(maps) // num_images(len(encoder.channels), dino.rgb)
                maps = maps[per_image - 1 :: per_image]
            return torch.cat([part.cpu() for part in maps], dim=-1)

        return encode

    def _tokens(self, encode: Encode, case: str, rng: np.random.Generator) -> Tokens:
        """Returns tokens of a training case, at most its share of all that are kept; parts are fifths of its slices."""
        slices = self.slices(case)
        places = np.flatnonzero(slices.known.flatten().numpy())
        most = min(MAX_TOKENS_PER_CASE, max(1, MAX_TOKENS // len(self.learned_from)))
        if len(places) > most:
            places = np.sort(rng.choice(places, most, replace=False))
        number = places // slices.known[0].numel()
        chosen = torch.from_numpy(places)
        return Tokens(
            encode(slices).flatten(0, 2)[chosen],
            self._truth(slices).flatten(0, 2)[chosen].numpy(),
            number * min(NUM_PARTS, len(slices.numbers)) // len(slices.numbers),
        )

    def _judge(
        self,
        encode: Encode,
        names: Iterable[str],
        learners: dict[tuple[str, int], Linear | Neighbours],
        is_learned: dict[int, np.ndarray],
    ) -> DenseResult:
        truth: list[np.ndarray] = []
        scores: dict[tuple[str, int], list[np.ndarray]] = {key: [] for key in learners}
        predictions = {}
        for case in names:
            slices = self.slices(case)
            tokens, known = encode(slices), slices.known
            truth.append(self._truth(slices)[known].numpy())
            for key, learner in learners.items():
                scores[key].append(learner.scores(tokens[known]))
            if case in self.drawn:
                best, of = learners["linear", self.numbers_of_cases[-1]], tokens[self.drawn_slice(case)]
                found = best.scores(of.flatten(0, 1)) >= best.thresholds
                predictions[case] = found.reshape(*of.shape[:2], -1) & known[self.drawn_slice(case)].numpy()[..., None]
        return DenseResult(
            tuple(
                dense_score(
                    *(method, number, tuple(self.cases.classes), truth, scores[method, number], learner.thresholds),
                    *(is_learned[number], float(learner.setting), self.drawings),
                )
                for (method, number), learner in learners.items()
            ),
            predictions,
        )


class _Given(nn.Module):
    """Any function from images to patch maps, as the slice encoder takes it."""

    is_frozen, num_taps = True, 1
    patch_px, num_prefix_tokens = PATCH_PX, 0
    statistics = IMAGENET

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = self.function(images)
        return (maps,) if isinstance(maps, Tensor) else tuple(maps)


def _joined(cases: list[Tokens]) -> Tokens:
    """Joins the tokens of cases; of several, every case lies in one part."""
    parts = [np.full(len(case.parts), number % NUM_PARTS) for number, case in enumerate(cases)]
    return Tokens(
        torch.cat([case.features for case in cases]),
        np.concatenate([case.truth for case in cases]),
        np.concatenate(parts) if len(cases) > 1 else cases[0].parts,
    )
