"""What every network promises to nnU-Net and to its users. A new network inherits it, see test_network_contract.py."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunet_dino._errors import UserError
from nnunet_dino.networks.injection import _resampling_matrix

NUM_CLASSES = 3
SIZES = {2: (28, 44), 3: (6, 28, 44)}  # no multiple of 16


class NetworkContract:
    """Inherited by the tests of a network, which say how it is built.

    Attributes:
        axes: Numbers of spatial axes that the network takes.
        supervises_deeply: Whether it can return the logits of every decoder stage.
        sees_labels: Whether it takes the one-hot label channels of a cascade; otherwise it must refuse them.
    """

    axes: tuple[int, ...] = (2, 3)
    supervises_deeply = True
    sees_labels = True

    def build(self, num_axes: int, input_channels: int = 1, deep_supervision: bool = False, **dino: object) -> nn.Module:
        """Returns a network of ``NUM_CLASSES`` classes with the tiny random backbone and whatever ``dino`` says beside."""
        raise NotImplementedError

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "num_axes" in metafunc.fixturenames:
            metafunc.parametrize("num_axes", self.axes, ids=[f"{n}d" for n in self.axes])

    @pytest.fixture(autouse=True)
    def exactly(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("nnUNet_dino_precision", "float32")
        torch.manual_seed(0)

    @pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
    def test_every_skip_and_the_logits_see_every_image_channel(self, num_axes: int, channels: int) -> None:
        assert_every_channel_is_seen(self.build(num_axes, channels), images(num_axes, channels))

    @pytest.mark.parametrize("rgb", ["windows", "neighbours"])
    def test_every_way_to_red_green_and_blue_shows_every_channel(self, num_axes: int, rgb: str) -> None:
        if rgb == "neighbours" and num_axes == 2:
            pytest.skip("an image has no neighbours")
        windows = [[-3.0, 3.0], [-2.0, 2.0], [-1.0, 1.0]]
        network = self.build(num_axes, 2, rgb=rgb, channels=[{"windows": windows}] * 2)
        assert_every_channel_is_seen(network, images(num_axes, 2))

    def test_neighbours_are_reused_only_among_the_same_neighbours(self, num_axes: int) -> None:
        if num_axes == 2:
            pytest.skip("an image has no neighbours")
        network = self.build(num_axes, rgb="neighbours").eval()
        volume = torch.cat([images(num_axes), images(num_axes)], dim=2)
        first, second = volume[:, :, :6], volume[:, :, 1:7]
        with torch.inference_mode():
            remembered = [network(window) for window in (first, second)]
            encoded = network.slice_encoder.reuse.num_encoded
            network.slice_encoder.reuse.forget()
            assert torch.equal(network(second), remembered[1])
        assert encoded == 2 * (6 + 3)  # slices 1 and 5 have other neighbours now, slice 6 is new

    @pytest.mark.parametrize("channels", [1, 4])
    def test_shallow_stages_see_shallow_taps(self, num_axes: int, channels: int) -> None:
        network = self.build(num_axes, channels).eval()
        num_taps = network.slice_encoder.backbone.num_taps
        x = images(num_axes, channels)
        before = skips_and_logits(network, x)
        seen: list[list[int]] = [[] for _ in before]
        for tap in range(num_taps):
            with another_tap(network, tap):
                after = skips_and_logits(network, x)
            for taps, *pair in zip(seen, before, after, strict=True):
                taps += [] if torch.equal(*pair) else [tap]
        *stages, logits = seen
        assert all(stages)
        for ends in ([taps[0] for taps in stages], [taps[-1] for taps in stages]):
            assert ends == sorted(ends)
        assert (logits[0], logits[-1]) == (0, num_taps - 1)

    def test_logits_have_the_size_of_the_image(self, num_axes: int) -> None:
        network = self.build(num_axes).eval()
        assert tuple(network(images(num_axes)).shape) == (2, NUM_CLASSES, *SIZES[num_axes])

    def test_deep_supervision_returns_every_resolution(self, num_axes: int) -> None:
        if not self.supervises_deeply:
            with pytest.raises(UserError, match="without deep supervision · got one with it"):
                self.build(num_axes, deep_supervision=True)
            return
        network = self.build(num_axes, deep_supervision=True)
        depth, (height, width) = SIZES[num_axes][:-2], SIZES[num_axes][-2:]
        full, half = (*depth, height, width), (*depth, height // 2, width // 2)
        assert [tuple(output.shape[2:]) for output in network(images(num_axes))][:2] == [full, half]
        network.decoder.deep_supervision = False
        assert tuple(network(images(num_axes)).shape) == (2, NUM_CLASSES, *full)

    def test_encoding_and_decoding_is_the_whole(self, num_axes: int) -> None:
        network, x = self.build(num_axes).eval(), images(num_axes)
        assert torch.equal(network.decode(*network.encode(x)), network(x))

    def test_an_image_sees_only_itself(self, num_axes: int) -> None:
        network = self.build(num_axes).eval()
        x = images(num_axes)
        changed = x.clone()
        changed[1] = torch.randn_like(x[1])
        before, after = network(x), network(changed)
        assert torch.equal(before[0], after[0])
        assert not torch.equal(before[1], after[1])

    def test_a_slice_sees_only_itself(self, num_axes: int) -> None:
        encoder = self.build(num_axes).slice_encoder.eval()
        x = images(num_axes)
        changed = x.clone()
        changed[1, ..., 3, 4] += 5 * (torch.arange(6) == 4) if num_axes == 3 else 5
        for old, new in zip(encoder(x), encoder(changed), strict=True):
            differs = (old != new).flatten(1).any(1)
            assert differs.nonzero().flatten().tolist() == [1 if num_axes == 2 else 1 * 6 + 4]

    def test_mirrored_input_gives_mirrored_tokens(self, num_axes: int) -> None:
        """Mirrored along the first axis of slices, or of the batch; along the others the slices are other slices."""
        encoder = self.build(num_axes).slice_encoder.eval()
        x = images(num_axes)
        first = 2 if num_axes == 3 else 0
        for straight, mirrored in zip(encoder(x), encoder(x.flip(first)), strict=True):
            assert torch.equal(straight.unflatten(0, (-1, 6 if num_axes == 3 else 2)).flip(1).flatten(0, 1), mirrored)

    def test_frozen_stays_frozen_after_a_step(self, num_axes: int) -> None:
        network = self.build(num_axes, adaptation="frozen").train()
        before = copy.deepcopy(network.state_dict())
        optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
        loss_of(network(images(num_axes))).backward()
        optimizer.step()
        frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
        assert frozen == {name for name, _ in network.named_parameters() if name.startswith("slice_encoder.")}
        assert all(torch.equal(p, before[name]) for name, p in network.named_parameters() if name in frozen)
        assert any(not torch.equal(p, before[name]) for name, p in network.named_parameters() if name not in frozen)
        assert not network.slice_encoder.backbone.training

    @pytest.mark.parametrize("adaptation", ["frozen", "lora", "full"])
    @pytest.mark.parametrize("taps_are_normalised", [True, False])
    def test_every_trained_parameter_gets_a_gradient(self, num_axes: int, adaptation: str, taps_are_normalised: bool) -> None:
        """DistributedDataParallel stops with an error where one does not."""
        dino = {"adaptation": adaptation, "taps_are_normalised": taps_are_normalised}
        network = self.build(num_axes, 4, self.supervises_deeply, **dino).train()
        loss_of(network(images(num_axes, 4))).backward()
        assert [name for name, p in network.named_parameters() if p.requires_grad != (p.grad is not None)] == []
        trained = {name for name, p in network.slice_encoder.named_parameters() if p.requires_grad}
        adapters = {name for name, _ in network.slice_encoder.named_parameters() if ".lora_" in name}
        assert bool(adapters) == (adaptation == "lora")
        if adaptation == "full":
            unused = ("backbone.backbone.vit.fc_norm.",) + (() if taps_are_normalised else ("backbone.backbone.vit.norm.",))
            names = {name for name, _ in network.slice_encoder.named_parameters()}
            assert trained == {name for name in names if not name.startswith(unused)}
        else:
            assert trained == adapters

    def test_label_channels_of_a_cascade_reach_the_logits_past_the_transformer(self, num_axes: int) -> None:
        if not self.sees_labels:
            with pytest.raises(UserError, match="got 2 label channels"):
                self.build(num_axes, 3, channels=[{}])
            return
        network = self.build(num_axes, 3, channels=[{}]).eval()
        x = images(num_axes, 3)
        tokens, logits = network.slice_encoder(x), network(x)
        for channel in (1, 2):
            changed = x.clone()
            changed[:, channel] = torch.randn_like(x[:, channel])
            assert all(torch.equal(*pair) for pair in zip(tokens, network.slice_encoder(changed), strict=True))
            assert not torch.equal(logits, network(changed))

    def test_saved_and_loaded_it_is_the_same(self, num_axes: int) -> None:
        network, other = self.build(num_axes).eval(), self.build(num_axes).eval()
        x = images(num_axes)
        assert not torch.equal(network(x), other(x))
        other.load_state_dict(network.state_dict())
        assert torch.equal(network(x), other(x))

    @pytest.mark.parametrize(
        ("option", "value"), [("token_stride_px", 4), ("taps_are_normalised", False), ("rgb", "windows"), ("pixel_aspect", 1.5)]
    )
    def test_weights_are_not_used_with_other_options(self, option: str, value: object) -> None:
        channels = [{"windows": [[-3.0, 3.0], [-2.0, 2.0], [-1.0, 1.0]]}]
        first = self.build(self.axes[0], channels=channels)
        other = self.build(self.axes[0], **{"channels": channels, option: value})
        with pytest.raises(UserError, match=f"checkpoint: required dino.{option} .* · got {value!r} ·"):
            other.load_state_dict(first.state_dict())
        first.load_state_dict(first.state_dict())
        first.load_state_dict({key: tensor for key, tensor in first.state_dict().items() if "options_record" not in key})

    def test_adapters_are_not_used_with_another_scale(self) -> None:
        first, other = (self.build(self.axes[0], adaptation="lora", lora={"rank": 4, "alpha": alpha}) for alpha in (8.0, 16.0))
        with pytest.raises(UserError, match=r"required dino.lora.alpha 8.0, .* · got 16.0"):
            other.load_state_dict(first.state_dict())

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # slice reuse asks; it is said only once
    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    @pytest.mark.parametrize("adaptation", ["frozen", "lora", "full"])
    def test_types_on_a_gpu(self, adaptation: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Under nnU-Net's float16 autocast: the transformer in its own type, the logits in float16."""
        num_axes = self.axes[-1]
        monkeypatch.setenv("nnUNet_dino_precision", precision)
        monkeypatch.setenv("nnUNet_dino_cache_gb", "0")
        network = self.build(num_axes, 4, self.supervises_deeply, adaptation=adaptation)
        in_transformer: set[torch.dtype] = set()
        for module in network.slice_encoder.backbone.backbone.vit.modules():
            if isinstance(module, nn.Linear):
                module.register_forward_hook(lambda _, __, output: in_transformer.add(output.dtype))
        with pretended_cuda(network, monkeypatch):
            x = torch.empty(2, 4, *(6, 32, 48)[-num_axes:], device="cuda")
            trained = network.train()(x)
            network.decoder.deep_supervision = False
            with torch.inference_mode():
                predicted = network.eval()(x[:1])
        for logits in (*(trained if isinstance(trained, list) else [trained]), predicted):
            assert (logits.dtype, logits.device.type) == (torch.float16, "cuda")
        assert in_transformer == {getattr(torch, precision)}

    def test_buffers_are_kept_out_of_ddp(self, num_axes: int) -> None:
        """Ranks with fewer validation cases than others would wait for ever where one is sent before each forward pass."""
        network = self.build(num_axes)
        kept_out = set(network._ddp_params_and_buffers_to_ignore)
        assert {name for name, _ in network.named_buffers()} <= kept_out
        assert not {name for name, _ in network.named_parameters()} & kept_out

    def test_unknown_options_are_refused(self, num_axes: int) -> None:
        with pytest.raises(UserError, match="token_stride'; did you mean 'token_stride_px'"):
            self.build(num_axes, token_stride=8)
        with pytest.raises(UserError, match="dinov3_vitx16"):
            self.build(num_axes, backbone="dinov3_vitx16")
        with pytest.raises(UserError, match="'fro zen'; did you mean 'frozen'"):
            self.build(num_axes, adaptation="fro zen")
        with pytest.raises(UserError, match="at most 1 input channels · got 7"):
            self.build(num_axes, channels=[{}] * 7)


