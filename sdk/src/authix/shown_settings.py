"""``config`` of a program: the settings in force, where each comes from, and what is wrong with them.

Rule: a secret's value is never shown, only that there is one and where it stands.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from typing import Any

import msgspec

from authix.errors import SettingsError
from authix.settings import Effective, add_flags, effective, from_flags

_HIDDEN = "(secret)"


def add_command(parser: ArgumentParser, cls: type[Any]) -> None:
    """Give ``parser`` what ``report`` understands."""
    add_flags(parser, cls)
    parser.add_argument("--json", action="store_true", dest="as_json", help="as JSON, for programs")


def report(cls: type[Any], options: Namespace) -> int:
    """Print every setting; 2, and one sentence for each problem, where a start would fail."""
    shown = effective(cls, options)
    print(_json(shown) if options.as_json else _table(shown))  # noqa: T201 - the answer of a command line
    try:
        from_flags(cls, options, whole=True)
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the answer of a command line
        return 2
    return 0


def _json(shown: list[Effective]) -> str:
    return msgspec.json.format(
        msgspec.json.encode(
            [
                {"name": found.name, "value": None if found.secret else found.value, "source": found.source}
                for found in shown
            ]
        )
    ).decode()


def _table(shown: list[Effective]) -> str:
    lines = [(f"{found.name}={_HIDDEN if _is_hidden(found) else found.value}", found.source) for found in shown]
    width = min(60, max(len(line) for line, _ in lines))
    return "\n".join(f"{line:<{width}}  {source}" for line, source in lines)


def _is_hidden(found: Effective) -> bool:
    return found.secret and found.source not in {"default", "missing"}
