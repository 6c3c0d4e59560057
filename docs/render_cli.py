"""Renders docs/cli.md from the three programs' own parsers: ``make docs``. A test holds the page against them.

Rule: flags that are settings stand on the settings' page, everything else here.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import authix.__main__ as sdk
from authix.verifier_settings import VerifierSettings
from authix_issuer import cli as issuer
from authix_issuer.settings import IssuerSettings
from authix_sidecar import cli as sidecar
from authix_sidecar.settings import SidecarSettings

PAGE = Path(__file__).parent / "cli.md"
SETTINGS = (IssuerSettings, VerifierSettings, SidecarSettings)

HEAD = """# The command line

<!-- Written by docs/render_cli.py (`make docs`). -->

Three programs. Each takes its settings from the environment, from files (`NAME_FILE`) or as flags: `AUTHIX_ACCESS_TTL`
is `--access-ttl`. [Settings](settings.md) lists them; secrets have no flag. `[SETTING]…` below stands for those flags.
`--help` says the same on the terminal.

Exit codes: 0 done, or yes; 1 it could not be done, or no; 2 a setting, a flag or a policy file is wrong, with a sentence
for each problem on standard error.
"""


class _Found(Exception):
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def parser_of(main: Callable[[list[str]], int]) -> argparse.ArgumentParser:
    """The parser that the program reads its command line with, at the moment when it does."""

    def stop(parser: argparse.ArgumentParser, *_: object) -> None:
        raise _Found(parser)

    with mock.patch.object(argparse.ArgumentParser, "parse_args", stop):
        try:
            main([])
        except _Found as found:
            return found.parser
    raise LookupError(f"{main.__module__} reads no command line")


def render() -> str:
    return "\n".join([HEAD, *(line for main in (issuer.main, sidecar.main, sdk.main) for line in _program(main))])


def _program(main: Callable[[list[str]], int]) -> Iterator[str]:
    parser = parser_of(main)
    yield f"## {parser.prog}\n\n{parser.description}\n"
    for command, about in _commands(parser, ""):
        yield from _command(command, about)


def _commands(parser: argparse.ArgumentParser, about: str) -> Iterator[tuple[argparse.ArgumentParser, str]]:
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001 - argparse tells what a parser takes to nobody but its help
    if not below:
        yield parser, about
    for action in below:
        helps = {choice.dest: choice.help or "" for choice in action._choices_actions}  # noqa: SLF001 - as above
        for name, command in action.choices.items():
            yield from _commands(command, helps.get(name, ""))


def _command(parser: argparse.ArgumentParser, about: str) -> Iterator[str]:
    flags = {"--" + field.name.replace("_", "-") for kind in SETTINGS for field in dataclasses.fields(kind)}
    own, takes_settings = [], False
    for action in parser._actions:  # noqa: SLF001 - as above
        if isinstance(action, argparse._HelpAction):  # noqa: SLF001 - as above
            continue
        # one that is a setting elsewhere, such as --host, may be something else here
        if flags.intersection(action.option_strings) and str(action.help).startswith("AUTHIX_"):
            takes_settings = True
        else:
            own.append(action)
    usages = [_usage(action) for action in own]
    shown = " ".join([parser.prog, *usages, *(["[SETTING]…"] if takes_settings else [])])
    yield f"### `{parser.prog}`\n\n```\n{shown}\n```\n"
    more = f" {parser.description.partition(chr(10) * 2)[2]}" if parser.description else ""
    yield f"{about[:1].upper()}{about[1:]}.{more}\n"
    explained = [action for action in own if action.help]
    if explained:
        yield "| | |\n|---|---|"
        yield from (f"| `{_usage(action).strip('[]')}` | {_escaped(action)} |" for action in explained)
        yield ""


def _usage(action: argparse.Action) -> str:
    value = action.metavar if isinstance(action.metavar, str) else str(action.dest)
    if action.option_strings:
        shown = action.option_strings[-1] + ("" if action.nargs == 0 else f" {value}")
        shown += "…" if action.nargs == "*" else ""
        return shown if action.required else f"[{shown}]"
    return {"?": f"[{value}]", "*": f"[{value}]…", "+": f"{value}…"}.get(str(action.nargs), value)


def _escaped(action: argparse.Action) -> str:
    values: dict[str, Any] = {"default": action.default}
    return (str(action.help) % values).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"{PAGE} written\n")
