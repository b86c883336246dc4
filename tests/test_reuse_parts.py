"""Keys of slices, what is forgotten when not all fits, and how much may be held."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_dino._errors import UserError
from nnunet_dino.networks.fingerprint import BLOCK_WORDS, Key, slice_keys
from nnunet_dino.networks.memo_bytes import budget_bytes
from nnunet_dino.networks.slice_memo import SliceMemo

CPU = torch.device("cpu")


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


def sliding_window(num_layers: int, num_tiles: int, depth: int) -> Iterator[list[Key]]:
    """What nnU-Net asks for: layers of tiles that overlap along d by half, every tile in eight mirrors."""
    for layer, tile in itertools.product(range(num_layers), range(num_tiles)):
        for along_d, in_plane in ((0, 0), (1, 0), (0, 1), (0, 2), (1, 1), (1, 2), (0, 3), (1, 3)):
            keys = [(layer * depth // 2 + i, tile, in_plane) for i in range(depth)]
            yield keys[::-1] if along_d else keys


@pytest.mark.parametrize(("num_held", "times_fewer"), [(0, 1), (4 * 16, 2), (4 * 4 * 16, 3.33), (4 * 4 * 48, 3.33)])
def test_a_tile_held_halves_the_work_and_a_layer_gives_all_there_is(num_held: int, times_fewer: float) -> None:
    memo = SliceMemo()
    num_asked = num_computed = 0

    def compute(positions: list[int]) -> list[torch.Tensor]:
        nonlocal num_computed
        num_computed += len(positions)
        return [torch.tensor(positions, dtype=torch.float32)]

    for keys in sliding_window(5, 4, 16):
        num_asked += len(keys)
        memo.fetch(keys, compute, 4 * num_held)
    assert num_asked / num_computed == pytest.approx(times_fewer, abs=0.01)


@given(st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=6), max_size=40), st.integers(0, 100))
@settings(max_examples=200, deadline=None)
def test_whatever_is_asked_the_answer_is_right_and_no_more_is_held_than_allowed(calls: list[list[int]], budget: int) -> None:
    memo = SliceMemo()
    for numbers in calls:
        answer = memo.fetch([(n,) for n in numbers], lambda at, n=numbers: [torch.tensor([10.0 * n[i] for i in at])], budget)
        assert answer[0].tolist() == [10 * n for n in numbers]
        assert memo.num_bytes <= budget


def test_what_was_asked_for_longest_ago_is_forgotten() -> None:
    memo = SliceMemo()
    computed: list[Key] = []

    def fetch(*numbers: int) -> None:
        def compute(positions: list[int]) -> list[torch.Tensor]:
            computed.extend(numbers[i] for i in positions)
            return [torch.zeros(len(positions), 2)]

        memo.fetch([(n,) for n in numbers], compute, 3 * 8)

    for numbers in ((1, 2, 3), (1,), (4,), (1, 3, 4), (2,)):
        fetch(*numbers)
    assert computed == [1, 2, 3, 4, 2]


def test_repeated_slices_are_computed_once() -> None:
    memo = SliceMemo()
    asked: list[list[int]] = []

    def compute(positions: list[int]) -> list[torch.Tensor]:
        asked.append(positions)
        return [torch.tensor(positions, dtype=torch.float32).view(-1, 1).expand(-1, 3)]

    keys = [(5,), (7,), (5,), (5,), (9,), (7,)]
    assert memo.fetch(keys, compute, 1000)[0][:, 2].tolist() == [0, 1, 0, 0, 4, 1]
    assert asked == [[0, 1, 4]]


@pytest.mark.parametrize(("text", "num_bytes"), [("0", 0), ("2", 2 << 30), ("0.5", 1 << 29)])
def test_budget_as_told(text: str, num_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_dino_cache_gb", text)
    assert budget_bytes(CPU) == num_bytes


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf"])
def test_budget_that_is_no_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_dino_cache_gb", text)
    with pytest.raises(UserError, match=f"required a number of GiB.*got '{text}'"):
        budget_bytes(CPU)


def test_no_more_than_four_gibibytes_of_the_host_are_taken_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_dino_cache_gb", raising=False)
    assert 0 < budget_bytes(CPU) <= 4 << 30
