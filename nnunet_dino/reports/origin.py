"""By what, when and with which versions a report was made."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from collections.abc import Sequence


def origin(command: str | None, packages: Sequence[str]) -> list[tuple[str, str]]:
    """Returns names and texts: the command line if known, the time, and the versions of those packages that are installed."""
    versions = [f"Python {platform.python_version()}"]
    for package in packages:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    now = datetime.datetime.now(datetime.timezone.utc)
    made = [("Made on", now.strftime("%d %B %Y, %H:%M UTC")), ("Versions", ", ".join(versions))]
    return [*([("Command", command)] if command else []), *made]
