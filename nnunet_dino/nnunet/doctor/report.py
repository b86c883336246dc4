"""``nnunet-dino doctor``: what is there, what is missing, and the command that mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nnunet_dino.nnunet.doctor.checks import CHECKS
from nnunet_dino.nnunet.doctor.finding import Check, Finding


def examine(checks: dict[str, Check]) -> Iterator[tuple[str, Finding]]:
    """Runs the checks one after the other and yields each finding with the section it belongs to.

    A check that breaks becomes a warning itself; the others still run.

    Args:
        checks: Title of a section and its check.
    """
    for section, check in checks.items():
        try:
            for finding in check():
                yield section, finding
        except Exception as error:
            text = f"this check broke: {type(error).__name__}: {' '.join(str(error).split())}"
            yield section, Finding("warn", text, "report it with this whole page")


def run(say: Callable[[str], object] = print, checks: dict[str, Check] = CHECKS, work: str = "Training") -> int:
    """Prints the report line by line and returns the exit code: 1 if the work could not start, else 0.

    Args:
        say: Takes the lines.
        checks: Title of a section and its check.
        work: What could start or not.
    """
    current = ""
    found: list[Finding] = []
    for section, finding in examine(checks):
        if section != current:
            say(f"{section}")
            current = section
        say(f"  {finding.level:<5}{finding.text}")
        if finding.remedy:
            say(f"       -> {finding.remedy}")
        found.append(finding)
    failed = sum(finding.level == "FAIL" for finding in found)
    warned = sum(finding.level == "warn" for finding in found)
    verdict = f"{work} could not start: {failed} to mend" if failed else f"{work} can start"
    say(f"{verdict}, {warned} warning{'' if warned == 1 else 's'}.")
    return 1 if failed else 0
