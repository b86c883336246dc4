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
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from stock import FOLDERS, PHANTOM, SHAPE, write_phantoms
from zygote import Zygote

from nnunet_dino.demo.dataset import FILE_ENDING

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
STARTUP_FILES = ("_nnunet_dino_boot.py", "nnunet_dino.pth", "nnunet_dino.start")
DISTUTILS = "distutils-precedence.pth"  # nnU-Net before 2.8.1 needs distutils, which Python 3.12 has from setuptools only
TRAINERS, PLANNERS = "nnunet_dino.trainers", "nnunet_dino.planners"


@dataclass(frozen=True)
class Case:
    """One environment. All versions with all kinds of installation of both packages, in pairs."""

    nnunet: str
    nnunet_is: str
    ours_is: str
    start_method: str

    def __str__(self) -> str:
        return f"{self.nnunet}-{self.nnunet_is}-{self.ours_is}"


CASES = (
    Case("2.7.0", "normal", "wheel", "spawn"),
    Case("2.7.0", "editable", "editable", "fork"),
    Case("2.8.0", "normal", "editable", "fork"),
    Case("2.8.0", "editable", "wheel", "fork"),
    Case("2.8.1", "normal", "editable", "fork"),
    Case("2.8.1", "editable", "wheel", "forkserver"),
)
TRAINED = [case for case in CASES if case.nnunet_is == "normal" and case.nnunet != "2.8.1"]

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
EXTENDED = "print(hasattr(recursive_find_python_class, 'extended_by_nnunet_dino'))"


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
        of_setuptools = Path(sysconfig.get_paths()["purelib"], DISTUTILS)
        shim = of_setuptools.read_text() if of_setuptools.exists() else ""
        (self.site / "lent.pth").write_text(f"{lent}\n{shim}\n")
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
    left = checkout / "build" / "lib" / "nnunet_dino" / "nnunet" / "discovery" / "ext_trainer" / "of_an_earlier_version.py"
    left.parent.mkdir(parents=True)
    left.touch()
    call(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, checkout)
    return next(folder.glob("nnunet_dino-*.whl"))


@pytest.fixture(scope="session")
def nnunet_source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
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


@pytest.fixture(scope="module")
def install(
    tmp_path_factory: pytest.TempPathFactory,
    lent: Path,
    nnunet_source: Callable[[str], Path],
    checkout: Path,
    wheel: Path,
) -> Callable[[Case], Environment]:
    """Returns a function that installs nnU-Net and, after it, this package into an environment, once for each case."""

    @cache
    def install(case: Case) -> Environment:
        folder = tmp_path_factory.mktemp(str(case))
        environment = Environment(folder / "environment", lent)
        environment.install(*(["-e"] if case.nnunet_is == "editable" else []), nnunet_source(case.nnunet))
        environment.before = environment.files()
        ours = ["-e", shutil.copytree(checkout, folder / "checkout")] if case.ours_is == "editable" else [wheel]
        environment.install(*ours)
        return environment

    return install


@pytest.fixture
def installed(request: pytest.FixtureRequest, install: Callable[[Case], Environment]) -> Environment:
    return install(request.param)


everywhere = pytest.mark.parametrize(
    ("installed", "case"), [(case, case) for case in CASES], indirect=["installed"], ids=map(str, CASES)
)


