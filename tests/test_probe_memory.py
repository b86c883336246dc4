"""Memory is estimated before a forward pass that cannot fit."""

from __future__ import annotations

import re

import pytest
import torch
from click.testing import CliRunner
from probe_inputs import TINY, write_pictures

from nnunet_dino._errors import UserError
from nnunet_dino.backbones import weights
from nnunet_dino.cli.main import main
from nnunet_dino.features import memory, views
from nnunet_dino.features.memory import check_memory, estimated_bytes

CPU = torch.device("cpu")

# Peak of the resident memory above that before the pass, of one image on a processor in float32, torch 2.14.
MEASURED = {
    (1024, 128): 84_348_928,
    (2048, 128): 309_354_496,
    (768, 384): 56_512_512,
}


@pytest.mark.parametrize(("size_px", "embed_dim"), MEASURED)
def test_the_estimate_is_above_what_was_measured_and_not_far(size_px, embed_dim):
    assert 1 <= estimated_bytes(size_px, 16, embed_dim) / MEASURED[size_px, embed_dim] < 2


def test_what_fits_is_named(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 4 << 30)
    with pytest.raises(UserError, match=r"--batch: required at most (\d+) images of 512 px.*4\.0 GiB.*got 500") as refused:
        check_memory(500, 512, 16, 384, CPU)
    most = int(re.search(r"at most (\d+)", str(refused.value))[1])
    check_memory(most, 512, 16, 384, CPU)
    with pytest.raises(UserError, match=r"--size.*at most (\d+) px.*got 16384") as refused:
        check_memory(1, 16384, 16, 128, CPU)
    largest = int(re.search(r"at most (\d+)", str(refused.value))[1])
    assert largest % 16 == 0
    check_memory(1, largest, 16, 128, CPU)


@pytest.mark.parametrize("words", [["extract", "-o", "store"], ["look", "-o", "look.png"]])
def test_nothing_is_written_where_nothing_fits(words, tmp_path, monkeypatch):
    monkeypatch.setenv(weights.ENVIRONMENT_VARIABLE, "random")
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1 << 28)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(views, "read_picture", None)  # an image that will not fit is not even shown at its size
    (name,) = write_pictures(tmp_path / "in", 1)
    result = CliRunner().invoke(main, [*words, f"in/{name}", "--backbone", TINY, "--size", "4096", "--device", "cpu"])
    assert result.exit_code == 2 and "got 4096" in result.output and len(result.output.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
