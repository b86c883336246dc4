"""Writing a report into a folder, without touching files that are not its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nnunet_dino import __version__
from nnunet_dino._errors import UserError


@dataclass(frozen=True)
class ReportFolder:
    """A folder for a report.

    Files of an earlier report that nobody changed since are replaced; any other file is left alone.

    Attributes:
        path: Where; made if needed.
        verb: The verb of ``nnunet-dino`` that writes here; it names the record of what was written.
        names: Files that every report of this verb writes.
        overwrite: Also replace files of the same names that an earlier report did not write, or that were changed since.
    """

    path: Path
    verb: str
    names: tuple[str, ...]
    overwrite: bool = False

    @property
    def record(self) -> Path:
        return self.path / f"nnunet_dino_{self.verb}.json"

    def check(self) -> None:
        """Finds out whether a report can be written, before anything is computed.

        Raises:
            UserError: A file is in the way, or the folder cannot be written to.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"a folder for the report required · got the file {self.path} · give another one with -o")
        parent = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        try:
            with tempfile.TemporaryFile(dir=parent):
                pass
        except OSError as error:
            raise self._unwritable(error) from error
        self._refuse_foreign([*self.names, *self._recorded()])

    def write(self, files: dict[str, bytes]) -> None:
        """Writes all files of a report, and removes those of the earlier one that are no longer part of it.

        Args:
            files: Content by path within the folder.

        Raises:
            UserError: A file of the same name is in the way, or the folder cannot be written to.
        """
        self._refuse_foreign(files)
        try:
            self._replace(files)
        except OSError as error:
            raise self._unwritable(error) from error

    def _recorded(self) -> dict[str, str]:
        """Returns names and digests of the files that an earlier report wrote."""
        try:
            files = json.loads(self.record.read_text(encoding="utf-8"))["files"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        own = files if isinstance(files, dict) else {}
        return {name: digest for name, digest in own.items() if not os.path.isabs(name) and ".." not in Path(name).parts}

    def _refuse_foreign(self, names: Iterable[str]) -> None:
        if self.overwrite:
            return
        recorded = self._recorded()
        for name in names:
            file = self.path / name
            if not file.exists():
                continue
            if name not in recorded:
                raise UserError(
                    f"a folder without other files of the report's names required · got {file}, which no earlier report wrote "
                    "· give another folder with -o, or replace it with --overwrite"
                )
            if _digest(file.read_bytes()) != recorded[name]:
                raise UserError(
                    f"an unchanged earlier report required · got {file}, which was changed since · keep it by giving another "
                    "folder with -o, or replace it with --overwrite"
                )

    def _replace(self, files: dict[str, bytes]) -> None:
        """Writes all files beside their places first, so that a full disk leaves the earlier report as it was."""
        stale = set(self._recorded()) - set(files)
        self.path.mkdir(parents=True, exist_ok=True)
        digests = {name: _digest(files[name]) for name in sorted(files)}
        record = {"made_by": f"nnunet-dino {self.verb} {__version__}", "files": digests}
        written = files | {self.record.name: (json.dumps(record, indent=1) + "\n").encode("utf-8")}
        scratch = Path(tempfile.mkdtemp(prefix=".report-", dir=self.path))
        try:
            for name, content in written.items():
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                (scratch / name).write_bytes(content)
            for name in written:
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(scratch / name, self.path / name)
            for name in stale:
                (self.path / name).unlink(missing_ok=True)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f"a folder that can be written to required · got {self.path}: {error.strerror or error} · give another one with "
            "-o, or free space"
        )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
