"""The issuer's settings.

Rule: every one has a name in the environment, a flag unless it is secret, and a sentence that says how to mend it.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable

from authix.events import MAX_TOKEN_LIFE
from authix.kafka_settings import KafkaSecurity, kafka_servers
from authix.keys import ALGORITHMS, AlgorithmName
from authix.settings import choice, is_loopback, secret_text, setting, text, url, whole_number
from authix_issuer.hashing import PROFILES

SQLITE = "sqlite:///"
MONGODB = ("mongodb://", "mongodb+srv://")
REDIS = ("redis://", "rediss://")
REDIS_GRACE = 5
"""The least grace, in seconds, with sessions in Redis: longer than a step may take, its repetition included."""
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class IssuerSettings(KafkaSecurity):
    """What an issuer must know."""

    issuer: str = setting("AUTHIX_ISSUER", url, "this issuer's URL, as clients and verifiers reach it")
    audience: str = setting("AUTHIX_AUDIENCE", text, "the audience that access tokens are for")
    host: str = setting("AUTHIX_HOST", text, "the address to listen on", default="127.0.0.1")
    port: int = setting("AUTHIX_PORT", whole_number(0, 65535), "the port to listen on", default=8000)
    workers: int = setting(
        "AUTHIX_WORKERS", whole_number(1, 64), "worker processes; more than one needs MongoDB and Redis", default=1
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
    feed_token: str = setting("AUTHIX_FEED_TOKEN", secret_text, "the feed's bearer token", default="", secret=True)
    algorithm: AlgorithmName = setting(
        "AUTHIX_ALGORITHM", choice(*ALGORITHMS), "ES256, EdDSA or RS256", default="ES256"
    )
    hash_profile: str = setting(
        "AUTHIX_HASH_PROFILE", choice(*PROFILES), f"one of {', '.join(PROFILES)}", default="owasp"
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
    access_ttl: int = setting(
        "AUTHIX_ACCESS_TTL", whole_number(10, MAX_TOKEN_LIFE), "the life of an access token in seconds", default=300
    )
    refresh_ttl: int = setting(
        "AUTHIX_REFRESH_TTL", whole_number(60, 31_536_000), "the life of a session in seconds", default=2_419_200
    )
    refresh_grace: int = setting(
        "AUTHIX_REFRESH_GRACE", whole_number(0, 300), "seconds in which a refresh may be repeated", default=10
    )
    cookie_profile: str = setting(
        "AUTHIX_COOKIE_PROFILE",
        choice("secure", "development"),
        "secure, or development for plain http on this machine",
        default="secure",
    )
    log: str = setting("AUTHIX_LOG", choice("console", "json"), "console or json", default="console")

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
        if not self.feed_token and not is_loopback(self.host):
            raise ValueError(
                f"AUTHIX_FEED_TOKEN is missing: AUTHIX_HOST={self.host} serves the revocation feed beyond this "
                "machine, so set it here and at the verifiers, for example to the output of `openssl rand -base64 32`"
            )

        if self.sessions_in_redis and self.refresh_grace < REDIS_GRACE:
            raise ValueError(
                f"AUTHIX_REFRESH_GRACE={self.refresh_grace} is too short with Redis, where a refresh whose answer was "
                f"lost is repeated within seconds and must not be taken for a theft: set {REDIS_GRACE} or more"
            )

    @property
    def users_in_mongodb(self) -> bool:
        return self.users_url.startswith(MONGODB)

    @property
    def sessions_in_redis(self) -> bool:
        return self.sessions_url.startswith(REDIS)

    def database_path(self, which: str) -> str:
        """The SQLite file of ``users`` or ``sessions``."""
        given = self.users_url if which == "users" else self.sessions_url
        return given.removeprefix(SQLITE) if given else os.path.join(self.data_dir, f"{which}.db")  # noqa: PTH118 - ":memory:" must stay as it is
