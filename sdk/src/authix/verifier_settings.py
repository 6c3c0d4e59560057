"""What a verifier must know, in the SDK and in the sidecar alike.

Rule: the issuer and the audience are all that must be said; keys and feed are the issuer's own unless named, and come
over https, or over plain http from this machine.
"""

from __future__ import annotations

import dataclasses
import re
import ssl
from functools import cache
from typing import NamedTuple, TypedDict, cast

from authix.claims import OURS, ClaimPaths
from authix.claims import Path as ClaimPath
from authix.events import MAX_LEEWAY
from authix.freshness import WhenStale
from authix.kafka_settings import SERVERS, KafkaSecurity, kafka_servers
from authix.keys import ALGORITHMS, AlgorithmName
from authix.revocations import MAX_ENTRIES
from authix.settings import (
    certificates,
    choice,
    file_to_be,
    flag,
    is_plain,
    secret_text,
    setting,
    shown,
    text,
    url,
    whole_number,
)


def issuer_url(value: str) -> str:
    """As ``url``, but some issuers' names end in a slash."""
    url(value.removesuffix("/"))
    return value


class FeedUrl(NamedTuple):
    """Where a feed is: over HTTP, or in Kafka when ``servers`` and ``topic`` are given."""

    url: str
    servers: str = ""
    topic: str = ""


NO_FEED = FeedUrl("none")
_KAFKA_URL = re.compile(rf"kafka://({SERVERS.pattern})/([A-Za-z0-9._-]{{1,249}})")


def feed_urls(value: str) -> tuple[FeedUrl, ...]:
    """One or more URLs with commas between, of which a Kafka one may name several servers; or none, said so."""
    if value == NO_FEED.url:
        return (NO_FEED,)
    found = []
    for part in re.split(r"\s*,\s*(?=[a-z]+://)", value.strip()):
        match = _KAFKA_URL.fullmatch(part)
        try:
            found.append(FeedUrl(part, kafka_servers(match[1]), match[2]) if match else FeedUrl(url(part)))
        except ValueError:
            if not part.startswith("kafka:"):
                raise
            raise ValueError(f"must name Kafka as kafka://host:port,host:port/topic, not {shown(part)}") from None
    return tuple(found)


def algorithms(value: str) -> frozenset[AlgorithmName]:
    names = {name.strip() for name in value.split(",")}
    if not names <= set(ALGORITHMS):
        raise ValueError(f"must name algorithms among {', '.join(ALGORITHMS)}, not {value!r}")
    return frozenset(cast("set[AlgorithmName]", names))


_TOKEN_TYPE = re.compile(r"(?:application/)?([A-Za-z0-9.+_-]{1,64})", re.ASCII)


def token_types(value: str) -> frozenset[str]:
    found = [_TOKEN_TYPE.fullmatch(name.strip()) for name in value.split(",")]
    if not all(found):
        raise ValueError(f"must name values of a token's typ, such as at+jwt,JWT, not {value!r}")
    return frozenset(match[1] for match in found if match)


_CLAIM_NAME = r"""(?:[^\s.,="]+|"[^"]+")"""
_CLAIM = re.compile(rf"(subject|session|token_id|roles)=({_CLAIM_NAME}(?:\.{_CLAIM_NAME})*)")
_CLAIMS = re.compile(rf"{_CLAIM.pattern}(?:\s*,\s*{_CLAIM.pattern})*")


def claim_paths(value: str) -> ClaimPaths:
    """``subject=oid,roles=realm_access.roles,roles="https://example.com/roles"``."""
    if _CLAIMS.fullmatch(value) is None:
        raise ValueError(
            "must say where tokens hold subject, session, token_id and roles, such as session=sid,"
            f"""roles=realm_access.roles,roles="https://example.com/roles", not {value!r}"""
        )
    found: dict[str, list[ClaimPath]] = {}
    for match in _CLAIM.finditer(value):
        names = [name.strip('"') for name in re.findall(_CLAIM_NAME, match[2])]
        found.setdefault(match[1], []).append(tuple(names))
    for what, paths in found.items():
        if what != "roles" and len(paths) > 1:
            raise ValueError(f"names {what} twice: only roles may stand in several places")
    one = {what: paths[0] for what, paths in found.items() if what != "roles"}
    return dataclasses.replace(OURS, **one, roles=tuple(found.get("roles", OURS.roles)))


