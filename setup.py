"""Build script: maps ``trainers`` and ``planners`` into the package and adds the start-up hook to every kind of wheel.

Everything else is declared in ``pyproject.toml``.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import zipfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).parent
BOOT = "_nnunet_dino_boot"

# What lies beside the package at the top of site-packages. Python reads `.pth` up to 3.17 and `.start` (PEP 829) from 3.15 on.
STARTUP_FILES = {
    f"{BOOT}.py": (ROOT / "nnunet_dino" / "nnunet" / "discovery" / "boot.py").read_text(encoding="utf-8"),
    # One line, as Python wants it; silent where half an uninstall took the module away.
    "nnunet_dino.pth": f"import sys; exec('try:\\n import {BOOT}\\nexcept ImportError: pass\\nelse: {BOOT}.register()')\n",
    "nnunet_dino.start": f"{BOOT}:register\n",
}


class BuildPyWithHook(build_py):
    """Adds the start-up files to a normal build."""

    def run(self) -> None:
        if not self.editable_mode:  # a build folder left from an earlier version would be packed with this one
            shutil.rmtree(Path(self.build_lib, "nnunet_dino"), ignore_errors=True)
        super().run()
        if self.editable_mode:
            return
        for name, text in STARTUP_FILES.items():
            Path(self.build_lib, name).write_text(text, encoding="utf-8", newline="\n")

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        outputs = super().get_outputs(include_bytecode)
        return outputs if self.editable_mode else outputs + [str(Path(self.build_lib, name)) for name in STARTUP_FILES]


class EditableWheelWithHook(editable_wheel):
    """Adds the start-up files to the wheel of ``pip install -e .``, which takes nothing from the build folder."""

    def run(self) -> None:
        super().run()
        for wheel in Path(self.dist_dir).glob("nnunet_dino-*editable*.whl"):
            add_to_wheel(wheel, STARTUP_FILES)


def add_to_wheel(wheel: Path, files: dict[str, str]) -> None:
    """Rewrites ``wheel`` with ``files`` at its top and in its ``RECORD``, so that uninstalling removes them."""
    with zipfile.ZipFile(wheel) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    record = next(name for name in content if name.endswith(".dist-info/RECORD"))
    lines = content.pop(record).decode("utf-8").splitlines()
    for name, text in files.items():
        data = text.encode("utf-8")
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode("ascii").rstrip("=")
        lines.insert(0, f"{name},sha256={digest},{len(data)}")
        content[name] = data
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
        archive.writestr(record, "\n".join(lines) + "\n")


setup(
    packages=[*find_packages(include=["nnunet_dino", "nnunet_dino.*"]), "nnunet_dino.trainers", "nnunet_dino.planners"],
    package_dir={"nnunet_dino.trainers": "trainers", "nnunet_dino.planners": "planners"},
    package_data={
        "nnunet_dino.nnunet.discovery": ["ext_trainer/*.py"],
        "nnunet_dino.reports": ["page.html"],
        "nnunet_dino.study": ["Snakefile", "profiles/*/config.yaml"],
    },
    cmdclass={"build_py": BuildPyWithHook, "editable_wheel": EditableWheelWithHook},
)
