"""The start-up hook, the extended class look-up, the registry and the folder for nnUNet_extTrainer."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from nnunet_dino._errors import UserError
from nnunet_dino.nnunet.discovery import boot, hook, registry

ROOT = Path(__file__).parents[1]
TRAINER_ROOT = "nnunetv2.training.nnUNetTrainer"
PLANNER_ROOT = "nnunetv2.experiment_planning"


class Theirs:
    """A class of nnU-Net's own tree."""


def search(folder, class_name, current_module, **options):
    """Stands for nnU-Net's recursive search, which knows one class."""
    return Theirs if class_name in ("Theirs", "TheirDINOTrainer") else None


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> type:
    """A class in the place of nnUNetTrainerDINOv3S, so that no test needs torch."""
    module = ModuleType("nnunet_dino.trainers.dinov3")
    module.nnUNetTrainerDINOv3S = type("nnUNetTrainerDINOv3S", (), {})
    monkeypatch.setitem(sys.modules, "nnunet_dino.trainers.dinov3", module)
    return module.nnUNetTrainerDINOv3S


# -- the look-up -------------------------------------------------------------------------------------------------------------


def test_our_class_is_found_before_the_search_starts(ours: type) -> None:
    def never(*args, **kwargs):
        raise AssertionError("nnU-Net's search was called")

    assert hook.extended(never)("folder", "nnUNetTrainerDINOv3S", TRAINER_ROOT) is ours
    assert hook.extended(never)("folder", class_name="nnUNetTrainerDINOv3S", current_module=None, verbose=True) is ours


@pytest.mark.parametrize("name", ["Theirs", "TheirDINOTrainer"])
def test_classes_of_nnunet_are_left_to_its_search(name: str) -> None:
    assert hook.extended(search)("folder", name, TRAINER_ROOT, base_folder="base") is Theirs


def test_a_foreign_name_that_is_not_found_stays_not_found() -> None:
    assert hook.extended(search)("folder", "nnUNetTrainerXYZ", TRAINER_ROOT) is None


@pytest.mark.parametrize(
    ("root", "got", "meant"),
    [
        (TRAINER_ROOT, "nnUNetTrainerDINOv3l", "nnUNetTrainerDINOv3L"),
        (TRAINER_ROOT, "nnUNetTrainerDinoV3_S_LoRA", "nnUNetTrainerDINOv3S_LoRA"),
        (PLANNER_ROOT, "nnUNetPlannerDINOv3LResEnc", "nnUNetPlannerDINOv3LResEnc[ML]"),
    ],
)
def test_an_unknown_name_of_our_kind_is_refused_with_the_nearest(root: str, got: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"got '{got}'; did you mean '{meant}'"):
        hook.extended(search)("folder", got, root)


def test_a_name_like_no_other_is_refused_with_the_place_of_the_list() -> None:
    with pytest.raises(UserError, match=r"got 'dino' · all names are in .*registry\.py"):
        hook.extended(search)("folder", "dino", TRAINER_ROOT)


@pytest.mark.parametrize("module", [f"{TRAINER_ROOT}.variants", "dynamic_network_architectures.architectures", None])
def test_deeper_levels_and_other_searches_are_never_refused(module: str | None) -> None:
    assert hook.extended(search)("folder", "DINOv3UNet", module) is None


def test_external_folders_are_searched_before_a_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, last = tmp_path / "first", tmp_path / "last"
    first.mkdir()
    last.mkdir()
    paths = ModuleType("nnunetv2.paths")
    paths.nnUNet_extTrainer = object()
    monkeypatch.setitem(sys.modules, "nnunetv2.paths", paths)
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join([str(first), str(last), str(tmp_path / "absent")]))
    find = hook.extended(search)
    assert find("folder", "MyDINO", TRAINER_ROOT) is None
    assert find(str(first), "MyDINO", None) is None
    with pytest.raises(UserError, match="got 'MyDINO'"):
        find(str(last), "MyDINO", None)


def test_a_refusal_is_one_line_in_stock_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/nnUNetv2_train"])
    with pytest.raises(SystemExit, match="2"):
        hook.extended(search)("folder", "nnUNetTrainerDINOv3Q", TRAINER_ROOT)
    error = capsys.readouterr().err
    assert "got 'nnUNetTrainerDINOv3Q'" in error
    assert error.count("\n") == 1


