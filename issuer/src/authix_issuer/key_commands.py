"""``authix-issuer keys``: the signing keys by hand.

Rule: it changes what the running issuers share and ends; they take it up by themselves. Exit code 1 and a sentence when
something could not be done.
"""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from authix.settings import add_flags
from authix_issuer.audit import Caller
from authix_issuer.console import fail, say_table
from authix_issuer.errors import IssuerError
from authix_issuer.key_ring import KeyState
from authix_issuer.live_keys import KeyReport, LiveKeys
from authix_issuer.settings import IssuerSettings
from authix_issuer.wiring import open_issuer

_CALLER: Final = Caller(actor="cli")
_HEAD: Final = ("KEY", "ALGORITHM", "STATE", "SINCE", "UNTIL")


def add_commands(parser: ArgumentParser) -> None:
    """Give ``parser`` the commands ``list``, ``rotate`` and ``revoke``."""
    commands = parser.add_subparsers(dest="keys_command", required=True)
    listing = commands.add_parser("list", help="every key, its state, and until when it keeps it")
    rotating = commands.add_parser("rotate", help="let the next key sign, as soon as verifiers know it")
    rotating.add_argument(
        "--now", action="store_true", help="do not wait: verifiers may refuse new tokens until they fetch the key"
    )
    revoking = commands.add_parser("revoke", help="withdraw a key: its tokens are refused everywhere, at once")
    revoking.add_argument("key_id", metavar="KEY")
    for command in (listing, rotating, revoking):
        add_flags(command, IssuerSettings)


def run(settings: IssuerSettings, options: Namespace) -> int:
    """Returns the exit code. Raises ``SettingsError``."""
    return asyncio.run(_run(settings, options))


async def _run(settings: IssuerSettings, options: Namespace) -> int:
    async with open_issuer(settings) as issuer:
        try:
            return await _do(issuer.keys, options)
        except IssuerError as error:
            return fail(error.reason)


async def _do(keys: LiveKeys, options: Namespace) -> int:
    match options.keys_command:
        case "rotate":
            _say([await keys.rotate(_CALLER, now=options.now)])
        case "revoke":
            report = await keys.revoke(options.key_id, _CALLER)
            _say([report])
            if not report.announced:
                return fail(
                    "the key is revoked, but the session store does not answer: the issuers announce it when it does"
                )
        case _:
            _say(await keys.list())
    return 0


def _say(reports: Iterable[KeyReport]) -> None:
    say_table(_HEAD, map(_row, reports))


def _row(report: KeyReport) -> tuple[str, ...]:
    state = report.state.value
    if report.state is KeyState.REVOKED and not report.announced:
        state += ", to be announced"
    return report.id, report.algorithm, state, _moment(report.since_us), _moment(report.until_us)


def _moment(at_us: int) -> str:
    return datetime.fromtimestamp(at_us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at_us else "-"
