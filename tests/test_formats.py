"""Checkpoint formats against reference outputs, timm's own converter and each other."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from checkpoints import (
    DEPTH,
    HEADS,
    REFERENCES,
    WIDTH,
    as_hugging_face,
    as_meta,
    as_trainer,
    canonical_state,
    reference,
    reference_spec,
    rope_periods,
    small_spec,
    without_bias,
)
from timm.models.eva import checkpoint_filter_fn
from torch import Tensor

from nnunet_dino._errors import UserError
from nnunet_dino.backbones.catalogue import CATALOGUE, get_spec
from nnunet_dino.backbones.vit import Backbone
from nnunet_dino.backbones.weights import ConversionReport, digest_of, match, to_timm
from nnunet_dino.backbones.weights.architecture import architecture

MAX_RELATIVE_ERROR = 1e-5


def converted(tensors: dict[str, Tensor], gated: bool = False, **config: object) -> tuple[dict[str, Tensor], ConversionReport]:
    return match(to_timm(tensors, "FILE"), small_spec(gated=gated), config)


def tensors_of(checkpoint: dict) -> dict[str, Tensor]:
    return checkpoint.get("teacher", checkpoint)


def outputs(spec, state: dict[str, Tensor], image: Tensor):
    backbone = Backbone(spec).eval()
    backbone.vit.load_state_dict(state)
    with torch.inference_mode():
        return backbone(image)


@pytest.mark.parametrize("name", REFERENCES)
def test_outputs_equal_the_reference_implementation(name: str) -> None:
    content = reference(name)
    spec = reference_spec(content)
    state, _ = match(to_timm(tensors_of(content["checkpoint"]), name), spec)
    found = outputs(spec, state, content["image"])
    for kind in ("patch_maps", "class_tokens", "register_tokens"):
        for ours, theirs in zip(getattr(found, kind), content[kind], strict=True):
            assert (ours - theirs).abs().max() <= MAX_RELATIVE_ERROR * theirs.abs().max()


@pytest.mark.parametrize("kind", ["q_bias", "v_bias"])
@pytest.mark.parametrize("name", ["dinov3_meta_mlp_qkvbias", "dinov3_meta_swiglu", "dinov3_huggingface"])
def test_query_and_value_bias_are_kept(name: str, kind: str) -> None:
    content = reference(name)
    spec = reference_spec(content)
    state, report = match(to_timm(content["checkpoint"], name), spec)
    assert report.filled == ()
    without = {key: torch.zeros_like(tensor) if key.endswith(kind) else tensor for key, tensor in state.items()}
    found, theirs = outputs(spec, without, content["image"]).patch_maps[-1], content["patch_maps"][-1]
    assert (found - theirs).abs().max() > 5 * MAX_RELATIVE_ERROR * theirs.abs().max()


@pytest.mark.parametrize("name", ["dinov3_meta_mlp_qkvbias", "meddinov3_teacher"])
def test_tensors_equal_those_of_timms_converter(name: str) -> None:
    content = reference(name)
    spec = reference_spec(content)
    backbone = {
        key.removeprefix("backbone."): tensor for key, tensor in tensors_of(content["checkpoint"]).items() if "head" not in key
    }
    theirs = checkpoint_filter_fn(dict(backbone), timm.create_model(spec.timm_model, num_classes=0, **spec.overrides))
    ours, report = match(to_timm(tensors_of(content["checkpoint"]), name), spec)
    assert set(ours) - set(report.filled) == set(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("gated", [False, True])
def test_every_format_gives_the_same_tensors_and_digest(gated: bool) -> None:
    state = canonical_state(gated)
    formats = {
        "timm": state,
        **{f"Meta, mask {mask}": as_meta(state, mask) for mask in ("set", "unset", "absent")},
        "trainer": as_trainer(state)["teacher"],
        "Hugging Face": as_hugging_face(state),
        "Hugging Face, new names": as_hugging_face(state, "model.layer"),
        "Hugging Face, key bias": as_hugging_face(state, key_bias=0.0),
    }
    digests = {}
    for name, tensors in formats.items():
        found, _ = converted(tensors, gated)
        assert set(found) == set(state), name
        assert all(torch.equal(found[key], state[key]) for key in state), name
        digests[name] = digest_of(found)
    assert set(digests.values()) == {digest_of(state)}
    assert digest_of(canonical_state(gated, seed=1)) != digest_of(state)


def test_a_bias_of_zero_equals_no_bias() -> None:
    state = canonical_state(with_bias=False)
    negative = {key: -tensor if key.endswith("q_bias") else tensor for key, tensor in state.items()}
    assert torch.signbit(negative["blocks.0.attn.q_bias"]).all()
    for tensors in (without_bias(state), as_meta(state, "no bias"), as_meta(state, "zero"), as_hugging_face(state), negative):
        assert digest_of(converted(tensors)[0]) == digest_of(state)


def test_a_mask_of_zeros_hides_the_bias_as_in_the_reference() -> None:
    found, report = converted(as_meta(canonical_state(), "zero"))
    assert digest_of(found) == digest_of(canonical_state(with_bias=False))
    assert ("blocks.0.attn.qkv.bias_mask", "applied to the bias") in report.dropped


def test_report_names_every_tensor() -> None:
    tensors = as_trainer(canonical_state(), "no bias")["teacher"]
    _, report = converted(tensors)
    dropped = {key for key, _ in report.dropped}
    assert dropped == {
        "backbone.mask_token",
        "backbone.rope_embed.periods",
        "dino_head.mlp.0.weight",
        "ibot_head.last_layer.weight",
    }
    assert set(report.used) == set(tensors) - dropped
    assert set(report.filled) == {f"blocks.{block}.attn.{part}_bias" for block in range(DEPTH) for part in "qv"}
    assert "filled with zeros: 3 times blocks.*.attn.q_bias, 3 times blocks.*.attn.v_bias" in report.lines()


def test_half_precision_is_widened_and_reported() -> None:
    state = {key: tensor.bfloat16() for key, tensor in canonical_state().items()}
    found, report = converted(state)
    assert all(torch.equal(found[key], state[key].float()) for key in state)
    assert report.notes == ("stored as bfloat16; converted to float32",)


def test_rounded_periods_are_accepted_and_reported() -> None:
    tensors = as_meta(canonical_state()) | {"rope_embed.periods": rope_periods().bfloat16()}
    found, report = converted(tensors)
    assert digest_of(found) == digest_of(canonical_state())
    assert re.search(r"rope periods are rounded \(.*e-03 relative\); computed in float32", report.notes[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.1.ls1.gamma": None}, r"1 missing: blocks\.1\.gamma_1 24"),
        ({"blocks.1.attn.qkv.bias": None}, r"2 missing: blocks\.1\.attn\.q_bias 24, blocks\.1\.attn\.v_bias 24"),
        ({"blocks.3.norm1.bias": torch.ones(24)}, r"1 unexpected: blocks\.3\.norm1\.bias 24"),
        ({"cls_norm.bias": torch.ones(24)}, r"1 unexpected: cls_norm\.bias 24"),
        ({"norm.bias": torch.full((24,), torch.inf)}, r"got NaN or infinity for norm\.bias in FILE"),
        ({"blocks.2.attn.qkv.bias_mask": torch.full((72,), 0.5)}, r"in blocks\.2\.attn\.qkv\.bias_mask · got 0\.5 in FILE"),
        ({"blocks.2.attn.qkv.bias_mask": torch.ones(72)}, r"got up to 7 in middle third of blocks\.2\.attn\.qkv\.bias of FILE"),
    ],
)
def test_surprises_are_errors_that_name_keys_and_shapes(change: dict[str, Tensor | None], message: str) -> None:
    tensors = {key: tensor for key, tensor in (as_meta(canonical_state()) | change).items() if tensor is not None}
    with pytest.raises(UserError, match=message):
        converted(tensors)


def test_a_lost_projection_is_named() -> None:
    tensors = as_hugging_face(canonical_state())
    del tensors["layer.1.attention.k_proj.weight"]
    with pytest.raises(
        UserError, match=r"required blocks\.1\.attn\.k_proj\.weight beside 'layer\.1\.attention\.q_proj\.weight'"
    ):
        converted(tensors)


def test_a_wrong_size_names_the_backbone_that_fits() -> None:
    tiny = {name: torch.zeros(shape) for name, shape in architecture(get_spec("dinov3_tiny")).shapes.items()}
    with pytest.raises(UserError, match=r"required the tensors of small · got FILE .* · the file fits dinov3_tiny$"):
        converted(tiny)


@pytest.mark.parametrize("name", CATALOGUE)
def test_catalogue_agrees_with_timm(name: str) -> None:
    spec = get_spec(name)
    with torch.device("meta"):
        vit = timm.create_model(spec.timm_model, num_classes=0, **spec.overrides)
    shapes = {name: tensor.shape for name, tensor in vit.state_dict().items()}
    assert shapes["cls_token"] == (1, 1, spec.embed_dim)
    assert sum(shape.numel() for shape in shapes.values()) == spec.num_parameters
    assert f"blocks.{spec.taps[-1]}.norm1.weight" in shapes
    assert f"blocks.{spec.taps[-1] + 1}.norm1.weight" not in shapes


def test_a_backbone_without_bias_takes_zero_biases_only() -> None:
    spec = small_spec()
    plain = type(spec)(**{**vars(spec), "timm_model": "vit_small_patch16_dinov3"})
    state = canonical_state(with_bias=False)
    found, report = match(to_timm(state, "FILE"), plain)
    assert set(found) == set(without_bias(state))
    assert ("blocks.0.attn.q_bias", "all zero; small has no query and value bias") in report.dropped
    with pytest.raises(UserError, match=r"6 unexpected: blocks\.0\.attn\.q_bias 24"):
        match(to_timm(canonical_state(), "FILE"), plain)


def test_widths_of_the_cases_differ() -> None:
    assert len({WIDTH, DEPTH, HEADS, 4, 16}) == 5
