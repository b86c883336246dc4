"""What only a CUDA device shows: nnU-Net's commands, mixed precision, memory, several devices.

``NNUNET_DINO_TEST_DEVICE=cpu`` runs all tests whose subject is not CUDA itself without one, and ``make test`` the quick ones.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torch.distributed as dist
from click.testing import CliRunner
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from probe_inputs import write_pictures
from sliding_window import MovingPredictor, image, predictor
from small_nets import TINY, planned, small_unet, volume
from stock import NUM_TEST, PHANTOM, SHAPE, Workspace
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_dino.cli.main import main
from nnunet_dino.features.store.reader import FeatureStore
from nnunet_dino.networks.memo_bytes import ENVIRONMENT_VARIABLE as CACHE_GB
from nnunet_dino.networks.options import DinoOptions
from nnunet_dino.networks.unet import PLAIN_UNET, DINOv3UNet, build_stock_unet
from nnunet_dino.nnunet.memory import BYTES_PER_OUTPUT, backbone_outputs

DEVICE = os.environ.get("NNUNET_DINO_TEST_DEVICE", "cuda")
IS_CUDA = DEVICE == "cuda"
HAS_CUDA = torch.cuda.is_available()

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(IS_CUDA and not HAS_CUDA, reason="needs a CUDA device; see NNUNET_DINO_TEST_DEVICE in this file"),
]
cuda_itself = pytest.mark.skipif(not IS_CUDA, reason="its subject is CUDA's memory")

WINDOW = (6, 20, 12)
FROZEN, LORA, FULL = (f"nnUNetTrainerDINOv3Tiny{name}Smoke" for name in ("", "LoRA", "FT"))


@pytest.fixture
def precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("nnUNet_dino_precision", request.param)
    return request.param


# -- stock commands ------------------------------------------------------------------------------------------------------------


def train(workspace: Workspace, configuration: str, fold: int | str, trainer: str, **env: str) -> dict[str, Any]:
    """Trains with nnU-Net's command and returns the final checkpoint."""
    workspace.run("nnUNetv2_train", 801, configuration, fold, "-tr", trainer, "-device", DEVICE, nnUNet_n_proc_DA="0", **env)
    folder = workspace.model(PHANTOM, trainer, configuration) / f"fold_{fold}"
    return torch.load(folder / "checkpoint_final.pth", map_location="cpu", weights_only=False)


def predict(workspace: Workspace, configuration: str, trainer: str, output: Path, *options: object, **env: str) -> None:
    args = ("-d", 801, "-i", workspace.raw(PHANTOM) / "imagesTs", "-o", output, "-c", configuration, "-tr", trainer)
    workspace.run("nnUNetv2_predict", *args, "-device", DEVICE, "-npp", 0, "-nps", 0, *options, **env)


def assert_trained(checkpoint: dict[str, Any]) -> None:
    assert np.isfinite(checkpoint["logging"]["train_losses"]).all()
    if IS_CUDA:
        assert checkpoint["grad_scaler_state"]["scale"] >= 2**10


def assert_predicted(folder: Path) -> None:
    files = sorted(folder.glob("*.nii.gz"))
    assert len(files) == NUM_TEST
    for file in files:
        assert sitk.ReadImage(str(file)).GetSize() == SHAPE[::-1]


@pytest.mark.slow
@pytest.mark.parametrize("compiled", ["f", "t"])
@pytest.mark.parametrize(
    ("configuration", "trainer"), [("3d_fullres", FROZEN), ("3d_fullres", LORA), ("3d_fullres", FULL), ("2d", FROZEN)]
)
def test_stock_commands_train_and_predict(
    configuration: str, trainer: str, compiled: str, planned_phantom: Workspace, tmp_path: Path
) -> None:
    assert_trained(train(planned_phantom, configuration, 0, trainer, nnUNet_compile=compiled))
    predict(planned_phantom, configuration, trainer, tmp_path, "-f", 0, nnUNet_compile=compiled)
    assert_predicted(tmp_path)


@pytest.mark.slow
def test_stock_commands_train_and_predict_a_cascade(planned_phantom: Workspace, tmp_path: Path) -> None:
    assert_trained(train(planned_phantom, "3d_lowres", "all", FROZEN))
    assert_trained(train(planned_phantom, "3d_cascade_fullres", 0, FROZEN))
    predict(planned_phantom, "3d_lowres", FROZEN, tmp_path / "lowres", "-f", "all")
    previous = ("-prev_stage_predictions", tmp_path / "lowres")
    predict(planned_phantom, "3d_cascade_fullres", FROZEN, tmp_path / "cascade", "-f", 0, *previous)
    assert_predicted(tmp_path / "cascade")


# -- slice reuse ---------------------------------------------------------------------------------------------------------------


