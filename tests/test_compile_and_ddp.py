"""What nnU-Net does to networks on GPUs, as far as a processor can show it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from small_nets import small_unet, volume
from torch.nn.parallel import DistributedDataParallel


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("adaptation", ["frozen", "lora", "full"])
def test_distributed_training_finds_no_unused_parameter(process_group: None, adaptation: str) -> None:
    """Without ``find_unused_parameters`` the second step would fail where a trained parameter got no gradient."""
    network = small_unet(adaptation=adaptation, deep_supervision=True, gate_start=0.3).train()
    parallel = DistributedDataParallel(network)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        loss = sum(output.square().mean() for output in parallel(volume()))
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's compiler looks at maps of LoRA
@pytest.mark.parametrize("adaptation", ["frozen", "lora"])
def test_compiled_network_gives_the_same_logits(adaptation: str) -> None:
    network = small_unet(adaptation=adaptation, deep_supervision=True, gate_start=0.3).eval()
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(volume()), network(volume()))
    compiled.train()
    sum(output.square().mean() for output in compiled(volume())).backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


def test_a_compiled_network_saves_the_same_state() -> None:
    network = small_unet()
    compiled = torch.compile(network, backend="eager")
    assert list(compiled._orig_mod.state_dict()) == list(network.state_dict())


def train_and_validate(rank: int, folder: str) -> None:
    """One of two processes: two steps on its own volumes, then as many cases as its rank says, as nnU-Net validates."""
    torch.set_num_threads(1)
    patience = timedelta(minutes=5)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=patience)
    torch.manual_seed(rank)  # the first process's weights are the ones that count
    network = small_unet(gate_start=0.3, deep_supervision=True)
    parallel = DistributedDataParallel(network.train())
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.01)
    for step in range(2):
        optimizer.zero_grad()
        sum(output.square().mean() for output in parallel(volume(seed=10 * step + rank))).backward()
        optimizer.step()
    network.decoder.deep_supervision = False
    dist.barrier()
    predictor = sliding_window(parallel)
    images = [torch.randn(1, 12, 28, 20, generator=torch.Generator().manual_seed(case)) for case in range(1 + 2 * rank)]
    logits = [predictor.predict_sliding_window_return_logits(image) for image in images]
    dist.barrier()
    reuse = network.slice_encoder.reuse
    record = {
        "state": network.state_dict(),
        "asked": reuse.num_asked,
        "encoded": reuse.num_encoded,
        "differences": [
            (together - sliding_window(network).predict_sliding_window_return_logits(image)).abs().max().item()
            for image, together in zip(images, logits, strict=True)
        ],
    }
    torch.save(record, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def sliding_window(network: torch.nn.Module) -> nnUNetPredictor:
    """nnU-Net's predictor around a network that is being trained."""
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=True)
    plans_manager = SimpleNamespace(get_label_manager=lambda dataset_json: SimpleNamespace(num_segmentation_heads=3))
    configuration = SimpleNamespace(patch_size=(6, 20, 12))
    predictor.manual_initialization(network, plans_manager, configuration, None, {}, "", (0, 1, 2))
    return predictor


def test_two_processes_train_one_network_and_reuse_slices_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second validates three cases and the first one: nothing may wait for the other."""
    monkeypatch.setenv("nnUNet_dino_precision", "float32")
    monkeypatch.setenv("nnUNet_dino_cache_gb", "1")
    torch.multiprocessing.spawn(train_and_validate, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name
    assert 2 * first["encoded"] < first["asked"]
    assert 2 * second["encoded"] < second["asked"]
    assert (len(first["differences"]), len(second["differences"])) == (1, 3)
    assert max(first["differences"] + second["differences"]) == 0
