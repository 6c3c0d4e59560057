"""The command line: ``python -m authix explain TOKEN``.

Rule: 0 the token would be accepted, 1 it would be refused, 2 it can't be judged, or a setting is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence

from authix import Authix
from authix.errors import NotReady, SettingsError
from authix.explain import UNKNOWN_CODE, Explanation, explain
from authix.settings import add_flags, from_flags
from authix.verifier_settings import VerifierSettings

_LONGEST_INPUT = 1_000_000
_WAIT = 10.0

DESCRIPTION = """Say what a token holds, and why a verifier with these settings would accept or refuse it.

Fetches the issuer's keys and replays its feed. The token itself is sent nowhere, and its signature is not printed. An
argument stays in the shell's history and shows in the process list: give - and send the token to the standard input.
Exit code 0: accepted; 1: refused; 2: can't be judged, or a setting is missing or wrong."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m authix", description="The Authix verifier's tools.")
    commands = parser.add_subparsers(dest="command", required=True)
    explaining = commands.add_parser(
        "explain",
        help="why a token would be accepted or refused",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    explaining.add_argument("given", metavar="token", help="the token, or - to read it from the standard input")
    explaining.add_argument(
        "--wait", type=_seconds, default=_WAIT, metavar="SECONDS", help=f"for keys and feed (default: {_WAIT:.0f})"
    )
    add_flags(explaining, VerifierSettings)
    options = parser.parse_args(arguments)
    try:
        settings = from_flags(VerifierSettings, options)
        token = sys.stdin.read(_LONGEST_INPUT) if options.given == "-" else options.given
        # this is no restart of the service whose file that is
        settings = dataclasses.replace(settings, keys_cache="")
        found = asyncio.run(_explain(settings, token.strip().removeprefix("Bearer "), options.wait))
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the answer of a command line
        return UNKNOWN_CODE
    _tell("\n".join(found.lines(time.time())))
    return found.exit_code


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds such as {_WAIT:.0f}, not {value!r}")
    return seconds


def _tell(answer: str) -> None:
    try:
        print(answer, flush=True)  # noqa: T201 - the answer of a command line
    except BrokenPipeError:  # whoever reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain at its end


async def _explain(settings: VerifierSettings, token: str, wait: float) -> Explanation:
    with _troubles() as trouble:
        async with Authix(settings=settings) as auth:
            with contextlib.suppress(NotReady):
                await auth.wait_ready(wait)
            return explain(auth.verifier, token, now=time.time(), monotonic=time.monotonic(), trouble=trouble)


@contextlib.contextmanager
def _troubles() -> Iterator[dict[str, str]]:
    """What the sources said last, by their names, in place of their log."""
    logger = logging.getLogger("authix")
    handler = _Last()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield handler.said
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


class _Last(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self.said[record.name.rpartition(".")[2]] = record.getMessage()


if __name__ == "__main__":
    sys.exit(main())
