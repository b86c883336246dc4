"""Slices are encoded once: counted in nnU-Net's own predictor, and never with another result."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from sliding_window import MovingPredictor, image, predict, predictor
from small_nets import TINY, planned, small_unet, volume
from torch import Tensor, nn

from nnunet_dino.backbones.rgb import IMAGENET, ChannelView
from nnunet_dino.networks.meddinov3 import MedDINOv3
from nnunet_dino.networks.options import DinoOptions
from nnunet_dino.networks.slices import SliceEncoder
from nnunet_dino.networks.tokens_only import TokensOnly
from nnunet_dino.networks.unet import PLAIN_UNET
from nnunet_dino.nnunet.trainer import DINOv3Trainer

GIB = 1 << 30


@pytest.fixture(autouse=True)
def one_thread_in_float32(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("nnUNet_dino_precision", "float32")
    monkeypatch.setenv("nnUNet_dino_cache_gb", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def counts(network: nn.Module) -> tuple[int, int]:
    reuse = network.slice_encoder.reuse
    return reuse.num_asked, reuse.num_encoded


class MeanOfSlices(nn.Module):
    """Has all of a backbone that a slice encoder asks for, and costs nothing."""

    num_taps, embed_dim, is_frozen = 1, 2, True
    patch_px, num_prefix_tokens = 16, 5
    statistics = IMAGENET

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]), requires_grad=False)

    def settle(self, device: torch.device) -> torch.dtype:
        return torch.float32

    def forward(self, images: Tensor) -> list[Tensor]:
        grid = nn.functional.avg_pool2d(images[:, :1], 16)
        return [grid * self.weight.view(1, 2, 1, 1)]


class CountingNetwork(nn.Module):
    """A slice encoder and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.slice_encoder = SliceEncoder(MeanOfSlices(), [ChannelView()], 16)

    def forward(self, x: Tensor) -> Tensor:
        self.slice_encoder(x)
        return torch.zeros(x.shape[0], 1, *x.shape[2:])


@pytest.mark.parametrize(
    ("size", "patch_size", "mirror_axes", "asked", "encoded"),
    [
        ((187, 64, 64), (64, 32, 32), (0, 1, 2), 23040, 6732),
        ((187, 64, 64), (64, 32, 32), None, 2880, 1683),
        ((187, 64, 64), (64, 32, 32), (1, 2), 11520, 6732),
        ((12, 64, 64), (12, 64, 64), (0, 1, 2), 96, 48),
        ((40, 64, 64), (64, 64, 64), (0, 1, 2), 512, 161),
        ((300, 48, 48), (128, 48, 48), (0, 1, 2), 4096, 1200),
        ((24, 64, 64), (64, 64), (0, 1), 96, 96),
    ],
    ids=["overlap-mirrored", "overlap", "mirrored-in-plane", "one-tile", "padded", "long", "2d"],
)
def test_every_distinct_slice_is_encoded_once(
    size: tuple[int, ...], patch_size: tuple[int, ...], mirror_axes: tuple[int, ...] | None, asked: int, encoded: int
) -> None:
    """The counts were taken by instrumenting nnU-Net's predictor with a set of the slices it had seen."""
    network = CountingNetwork()
    predictor(network, patch_size, mirror_axes, num_heads=1).predict_logits_from_preprocessed_data(image(*size))
    assert counts(network) == (asked, encoded)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("adaptation", ["frozen", "lora", "full"])
