"""The issuer's settings.

Rule: every one has a name in the environment, a flag unless it is secret, and a sentence that says how to mend it.
"""

from __future__ import annotations

import dataclasses
import os

from authix.keys import ALGORITHMS, AlgorithmName
from authix.settings import choice, is_loopback, secret_text, setting, text, url, whole_number
from authix_issuer.hashing import PROFILES

SQLITE = "sqlite:///"


def sqlite_url(value: str) -> str:
    if not value.startswith(SQLITE) or value == SQLITE:
        raise ValueError(f"must be a URL such as sqlite:///relative.db or sqlite:////absolute.db, not {value!r}")
    return value


def not_yet(value: str) -> str:
    raise ValueError(f"is set to {value!r}, but this release announces logouts by its HTTP feed only: unset it")


@dataclasses.dataclass(frozen=True, kw_only=True)
class IssuerSettings:
    """What an issuer must know."""

    issuer: str = setting("AUTHIX_ISSUER", url, "this issuer's URL, as clients and verifiers reach it")
    audience: str = setting("AUTHIX_AUDIENCE", text, "the audience that access tokens are for")
    host: str = setting("AUTHIX_HOST", text, "the address to listen on", default="127.0.0.1")
    port: int = setting("AUTHIX_PORT", whole_number(0, 65535), "the port to listen on", default=8000)
    workers: int = setting(
        "AUTHIX_WORKERS", whole_number(1, 1), "worker processes; the embedded default runs one", default=1
    )
    data_dir: str = setting("AUTHIX_DATA_DIR", text, "the folder of the embedded stores", default="authix-data")
    users_url: str = setting("AUTHIX_USERS_URL", sqlite_url, "where users and keys live", default="")
    sessions_url: str = setting("AUTHIX_SESSIONS_URL", sqlite_url, "where sessions live", default="")
    kafka: str = setting("AUTHIX_KAFKA", not_yet, "the Kafka servers of the logout topic", default="")
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
        "AUTHIX_ACCESS_TTL", whole_number(10, 3600), "the life of an access token in seconds", default=300
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
        if not self.feed_token and not is_loopback(self.host):
            raise ValueError(
                f"AUTHIX_FEED_TOKEN is missing: AUTHIX_HOST={self.host} serves the revocation feed beyond this "
                "machine, so set it here and at the verifiers, for example to the output of `openssl rand -base64 32`"
            )

    def database_path(self, which: str) -> str:
        """The SQLite file of ``users`` or ``sessions``."""
        given = self.users_url if which == "users" else self.sessions_url
        return given.removeprefix(SQLITE) if given else os.path.join(self.data_dir, f"{which}.db")  # noqa: PTH118 - ":memory:" must stay as it is
