"""``authix-issuer doctor``: look at every setting and engine, and say what would break a promise.

Rule: it looks and changes nothing but what a start would make (indexes, the topic); every engine is looked at even if
another is away; no finding holds a secret or a URL with a password.
"""

from __future__ import annotations

import asyncio
import logging
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

from authix.errors import SettingsError
from authix.settings import is_loopback
from authix_issuer.adapters import sqlite_sessions, sqlite_users
from authix_issuer.adapters.kafka_topic import KafkaTopic
from authix_issuer.adapters.mongo import examine_mongo
from authix_issuer.adapters.redis_pipeline import RedisEngine
from authix_issuer.adapters.sqlite import examine_sqlite
from authix_issuer.errors import IssuerError
from authix_issuer.findings import Finding, Verdict, judge
from authix_issuer.settings import IssuerSettings

_DISTINCT = 12  # characters below which a secret was hardly made at random
_CLOCK_SLACK = 2.0


async def examine(settings: IssuerSettings) -> AsyncIterator[Finding]:
    """Every finding, settings first."""
    for finding in _settings(settings):
        yield finding
    for engine in (_users, _sessions, _topic):
        for finding in await engine(settings):
            yield finding


def _settings(settings: IssuerSettings) -> list[Finding]:
    parts = urlsplit(settings.issuer)
    local = is_loopback(parts.hostname)
    return [
        judge(
            "AUTHIX_ISSUER",
            parts.scheme == "https" or local,
            settings.issuer,
            f"{settings.issuer} is plain http: passwords and tokens cross the network in clear. Put TLS in front.",
        ),
        judge(
            "AUTHIX_COOKIE_PROFILE",
            settings.cookie_profile == "secure" or local,
            settings.cookie_profile,
            "development, on an issuer that others reach: the refresh cookie would travel over plain http. "
            "Set AUTHIX_COOKIE_PROFILE=secure.",
        ),
        judge(
            "AUTHIX_HASH_PROFILE",
            settings.hash_profile != "cheapest",
            settings.hash_profile,
            "cheapest is for tests: a stolen database is cracked at once. Set AUTHIX_HASH_PROFILE=owasp.",
        ),
        _secret(settings),
    ]


def _secret(settings: IssuerSettings) -> Finding:
    if settings.secret:
        return judge(
            "AUTHIX_SECRET",
            len(set(settings.secret)) >= _DISTINCT,
            "set",
            "it repeats few characters, so it can be guessed, and with it the signing keys be read. Make a new one "
            "with `openssl rand -base64 32` before there are users.",
        )
    path = Path(settings.data_dir) / "secret"
    if settings.users_in_mongodb or settings.sessions_in_redis:
        return Finding(
            "AUTHIX_SECRET",
            Verdict.WRONG,
            f"not set, so each issuer would make its own in {path} and refuse the others' tokens. Set the same one "
            "everywhere, made with `openssl rand -base64 32`.",
        )
    if not path.exists():
        return Finding("AUTHIX_SECRET", Verdict.OK, f"not set; the first start makes one in {path}")
    mode = stat.S_IMODE(path.stat().st_mode)
    return judge(
        "AUTHIX_SECRET",
        mode & 0o077 == 0,
        f"kept in {path}",
        f"{path} can be read by others (mode {mode:o}). Run `chmod 600 {path}`.",
    )


async def _users(settings: IssuerSettings) -> list[Finding]:
    if settings.users_in_mongodb:
        return await examine_mongo(settings.users_url)
    return [examine_sqlite("users (SQLite)", settings.database_path("users"), sqlite_users.SCHEMA)]


async def _sessions(settings: IssuerSettings) -> list[Finding]:
    if not settings.sessions_in_redis:
        return [examine_sqlite("sessions (SQLite)", settings.database_path("sessions"), sqlite_sessions.SCHEMA)]
    try:
        async with RedisEngine(settings.sessions_url) as engine:
            ahead = time.time() - await engine.time()
            clock = judge(
                "clock",
                abs(ahead) < _CLOCK_SLACK,
                f"within {_CLOCK_SLACK:.0f} s of Redis",
                f"this host's clock is {ahead:+.1f} s off Redis'. Tokens are dated by Redis and checked by the "
                "verifiers' clocks: past their leeway good tokens are refused. Run a time service (NTP) on every host.",
                bad=Verdict.WARNING,
            )
            return [*engine.examine(), clock]
    except SettingsError as error:
        return [Finding("sessions (Redis)", Verdict.WRONG, str(error))]


async def _topic(settings: IssuerSettings) -> list[Finding]:
    if not settings.kafka:
        return [Finding("topic", Verdict.OK, "AUTHIX_KAFKA is not set; verifiers follow the HTTP feed")]
    try:
        return await KafkaTopic(settings.kafka, settings.topic, settings.kafka_options()).examine()
    except IssuerError as error:
        return [
            Finding(
                "topic (Kafka)",
                Verdict.WRONG,
                f"AUTHIX_KAFKA={settings.kafka} is not to be used: {error}. Start it, or mend the setting; logouts are "
                "kept meanwhile, and verifiers that follow Kafka go stale.",
            )
        ]


def report(settings: IssuerSettings) -> int:
    """Print a line for each finding; 0 unless one of them is wrong."""
    logging.disable()  # the findings say it all

    async def run() -> int:
        worst = 0
        async for finding in examine(settings):
            print(finding, flush=True)  # noqa: T201 - the answer of a command line
            worst = max(worst, int(finding.verdict is Verdict.WRONG))
        return worst

    return asyncio.run(run())