def images(num_axes: int, channels: int = 1) -> Tensor:
    """Returns two images ``b c h w`` or volumes ``b c d h w``."""
    return torch.randn(2, channels, *SIZES[num_axes], generator=torch.Generator().manual_seed(1))


def loss_of(outputs: Tensor | list[Tensor]) -> Tensor:
    return sum(output.square().mean() for output in (outputs if isinstance(outputs, list) else [outputs]))


@contextmanager
def pretended_cuda(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replaces all tensors of ``network`` by tensors on CUDA that have types and shapes and no values, under float16 autocast.

    Operators are chosen, and types promoted and refused, as on a device.
    """
    monkeypatch.setattr(torch.amp.autocast_mode.torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    _resampling_matrix.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in network.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    empty = torch.empty_like(parameter, device="cuda")
                    module._parameters[name] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.empty_like(buffer, device="cuda")
        with torch.autocast("cuda", dtype=torch.float16):
            yield
    _resampling_matrix.cache_clear()


def assert_every_channel_is_seen(network: nn.Module, x: Tensor) -> None:
    """Every skip and the logits change with every channel of ``b c h w`` or ``b c d h w``."""
    before = skips_and_logits(network.eval(), x)
    for channel in range(x.shape[1]):
        changed = x.clone()
        changed[:, channel] = torch.randn_like(changed[:, channel])
        unchanged = [torch.equal(*pair) for pair in zip(before, skips_and_logits(network, changed), strict=True)]
        assert not any(unchanged), f"channel {channel}: {unchanged}"


def skips_and_logits(network: nn.Module, x: Tensor) -> list[Tensor]:
    """Returns what the decoder gets, shallow to deep, and the logits."""
    got: list[Tensor] = []
    hook = network.decoder.register_forward_pre_hook(
        lambda _, arguments: got.extend(arguments[0] if isinstance(arguments[0], list) else arguments)
    )
    with torch.no_grad():
        logits = network(x)
    hook.remove()
    return [*got, logits]


@contextmanager
def another_tap(network: nn.Module, tap: int) -> Iterator[None]:
    """Replaces the map of one tap by noise, as if that block had seen something else."""
    noise = torch.Generator().manual_seed(tap)

    def replace(_: nn.Module, __: object, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(torch.randn(m.shape, generator=noise) if i == tap else m for i, m in enumerate(maps))

    hook = network.slice_encoder.backbone.register_forward_hook(replace)
    yield
    hook.remove()
