"""A backbone together with its weights, its adaptation, and the rule what of it is written into checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_dino._errors import UserError, nearest
from nnunet_dino.backbones import weights as weight_files
from nnunet_dino.backbones.adaptation import (
    LORA_TARGETS,
    add_lora,
    canonical_name,
    check_adaptation,
    freeze,
    is_adapter,
    train_in_full,
)
from nnunet_dino.backbones.catalogue import get_spec
from nnunet_dino.backbones.precision import backbone_dtype, is_exporting
from nnunet_dino.backbones.records import from_tensor, to_tensor
from nnunet_dino.backbones.rgb import IMAGENET
from nnunet_dino.backbones.vit import Backbone, BackboneOutput
from nnunet_dino.backbones.weights.unwrapping import STATISTICS_RECORD, recorded_statistics

PRETRAINED = "pretrained"
RANDOM = weight_files.RANDOM
_LOADED = "weights_were_loaded"  # an attribute of a transformer
RECORD_KEY = "weights_record"


@dataclass(frozen=True)
class LoraOptions:
    """Low-rank adapters, set in this one place.

    Attributes:
        rank: Rank of the update.
        alpha: The update is scaled by ``alpha / rank``.
        targets: Linear layers of every block that get an adapter.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = LORA_TARGETS[:2]


