"""The issuer's settings.

Rule: every one has a name in the environment, a flag unless it is secret, and a sentence that says how to mend it.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from typing import Self
from urllib.parse import urlsplit

import limits

from authix.events import MAX_TOKEN_LIFE
from authix.kafka_settings import KafkaSecurity, kafka_servers
from authix.keys import ALGORITHMS, AlgorithmName
from authix.program_settings import ProgramSettings
from authix.settings import (
    choice,
    file_to_be,
    is_loopback,
    networks,
    secret_text,
    setting,
    shown,
    text,
    url,
    whole_number,
)
from authix_issuer.addresses import FORWARDED, X_FORWARDED_FOR, Kept
from authix_issuer.audit import OFF, STDERR, STDOUT
from authix_issuer.grants import role_name
from authix_issuer.hashing import PROFILES, hash_parameters
from authix_issuer.key_ring import MAX_AHEAD
from authix_issuer.origins import origin_of
from authix_issuer.passwords import words_of

SQLITE = "sqlite:///"
MONGODB = ("mongodb://", "mongodb+srv://")
REDIS = ("redis://", "rediss://")
REDIS_GRACE = 5
"""The least grace, in seconds, with sessions in Redis: longer than a step may take, its repetition included."""
UNLIMITED = "off"
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


def store_url(*schemes: str) -> Callable[[str], str]:
    """A URL of SQLite or of one of ``schemes``; it may hold a password, so no error repeats it."""

    def parse(value: str) -> str:
        if (value.startswith(SQLITE) and value != SQLITE) or value.startswith(schemes):
            return value
        raise ValueError(
            f"must begin with {', '.join(schemes)} or be one such as sqlite:///relative.db or sqlite:////absolute.db"
        )

    return parse


def topic_name(value: str) -> str:
    if _TOPIC.fullmatch(value) is None:
        raise ValueError(f"must be a topic name of letters, digits, '.', '_' and '-', not {value!r}")
    return value


def hash_profile(value: str) -> str:
    hash_parameters(value)
    return value


def blocked_words(value: str) -> frozenset[str]:
    words = [word.strip() for word in value.split(",")]
    if any(not words_of(word) for word in words):
        raise ValueError("must be words of at least 4 letters or digits with commas between, such as acme,rocketskates")
    return words_of(*words)


def audit_target(value: str) -> str:
    if value in {STDOUT, OFF}:
        return value
    if os.sep not in value:  # "none" or "stderr" would quietly be a file of that name
        raise ValueError(f"must be {STDOUT}, {OFF} or a path such as /var/log/authix/audit.log, not {value!r}")
    return file_to_be(value)


def origins(value: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in value.split(","))
    try:
        good = value.isascii() and all(urlsplit(url(part)).path == "" for part in parts)
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"must be origins such as https://app.example.com, comma-separated, not {shown(value)}")
    return tuple(map(origin_of, parts))


def rate(value: str) -> str:
    if value == UNLIMITED:
        return value
    try:
        amounts = [found.amount for found in limits.parse_many(value)]
    except ValueError:
        amounts = []
    if len(amounts) != 1 or not amounts[0]:
        raise ValueError(f"must be one rate such as 60/minute, 1000/day or 5 per 10 seconds, or off, not {value!r}")
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class IssuerSettings(ProgramSettings, KafkaSecurity):
    """What an issuer must know."""

    issuer: str = setting("AUTHIX_ISSUER", url, "this issuer's URL, as clients and verifiers reach it")
    audience: str = setting("AUTHIX_AUDIENCE", text, "the audience that access tokens are for")
    port: int = setting("AUTHIX_PORT", whole_number(0, 65535), "the port to listen on", default=8000)
    workers: int = setting(
        "AUTHIX_WORKERS", whole_number(1, 64), "worker processes; more than one needs MongoDB and Redis", default=1
    )
    metrics_host: str = setting("AUTHIX_METRICS_HOST", text, "the address of the port for metrics", default="127.0.0.1")
    metrics_port: int = setting(
        "AUTHIX_METRICS_PORT",
        whole_number(0, 65535),
        "the port on which /metrics is served, without a token; 0: none",
        default=0,
    )
    data_dir: str = setting("AUTHIX_DATA_DIR", text, "the folder of the embedded stores", default="authix-data")
    users_url: str = setting(
        "AUTHIX_USERS_URL", store_url(*MONGODB), "where users and keys live", default="", secret=True
    )
    sessions_url: str = setting(
        "AUTHIX_SESSIONS_URL", store_url(*REDIS), "where sessions live", default="", secret=True
    )
    kafka: str = setting("AUTHIX_KAFKA", kafka_servers, "the Kafka servers of the logout topic", default="")
    topic: str = setting("AUTHIX_TOPIC", topic_name, "the logout topic", default="authix.logout")
    secret: str = setting("AUTHIX_SECRET", secret_text, "the master secret", default="", secret=True)
    secret_previous: str = setting(
        "AUTHIX_SECRET_PREVIOUS",
        secret_text,
        "another master secret, which is read but not written with while the two are exchanged",
        default="",
        secret=True,
    )
    feed_token: str = setting("AUTHIX_FEED_TOKEN", secret_text, "the feed's bearer token", default="", secret=True)
    introspection_token: str = setting(
        "AUTHIX_INTROSPECTION_TOKEN",
        secret_text,
        "what services show at /introspect, as a bearer token or as a client's secret; without it there is none",
        default="",
        secret=True,
    )
    algorithm: AlgorithmName = setting(
        "AUTHIX_ALGORITHM", choice(*ALGORITHMS), "ES256, EdDSA or RS256", default="ES256"
    )
    key_life: int = setting(
        "AUTHIX_KEY_LIFE", whole_number(1, 315_360_000), "seconds for which a key signs", default=7_776_000
    )
    key_notice: int = setting(
        "AUTHIX_KEY_NOTICE",
        whole_number(3, 2_592_000),
        "seconds for which a key is published before it signs",
        default=900,
    )
    hash_profile: str = setting(
        "AUTHIX_HASH_PROFILE",
        hash_profile,
        f"one of {', '.join(PROFILES)}, or numbers such as m=19456,t=2,p=1 (see `authix-issuer hash calibrate`)",
        default="owasp",
    )
    hash_threads: int = setting(
        "AUTHIX_HASH_THREADS", whole_number(1, 256), "threads that hash passwords", default=os.cpu_count() or 1
    )
    hash_queue: int = setting(
        "AUTHIX_HASH_QUEUE", whole_number(1, 100_000), "passwords that may wait to be hashed", default=128
    )
    password_min_length: int = setting(
        "AUTHIX_PASSWORD_MIN_LENGTH", whole_number(8, 64), "the shortest password, in characters", default=15
    )
    blocked_words: frozenset[str] = setting(
        "AUTHIX_BLOCKED_WORDS",
        blocked_words,
        "what else a password must not be made of, comma-separated, such as the names of company and products; those "
        "in AUTHIX_ISSUER and AUTHIX_AUDIENCE count by themselves",
        default=frozenset(),
    )
    access_ttl: int = setting(
        "AUTHIX_ACCESS_TTL", whole_number(10, MAX_TOKEN_LIFE), "the life of an access token in seconds", default=300
    )
    refresh_ttl: int = setting(
        "AUTHIX_REFRESH_TTL", whole_number(60, 31_536_000), "the life of a session in seconds", default=2_419_200
    )
    session_idle: int = setting(
        "AUTHIX_SESSION_IDLE",
        whole_number(0, 31_536_000),
        "seconds after which a session ends that nobody refreshes; 0 for no such limit",
        default=0,
    )
    max_sessions: int = setting(
        "AUTHIX_MAX_SESSIONS",
        whole_number(0, 1000),
        "sessions that one user may have; the oldest ends for a new one; 0 for no limit",
        default=100,
    )
    refresh_grace: int = setting(
        "AUTHIX_REFRESH_GRACE", whole_number(0, 300), "seconds in which a refresh may be repeated", default=10
    )
    session_address: str = setting(
        "AUTHIX_SESSION_ADDRESS",
        choice(*Kept),
        "how much of a client's address a session keeps for its user to see: full, network or none",
        default="full",
    )
    admin_role: str = setting(
        "AUTHIX_ADMIN_ROLE", role_name, "the role that opens the administration", default="authix-admin"
    )
    trusted_proxies: tuple[str, ...] = setting(
        "AUTHIX_TRUSTED_PROXIES",
        networks,
        "the addresses or networks of the proxies that are believed about the client's address",
        default=(),
    )
    forwarded_by: str = setting(
        "AUTHIX_FORWARDED_BY",
        choice(X_FORWARDED_FOR, FORWARDED),
        f"the one field in which those proxies name the client: {X_FORWARDED_FOR} or {FORWARDED}",
        default=X_FORWARDED_FOR,
    )
    origins: tuple[str, ...] = setting(
        "AUTHIX_ORIGINS", origins, "other origins whose pages may use this issuer, on the same site", default=()
    )
    limit_logins: str = setting(
        "AUTHIX_LIMIT_LOGINS", rate, "logins from one address, such as 60/minute, or off", default="60/minute"
    )
    limit_registrations: str = setting(
        "AUTHIX_LIMIT_REGISTRATIONS", rate, "registrations from one address, or off", default="60/hour"
    )
    login_max_delay: int = setting(
        "AUTHIX_LOGIN_MAX_DELAY",
        whole_number(0, 3600),
        "the longest delay, in seconds, after wrong passwords for one account; 0 for none",
        default=900,
    )
    cookie_profile: str = setting(
        "AUTHIX_COOKIE_PROFILE",
        choice("secure", "development"),
        "secure, or development for plain http on this machine",
        default="secure",
    )
    audit: str = setting("AUTHIX_AUDIT", audit_target, "stdout, off or the path of the audit log", default=STDOUT)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers > 1 and not (self.users_in_mongodb and self.sessions_in_redis):
            raise ValueError(
                f"AUTHIX_WORKERS={self.workers} needs stores that processes share: set AUTHIX_USERS_URL to MongoDB and "
                "AUTHIX_SESSIONS_URL to Redis, or run one worker"
            )
        if self.workers > self.hash_threads:
            raise ValueError(
                f"AUTHIX_WORKERS={self.workers} share AUTHIX_HASH_THREADS={self.hash_threads} threads, and each needs "
                "one: set fewer workers or more threads"
            )
        if self.metrics_port == self.port != 0:
            raise ValueError(f"AUTHIX_METRICS_PORT={self.port} is AUTHIX_PORT too: choose another")
        if not self.feed_token and not is_loopback(self.host):
            raise ValueError(
                f"AUTHIX_FEED_TOKEN is missing: AUTHIX_HOST={self.host} serves the revocation feed beyond this "
                "machine, so set it here and at the verifiers, for example to the output of `openssl rand -base64 32`"
            )

        if self.key_notice > self.key_life * (MAX_AHEAD - 2):
            raise ValueError(
                f"AUTHIX_KEY_NOTICE={self.key_notice} with AUTHIX_KEY_LIFE={self.key_life} would have more than "
                f"{MAX_AHEAD} keys wait at once: set a longer life or a shorter notice"
            )
        if self.secret_previous and self.secret_previous == self.secret:
            raise ValueError(
                "AUTHIX_SECRET_PREVIOUS is the same as AUTHIX_SECRET: set it to the other one, or remove it"
            )
        if self.sessions_in_redis and self.refresh_grace < REDIS_GRACE:
            raise ValueError(
                f"AUTHIX_REFRESH_GRACE={self.refresh_grace} is too short with Redis, where a refresh whose answer was "
                f"lost is repeated within seconds and must not be taken for a theft: set {REDIS_GRACE} or more"
            )

    def for_a_command(self) -> Self:
        """The same for a command beside the running issuer: its answer alone goes to standard output."""
        return dataclasses.replace(self, audit=STDERR) if self.audit == STDOUT else self

    @property
    def keys_max_age(self) -> int:
        """Seconds that the key set may be kept: by a cache and then by a verifier, with room to spare in the notice."""
        return min(300, self.key_notice // 3)

    @property
    def users_in_mongodb(self) -> bool:
        return self.users_url.startswith(MONGODB)

    @property
    def password_words(self) -> frozenset[str]:
        """What attackers of this very service would try, so that no password may be made of it."""
        return self.blocked_words | words_of("authix", urlsplit(self.issuer).hostname or "", self.audience)

    @property
    def sessions_in_redis(self) -> bool:
        return self.sessions_url.startswith(REDIS)

    def database_path(self, which: str) -> str:
        """The SQLite file of ``users`` or ``sessions``."""
        given = self.users_url if which == "users" else self.sessions_url
        return given.removeprefix(SQLITE) if given else os.path.join(self.data_dir, f"{which}.db")  # noqa: PTH118 - ":memory:" must stay as it is
