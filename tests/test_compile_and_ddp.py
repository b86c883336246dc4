"""What nnU-Net does to networks on GPUs, as far as a processor can show it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
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
