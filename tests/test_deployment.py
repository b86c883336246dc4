"""Networks written down by torch's exporters, counted, moved between formats, unfrozen, and built where nobody has a home."""

from __future__ import annotations

import copy
import pwd
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from small_nets import TINY, small_unet, volume
from torch.utils.flop_counter import FlopCounterMode

from nnunet_dino.backbones.adapted import AdaptedBackbone

ADAPTATIONS = pytest.mark.parametrize("adaptation", ["frozen", "lora", "full"])


def network(**dino: Any) -> Any:
    """Builds a network whose tokens count, as after a training."""
    torch.manual_seed(0)
    return small_unet(gate_start=1.0, **dino).eval()


@pytest.fixture
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_dino_precision", "float32")


@pytest.mark.slow
@ADAPTATIONS
def test_an_exported_program_gives_the_logits(adaptation: str, float32: None) -> None:
    net, x = network(adaptation=adaptation), volume(1, seed=1)
    with torch.no_grad():
        program = torch.export.export(net, (volume(1),), strict=False).module()
        torch.testing.assert_close(program(x), net(x), rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # what tracing says of constants and of its age
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@ADAPTATIONS
def test_a_trace_made_after_predicting_gives_the_logits(
    adaptation: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_dino_precision", precision)
    net, x = network(adaptation=adaptation), volume(1, seed=1)
    with torch.inference_mode():
        net(volume(1))
        traced = torch.jit.trace(net, volume(1), check_trace=False)
        torch.testing.assert_close(traced(x), net(x), rtol=0, atol=1e-4 if precision == "float32" else 5e-2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what tracing says of constants and of its age
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_an_onnx_file_opens_and_gives_the_logits(precision: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    net, x, file = network(), volume(1, seed=1), str(tmp_path / "network.onnx")
    monkeypatch.setenv("nnUNet_dino_precision", "float32")
    with torch.no_grad():
        right = copy.deepcopy(net)(x)
        monkeypatch.setenv("nnUNet_dino_precision", precision)
        torch.onnx.export(net, (volume(1),), file, input_names=["image"], opset_version=17, dynamo=False)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), right, rtol=0, atol=1e-4)


def test_operations_are_counted_for_every_call() -> None:
    net, x = network(), volume()

    def count() -> int:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            net(x)
        return counter.get_total_flops()

    assert count() == count()


def test_the_page_on_cost_measures_the_whole_network() -> None:
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "measure-cost.md").read_text()
    content: dict[str, Any] = {}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], content)  # type: ignore[index]
    net = network()
    parameters, trained, operations, seconds = content["cost"](net, volume().shape[2:], rounds=3)
    assert parameters > trained > 0 and operations > 0 and seconds > 0
    reuse = net.slice_encoder.reuse
    assert reuse.num_encoded == reuse.num_asked > 0, "every slice of every call"


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.to(memory_format=torch.channels_last_3d),
        lambda net: net.slice_encoder.half() and net,
        lambda net: net.slice_encoder.bfloat16() and net,
    ],
    ids=["channels_last_3d", "half", "bfloat16"],
)
@ADAPTATIONS
def test_a_converted_network_runs(change: Any, adaptation: str) -> None:
    net, x = network(adaptation=adaptation), volume()
    with torch.no_grad():
        right = net(x)
        torch.testing.assert_close(change(net)(x), right, rtol=0, atol=0.1)


def test_a_frozen_backbone_that_is_set_trainable_is_trained() -> None:
    backbone = AdaptedBackbone(TINY, "random")
    backbone.digest = "of a file"
    backbone.requires_grad_(True)
    backbone(torch.randn(1, 3, 32, 48))[-1].square().sum().backward()
    assert all(p.grad is not None for p in backbone.backbone.vit.blocks.parameters())
    assert backbone.digest is None, "it would not be written into checkpoints"


def test_a_backbone_that_is_released_after_a_while_trains_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_dino_precision", "bfloat16")
    backbone, images = AdaptedBackbone(TINY, "random"), torch.randn(1, 3, 32, 48)
    backbone(images)
    assert {p.dtype for p in backbone.parameters()} == {torch.bfloat16}
    backbone.backbone.vit.blocks[-1].requires_grad_(True)
    backbone.train()
    backbone(images)[-1].square().sum().backward()
    trained = list(backbone.backbone.vit.blocks[-1].parameters())
    assert all(p.dtype is torch.float32 and p.grad is not None and p.grad.dtype is torch.float32 for p in trained)


@pytest.mark.parametrize("adaptation", ["lora", "full"])
def test_converted_backbones_can_be_trained(adaptation: str) -> None:
    backbone = AdaptedBackbone(TINY, "random", adaptation).bfloat16().train()
    backbone(torch.randn(1, 3, 32, 48))[-1].square().sum().backward()
    assert any(p.grad is not None for p in backbone.parameters())


def test_the_gradient_of_the_image_passes_through_a_frozen_backbone(float32: None) -> None:
    backbone = AdaptedBackbone(TINY, "random")
    images = torch.randn(1, 3, 32, 48)
    direction = torch.randn(images.shape)

    def value(at: torch.Tensor) -> torch.Tensor:
        return sum(tap.double().square().sum() for tap in backbone(at)) + 0  # type: ignore[return-value]

    along = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(along), along)
    step = 1e-2
    difference = (value(images + step * direction) - value(images - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum().double(), difference, rtol=0.02, atol=0.5)


def test_a_network_is_built_for_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "nnUNet_dino_store", "nnUNet_dino_weights"):
        monkeypatch.delenv(name, raising=False)

    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert AdaptedBackbone("dinov3_vits16").digest is None
