"""What the doctor finds.

Rule: a finding says what it looked at and, unless all is well, what is wrong, why it matters and how to mend it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """Fit for development, or worth a look."""
    WRONG = "wrong"
    """A promise can't be kept."""


class Finding(NamedTuple):
    subject: str
    verdict: Verdict
    detail: str

    def __str__(self) -> str:
        return f"{self.verdict:8}{self.subject}: {self.detail}"


def judge(subject: str, good: bool, fine: str, otherwise: str, *, bad: Verdict = Verdict.WRONG) -> Finding:  # noqa: FBT001 - the fact itself
    """``fine`` when it is good; else ``otherwise``, as bad as ``bad``."""
    return Finding(subject, Verdict.OK, fine) if good else Finding(subject, bad, otherwise)
