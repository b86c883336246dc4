"""Real installs in fresh environments: wheel and editable, of this package and of nnU-Net, in the versions we support.

The heavy dependencies are lent from the environment that runs the tests, without nnU-Net and this package. nnU-Net comes from
the package index.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
NNUNET_VERSIONS = ("2.7.0", "2.8.0", "2.8.1")
STARTUP_FILES = ("_nnunet_dino_boot.py", "nnunet_dino.pth", "nnunet_dino.start")
TRAINERS, PLANNERS = "nnunet_dino.trainers.dinov3", "nnunet_dino.planners.dinov3"

# What nnUNetv2_train and nnUNetv2_plan_experiment do to find a class.
LOOK_UP = """
import os, nnunetv2
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

def module_of(name, *folder):
    found = recursive_find_python_class(os.path.join(nnunetv2.__path__[0], *folder), name, ".".join(("nnunetv2",) + folder))
    return found and found.__module__

def trainer():
    return module_of("nnUNetTrainerDINOv3Tiny", "training", "nnUNetTrainer")

def planner():
    return module_of("nnUNetPlannerDINOv3L", "experiment_planning")
"""


def call(*command: object, **environment: str) -> str:
    """Runs a command away from the checkout and returns its output; its complaints are in the error if it fails."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("nnUNet_", "PYTHON"))}
    settings = {**plain, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "OMP_NUM_THREADS": "1", **environment}
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(sys.prefix), env=settings, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Environment:
    """A virtual environment with the heavy dependencies and nothing else."""

    def __init__(self, folder: Path, lent: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=os.name != "nt")
        scheme = sysconfig.get_paths("venv", vars={"base": str(folder), "platbase": str(folder)})
        self.site = Path(scheme["purelib"])
        self.scripts = Path(scheme["scripts"])
        self.python = self.scripts / Path(sys.executable).name
        self.command = self.scripts / "nnunet-dino"
        if not self.python.exists():
            self.python = self.scripts / "python"
        (self.site / "lent.pth").write_text(f"{lent}\n")
        self.before = self.files()

    def files(self) -> set[str]:
        return {str(file.relative_to(self.site)) for file in self.site.rglob("*") if "__pycache__" not in file.parts}

    def pip(self, *arguments: object) -> None:
        call(sys.executable, "-m", "pip", "--python", self.python, *arguments)

    def install(self, *what: object) -> None:
        self.pip("install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", *what)

    def run(self, code: str, **environment: str) -> list[str]:
        return call(self.python, "-c", code, **environment).split()


@pytest.fixture(scope="session")
def lent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site-packages of this environment without nnU-Net, this package and start-up files."""
    folder = tmp_path_factory.mktemp("lent")
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "nnunet" not in path.name.lower() and path.suffix not in (".pth", ".start"):
            (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build needs, so that building leaves nothing in the real checkout."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("nnunet_dino", "trainers", "planners"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, checkout)
    return next(folder.glob("nnunet_dino-*.whl"))


@pytest.fixture(scope="session")
def nnunet_source(tmp_path_factory: pytest.TempPathFactory):
    """Returns a function that fetches the source of an nnU-Net version and unpacks it, once."""
    folder = tmp_path_factory.mktemp("nnunet")

    def fetch(version: str) -> Path:
        source = folder / f"nnunetv2-{version}"
        if not source.exists():
            options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-binary", "nnunetv2", "-d", folder)
            call(sys.executable, "-m", "pip", "download", *options, f"nnunetv2=={version}")
            with tarfile.open(next(folder.glob(f"nnunetv2-{version}.tar.gz"))) as archive:
                archive.extractall(folder, filter="data")
        return source

    return fetch


@pytest.fixture
def environment(tmp_path: Path, lent: Path) -> Environment:
    return Environment(tmp_path / "environment", lent)


@pytest.fixture
def install_ours(environment: Environment, checkout: Path, wheel: Path, tmp_path: Path):
    """Returns a function that installs this package, as a wheel or editable."""

    def install(how: str) -> None:
        if how == "wheel":
            environment.install(wheel)
        else:
            environment.install("-e", shutil.copytree(checkout, tmp_path / "checkout"))

    return install


def install_nnunet(environment: Environment, how: str, source: Path, folder: Path) -> None:
    if how == "normal":
        environment.install(source)
    else:
        environment.install("-e", shutil.copytree(source, folder / source.name))


@pytest.mark.parametrize("ours", ["wheel", "editable"])
@pytest.mark.parametrize("theirs", ["normal", "editable"])
@pytest.mark.parametrize("version", NNUNET_VERSIONS)
def test_stock_look_up_finds_our_classes(
    version: str, theirs: str, ours: str, environment: Environment, install_ours, nnunet_source, tmp_path: Path
) -> None:
    install_nnunet(environment, theirs, nnunet_source(version), tmp_path)
    with_nnunet = environment.files()
    install_ours(ours)
    assert environment.run(LOOK_UP + "print(trainer(), planner())")[-2:] == [TRAINERS, PLANNERS]
    extended = "print(hasattr(recursive_find_python_class, 'extended_by_nnunet_dino'))"
    assert environment.run(LOOK_UP + extended) == ["True"]
    assert environment.run(LOOK_UP + extended, nnUNet_dino_hook="0") == ["False"]
    environment.pip("uninstall", "--quiet", "--yes", "nnunet-dino")
    assert environment.files() == with_nnunet
    assert environment.run(LOOK_UP + extended) == ["False"]


@pytest.mark.parametrize("ours", ["wheel", "editable"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_worker_processes_find_our_classes(
    method: str, ours: str, environment: Environment, install_ours, nnunet_source, tmp_path: Path
) -> None:
    environment.install(nnunet_source("2.8.1"))
    install_ours(ours)
    script = tmp_path / "script.py"
    ask = f"    print(multiprocessing.get_context('{method}').Pool(1).apply(trainer))\n"
    script.write_text(LOOK_UP + "import multiprocessing\nif __name__ == '__main__':\n" + ask)
    assert call(environment.python, script).split() == [TRAINERS]


def test_without_the_hook_the_external_folder_serves_trainers(environment: Environment, wheel: Path, nnunet_source) -> None:
    environment.install(nnunet_source("2.8.1"))
    environment.install(wheel)
    folder = call(environment.python, environment.command, "trainers-path").strip()
    find = """