def test_a_class_whose_module_does_not_import_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.TRAINERS, "nnUNetTrainerDINOv3S", "nnunet_dino.trainers.absent")
    with pytest.raises(UserError, match=r"nnUNetTrainerDINOv3S cannot be loaded.*nnunet_dino\.trainers\.absent.*doctor"):
        registry.resolve("nnUNetTrainerDINOv3S")


def test_install_reaches_modules_that_bound_the_search_already(monkeypatch: pytest.MonkeyPatch, ours: type) -> None:
    lookup, early, other = ModuleType("lookup"), ModuleType("early"), ModuleType("other")
    lookup.recursive_find_python_class = early.recursive_find_python_class = search
    other.recursive_find_python_class = len
    monkeypatch.setitem(sys.modules, "early_of_test", early)
    monkeypatch.setitem(sys.modules, "other_of_test", other)
    hook.install(lookup)
    once = lookup.recursive_find_python_class
    hook.install(lookup)
    assert lookup.recursive_find_python_class is early.recursive_find_python_class is once
    assert once("folder", "nnUNetTrainerDINOv3S", TRAINER_ROOT) is ours
    assert other.recursive_find_python_class is len


# -- the registry ------------------------------------------------------------------------------------------------------------


def test_names_survive_the_way_nnunet_splits_folder_names() -> None:
    assert [name for name in (*registry.TRAINERS, *registry.PLANNERS) if "__" in name] == []


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("nnUNetTrainerDINOv3S_LoRA_50epochs", "nnunet_dino.trainers.dinov3"),
        ("nnUNetTrainerDINOv3HPlus_TokensOnly_5epochs", "nnunet_dino.trainers.tokens_only"),
        ("nnUNetTrainerMedDINOv3B_250epochs", "nnunet_dino.trainers.meddinov3"),
    ],
)
def test_short_runs_are_listed(name: str, module: str) -> None:
    assert registry.TRAINERS[name] == module


def test_registry_and_trainer_classes_agree() -> None:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    for name in registry.TRAINERS:
        found = registry.resolve(name)
        assert found.__name__ == name
        assert issubclass(found, nnUNetTrainer)
    assert defined_in("nnunet_dino.trainers", "nnUNetTrainer") == set(registry.TRAINERS)


def test_registry_and_planner_classes_agree() -> None:
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    for name in registry.PLANNERS:
        found = registry.resolve(name)
        assert found.__name__ == name
        assert issubclass(found, ExperimentPlanner)
    assert defined_in("nnunet_dino.planners", "nnUNetPlanner") == set(registry.PLANNERS)


def defined_in(package: str, prefix: str) -> set[str]:
    """Returns the classes named ``prefix…`` that the modules of ``package`` define."""
    folder = importlib.import_module(package).__path__
    modules = [importlib.import_module(f"{package}.{module.name}") for module in pkgutil.iter_modules(folder)]
    return {
        name
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and name.startswith(prefix) and value.__module__ == module.__name__
    }


# -- the start-up hook, in a Python without site-packages, beside a fake nnU-Net ----------------------------------------------

FAKE_LOOKUP = """
def recursive_find_python_class(folder, class_name, current_module):
    return None
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder like site-packages: a fake nnU-Net, the boot module, and this package with a trainer that needs nothing."""
    utilities = tmp_path / "nnunetv2" / "utilities"
    utilities.mkdir(parents=True)
    for package in (utilities.parent, utilities):
        (package / "__init__.py").touch()
    (utilities / "find_class_by_name.py").write_text(FAKE_LOOKUP)
    (tmp_path / "_nnunet_dino_boot.py").write_text(Path(boot.__file__).read_text())
    package = tmp_path / "nnunet_dino"
    (package / "trainers").mkdir(parents=True)
    for part in ("__init__.py", "_errors.py", "nnunet"):
        (package / part).symlink_to(ROOT / "nnunet_dino" / part)
    (package / "trainers" / "__init__.py").touch()
    (package / "trainers" / "dinov3.py").write_text("class nnUNetTrainerDINOv3S: pass\n")
    return tmp_path