class AdaptedBackbone(nn.Module):
    """Patch maps of 2D images from a frozen, LoRA-adapted or fully trained backbone.

    Building it reads weights that are on this machine and never downloads. Where there are none it can still be built, and
    receives its weights from a checkpoint; a forward pass before that is an error.

    Checkpoints: weights that came from a file and are not trained are not written. In their place stands a small record of
    the backbone's name and the content digest of its weights, and loading verifies it. Trained or random weights are written
    in full, and a checkpoint that holds everything loads as well.

    Args:
        name: A row of the catalogue.
        weights: ``"pretrained"`` or ``"random"``. The environment variable ``nnUNet_dino_weights=random`` also asks for random.
        adaptation: ``"frozen"``, ``"lora"`` or ``"full"``.
        lora: Used if ``adaptation`` is ``"lora"``.
        taps_are_normalised: Pass every tapped block through the transformer's final LayerNorm.
        drop_path: Stochastic depth rate in [0, 1) while training in full.
        loaded: Weights that have been read already; by default those that are found on this machine.

    Raises:
        UserError: ``name``, ``weights`` or ``adaptation`` is unknown.
    """

    def __init__(
        self,
        name: str,
        weights: str = PRETRAINED,
        adaptation: str = "frozen",
        lora: LoraOptions | None = None,
        taps_are_normalised: bool = True,
        drop_path: float = 0.0,
        loaded: weight_files.LoadedWeights | None = None,
    ) -> None:
        super().__init__()
        check_adaptation(adaptation)
        if weights not in (PRETRAINED, RANDOM):
            known = (PRETRAINED, RANDOM)
            raise UserError(f"weights: required {' or '.join(known)} · got {weights!r}{nearest(weights, known)}")
        spec = get_spec(name)
        self.name = name
        self.embed_dim, self.patch_px, self.num_prefix_tokens = spec.embed_dim, spec.patch_px, spec.num_prefix_tokens
        self.num_taps = len(spec.taps)
        self.adaptation = adaptation
        self.weights_are_random = loaded is None and (weights == RANDOM or weight_files.wants_random())
        self.digest: str | None = None
        self.licence = spec.licence
        self.statistics = spec.statistics or IMAGENET
        self.pretrained_rgb = ""
        self._problem: str | None = None
        self._stayed: list[str] = []
        self.backbone = Backbone(spec, self.weights_are_random, taps_are_normalised, drop_path)
        if loaded is not None:
            self._take(loaded)
        elif not self.weights_are_random:
            try:
                self.load_weights()
            except UserError as error:
                self._problem = str(error)
        self._adapt(lora or LoraOptions())
        self.register_state_dict_post_hook(_replace_weights_by_record)
        self.register_load_state_dict_pre_hook(_read_record)
        self.backbone.vit.register_load_state_dict_pre_hook(_note_loading)
        self.register_load_state_dict_post_hook(_forgive_weights_that_stayed)

    @property
    def is_frozen(self) -> bool:
        """No parameter is trained, neither by the adaptation nor because somebody asked for its gradient."""
        return self.adaptation == "frozen" and not any(p.requires_grad for p in self.backbone.parameters())

    def train(self, mode: bool = True) -> AdaptedBackbone:
        """Frozen backbones stay in evaluation mode; the others checkpoint their activations while training."""
        super().train(mode and not self.is_frozen)
        self.backbone.vit.set_grad_checkpointing(self.training)
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> AdaptedBackbone:
        """Moves and casts, but keeps kernels with four axes in their own format: ``channels_last_3d`` asks for five."""
        return super()._apply(lambda t: fn(t.flatten(1)).view(t.shape) if t.ndim == 4 else fn(t), recurse)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Returns the patch maps of :meth:`tokens`: one ``n e gh gw`` per tapped block, shallow to deep."""
        return self.tokens(images).patch_maps

    def tokens(self, images: Tensor) -> BackboneOutput:
        """Encodes images in the backbone's own precision, whatever autocast surrounds it; what is no transformer, in float32.

        Args:
            images: ``n 3 h w``, ``h`` and ``w`` multiples of :attr:`patch_px`.

        Raises:
            UserError: no weights have been loaded, or the backbone takes another size only.
        """
        self._forget_the_file_if_others_were_loaded()
        if self._problem:
            raise UserError(self._problem)
        spec, size = self.backbone.spec, tuple(images.shape[2:])
        if not spec.takes_any_size and size != (spec.input_px, spec.input_px):
            raise UserError(
                f"{spec.name}: required images of {spec.input_px} px squared, its only size · got {size[0]} x {size[1]}"
            )
        dtype = self.settle(images.device)
        if self.is_frozen:
            has_graph = torch.is_grad_enabled() and images.requires_grad
            with torch.set_grad_enabled(has_graph), torch.autocast(images.device.type, enabled=False):
                return self._in_its_type(images.to(dtype), dtype)
        if torch.is_grad_enabled() and self.adaptation != "full" and self._weights_are_trained():
            self.digest = None  # they were set trainable, and from now on are no longer those of the file
            if self.adaptation == "frozen":
                self._store_in(torch.float32)  # small steps are lost in bfloat16
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            return self._in_its_type(images.float(), torch.float32)

    def _in_its_type(self, images: Tensor, dtype: torch.dtype) -> BackboneOutput:
        """Computes with parameters of ``dtype``, in whatever type they are stored."""
        if torch.jit.is_tracing():  # which allows no call with other parameters
            self._store_in(dtype)
        if next(self.backbone.vit.parameters()).dtype is dtype:
            return self.backbone(images)
        self.backbone.vit.set_grad_checkpointing(False)  # computing once more would find the stored type
        stored = chain(self.backbone.named_parameters(), self.backbone.named_buffers())
        return torch.func.functional_call(self.backbone, {name: t.to(dtype) for name, t in stored}, (images,))

    def _weights_are_trained(self) -> bool:
        return any(p.requires_grad for name, p in self.backbone.named_parameters() if not is_adapter(name))

    def settle(self, device: torch.device) -> torch.dtype:
        """Returns the type to compute in on ``device``, after storing frozen parameters in it."""
        dtype = backbone_dtype(device) if self.backbone.spec.is_vit else torch.float32
        if self.is_frozen and not is_exporting():
            self._store_in(dtype)
        return dtype

    def load_weights(self) -> None:
        """Loads the weights found on this machine.

        Raises:
            UserError: there are none, or they do not fit.
        """
        self._take(weight_files.load(self.name))

    def _take(self, loaded: weight_files.LoadedWeights) -> None:
        own = self.backbone.vit.state_dict(keep_vars=True)
        with torch.no_grad():
            for key, parameter in own.items():
                if not is_adapter(key):
                    parameter.copy_(loaded.state[canonical_name(key)])
        self.digest, self._problem, self.licence = loaded.digest, None, loaded.licence
        self.statistics = loaded.statistics or self.backbone.spec.statistics or IMAGENET
        self.pretrained_rgb = loaded.pretrained_rgb

    def says_of_colours(self, rgb: str) -> str:
        """Returns a sentence if ``nnunet-dino pretrain`` showed these weights other colours than ``rgb`` does, else ""."""
        if self.pretrained_rgb in ("", rgb):
            return ""
        own = self.pretrained_rgb
        return f"the weights were pretrained with rgb: {own} and see slices as {rgb} here; rgb: {own} shows them what they know"

    def _forget_the_file_if_others_were_loaded(self) -> None:
        if vars(self.backbone.vit).pop(_LOADED, False):
            self.digest, self._problem = None, None

    def require_weights(self) -> None:
        """Loads local weights if none have been loaded yet.

        Raises:
            UserError: there are none.
        """
        self._forget_the_file_if_others_were_loaded()
        if self._problem:
            self.load_weights()

    def _adapt(self, lora: LoraOptions) -> None:
        if self.adaptation != "frozen" and not self.backbone.spec.is_vit:
            raise UserError(f"adaptation: required frozen for {self.name}, no plain transformer · got {self.adaptation}")
        if self.adaptation == "frozen":
            freeze(self.backbone)
            self.train(False)
        elif self.adaptation == "lora":
            add_lora(self.backbone, lora.rank, lora.alpha, tuple(lora.targets))
        else:
            train_in_full(self.backbone)

    def _store_in(self, dtype: torch.dtype) -> None:
        """Keeps frozen parameters in the type they are used in; rotary periods stay float32."""
        if next(self.backbone.vit.parameters()).dtype is dtype:
            return
        with torch.inference_mode(False):  # tensors made in inference mode do not count what is written to them
            for parameter in self.backbone.parameters():
                parameter.data = parameter.data.to(dtype)
            for block in self.backbone.vit.blocks:
                if getattr(block.attn, "k_bias", None) is not None:
                    block.attn.k_bias = block.attn.k_bias.to(dtype)

    def _source_keys(self, prefix: str) -> list[str]:
        names = (f"backbone.{name}" for name, _ in self.backbone.named_parameters())
        return [prefix + name for name in names if not is_adapter(name)]


def _replace_weights_by_record(module: AdaptedBackbone, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    module._forget_the_file_if_others_were_loaded()
    if module.statistics != IMAGENET:
        state[prefix + STATISTICS_RECORD] = to_tensor(module.statistics)
    if module.digest is None or module.adaptation == "full":
        return
    for key in module._source_keys(prefix):
        del state[key]
    state[prefix + RECORD_KEY] = encode_record(module.name, module.digest)


def _note_loading(vit: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    if any(key.startswith(prefix) and not is_adapter(key) for key in state):
        vars(vit)[_LOADED] = True


def _read_record(module: AdaptedBackbone, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Verifies the record of weights that ``state`` does not hold."""
    keys = module._source_keys(prefix)
    records = {key: state.pop(prefix + key) for key in (RECORD_KEY, STATISTICS_RECORD) if prefix + key in state}
    encoded = records.get(RECORD_KEY)
    if encoded is not None:
        _verify(module, *decode_record(encoded))
        module._stayed = [key for key in keys if key not in state]
    if encoded is not None or any(key in state for key in keys):
        module.statistics = recorded_statistics(records) or IMAGENET


