"""What the commands of the command line answer.

Rule: the answer goes to standard output, why there is none to standard error, in a sentence.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence


def say(line: str) -> None:
    print(line)  # noqa: T201 - the answer of a command line


def say_aside(line: str) -> None:
    """To whoever waits for the answer."""
    print(line, file=sys.stderr)  # noqa: T201 - a command line's progress and its failures


def fail(reason: str) -> int:
    """Say why it could not be done; returns the exit code."""
    say_aside(f"{reason[:1].upper()}{reason[1:].rstrip('.')}.")
    return 1


def say_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """In columns as wide as their widest cell."""
    table = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        say("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