import pickle
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
first, second = find("nnUNetTrainerDINOv3Tiny"), find("nnUNetTrainerDINOv3Tiny")
print(first.__module__, first is second, pickle.loads(pickle.dumps(first)) is first)
"""
    assert environment.run(find, nnUNet_dino_hook="0", nnUNet_extTrainer=folder)[-3:] == [TRAINERS, "True", "True"]


def test_doctor_agrees(environment: Environment, wheel: Path, nnunet_source, tmp_path: Path) -> None:
    environment.install(nnunet_source("2.7.0"))
    environment.install(wheel)
    settings = {"PATH": f"{environment.scripts}{os.pathsep}{os.environ['PATH']}"}
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        settings[name] = str(tmp_path / name)
    report = call(environment.python, environment.command, "doctor", **settings)
    assert "nnunetv2 2.7.0" in report
    assert "nnUNetv2_train finds our trainers · by the start-up hook" in report
    assert "Training can start" in report
    without = {**os.environ, **settings, "nnUNet_dino_hook": "0"}
    done = subprocess.run([environment.python, environment.command, "doctor"], capture_output=True, text=True, env=without)
    assert done.returncode == 1
    assert "nnUNet_dino_hook=0 switches the start-up hook off" in done.stdout


@pytest.mark.parametrize("ours", ["wheel", "editable"])
def test_start_up_files_are_installed_recorded_and_silent(ours: str, environment: Environment, install_ours) -> None:
    install_ours(ours)
    record = next(environment.site.glob("nnunet_dino-*.dist-info/RECORD")).read_text()
    for name in STARTUP_FILES:
        assert (environment.site / name).is_file()
        assert f"\n{name},sha256=" in f"\n{record}"
    done = subprocess.run([environment.python, "-c", ""], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    environment.pip("uninstall", "--quiet", "--yes", "nnunet-dino")
    assert environment.files() == environment.before


def test_start_up_costs_less_than_a_millisecond(environment: Environment, wheel: Path) -> None:
    environment.install(wheel)
    code = """
import sys, time
def seconds():
    start = time.perf_counter()
    import _nnunet_dino_boot
    _nnunet_dino_boot.register()
    spent = time.perf_counter() - start
    del sys.modules["_nnunet_dino_boot"]
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "NnunetDinoFinder"]
    return spent
del sys.modules["_nnunet_dino_boot"]
print(min(seconds() for _ in range(50)))
"""
    assert float(environment.run(code)[-1]) < 1e-3


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, checkout: Path, tmp_path: Path) -> None:
    build = "import os, sys; os.chdir(sys.argv[1]); from setuptools import build_meta; build_meta.build_sdist(sys.argv[2])"
    call(sys.executable, "-c", build, checkout, tmp_path)
    sdist = next(tmp_path.glob("nnunet_dino-*.tar.gz"))
    call(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, sdist)
    with zipfile.ZipFile(wheel) as direct, zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as through_sdist:
        assert set(through_sdist.namelist()) == set(direct.namelist())
