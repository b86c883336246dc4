"""Everything that decides what a pretraining does, in one frozen record with four presets.

Sources of the presets: the configurations of DINOv3 (arXiv 2508.10104, code of facebookresearch/dinov3) and of FlexiCT's 2D
stages, which continue DINOv3 on CT (ricklisz/FlexiCT). `docs/reference/pretraining.md` says where each number comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from nnunet_dino._errors import UserError, nearest
from nnunet_dino.backbones.rgb import REPEAT, RGB
from nnunet_dino.backbones.spec import PATCH_PX

GRAM_TEACHERS = ("none", "start", "ema")
STARTS = ("pretrained", "random")


@dataclass(frozen=True)
class Recipe:
    """What a pretraining does. Shares are of ``iterations``; ``lr`` and ``momentum`` hold at ``reference_batch``.

    Attributes:
        name: The preset it began as.
        iterations: Optimisation steps.
        batch: Slices per step, of all processes together.
        reference_batch: Batch for which ``lr`` and ``momentum`` are given.
        seed: Of everything that is drawn.
        start: ``"pretrained"`` or ``"random"`` weights.
        lr: Learning rate of the heads and of the top of the transformer; scaled by ``sqrt(batch / reference_batch)``.
        lr_end: Its part that is left at the end of a half cosine; 1 stays constant after the warm-up.
        warmup: Share of the linear warm-up.
        weight_decay: Of AdamW.
        weight_decay_end: What it becomes along a half cosine.
        beta2: Of AdamW.
        clip: Largest gradient norm of the transformer and of each head.
        layer_decay: Factor on the learning rate from one block to the one below.
        patch_embed_lr: Further factor for the patch embedding.
        frozen_backbone: Leading steps that train the heads alone.
        frozen_last_layer: Leading steps in which prototypes stay.
        momentum: Of the teacher; raised to the power ``batch / reference_batch``.
        momentum_end: What it becomes along a half cosine.
        teacher_temperature_start: Temperature of the teacher at the beginning.
        teacher_temperature: Temperature after the temperature's warm-up.
        temperature_warmup: Share of that warm-up.
        student_temperature: Temperature of the student.
        drop_path: Stochastic depth of the last block; it grows linearly from 0.
        layer_scale: Start of the random transformer's layer scales; unused with pretrained weights.
        rope_rescale: Position coordinates are stretched by a random factor between its inverse and itself.
        prototypes: Of the head for class tokens.
        patch_prototypes: Of the head for patches.
        head_layers: Linear layers of both heads before the prototypes. One leaves clusters that a linear layer on tokens finds.
        head_hidden: Hidden width of both heads.
        head_bottleneck: Width before the prototypes.
        unit_prototypes: Whether prototypes have length 1.
        head_batch_norm: Standardise over the batch before the bottleneck is normalised.
        dino_weight: Of the loss of class tokens.
        local_weight: Further factor for local crops.
        ibot_weight: Of the loss of masked patches.
        koleo_weight: Of the spread of class tokens.
        gram_weight: Of the Gram loss.
        gram_teacher: ``"none"``; ``"start"``: the weights that the run starts from; ``"ema"``: copies of the teacher.
        gram_refresh: Steps between two copies of the teacher.
        gram_scale: The Gram teacher sees crops this many times larger.
        global_px: Edge of global crops; one of several is drawn for each step.
        local_px: Edge of local crops, that goes with it.
        size_shares: How often each pair of edges is drawn.
        num_local: Local crops per slice.
        global_area: Smallest and largest share of the scene that a global crop shows.
        local_area: The same for local crops.
        flips: Mirror crops.
        mask_share: Share of global crops with masked patches.
        mask_ratio: Smallest and largest share of patches masked in them.
        air_is_predicted: Whether masked patches that show air alone are predicted as well.
        intensity_share: Share of slices whose intensities are changed, all crops alike.
        intensity_scale: Largest relative change of contrast.
        intensity_shift: Largest change of brightness, in standard deviations.
        noise: Largest standard deviation of noise, in those of the intensities.
        token_stride_px: Pixels of a slice per token, as in the trainers; plans for coarser tokens count.
        rgb: How channels become red, green and blue, as in the trainers.
        checkpoint_every: Steps between checkpoints.
        export_every: Steps between exports and monitors.
        recompute: Compute activations anew in the backward pass, which saves memory.
    """

    name: str
    iterations: int = 20_000
    batch: int = 128
    reference_batch: int = 800
    seed: int = 0
    start: str = "pretrained"
    lr: float = 7.1e-4
    lr_end: float = 1.0
    warmup: float = 0.1
    weight_decay: float = 0.04
    weight_decay_end: float = 0.04
    beta2: float = 0.999
    clip: float = 3.0
    layer_decay: float = 0.9
    patch_embed_lr: float = 0.2
    frozen_backbone: int = 1000
    frozen_last_layer: int = 0
    momentum: float = 0.994
    momentum_end: float = 0.994
    teacher_temperature_start: float = 0.04
    teacher_temperature: float = 0.07
    temperature_warmup: float = 0.1
    student_temperature: float = 0.1
    drop_path: float = 0.2
    layer_scale: float = 1e-5
    rope_rescale: float = 2.0
    prototypes: int = 16384
    patch_prototypes: int = 16384
    head_layers: int = 3
    head_hidden: int = 2048
    head_bottleneck: int = 256
    unit_prototypes: bool = False
    head_batch_norm: bool = False
    dino_weight: float = 1.0
    local_weight: float = 1.0
    ibot_weight: float = 1.0
    koleo_weight: float = 0.1
    gram_weight: float = 0.0
    gram_teacher: str = "none"
    gram_refresh: int = 10_000
    gram_scale: float = 2.0
    global_px: tuple[int, ...] = (256,)
    local_px: tuple[int, ...] = (112,)
    size_shares: tuple[float, ...] = (1.0,)
    num_local: int = 8
    global_area: tuple[float, float] = (0.32, 1.0)
    local_area: tuple[float, float] = (0.05, 0.32)
    flips: bool = True
    mask_share: float = 0.5
    mask_ratio: tuple[float, float] = (0.1, 0.5)
    air_is_predicted: bool = True
    intensity_share: float = 0.3
    intensity_scale: float = 0.25
    intensity_shift: float = 0.25
    noise: float = 0.1
    token_stride_px: int = 8
    rgb: str = REPEAT
    checkpoint_every: int = 500
    export_every: int = 2500
    recompute: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not all(low <= part <= high for part in (value if isinstance(value, tuple) else (value,))):
                raise UserError(f"{name}: required {low:g} to {high:g} · got {text_of(value)} · set another value")
        for name, known in {"gram_teacher": GRAM_TEACHERS, "start": STARTS, "rgb": RGB}.items():
            if (value := getattr(self, name)) not in known:
                raise UserError(f"{name}: required one of {', '.join(known)} · got {value!r}{nearest(str(value), known)}")
        self._check_sizes()
        self._check_together()

    def _check_sizes(self) -> None:
        for name in ("global_px", "local_px"):
            for edge in getattr(self, name):
                if edge % PATCH_PX:
                    raise UserError(f"{name}: required multiples of {PATCH_PX} · got {edge} · round it")
        if not len(self.global_px) == len(self.local_px) == len(self.size_shares):
            raise UserError(
                "global_px, local_px, size_shares: required equally many entries · got "
                f"{len(self.global_px)}, {len(self.local_px)} and {len(self.size_shares)} · give one of each for every size"
            )
        for name in ("global_area", "local_area", "mask_ratio"):
            pair = getattr(self, name)
            if len(pair) != 2 or pair[0] > pair[1]:
                raise UserError(f"{name}: required a smallest and a largest value · got {text_of(pair)} · give two numbers")

    def _check_together(self) -> None:
        most = MOST_PROTOTYPES_PER_ROW * 2 * self.batch
        for name in ("prototypes", "patch_prototypes"):
            if getattr(self, name) > most:
                raise UserError(
                    f"{name}: required at most {most} for a batch of {self.batch}, or targets stay uniform · got "
                    f"{getattr(self, name)} · set {name} to {_suggested(self.batch)}, or a larger batch"
                )
        if (self.gram_weight > 0) != (self.gram_teacher != "none"):
            raise UserError(
                f"gram_weight: required with a gram_teacher and not without · got {self.gram_weight:g} and "
                f"{self.gram_teacher!r} · set both or neither"
            )
        if max(self.frozen_backbone, self.frozen_last_layer) >= self.iterations:
            raise UserError(
                f"frozen_backbone, frozen_last_layer: required fewer than the {self.iterations} iterations · got "
                f"{self.frozen_backbone} and {self.frozen_last_layer} · set them lower"
            )

    @property
    def scaled_lr(self) -> float:
        """Learning rate for ``batch``."""
        return self.lr * math.sqrt(self.batch / self.reference_batch)

    def scaled_momentum(self, momentum: float) -> float:
        """Momentum for ``batch``: as many slices change the teacher by as much."""
        return momentum ** (self.batch / self.reference_batch)

    def steps(self, share: float) -> int:
        """Returns a share of the iterations."""
        return round(share * self.iterations)

    def to_json(self) -> dict[str, Any]:
        """Returns what :func:`recipe_from_json` reads."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def differences(self, other: Recipe) -> list[str]:
        """Returns ``"batch 64 (there 32)"`` for every field that differs from ``other``."""
        pairs = [(field.name, getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]
        return [f"{name} {text_of(own)} (there {text_of(others)})" for name, own, others in pairs if own != others]


MOST_PROTOTYPES_PER_ROW = 250
_BIG = 10**9
_RANGES: dict[str, tuple[float, float]] = {
    "iterations": (1, _BIG),
    "batch": (2, 10**6),
    "reference_batch": (1, 10**6),
    "seed": (0, 2**31),
    "lr": (0, 1),
    "lr_end": (0, 1),
    "warmup": (0, 1),
    "weight_decay": (0, 10),
    "weight_decay_end": (0, 10),
    "beta2": (0, 0.999999),
    "clip": (1e-6, _BIG),
    "layer_decay": (0, 1),
    "patch_embed_lr": (0, 10),
    "frozen_backbone": (0, _BIG),
    "frozen_last_layer": (0, _BIG),
    "momentum": (0, 1),
    "momentum_end": (0, 1),
    "teacher_temperature_start": (1e-3, 10),
    "teacher_temperature": (1e-3, 10),
    "temperature_warmup": (0, 1),
    "student_temperature": (1e-3, 10),
    "drop_path": (0, 0.99),
    "layer_scale": (0, 10),
    "rope_rescale": (1, 100),
    "prototypes": (2, 10**6),
    "patch_prototypes": (2, 10**6),
    "head_layers": (1, 10),
    "head_hidden": (1, 10**5),
    "head_bottleneck": (1, 10**5),
    "dino_weight": (0, _BIG),
    "local_weight": (0, _BIG),
    "ibot_weight": (0, _BIG),
    "koleo_weight": (0, _BIG),
    "gram_weight": (0, _BIG),
    "gram_refresh": (1, _BIG),
    "gram_scale": (1, 8),
    "global_px": (PATCH_PX, 4096),
    "local_px": (PATCH_PX, 4096),
    "size_shares": (1e-6, 1e6),
    "num_local": (0, 100),
    "global_area": (0.001, 1),
    "local_area": (0.001, 1),
    "mask_share": (0, 1),
    "mask_ratio": (0, 1),
    "intensity_share": (0, 1),
    "intensity_scale": (0, 0.99),
    "intensity_shift": (0, 10),
    "noise": (0, 10),
    "token_stride_px": (1, PATCH_PX),
    "checkpoint_every": (1, _BIG),
    "export_every": (1, _BIG),
}


def adapt() -> Recipe:
    """Stage 1: DINOv3 weights become used to the images; FlexiCT's 2D stage 1, for one GPU."""
    return Recipe("adapt")


def anchor() -> Recipe:
    """Stage 2: goes on with patches held by a Gram teacher, a copy of the teacher renewed now and then; DINOv3's stage 2."""
    return replace(
        Recipe("anchor"),
        lr=2.4e-4,
        reference_batch=4096,
        momentum=0.999,
        momentum_end=0.999,
        teacher_temperature_start=0.07,
        warmup=0.05,
        frozen_backbone=0,
        local_weight=0.5,
        gram_weight=2.0,
        gram_teacher="ema",
        gram_refresh=5000,
    )


def sharpen() -> Recipe:
    """Stage 3: large crops, patches held by the weights that it starts from; FlexiCT's high-resolution stage."""
    return replace(
        Recipe("sharpen"),
        iterations=5000,
        lr=1.25e-4,
        reference_batch=400,
        momentum=0.999,
        momentum_end=0.999,
        teacher_temperature_start=0.07,
        warmup=0.1,
        frozen_backbone=0,
        local_weight=0.5,
        gram_weight=1.5,
        gram_teacher="start",
        gram_scale=1.5,
        global_px=(384, 512, 512, 512, 512),
        local_px=(112, 112, 144, 176, 224),
        size_shares=(0.3, 0.3, 0.3, 0.05, 0.05),
        flips=False,
        export_every=1000,
        recompute=True,
    )


def scratch() -> Recipe:
    """From random weights, for small transformers and small experiments."""
    return replace(
        Recipe("scratch"),
        iterations=3000,
        batch=64,
        reference_batch=32,
        start="random",
        lr=1.5e-3,
        lr_end=0.02,
        warmup=0.05,
        layer_decay=1.0,
        patch_embed_lr=1.0,
        beta2=0.95,
        frozen_backbone=0,
        momentum=0.99,
        momentum_end=1.0,
        teacher_temperature_start=0.02,
        teacher_temperature=0.03,
        student_temperature=0.08,
        temperature_warmup=0.3,
        drop_path=0.0,
        layer_scale=1.0,
        mask_share=1.0,
        mask_ratio=(0.2, 0.6),
        air_is_predicted=False,
        prototypes=128,
        patch_prototypes=1024,
        head_layers=1,
        head_bottleneck=128,
        unit_prototypes=True,
        head_batch_norm=True,
        koleo_weight=0.02,
        global_px=(128,),
        local_px=(64,),
        num_local=2,
        flips=False,
        export_every=250,
        checkpoint_every=100,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"adapt": adapt, "anchor": anchor, "sharpen": sharpen, "scratch": scratch}


def get_recipe(name: str, changes: Sequence[str] = ()) -> Recipe:
    """Returns a preset with some fields changed.

    Args:
        name: One of ``RECIPES``.
        changes: ``"key=value"`` each.

    Raises:
        UserError: An unknown preset or key, a value of the wrong kind or out of its range, or values that do not go together.
    """
    if name not in RECIPES:
        raise UserError(f"--recipe: required one of {', '.join(RECIPES)} · got {name!r}{nearest(name, RECIPES)}")
    recipe = RECIPES[name]()
    known = [field.name for field in fields(Recipe) if field.name != "name"]
    values = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if key not in known or not equals:
            what = "KEY=VALUE" if key in known or not equals else "a known key"
            raise UserError(
                f"--set: required {what} · got {change!r}{nearest(key, known)} · docs/reference/pretraining.md lists them"
            )
        values[key] = _parsed(key, text, getattr(recipe, key))
    return replace(recipe, **values)


def recipe_from_json(entry: Mapping[str, Any]) -> Recipe:
    """Returns the recipe that :meth:`Recipe.to_json` wrote.

    Raises:
        UserError: Another version of this package wrote it.
    """
    known = {field.name for field in fields(Recipe)}
    if odd := sorted(set(entry) ^ known):
        raise UserError(
            f"recipe: required the fields of this version · got one that differs in {', '.join(odd[:4])} · use the version of "
            "nnunet-dino that began the run, or begin another folder"
        )
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return Recipe(**values)


def _parsed(key: str, text: str, like: Any) -> Any:
    kinds = {bool: "true or false", int: "a whole number", float: "a number", tuple: "numbers with commas", str: "a word"}
    try:
        if isinstance(like, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(like, tuple):
            return tuple(_number(part, like[0]) for part in text.split(","))
        return _number(text, like) if isinstance(like, (int, float)) else text
    except (ValueError, KeyError):
        kind = next(words for kind, words in kinds.items() if isinstance(like, kind))
        raise UserError(f"--set {key}: required {kind}, such as {text_of(like)} · got {text!r} · correct it") from None


def _number(text: str, like: Any) -> int | float:
    value = int(text) if isinstance(like, int) else float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def text_of(value: Any) -> str:
    """Returns a value as ``--set`` takes it."""
    return (
        ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else str(value)
    )


def _suggested(batch: int) -> int:
    return 2 ** int(math.log2(128 * batch))
