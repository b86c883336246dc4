"""Snakemake, started on a study."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_dino._errors import UserError
from nnunet_dino._files import claim_for_life, is_claimed

PROFILES = Path(__file__).parent / "profiles"
LOCK = "locks/run"


def require_snakemake() -> None:
    """Finds out whether Snakemake is installed.

    Raises:
        UserError: It is not.
    """
    if importlib.util.find_spec("snakemake") is None:
        raise UserError("required Snakemake · got none in this Python · run: pip install 'nnunet-dino[study]'")


def run_snakemake(folder: Path, snakefile: Path, profile: str, cores: int, dry_run: bool, more: Sequence[str]) -> None:
    """Becomes Snakemake at work on a study.

    Args:
        folder: Of the study.
        snakefile: The rules.
        profile: ``local``, ``slurm``, or a folder with Snakemake's ``config.yaml``.
        cores: How many this machine gives; a cluster has its own limits.
        dry_run: Only say what would be done.
        more: Further options of Snakemake.

    Raises:
        UserError: No Snakemake, no such profile, or another run is at work.
    """
    require_snakemake()
    chosen = PROFILES / profile if (PROFILES / profile).is_dir() else Path(profile)
    if not (chosen / "config.yaml").is_file():
        raise UserError(f"--profile: required local, slurm or a folder with config.yaml · got {profile!r} · correct it")
    lock = folder / LOCK
    if not dry_run:
        if is_claimed(lock):
            raise UserError(f"required no other run at work in {folder} · got one that holds {lock} · wait for it, or end it")
        claim_for_life(lock)
    words = [sys.executable, "-m", "snakemake", "-s", str(snakefile), "-d", str(folder), "--workflow-profile", str(chosen)]
    words += ["--cores", str(cores), *(["--dry-run", "--quiet", "rules"] if dry_run else []), *more]
    path = os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()])
    sys.stdout.flush()
    os.execve(sys.executable, words, {**os.environ, "PATH": path})