def python(site: Path, code: str, **environment: str) -> str:
    """Runs ``code`` with the standard library and ``site`` alone, demands no complaint, and returns the output."""
    start = f"import sys; sys.path.insert(0, {str(site)!r})\n"
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("nnUNet_", "PYTHON", "COV_"))}
    done = subprocess.run(
        [sys.executable, "-S", "-W", "error", "-c", start + code],
        capture_output=True,
        text=True,
        env={**plain, **environment, "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    assert done.stderr == "", done.stderr
    assert done.returncode == 0
    return done.stdout.strip()


BOOT = "import _nnunet_dino_boot; _nnunet_dino_boot.register()\n"
FIND = """
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class as find
print(getattr(find("folder", "nnUNetTrainerDINOv3S", "nnunetv2.training.nnUNetTrainer"), "__module__", None))
"""
OURS = "nnunet_dino.trainers.dinov3"


def test_starting_python_imports_nothing_but_the_boot_module(site: Path) -> None:
    code = (
        f"import os\nbefore = set(sys.modules)\n{BOOT}print(*set(sys.modules) - before)"  # os: the site module has it already
    )
    assert python(site, code) == "_nnunet_dino_boot"


def test_the_hook_extends_the_look_up_and_is_gone(site: Path) -> None:
    count = "print(sum(type(f).__name__ == 'NnunetDinoFinder' for f in sys.meta_path))\n"
    assert python(site, BOOT + BOOT + count + FIND + count).split() == ["1", OURS, "0"]


def test_looking_for_the_module_without_importing_it_does_not_use_the_hook_up(site: Path) -> None:
    look = "import importlib.util; importlib.util.find_spec('nnunetv2.utilities.find_class_by_name')\n"
    assert python(site, BOOT + look + FIND) == OURS


def test_importing_the_package_does_what_the_start_up_file_does(site: Path) -> None:
    assert python(site, "import nnunet_dino\n" + FIND) == OURS
    assert python(site, "import nnunetv2.utilities.find_class_by_name, nnunet_dino\n" + FIND) == OURS


@pytest.mark.parametrize("value", ["0", "False", " off "])
def test_the_environment_switches_the_hook_off(site: Path, value: str) -> None:
    assert python(site, BOOT + "import nnunet_dino\n" + FIND, nnUNet_dino_hook=value) == "None"


def test_any_other_value_leaves_the_hook_on(site: Path) -> None:
    assert python(site, BOOT + FIND, nnUNet_dino_hook="1") == OURS


def test_without_nnunet_nothing_happens(site: Path) -> None:
    code = "try:\n    import nnunetv2.absent\nexcept ModuleNotFoundError as error:\n    print(error.name)\n"
    assert python(site, BOOT + code) == "nnunetv2.absent"


def test_without_the_package_the_look_up_stays_as_it_was(site: Path) -> None:
    (site / "nnunet_dino" / "nnunet").unlink()
    assert python(site, BOOT + FIND) == "None"


def test_a_look_up_that_fails_to_import_can_be_imported_again(site: Path) -> None:
    lookup = site / "nnunetv2" / "utilities" / "find_class_by_name.py"
    lookup.write_text("import absent_of_test\n")
    mend = f"from pathlib import Path; Path({str(lookup)!r}).write_text({FAKE_LOOKUP!r})\n"
    code = (
        "try:\n    import nnunetv2.utilities.find_class_by_name\nexcept ModuleNotFoundError as error:\n    print(error.name)\n"
    )
    assert python(site, BOOT + code + mend + FIND).split() == ["absent_of_test", OURS]


# -- the folder for nnUNet_extTrainer ----------------------------------------------------------------------------------------


@pytest.fixture
def external() -> ModuleType:
    file = ROOT / "nnunet_dino" / "nnunet" / "discovery" / "ext_trainer" / "nnunet_dino_trainers.py"
    spec = importlib.util.spec_from_file_location("nnunet_dino_trainers", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_external_folder_gives_the_installed_class(external: ModuleType, ours: type) -> None:
    assert external.nnUNetTrainerDINOv3S is ours


@pytest.mark.parametrize("name", ["nnUNetTrainer", "nnUNetPlannerDINOv3L", "__path__"])
def test_the_external_folder_has_trainers_only(external: ModuleType, name: str) -> None:
    with pytest.raises(AttributeError, match=name):
        getattr(external, name)