def moved_by_nnunet(network: nn.Module, mirror_axes: tuple[int, ...] = (0, 1, 2), kind: Any = None) -> nnUNetPredictor:
    """nnU-Net's predictor for a network on the host, which it moves to the device itself."""
    return predictor(
        network, WINDOW, mirror_axes, kind=kind or (nnUNetPredictor if IS_CUDA else MovingPredictor), device=DEVICE
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"], indirect=True)
@pytest.mark.parametrize("adaptation", ["frozen", "lora", "full"])
def test_slices_are_encoded_once_with_the_same_logits(adaptation: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_unet(gate_start=0.5, adaptation=adaptation)
    other = copy.deepcopy(network)
    logits = moved_by_nnunet(network).predict_logits_from_preprocessed_data(image(14, 20, 12))
    reuse = network.slice_encoder.reuse
    assert (reuse.num_asked, reuse.num_encoded) == (192, 56)
    assert {parameter.device.type for parameter in network.parameters()} == {DEVICE}
    monkeypatch.setenv(CACHE_GB, "0")
    expected = moved_by_nnunet(other).predict_logits_from_preprocessed_data(image(14, 20, 12))
    torch.testing.assert_close(logits, expected, rtol=0, atol=2**-6 * expected.abs().max().item())


def test_a_second_larger_image_finds_the_memory_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nnU-Net allocates for an image is not in anybody's budget: it must find all that there was."""
    found: list[tuple[bool, int, int]] = []

    class Watching(nnUNetPredictor if IS_CUDA else MovingPredictor):
        def _internal_predict_sliding_window_return_logits(self, data: Tensor, slicers: Any, do_on_device: bool) -> Tensor:
            allocated = torch.cuda.memory_allocated() if IS_CUDA else 0
            found.append((do_on_device, allocated, network.slice_encoder.reuse.num_bytes))
            logits = super()._internal_predict_sliding_window_return_logits(data, slicers, do_on_device)
            assert network.slice_encoder.reuse.num_bytes > 0
            return logits

    network = small_unet(neck_width=1024)
    watching = moved_by_nnunet(network, kind=Watching)
    for depth in (14, 30):
        watching.predict_logits_from_preprocessed_data(image(depth, 20, 12))
    assert [on_device for on_device, _, _ in found] == [IS_CUDA, IS_CUDA]
    assert [held for _, _, held in found] == [0, 0]
    assert found[1][1] <= found[0][1] + (1 << 20)


@pytest.fixture
def little_memory() -> Iterator[Callable[[int], None]]:
    """Returns a function that leaves so many bytes beyond what is reserved at present."""

    def leave(num_bytes: int) -> None:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + num_bytes) / total)

    yield leave
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@cuda_itself
def test_where_memory_runs_out_slices_are_forgotten_and_the_image_ends_on_the_device(
    little_memory: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = small_unet(gate_start=0.5, neck_width=4096)
    what = image(60, 28, 20)
    monkeypatch.setenv(CACHE_GB, "0")
    moving = moved_by_nnunet(network)
    torch.cuda.reset_peak_memory_stats()
    expected = moving.predict_logits_from_preprocessed_data(what)
    needed = torch.cuda.max_memory_reserved() - torch.cuda.memory_allocated()
    reuse = network.slice_encoder.reuse
    num_distinct = 60 * 6 * 4
    monkeypatch.setenv(CACHE_GB, "1000")
    reuse.num_encoded = 0
    little_memory(needed + num_distinct * 3 * 2 * 4096 * 4 // 4)
    logits = moving.predict_logits_from_preprocessed_data(what)
    assert reuse.num_encoded > num_distinct
    torch.testing.assert_close(logits, expected, rtol=0, atol=2**-6 * expected.abs().max().item())
    before = torch.cuda.memory_allocated()
    held = reuse.num_bytes
    reuse.forget()
    assert torch.cuda.memory_allocated() <= before - held


# -- training steps and precision ----------------------------------------------------------------------------------------------


def one_step(network: nn.Module, x: Tensor) -> None:
    """A step as nnU-Net takes it, with mixed precision on CUDA."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.99, nesterov=True)
    scaler = torch.amp.GradScaler("cuda", enabled=IS_CUDA)
    with torch.autocast(DEVICE, enabled=IS_CUDA):
        loss = sum(output.float().square().mean() for output in network(x))
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.isfinite(loss)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"], indirect=True)
@pytest.mark.parametrize("adaptation", ["frozen", "lora"])
def test_frozen_weights_keep_every_bit_in_a_step(adaptation: str, precision: str) -> None:
    network = small_unet(adaptation=adaptation, gate_start=0.3, deep_supervision=True).to(DEVICE).train()
    network.slice_encoder.backbone.settle(torch.device(DEVICE))
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    one_step(network, volume().to(DEVICE))
    after = dict(network.named_parameters())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    frozen = {name for name, parameter in after.items() if not parameter.requires_grad}
    assert frozen
    assert not frozen & changed
    assert {"neck.mix.weight", "encoder.stages.0.0.convs.0.conv.weight"} <= changed
    assert any("lora" in name for name in changed) == (adaptation == "lora")


def test_a_checkpoint_of_a_device_in_bfloat16_is_read_on_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_dino_precision", "bfloat16")
    network = small_unet(gate_start=0.5).to(DEVICE).eval()
    with torch.no_grad():
        logits = network(volume().to(DEVICE)).float().cpu()
    assert network.slice_encoder.backbone.backbone.vit.cls_token.dtype is torch.bfloat16
    torch.save(network.state_dict(), tmp_path / "network.pt")
    monkeypatch.setenv("nnUNet_dino_precision", "float32")
    on_host = small_unet(gate_start=0.5).eval()
    on_host.load_state_dict(torch.load(tmp_path / "network.pt", map_location="cpu", weights_only=True))
    with torch.no_grad():
        torch.testing.assert_close(on_host(volume()), logits, rtol=0, atol=2**-6 * logits.abs().max().item())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"], indirect=True)
def test_mixed_precision_does_not_reach_a_frozen_backbone(precision: str) -> None:
    backbone = small_unet().slice_encoder.backbone.to(DEVICE)
    dtype = backbone.settle(torch.device(DEVICE))
    images = torch.randn(5, 3, 48, 32, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    with torch.no_grad():
        expected = backbone.backbone(images.to(dtype)).patch_maps
        with torch.autocast(DEVICE, enabled=True):
            maps = backbone(images)
    for ours, timms in zip(maps, expected, strict=True):
        assert ours.dtype is dtype
        assert torch.equal(ours, timms)


# -- several devices -----------------------------------------------------------------------------------------------------------


def train_in_parallel(rank: int, folder: str) -> None:
    """One of two processes: two steps of ``DDP(compile(network))``, as nnU-Net wraps it."""
    torch.set_num_threads(1)
    backend = "nccl" if IS_CUDA else "gloo"
    dist.init_process_group(
        backend, init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(minutes=5)
    )
    device = torch.device(DEVICE, rank) if IS_CUDA else torch.device(DEVICE)
    torch.manual_seed(rank)  # the first process's weights are the ones that count
    network = small_unet(gate_start=0.3, deep_supervision=True).to(device)
    compiled = torch.compile(network, backend="inductor" if IS_CUDA else "eager")
    parallel = DistributedDataParallel(compiled.train(), device_ids=[rank] if IS_CUDA else None)
    for step in range(2):
        one_step(parallel, volume(seed=10 * step + rank).to(device))
    torch.save(network.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(IS_CUDA and torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.slow
def test_two_devices_train_one_compiled_network(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(train_in_parallel, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", map_location="cpu", weights_only=True) for rank in range(2))
    assert first.keys() == second.keys()
    different = [name for name, value in first.items() if not torch.equal(value, second[name])]
    assert not different


# -- features and the planner's estimate ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16"], indirect=True)
def test_extraction_gives_the_hosts_features(precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_dino_weights", "random")
    write_pictures(tmp_path / "in", 7)
    words = ["extract", str(tmp_path / "in"), "--backbone", TINY, "--size", "32", "--per-file", "3"]

    def extract(store: str, device: str, *options: str) -> np.ndarray:
        result = CliRunner().invoke(main, [*words, "-o", str(tmp_path / store), "--device", device, *options])
        assert result.exit_code == 0, result.output
        return FeatureStore(tmp_path / store).vectors()[1]

    whole = extract("whole", DEVICE)
    for part in ("1/2", "2/2"):
        result = CliRunner().invoke(main, [*words, "-o", str(tmp_path / "parts"), "--device", DEVICE, "--shard", part])
        assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(FeatureStore(tmp_path / "parts").vectors()[1], whole)
    monkeypatch.setenv("nnUNet_dino_precision", "float32")
    tolerance = {"float32": 1e-3, "bfloat16": 2**-5}[precision]
    np.testing.assert_allclose(whole, extract("host", "cpu"), rtol=0, atol=tolerance * np.abs(whole).max())


@cuda_itself
@pytest.mark.parametrize("adaptation", ["frozen", "lora", "full"])
def test_a_step_takes_no_more_memory_than_the_planner_counts(adaptation: str) -> None:
    """What the backbone adds to a step of the stock network, against the planner's count of it."""
    patch, batch = (32, 128, 128), 2
    options = DinoOptions("dinov3_vits16", weights="random", adaptation=adaptation)

    def peak(build: Callable[[], nn.Module]) -> int:
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        network = build().to(DEVICE).train()
        one_step(network, torch.randn(batch, 1, *patch, device=DEVICE))
        return torch.cuda.max_memory_allocated() - before

    plan = planned(PLAIN_UNET, 3)
    stock = peak(lambda: build_stock_unet(PLAIN_UNET, 1, 3, True, plan))
    ours = peak(lambda: DINOv3UNet(1, 3, True, unet=PLAIN_UNET, dino=options.to_plans(), **plan))
    counted = batch * BYTES_PER_OUTPUT * backbone_outputs(options, patch, 1, batch)
    assert math.isfinite(counted)
    assert ours - stock <= counted
