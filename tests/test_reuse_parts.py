"""Keys, what is kept when not all fits, and how much may be held."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_dino._errors import UserError
from nnunet_dino.networks.fingerprint import BLOCK_WORDS, slice_keys
from nnunet_dino.networks.memo_bytes import budget_bytes, free_host_bytes
from nnunet_dino.networks.retention import Retention
from nnunet_dino.networks.slice_memo import SliceMemo

CPU = torch.device("cpu")
Calls = list[list[tuple[int, ...]] | None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8])
def test_keys_are_equal_for_equal_bits_alone(dtype: torch.dtype) -> None:
    drawn = torch.randint(1, 100, (5, 2, 3, 4), generator=torch.Generator().manual_seed(0)).to(dtype)
    drawn[4] = drawn[1]
    keys = slice_keys(drawn)
    assert keys[4] == keys[1]
    assert len(set(keys)) == 4
    assert slice_keys(drawn.flip(0)) == keys[::-1]
    changed = drawn.clone()
    changed[2, 1, 2, 3] += 1
    assert [a == b for a, b in zip(keys, slice_keys(changed), strict=True)] == [True, True, False, True, True]


@given(st.integers(0, 3 * 4 * 5 - 1), st.integers(0, 31))
@settings(max_examples=100, deadline=None)
def test_every_single_bit_counts(position: int, bit: int) -> None:
    words = torch.arange(60, dtype=torch.int32)
    flipped = words.clone()
    flipped[position] ^= torch.tensor(1 << bit if bit < 31 else -(1 << 31), dtype=torch.int32)
    before, after = slice_keys(torch.stack([words, flipped]).view(2, 3, 4, 5).view(torch.float32))
    assert all(a != b for a, b in zip(before, after, strict=True))


def test_zeros_of_two_signs_are_two_slices() -> None:
    assert len(set(slice_keys(torch.tensor([0.0, -0.0]).view(2, 1, 1, 1)))) == 2


def test_keys_do_not_depend_on_the_block_of_slices() -> None:
    slices = torch.randn(7, 1, 3, BLOCK_WORDS // 6, generator=torch.Generator().manual_seed(0))
    assert slice_keys(slices) == [key for part in slices.split(3) for key in slice_keys(part)]


def sliding_window(
    num_tiles: tuple[int, int], depth: int, num_folds: int = 1, num_images: int = 1, overlap: int = 2
) -> Iterator[list[tuple[int, ...]] | None]:
    """What nnU-Net asks for: ``num_tiles`` along d and in plane, mirrored along d and in plane, fold by fold.

    None stands for the begin of a pass over an image.
    """
    layers, in_plane = num_tiles
    for image, _ in itertools.product(range(num_images), range(num_folds)):
        yield None
        for layer, tile in itertools.product(range(layers), range(in_plane)):
            for along_d, mirror in ((0, 0), (1, 0), (0, 1), (0, 2), (1, 1), (1, 2), (0, 3), (1, 3)):
                keys = [(image, layer * depth // overlap + i, tile, mirror) for i in range(depth)]
                yield keys[::-1] if along_d else keys


def num_encoded(calls: Calls, capacity: int) -> int:
    retention, held, encoded = Retention(), set(), 0
    retention.set_capacity(capacity)
    for keys in calls:
        if keys is None:
            retention.next_generation()
            continue
        encoded += len(set(keys) - held)
        retention.ask(keys)
        held |= set(keys)
        held -= set(retention.shrink())
        assert len(held) <= capacity
        assert len(retention) == len(held)
    return encoded


def num_encoded_by_least_recently_used(calls: Calls, capacity: int) -> int:
    held: OrderedDict[tuple[int, ...], None] = OrderedDict()
    encoded = 0
    for key in itertools.chain.from_iterable(keys or [] for keys in calls):
        encoded += key not in held
        held[key] = None
        held.move_to_end(key)
        if len(held) > capacity:
            held.popitem(last=False)
    return encoded


# 5 layers of 4 tiles, 16 slices deep: a layer holds 4 · 4 · 16 = 256 distinct slices, an image 3 · 256.
LAYER = 256


@pytest.mark.parametrize(
    ("capacity", "times_fewer"),
    [(LAYER // 4, 2.1), (LAYER // 2, 2.8), (LAYER, 3.33), (3 * LAYER, 3.33)],
)
def test_less_memory_gives_less_reuse_step_by_step(capacity: int, times_fewer: float) -> None:
    calls = list(sliding_window((5, 4), 16))
    asked = sum(len(keys or []) for keys in calls)
    ours, usual = num_encoded(calls, capacity), num_encoded_by_least_recently_used(calls, capacity)
    assert asked / ours >= times_fewer
    assert ours <= usual
    if capacity < LAYER:
        assert asked / usual == pytest.approx(2, abs=0.01)  # why the least recently used is not what is forgotten


def test_where_a_layer_fits_no_slice_of_a_fold_is_encoded_twice() -> None:
    calls = list(sliding_window((5, 4), 16))
    distinct = len({key for keys in calls for key in keys or []})
    assert num_encoded(calls, LAYER) == distinct


def test_folds_keep_what_fits_beyond_a_layer() -> None:
    calls = list(sliding_window((5, 4), 16, num_folds=5))
    distinct = len({key for keys in calls for key in keys or []})
    assert num_encoded(calls, distinct) == distinct
    half = distinct // 2
    assert num_encoded_by_least_recently_used(calls, half) == 5 * distinct
    kept = half - LAYER
    assert num_encoded(calls, half) <= 5 * distinct - 4 * 0.8 * kept


def test_another_image_takes_the_place_of_the_last() -> None:
    calls = list(sliding_window((5, 4), 16, num_images=3))
    distinct = len({key for keys in calls for key in keys or []})
    assert num_encoded(calls, LAYER + 10) == distinct


@given(st.lists(st.lists(st.integers(0, 20), unique=True, min_size=1, max_size=6) | st.none(), max_size=40), st.integers(0, 25))
@settings(max_examples=200, deadline=None)
def test_whatever_is_asked_never_more_is_held_than_allowed(calls: list[list[int] | None], capacity: int) -> None:
    num_encoded([None if keys is None else [(key,) for key in keys] for keys in calls], capacity)


def test_a_smaller_budget_takes_effect_at_once() -> None:
    memo = SliceMemo()
    memo.set_budget(1000)
    keys = [(i,) for i in range(10)]
    memo.fetch(keys, lambda positions: [torch.tensor(positions, dtype=torch.float32)])
    assert memo.num_bytes == 10 * 4
    memo.set_budget(17)
    assert memo.num_bytes == 4 * 4
    wanted = memo.fetch(keys, lambda positions: [torch.tensor(positions, dtype=torch.float32)])[0]
    assert wanted.tolist() == list(range(10))


def test_repeated_slices_are_computed_once() -> None:
    memo = SliceMemo()
    asked: list[list[int]] = []

    def compute(positions: list[int]) -> list[torch.Tensor]:
        asked.append(positions)
        return [torch.tensor(positions, dtype=torch.float32).view(-1, 1).expand(-1, 3)]

    keys = [(5,), (7,), (5,), (5,), (9,), (7,)]
    assert memo.fetch(keys, compute)[0][:, 2].tolist() == [0, 1, 0, 0, 4, 1]
    assert asked == [[0, 1, 4]]


@pytest.mark.parametrize(("text", "num_bytes"), [("0", 0), ("2", 2 << 30), ("0.5", 1 << 29)])
def test_budget_as_told(text: str, num_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_dino_cache_gb", text)
    assert budget_bytes(CPU, held_bytes=5) == num_bytes


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf"])
def test_budget_that_is_no_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_dino_cache_gb", text)
    with pytest.raises(UserError, match=f"required a number of GiB.*got '{text}'"):
        budget_bytes(CPU, held_bytes=0)


def test_budget_is_a_quarter_of_free_host_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_dino_cache_gb", raising=False)
    monkeypatch.setattr("nnunet_dino.networks.memo_bytes.free_host_bytes", lambda: 1000)
    assert budget_bytes(CPU, held_bytes=200) == 300
    monkeypatch.setattr("nnunet_dino.networks.memo_bytes.free_host_bytes", lambda: None)
    assert budget_bytes(CPU, held_bytes=200) == 1 << 30


def test_budget_is_half_of_free_device_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_dino_cache_gb", raising=False)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 400)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (900, 2000))
    assert budget_bytes(torch.device("cuda", 0), held_bytes=200) == (900 + 100 + 200) // 2


def test_free_memory_is_the_tightest_of_machine_and_control_groups(tmp_path: Path) -> None:
    assert free_host_bytes(tmp_path) is None
    write(tmp_path, "proc/meminfo", "MemTotal:  900 kB\nMemAvailable:  700 kB\nHugePages_Total:  0\n")
    assert free_host_bytes(tmp_path) == 700 * 1024
    write(tmp_path, "proc/self/cgroup", "0::/slurm/job_7/step_0\n")
    write(tmp_path, "sys/fs/cgroup/slurm/job_7/memory.max", "600000\n")
    write(tmp_path, "sys/fs/cgroup/slurm/job_7/memory.current", "200000\n")
    write(tmp_path, "sys/fs/cgroup/slurm/job_7/memory.stat", "anon 150000\ninactive_file 30000\n")
    write(tmp_path, "sys/fs/cgroup/slurm/job_7/step_0/memory.max", "max\n")
    write(tmp_path, "sys/fs/cgroup/slurm/job_7/step_0/memory.current", "100\n")
    write(tmp_path, "sys/fs/cgroup/slurm/job_7/step_0/memory.stat", "anon 100\n")
    assert free_host_bytes(tmp_path) == 430000


def test_free_memory_in_an_older_control_group(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "9:name=systemd:/\n4:memory:/docker/3f\n3:cpu:/\n")
    write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", "5000\n")
    write(tmp_path, "sys/fs/cgroup/memory/memory.usage_in_bytes", "3000\n")
    write(tmp_path, "sys/fs/cgroup/memory/memory.stat", "total_inactive_file 700\n")
    assert free_host_bytes(tmp_path) == 2700


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
