"""What nnU-Net does to networks on GPUs, as far as a processor can show it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from sliding_window import predictor
from small_nets import small_unet, volume
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_dino.networks.head import TokenHead


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's compiler looks at maps of LoRA
@pytest.mark.parametrize("adaptation", ["frozen", "lora"])
def test_compiled_network_gives_the_same_logits(adaptation: str) -> None:
    network = small_unet(adaptation=adaptation, deep_supervision=True, gate_start=0.3).eval()
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(volume()), network(volume()), rtol=0, atol=0)
    compiled.train()
    sum(output.square().mean() for output in compiled(volume())).backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


def test_a_compiled_network_saves_the_same_state() -> None:
    network = small_unet()
    compiled = torch.compile(network, backend="eager")
    assert list(compiled._orig_mod.state_dict()) == list(network.state_dict())


@dataclass(frozen=True)
class Case:
    """What two processes train: the planned U-Net, as nnU-Net wraps it."""

    adaptation: str
    is_compiled: bool
    predicts_mirrored: bool = False


CASES = [Case("frozen", False, predicts_mirrored=True), *(Case(adaptation, True) for adaptation in ("frozen", "lora", "full"))]


def train_and_validate(rank: int, folder: str) -> None:
    """One of two processes: every case in turn."""
    torch.set_num_threads(1)
    patience = timedelta(minutes=5)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=patience)
    records = [train_and_validate_one(case, rank) for case in CASES]
    torch.save(records, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def train_and_validate_one(case: Case, rank: int) -> dict[str, Any]:
    """Three steps on own volumes, then as many cases as the rank says, as nnU-Net validates.

    Without ``find_unused_parameters`` the second step would fail where a trained parameter got no gradient.
    """
    torch._dynamo.reset()
    torch.manual_seed(rank)  # the first process's weights are the ones that count
    network = small_unet(adaptation=case.adaptation, gate_start=0.3, deep_supervision=True).train()
    wrapped = torch.compile(network, backend="eager") if case.is_compiled else network
    parallel = DistributedDataParallel(torch.nn.SyncBatchNorm.convert_sync_batchnorm(wrapped))
    start = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.01)
    for step in range(3):
        optimizer.zero_grad()
        sum(output.square().mean() for output in parallel(volume(seed=10 * step + rank))).backward()
        optimizer.step()
    network.decoder.deep_supervision = False
    dist.barrier()
    images = [torch.randn(1, 12, 28, 20, generator=torch.Generator().manual_seed(case)) for case in range(1 + 2 * rank)]
    together = predict(parallel, images, case)
    dist.barrier()
    asked, encoded = network.slice_encoder.reuse.num_asked, network.slice_encoder.reuse.num_encoded
    return {
        "state": network.state_dict(),
        "changed": {name for name, value in network.state_dict().items() if not torch.equal(value, start[name])},
        "trained": {name for name, parameter in network.named_parameters(remove_duplicate=False) if parameter.requires_grad},
        "asked": asked,
        "encoded": encoded,
        "differences": [(a - b).abs().max().item() for a, b in zip(together, predict(network, images, case), strict=True)],
    }


def predict(network: torch.nn.Module, images: list[Tensor], case: Case) -> list[Tensor]:
    """Returns logits by nnU-Net's predictor around a network that is being trained."""
    around = predictor(network.eval(), (6, 20, 12), (0, 1, 2) if case.predicts_mirrored else None)
    return [around.predict_sliding_window_return_logits(image) for image in images]


@pytest.mark.slow
def test_two_processes_train_one_network_and_reuse_slices_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second validates three cases and the first one: nothing may wait for the other."""
    monkeypatch.setenv("nnUNet_dino_precision", "float32")
    monkeypatch.setenv("nnUNet_dino_cache_gb", "1")
    torch.multiprocessing.spawn(train_and_validate, (str(tmp_path),), nprocs=2)
    of_both = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for case, first, second in zip(CASES, *of_both, strict=True):
        for name, value in first["state"].items():
            assert torch.equal(value, second["state"][name]), (case, name)
        for record, num_images in ((first, 1), (second, 3)):
            assert record["changed"] <= record["trained"], case
            assert len(record["differences"]) == num_images
            assert max(record["differences"]) == 0, case
            assert record["encoded"] < record["asked"] / (2 if case.predicts_mirrored else 1), case


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_several_resamplings_compile_into_one_graph(backend: str) -> None:
    torch.manual_seed(0)
    head, tokens = TokenHead(nn.Conv3d, 4, 2), torch.randn(1, 4, 3, 5, 6)
    nn.init.normal_(head.seg_layers[0].weight)
    logits = [torch.zeros(1, 2, 7, 8, 9), torch.zeros(1, 2, 2, 3, 4)]
    compiled = torch.compile(head, backend=backend, fullgraph=True)
    for got, expected in zip(compiled(logits, tokens), head(logits, tokens), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