def _forgive_weights_that_stayed(module: AdaptedBackbone, incompatible: Any) -> None:
    """Strict loading would call them missing."""
    stayed, module._stayed = set(module._stayed), []
    missing = incompatible.missing_keys
    missing[:] = [key for key in missing if key not in stayed]


def _verify(module: AdaptedBackbone, name: str, digest: str) -> None:
    if name != module.name:
        raise UserError(f"checkpoint: required backbone {module.name} · got {name} · use the trainer or plans it was made with")
    module._forget_the_file_if_others_were_loaded()
    if module.digest is None:
        if weight_files.locate(name) is None:
            raise UserError(weight_files.missing_weights_message(name, digest))
        module.load_weights()
    if module.digest != digest:
        raise UserError(
            f"checkpoint: required {name} weights with digest {digest} · got {module.digest} from "
            f"{weight_files.locate(name)} · set {weight_files.ENVIRONMENT_VARIABLE} to the file this checkpoint was trained "
            "with (nnunet-dino weights verify FILE prints a file's digest)"
        )


def encode_record(name: str, digest: str) -> Tensor:
    """Writes a backbone's name and digest as a tensor of bytes, so that it lives in any state dict."""
    return to_tensor({"backbone": name, "digest": digest})


def decode_record(encoded: Tensor) -> tuple[str, str]:
    """Reads what :func:`encode_record` wrote: the backbone's name and the digest."""
    record = from_tensor(encoded)
    return record["backbone"], record["digest"]
