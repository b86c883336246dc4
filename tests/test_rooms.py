"""Who may know whom: the rooms of the package, read from its import statements, those inside functions too."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Every room with the rooms that it may import. Rooms below those are included; `cli` knows everyone and nobody knows `cli`.
KNOWS = {
    "backbones": set(),
    "networks": {"backbones"},
    "em": set(),
    "nnunet": {"networks", "em"},
    "trainers": {"nnunet"},
    "planners": {"nnunet"},
    "features": {"backbones"},
    "reports": set(),
    "probes": {"nnunet", "features", "reports"},
    "compare": {"features", "reports", "em"},
    "demo": set(),
    "pretrain": {"nnunet", "features", "reports", "probes"},
    "study": {"nnunet", "compare", "reports"},
    "cli": {"study", "pretrain", "backbones", "networks", "nnunet", "features", "reports", "probes", "compare", "demo", "em"},
}
EVERYBODYS = {"_checkpoints", "_environment", "_errors", "_files", "_grids", "_lazy", "_nnunet_folders", "_packages"}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, trainers and planners as they are installed."""
    found = {}
    for folder in ("nnunet_dino", "trainers", "planners"):
        for file in (ROOT / folder).rglob("*.py"):
            parts = file.relative_to(ROOT).with_suffix("").parts
            parts = parts if folder == "nnunet_dino" else ("nnunet_dino", *parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()


def imports(module: str) -> set[str]:
    """The modules of this package that ``module`` imports anywhere."""
    names = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else str(node.module) for name in below}
    return {name for name in names if name in MODULES}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def may_know(name: str) -> set[str]:
    return {name} | KNOWS[name] | {further for other in KNOWS[name] for further in may_know(other)}


@pytest.mark.parametrize("name", KNOWS)
def test_a_room_imports_only_what_it_may_know(name: str) -> None:
    members = [module for module in MODULES if room(module) == name]
    assert members
    allowed = may_know(name) | EVERYBODYS | {""}
    wrong = [
        f"{module} imports {other}" for module in members for other in sorted(imports(module)) if room(other) not in allowed
    ]
    assert not wrong


def test_every_module_lies_in_a_room() -> None:
    assert {room(module) for module in MODULES} == {"", *EVERYBODYS, *KNOWS}


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {module: imports(module) - {"nnunet_dino"} for module in MODULES if module != "nnunet_dino"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_encoders_and_networks_do_not_ask_which_command_is_running() -> None:
    for module, file in MODULES.items():
        if room(module) in ("backbones", "networks"):
            assert "sys.argv" not in file.read_text(encoding="utf-8"), module