def test_a_network_that_nnunet_moves_in_inference_mode_reuses_all_the_same(
    adaptation: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nnU-Net moves a network to the GPU in inference mode, and tensors made there do not count what is written to them."""
    monkeypatch.setenv("nnUNet_dino_precision", precision)
    network = small_unet(gate_start=0.5, adaptation=adaptation)
    through_neck = []
    network.neck.register_forward_hook(lambda _, args, tokens: through_neck.append(len(tokens.unique(dim=0))))
    moving = predictor(network, (6, 20, 12), (0, 1, 2), kind=MovingPredictor)
    logits = moving.predict_logits_from_preprocessed_data(image(14, 20, 12))
    assert counts(network) == (192, 56)
    assert sum(through_neck) == 56
    assert not any(tensor.is_inference() for tensor in [*network.parameters(), *network.buffers()])
    if precision == "float32":
        assert torch.equal(logits, predict(copy.deepcopy(network), image(14, 20, 12), (6, 20, 12), (0, 1, 2)))
    network.train()
    network(volume()).square().mean().backward()


def networks() -> list[Any]:
    dino = {"backbone": TINY, "weights": "random"}
    return [
        pytest.param(lambda: small_unet(gate_start=0.5), 3, id="unet"),
        pytest.param(lambda: small_unet(gate_start=0.5, adaptation="lora"), 3, id="lora"),
        pytest.param(lambda: small_unet(gate_start=0.5, taps_are_normalised=False), 3, id="own-norms"),
        pytest.param(lambda: TokensOnly(1, 3, dino=dino, **planned(PLAIN_UNET, 3)), 3, id="tokens-only"),
        pytest.param(lambda: MedDINOv3(1, 3, dino=dino, **planned(PLAIN_UNET, 2)), 2, id="meddinov3"),
    ]


def show_every_block(network: nn.Module) -> None:
    """At their start value of 1e-5 the blocks change next to nothing."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("gamma_1", "gamma_2")):
                parameter.fill_(0.5)


@pytest.mark.parametrize(("build", "num_axes"), networks())
def test_logits_are_the_same_with_and_without_reuse(build: Any, num_axes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build()
    show_every_block(network)
    what = image({2: 3, 3: 10}[num_axes], 28, 12), (6, 20, 12)[-num_axes:], (0, 1)
    with_reuse = predict(network, *what)
    asked, encoded = counts(network)
    assert encoded < asked if num_axes == 3 else encoded == asked
    without = predict_without_reuse(network, *what, monkeypatch=monkeypatch)
    assert without.abs().max() > 0.01
    assert torch.equal(with_reuse, without)


@pytest.mark.parametrize("adaptation", ["frozen", "lora"])
def test_logits_in_bfloat16_differ_by_rounding_at_most(adaptation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_dino_precision", "bfloat16")
    network = small_unet(gate_start=0.5, adaptation=adaptation)
    show_every_block(network)
    what = image(10, 28, 12), (6, 20, 12), (0, 1)
    with_reuse = predict(network, *what)
    without = predict_without_reuse(network, *what, monkeypatch=monkeypatch)
    torch.testing.assert_close(with_reuse, without, rtol=0, atol=2**-6 * without.abs().max().item())


def predict_without_reuse(network: nn.Module, *what: Any, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    monkeypatch.setenv("nnUNet_dino_cache_gb", "0")
    asked, encoded = counts(network)
    result = predict(network, *what)
    num_more = counts(network)[0] - asked
    assert counts(network)[1] - encoded == num_more
    return result


@pytest.mark.parametrize("adaptation", ["frozen", "lora"])
def test_every_fold_is_predicted_with_its_own_weights(adaptation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net loads the parameters of one fold after the other into the same network."""
    network = small_unet(gate_start=0.5, adaptation=adaptation)
    show_every_block(network)
    first = {key: value.clone() for key, value in network.state_dict().items()}
    learned = {key for key, parameter in network.named_parameters() if parameter.requires_grad}
    second = {key: value * 1.1 + 0.01 if key in learned else value.clone() for key, value in first.items()}
    what = image(10, 20, 12), (6, 20, 12), (0, 1)
    moving = predictor(network, *what[1:], kind=MovingPredictor)
    moving.list_of_parameters = [first, second]
    both = moving.predict_logits_from_preprocessed_data(what[0])
    assert counts(network) == (2 * 72, 2 * 20)
    monkeypatch.setenv("nnUNet_dino_cache_gb", "0")
    assert torch.equal(both, moving.predict_logits_from_preprocessed_data(what[0]))
    moving.list_of_parameters = [first]
    assert not torch.equal(both, moving.predict_logits_from_preprocessed_data(what[0]))


def test_nothing_is_held_when_nnunet_allocates_the_results_of_the_next_image() -> None:
    class Watching(MovingPredictor):
        def _internal_predict_sliding_window_return_logits(self, *args: Any, **kwargs: Any) -> Tensor:
            held.append(network.slice_encoder.reuse.num_bytes)
            result = super()._internal_predict_sliding_window_return_logits(*args, **kwargs)
            held.append(network.slice_encoder.reuse.num_bytes)
            return result

    held: list[int] = []
    network = small_unet()
    watching = predictor(network, (6, 20, 12), (0, 1), kind=Watching)
    for depth in (10, 14):
        watching.predict_logits_from_preprocessed_data(image(depth, 20, 12))
    bytes_of_a_slice = 3 * 2 * 10 * 4  # tokens after the neck: gh gw k in float32
    assert held == [0, 10 * 2 * bytes_of_a_slice, 0, 14 * 2 * bytes_of_a_slice]


def test_nothing_is_held_after_an_image_even_if_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        nnUNetPredictor, "predict_sliding_window_return_logits", nnUNetPredictor.predict_sliding_window_return_logits
    )
    architecture = {"network_class_name": PLAIN_UNET, "arch_kwargs": planned(PLAIN_UNET, 3), "_kw_requires_import": []}
    planned_2d = {"normalization_schemes": ["CT"], "spacing": (1, 1), "patch_size": (20, 12), "architecture": architecture}
    configuration, plans = (
        SimpleNamespace(configuration=planned_2d),
        SimpleNamespace(plans={}, foreground_intensity_properties_per_channel={}),
    )
    trainer = type("TinyTrainer", (DINOv3Trainer,), {"dino": DinoOptions(TINY, weights="random")})
    for _ in range(2):
        trainer.build_network_architecture(plans, configuration, 1, 3, False)
    network = small_unet()
    predict(network, image(10, 20, 12), (6, 20, 12), (0, 1))
    assert network.slice_encoder.reuse.num_bytes == 0
    held = []

    def full(skips: list[Tensor]) -> Tensor:
        held.append(network.slice_encoder.reuse.num_bytes)
        raise RuntimeError("inf in predicted array")

    network.decoder.forward = full
    with pytest.raises(RuntimeError, match="inf in predicted array"):
        predict(network, image(10, 20, 12), (6, 20, 12), (0, 1))
    assert held[0] > 0
    assert network.slice_encoder.reuse.num_bytes == 0


@pytest.fixture(scope="module")
def without_reuse() -> Iterator[tuple[nn.Module, tuple[Any, ...], Tensor]]:
    """A network, what it predicts, and the logits."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("nnUNet_dino_precision", "float32")
        network = small_unet(gate_start=0.5)
        what = image(14, 28, 12), (6, 20, 12), (0, 1)
        yield network, what, predict_without_reuse(network, *what, monkeypatch=monkeypatch)


# A tile shows 6 slices in 2 mirrors, a layer has 2 tiles; 192 slices are asked for, of which 14 · 2 · 2 are distinct.
@pytest.mark.parametrize(("num_held", "encoded"), [(0.9, 192), (12, 96), (24, 56), (1000, 56)])
def test_a_small_memory_reuses_less_and_is_never_wrong(
    num_held: float, encoded: int, without_reuse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, what, expected = without_reuse
    num_bytes = num_held * 3 * 2 * 10 * 4
    monkeypatch.setenv("nnUNet_dino_cache_gb", repr((num_bytes + 0.5) / GIB))
    copied = copy.deepcopy(network)
    watched = []
    copied.register_forward_hook(lambda *_: watched.append(copied.slice_encoder.reuse.num_bytes))
    assert torch.equal(predict(copied, *what), expected)
    assert max(watched) <= num_bytes
    assert counts(copied) == (192, encoded)


@torch.inference_mode()
def seen(network: nn.Module, x: Tensor) -> Tensor:
    return network(x)


def test_training_and_gradients_use_and_leave_nothing() -> None:
    network = small_unet(gate_start=0.5).eval()
    reuse = network.slice_encoder.reuse
    seen(network, volume())
    held = reuse.num_bytes
    assert held > 0
    with torch.no_grad():
        network(volume(seed=1))
    assert reuse.num_bytes == held
    network.train()
    assert reuse.num_bytes == 0
    network(volume()).square().mean().backward()
    seen(network, volume())
    assert reuse.num_bytes == 0
    network.eval()
    network(volume()).square().mean().backward()


def test_other_weights_are_never_served() -> None:
    first, second = small_unet(gate_start=0.5).eval(), small_unet(gate_start=0.5).eval()
    with torch.inference_mode():
        first._apply(torch.clone)  # as nnU-Net moves it
    x = volume()
    expected = seen(second, x)
    assert not torch.equal(seen(first, x), expected)
    first.load_state_dict(second.state_dict())
    assert torch.equal(seen(first, x), expected)
    with torch.inference_mode():
        for network in (first, second):
            network.slice_encoder.backbone.backbone.vit.patch_embed.proj.bias.add_(0.5)
            network.neck.mix.bias.add_(0.5)
    fresh = copy.deepcopy(second)
    assert torch.equal(seen(first, x), seen(fresh, x))
    assert not torch.equal(seen(first, x), expected)


@pytest.mark.parametrize("adaptation", ["lora", "full"])
def test_adapted_weights_are_followed(adaptation: str) -> None:
    network = small_unet(gate_start=0.5, adaptation=adaptation).eval()
    show_every_block(network)
    before = seen(network, volume())
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.requires_grad and "blocks.2." in name:
                parameter.add_(0.1)
    after = seen(network, volume())
    assert not torch.equal(before, after)
    assert torch.equal(after, seen(copy.deepcopy(network), volume()))


def test_slices_of_another_size_type_or_precision_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = small_unet().slice_encoder.eval()
    wide = torch.zeros(1, 1, 3, 16, 32)
    with torch.inference_mode():
        assert {tuple(m.shape[1:3]) for m in encoder(wide)} == {(2, 4)}
        assert {tuple(m.shape[1:3]) for m in encoder(wide.mT)} == {(4, 2)}
        assert encoder.reuse.num_encoded == 2
        before = encoder(wide)[0].dtype
        monkeypatch.setenv("nnUNet_dino_precision", "bfloat16")
        assert before is torch.float32
        assert encoder(wide)[0].dtype is torch.bfloat16


def test_results_are_the_callers_own() -> None:
    encoder = small_unet().slice_encoder.eval()
    with torch.inference_mode():
        first = [m.clone() for m in encoder(volume())]
        for _ in range(2):
            for served in encoder(volume()):
                served.zero_()
        for expected, served in zip(first, encoder(volume()), strict=True):
            assert torch.equal(expected, served)


def test_copies_and_state_hold_no_slices() -> None:
    network = small_unet(gate_start=0.5).eval()
    names = list(network.state_dict())
    size = len(pickle.dumps(network))
    expected = seen(network, volume())
    assert network.slice_encoder.reuse.num_bytes > 0
    assert list(network.state_dict()) == names
    assert abs(len(pickle.dumps(network)) - size) < 1000
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert other.slice_encoder.reuse.num_bytes == 0
        assert torch.equal(seen(other.eval(), volume()), expected)


@pytest.mark.parametrize("build", [lambda: small_unet(gate_start=0.5), networks()[3].values[0]], ids=["unet", "tokens-only"])
def test_when_memory_runs_out_it_frees_its_own_and_goes_on(build: Any) -> None:
    network = build().eval()
    expected = seen(network, volume(seed=1))
    seen(network, volume())
    reuse = network.slice_encoder.reuse
    decode, failures = network.decoder.forward, []

    def full_while_slices_are_held(skips: list[Tensor]) -> Tensor:
        if len(failures) < 1:
            failures.append(reuse.num_bytes)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(skips)

    network.decoder.forward = full_while_slices_are_held
    assert torch.equal(seen(network, volume(seed=1)), expected)
    assert failures[0] > reuse.num_bytes > 0


def test_memory_that_runs_out_without_slices_is_nnunets_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_dino_cache_gb", "0")
    network = small_unet().eval()

    def full(skips: list[Tensor]) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    network.decoder.forward = full
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        seen(network, volume())


@pytest.mark.slow
def test_a_compiled_network_reuses_too() -> None:
    network = small_unet(gate_start=0.5).eval()
    expected = seen(network, volume())
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(network), backend="eager").eval()
    for _ in range(2):
        torch.testing.assert_close(seen(compiled, volume()), expected)
    assert counts(compiled._orig_mod) == (24, 12)
