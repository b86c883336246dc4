"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest
from stock import FOLDERS, PHANTOM, Workspace, add_lowres_and_cascade, write_phantoms

ROOT = Path(__file__).parents[1]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts long files first, and keeps together what shares a costly fixture, so that two workers end at the same time."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        shares_phantom = "planned_phantom" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("planned_phantom" if shares_phantom else item.path.name))


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
