"""The start-up hook, the extended class look-up, the registry and the folder for nnUNet_extTrainer."""

from __future__ import annotations

import importlib.util
import inspect
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from nnunet_dino._errors import UserError
from nnunet_dino.nnunet import classes
from nnunet_dino.nnunet.discovery import boot, hook, registry
from nnunet_dino.nnunet.presets import PLANNERS, TRAINERS

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
    made = type("nnUNetTrainerDINOv3S", (), {})
    monkeypatch.setattr(classes, "trainer_class", {"nnUNetTrainerDINOv3S": made}.__getitem__)
    return made


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
    with pytest.raises(UserError, match=r"got 'dino' · all names are made in .*presets\.py"):
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


def test_a_class_that_cannot_be_made_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> type:
        raise ImportError("No module named 'absent'")

    monkeypatch.setattr(classes, "trainer_class", broken)
    with pytest.raises(UserError, match=r"nnUNetTrainerDINOv3S cannot be loaded.*No module named 'absent'.*doctor"):
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


# -- the table ---------------------------------------------------------------------------------------------------------------


def test_names_survive_the_way_nnunet_splits_folder_names() -> None:
    assert [name for name in (*TRAINERS, *PLANNERS) if "__" in name] == []


def test_every_name_is_a_class_that_worker_processes_can_unpickle() -> None:
    import nnunet_dino.planners
    import nnunet_dino.trainers

    for module, names in ((nnunet_dino.trainers, TRAINERS), (nnunet_dino.planners, PLANNERS)):
        assert dir(module) == sorted(names)
        for name in names:
            found = registry.resolve(name)
            assert getattr(module, name) is found
            assert pickle.loads(pickle.dumps(found)) is found
            assert (found.__name__, found.__module__) == (name, module.__name__)


def test_trainers_have_the_five_parameters_that_nnunet_reads() -> None:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    expected = list(inspect.signature(nnUNetTrainer.__init__).parameters)
    for name in TRAINERS:
        found = registry.resolve(name)
        assert issubclass(found, nnUNetTrainer)
        assert list(inspect.signature(found.__init__).parameters) == expected


def test_an_unknown_name_is_no_attribute() -> None:
    import nnunet_dino.trainers

    with pytest.raises(AttributeError, match="nnUNetTrainerDINOv3Q"):
        _ = nnunet_dino.trainers.nnUNetTrainerDINOv3Q


def test_the_names_cost_no_heavy_import() -> None:
    code = "import sys, nnunet_dino.trainers, nnunet_dino.planners; print('torch' in sys.modules, 'nnunetv2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# -- errors of nnU-Net's commands --------------------------------------------------------------------------------------------

RAISE = """
import sys, threading
sys.argv[0] = "/somewhere/bin/{program}"
from nnunet_dino._errors import UserError
from nnunet_dino.nnunet.command_errors import report_in_one_line
report_in_one_line()
report_in_one_line()
def fail():
    raise {error}
{call}
"""


@pytest.mark.parametrize("error", ["UserError('required a · got b')", "RuntimeError('x') from UserError('required a · got b')"])
@pytest.mark.parametrize("call", ["fail()", "thread = threading.Thread(target=fail); thread.start(); thread.join()"])
def test_a_user_error_is_one_line_and_exit_code_2(error: str, call: str) -> None:
    done = run_python(RAISE.format(program="nnUNetv2_train", error=error, call=call))
    assert (done.returncode, done.stderr) == (2, "nnunet-dino: error: required a · got b\n")


@pytest.mark.slow
def test_the_error_of_a_spawned_process_is_one_line_too() -> None:
    """nnU-Net trains on several GPUs in processes that torch spawns; torch hands on their traceback as text."""
    code = RAISE.format(program="nnUNetv2_train", error="ValueError('never')", call="")
    code += "\nimport torch.multiprocessing as mp\nfrom small_nets import refuse\nmp.spawn(refuse, nprocs=1)\n"
    done = run_python(code, PYTHONPATH=str(Path(__file__).parent))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "nnunet-dino: error: required a · got b in process 0"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("program", "error"), [("script.py", "UserError('x')"), ("nnUNetv2_train", "ValueError('x')")])
def test_other_programs_and_other_errors_keep_their_traceback(program: str, error: str) -> None:
    done = run_python(RAISE.format(program=program, error=error, call="fail()"))
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=settings, check=False)


# -- the start-up hook, in a Python without site-packages, beside a fake nnU-Net ----------------------------------------------

FAKE_LOOKUP = """
def recursive_find_python_class(folder, class_name, current_module):
    return None
"""

FAKE_CLASSES = """
def trainer_class(name):
    return type(name, (), {"__module__": "nnunet_dino.trainers"})
planner_class = neuron_class = trainer_class
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
    (package / "nnunet").mkdir(parents=True)
    for part in (
        "__init__.py",
        "_errors.py",
        "_lazy.py",
        *(f"nnunet/{p}" for p in ("__init__.py", "presets.py", "command_errors.py", "discovery")),
    ):
        (package / part).symlink_to(ROOT / "nnunet_dino" / part)
    (package / "nnunet" / "classes.py").write_text(FAKE_CLASSES)
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
OURS = "nnunet_dino.trainers"


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
    shutil.rmtree(site / "nnunet_dino" / "nnunet")
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


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["1", "0"])
def test_nnunets_own_tests_pass_with_and_without_us(hook: str) -> None:
    pytest.importorskip("nnunetv2.tests.test_find_objects", reason="nnU-Net 2.8.1 and later bring tests")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")}
    done = subprocess.run(
        [*command, "nnunetv2.tests.test_paths", "nnunetv2.tests.test_find_objects"],
        env=plain | {"nnUNet_dino_hook": hook},
        cwd=Path(sys.prefix),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "7 passed" in done.stdout