def when_stale(value: str) -> WhenStale:
    return WhenStale(choice(*WhenStale)(value))


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifierSettings(KafkaSecurity):
    """What a verifier must know, in the SDK and in the sidecar alike."""

    issuer: str = setting("AUTHIX_ISSUER", issuer_url, "the issuer's URL, exactly as in the tokens' iss claim")
    audience: str = setting("AUTHIX_AUDIENCE", text, "the audience that tokens for this service carry")
    keys: str = setting(
        "AUTHIX_KEYS", url, "the URL of the key set or of the issuer's metadata, if not the issuer's own", default=""
    )
    keys_cache: str = setting(
        "AUTHIX_KEYS_CACHE", file_to_be, "the file that keeps the last good keys for a restart", default=""
    )
    feed: tuple[FeedUrl, ...] = setting(
        "AUTHIX_FEED",
        feed_urls,
        "the revocation feeds, if not the issuer's own: https://… or kafka://host:port/topic, the preferred one "
        "first; none: follow no logouts",
        default=(),
    )
    feed_token: str = setting("AUTHIX_FEED_TOKEN", secret_text, "the feed's bearer token", default="", secret=True)
    allow_http: bool = setting(
        "AUTHIX_ALLOW_HTTP", flag, "yes: fetch keys and feed over plain http beyond this machine", default=False
    )
    ca: str = setting(
        "AUTHIX_CA",
        certificates,
        "the file of the certificates that keys and feed are trusted by, if not the public ones",
        default="",
    )
    algorithms: frozenset[AlgorithmName] = setting(
        "AUTHIX_ALGORITHM",
        algorithms,
        "the accepted signature algorithms, comma-separated",
        default=frozenset({"ES256"}),
    )
    token_types: frozenset[str] = setting(
        "AUTHIX_TOKEN_TYPES",
        token_types,
        "the accepted values of a token's typ, comma-separated; none: without one",
        default=frozenset({"at+jwt"}),
    )
    claims: ClaimPaths = setting(
        "AUTHIX_CLAIMS",
        claim_paths,
        "where another issuer's tokens hold subject, session, token_id and roles, such as roles=realm_access.roles",
        default=OURS,
    )
    leeway: int = setting("AUTHIX_LEEWAY", whole_number(0, MAX_LEEWAY), "the clock leeway in seconds", default=5)
    stale_after: int = setting(
        "AUTHIX_STALE_AFTER", whole_number(2, 3600), "the age in seconds from which the feed is stale", default=15
    )
    when_stale: WhenStale = setting(
        "AUTHIX_WHEN_STALE", when_stale, "reject, clamp or accept", default=WhenStale.REJECT
    )
    max_revocations: int = setting(
        "AUTHIX_MAX_REVOCATIONS",
        whole_number(10_000, 1_000_000_000),
        "the logouts that are remembered one by one (about 160 bytes each); beyond them older tokens are refused, "
        "whoever has logged out",
        default=MAX_ENTRIES,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.issuer.endswith("/") and not self.keys:
            raise ValueError(
                "AUTHIX_ISSUER must have no slash at the end, unless AUTHIX_KEYS names the metadata or keys of another "
                "issuer, whose tokens have it"
            )
        sources = [("AUTHIX_KEYS", self.keys_url), *(("AUTHIX_FEED", feed.url) for feed in self.feeds)]
        plain = [
            f"{name} {source} is plain http beyond this machine: use https, or set AUTHIX_ALLOW_HTTP=yes"
            for name, source in sources
            if is_plain(source)
        ]
        if plain and not self.allow_http:
            raise ValueError(".\n".join(plain))

    @property
    def keys_url(self) -> str:
        return self.keys or f"{self.issuer}/.well-known/jwks.json"

    @property
    def feeds(self) -> tuple[FeedUrl, ...]:
        """Those that are followed."""
        if self.feed == (NO_FEED,):
            return ()
        return self.feed or (FeedUrl(f"{self.issuer.removesuffix('/')}/revocations"),)

    def tls(self) -> ssl.SSLContext | None:
        """Whom to trust for keys and feed; None: the usual authorities."""
        return _trusting(self.ca) if self.ca else None


@cache
def _trusting(ca: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca)


class VerifierOptions(TypedDict, total=False):
    """The fields of ``VerifierSettings`` as keyword arguments: each as its text or as its value, None as if not given.

    A test holds the two to the same names.
    """

    issuer: str | None
    audience: str | None
    keys: str | None
    keys_cache: str | None
    feed: str | tuple[FeedUrl, ...] | None
    feed_token: str | None
    allow_http: bool | str | None
    ca: str | None
    algorithms: str | frozenset[AlgorithmName] | None
    token_types: str | frozenset[str] | None
    claims: str | ClaimPaths | None
    leeway: int | str | None
    stale_after: int | str | None
    when_stale: WhenStale | str | None
    max_revocations: int | str | None
    kafka_tls: bool | str | None
    kafka_ca: str | None
    kafka_sasl: str | None
    kafka_username: str | None
    kafka_password: str | None
