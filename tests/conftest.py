"""Fixtures that several test files share."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_trainers import trainer_maker
from stock import FOLDERS, OURS, PHANTOM, REGIONS, ZYGOTE, Workspace, add_lowres_and_cascade, weights, write_phantoms

from nnunet_dino.nnunet.trainer import DINOv3Trainer

ROOT = Path(__file__).parents[1]
os.environ.pop("PYTHONUNBUFFERED", None)  # a user's output waits in a buffer
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # and a user's modules are compiled to files


# Files that share the phantoms which are planned once a worker; every other file is a unit of its own.
SHARE_THE_PHANTOM = tuple(f"tests/test_{name}.py" for name in ("stock_commands", "bad_input", "prior", "pretrain_commands"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts long tests first, so that two workers end at the same time."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Has Python look through its objects less often, and no more at those of imports, which are half a million."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives a worker whole files, so that fixtures of modules are made once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return "phantom" if file in SHARE_THE_PHANTOM else file

    return ByFile(config, log)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist")
    return folder


@pytest.fixture
def nnunet_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnU-Net's three folders, empty and set in the environment; returns the folder they lie in."""
    for name in FOLDERS:
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DINOv3Trainer]:
    """Makes a trainer of a preprocessed data set; ``tmp_path / "results"`` is where it may write."""
    return trainer_maker(tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def scripts() -> Iterator[Path]:
    """A folder for the front of PATH, whose commands have their imports already."""
    with ZYGOTE.scripts() as folder:
        yield folder


@pytest.fixture(scope="session")
def planned_phantom(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Small phantoms as data set 801: planned, and preprocessed for 2d, 3d_fullres and 3d_lowres with its cascade."""
    workspace = Workspace(tmp_path_factory.mktemp("planned_phantom"))
    write_phantoms(workspace.raw(PHANTOM))
    workspace.plan(PHANTOM, "3d_fullres", really=True)
    add_lowres_and_cascade(workspace.plans_file(PHANTOM))
    workspace.run("nnUNetv2_preprocess", "-d", 801, "-c", "2d", "3d_lowres", "-np", 1)
    return workspace


@pytest.fixture(scope="session")
def our_fold(planned_phantom: Workspace) -> tuple[Path, dict[str, torch.Tensor], str]:
    """Fold 0, interrupted after one epoch and continued: its folder, its weights at the interruption, the second output."""
    folder = planned_phantom.model(PHANTOM, OURS, "3d_fullres") / "fold_0"
    output = planned_phantom.train_and_interrupt(PHANTOM, "3d_fullres", 0, OURS)
    assert "Epoch 0" in output
    assert not (folder / "checkpoint_final.pth").exists()
    before = weights(folder / "checkpoint_latest.pth")
    return folder, before, planned_phantom.train(PHANTOM, "3d_fullres", 0, OURS, "--c", "--npz")


@pytest.fixture(scope="session")
def planned_regions(planned_phantom: Workspace) -> Workspace:
    """Phantoms of four channels with regions and an ignore label as data set 802, planned and preprocessed for 3d_fullres."""
    labels = {"background": 0, "organs": [1, 2, 3, 4], "textured": [3, 4], "stripes": [4], "ignore": 5}
    extra = {"regions_class_order": [1, 3, 4]}
    write_phantoms(planned_phantom.raw(REGIONS), ("CT", "T1", "T2", "PET"), labels, extra, with_an_ignored_corner)
    planned_phantom.plan(REGIONS, "3d_fullres")
    return planned_phantom


def with_an_ignored_corner(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    labels = labels.copy()
    labels[:2, :20] = 5
    return labels
