"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stock import FOLDERS, PHANTOM, Workspace, add_lowres_and_cascade, write_phantoms

ROOT = Path(__file__).parents[1]


# Files that share the phantoms which are planned once a worker; every other file is a unit of its own.
SHARE_THE_PHANTOM = ("tests/test_stock_commands.py", "tests/test_bad_input.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts long tests first, so that two workers end at the same time."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


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


@pytest.fixture(scope="session")
def planned_phantom(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Small phantoms as data set 801: planned, and preprocessed for 2d, 3d_fullres and 3d_lowres with its cascade."""
    workspace = Workspace(tmp_path_factory.mktemp("planned_phantom"))
    write_phantoms(workspace.raw(PHANTOM))
    workspace.plan(PHANTOM, "2d", "3d_fullres", really=True)
    add_lowres_and_cascade(workspace.plans_file(PHANTOM))
    workspace.run("nnUNetv2_preprocess", "-d", 801, "-c", "3d_lowres", "-np", 1)
    return workspace