@everywhere
def test_start_up_files_are_installed_recorded_and_silent(installed: Environment, case: Case) -> None:
    record = next(installed.site.glob("nnunet_dino-*.dist-info/RECORD")).read_text()
    for name in STARTUP_FILES:
        assert (installed.site / name).is_file()
        assert f"\n{name},sha256=" in f"\n{record}"
    added = "import sys; print(*(name for name in sys.modules if 'nnunet' in name))"
    done = subprocess.run([installed.python, "-c", added], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert {name for name in done.stdout.split() if not name.startswith("__editable__")} == {"_nnunet_dino_boot"}
    boot = installed.site / "_nnunet_dino_boot.py"
    away = boot.rename(boot.with_suffix(".away"))
    done = subprocess.run([installed.python, "-B", "-c", ""], capture_output=True, text=True)
    away.rename(boot)
    assert (done.returncode, done.stderr) == (0, ""), "half an uninstall is silent too"


@everywhere
def test_stock_look_up_finds_our_classes_in_workers_too(installed: Environment, case: Case, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    ask = f"""
if __name__ == '__main__':
    import multiprocessing
    print(trainer(), planner(), multiprocessing.get_context('{case.start_method}').Pool(1).apply(trainer))
"""
    script.write_text(LOOK_UP + ask)
    printed = [line.split() for line in call(installed.python, script).splitlines()]  # workers print when they like
    assert [TRAINERS, PLANNERS, TRAINERS] in printed


@pytest.mark.parametrize("installed", [CASES[-1]], indirect=True, ids=str)
def test_without_the_hook_the_external_folder_serves_trainers(installed: Environment) -> None:
    assert installed.run(LOOK_UP + EXTENDED, nnUNet_dino_hook="0") == ["False"]
    folder = call(installed.python, installed.command, "trainers-path").strip()
    find = """
import pickle
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
first, second = find("nnUNetTrainerDINOv3Tiny"), find("nnUNetTrainerDINOv3Tiny")
print(first.__module__, first is second, pickle.loads(pickle.dumps(first)) is first)
"""
    assert installed.run(find, nnUNet_dino_hook="0", nnUNet_extTrainer=folder)[-3:] == [TRAINERS, "True", "True"]


@pytest.mark.parametrize("installed", [CASES[0]], indirect=True, ids=str)
def test_doctor_agrees(installed: Environment, tmp_path: Path) -> None:
    settings = {"PATH": f"{installed.scripts}{os.pathsep}{os.environ['PATH']}"}
    for name in FOLDERS:
        (tmp_path / name).mkdir()
        settings[name] = str(tmp_path / name)
    report = call(installed.python, installed.command, "doctor", **settings)
    assert "nnunetv2 2.7.0" in report
    assert "nnUNetv2_train finds our trainers · by the start-up hook" in report
    assert "Training can start" in report


@pytest.mark.parametrize("installed", TRAINED, indirect=True, ids=str)
def test_stock_commands_plan_train_and_predict(installed: Environment, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Older nnU-Net knows no folder for trainers but its own, so the short trainer is put there.

    The commands run in forks of one process of the environment, which found our classes by the start-up hook.
    """
    shutil.copy(ROOT / "tests" / "trainers" / "smoke.py", installed.site / "nnunetv2" / "training" / "nnUNetTrainer")
    env = {name: str(tmp_path / name) for name in FOLDERS} | {
        "nnUNet_compile": "f",
        "nnUNet_def_n_proc": "1",  # every worker imports torch again
        "MPLBACKEND": "Agg",
    }
    raw = tmp_path / "nnUNet_raw" / PHANTOM
    write_phantoms(raw)
    zygote = Zygote(installed.python, **env)  # nnU-Net 2.7 reads its folders when it is imported
    request.addfinalizer(zygote.close)

    def run(command: str, *args: object, **further: str) -> None:
        code, said = zygote.run([command, *map(str, args)], {**os.environ, **env, **further}, timeout_seconds=900)
        assert code == 0, said

    model = ("-p", "nnUNetDINOv3TinyPlans", "-tr", "nnUNetTrainerDINOv3TinySmoke", "-device", "cpu")
    plan = ("-d", 801, "-c", "3d_fullres", "-pl", "nnUNetPlannerDINOv3Tiny", "-np", 1, "-npfp", 1)
    run("nnUNetv2_plan_and_preprocess", *plan)
    run("nnUNetv2_train", 801, "3d_fullres", 0, *model, nnUNet_n_proc_DA="0")
    output = tmp_path / "predictions"
    files = ("-i", raw / "imagesTs", "-o", output, "-npp", 0, "-nps", 0)
    run("nnUNetv2_predict", "-d", 801, "-c", "3d_fullres", "-f", 0, *files, *model)
    predicted = sorted(output.glob(f"*{FILE_ENDING}"))
    assert [path.name for path in predicted] == [path.name for path in sorted((raw / "labelsTs").glob("*"))]
    for path in predicted:
        assert read_labels(path).shape == SHAPE


def read_labels(path: Path) -> np.ndarray:
    import SimpleITK

    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path))


@everywhere
def test_uninstalling_leaves_no_file(installed: Environment, case: Case) -> None:
    """The last test of an environment."""
    (installed.site / "nnunetv2" / "training" / "nnUNetTrainer" / "smoke.py").unlink(missing_ok=True)
    installed.pip("uninstall", "--quiet", "--yes", "nnunet-dino")
    assert installed.files() == installed.before
    assert installed.run(LOOK_UP + EXTENDED) == ["False"]


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, checkout: Path, tmp_path: Path) -> None:
    build = "import os, sys; os.chdir(sys.argv[1]); from setuptools import build_meta; build_meta.build_sdist(sys.argv[2])"
    call(sys.executable, "-c", build, checkout, tmp_path)
    sdist = next(tmp_path.glob("nnunet_dino-*.tar.gz"))
    call(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, sdist)
    with zipfile.ZipFile(wheel) as direct, zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as through_sdist:
        assert set(through_sdist.namelist()) == set(direct.namelist())
