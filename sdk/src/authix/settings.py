"""Settings from the environment, from files and from arguments.

Rule: a setting is declared once, as a field that knows its name, its text form and its default. ``NAME_FILE`` reads it
from a file, an argument or ``--flag`` wins over both. All problems are reported together, one sentence each, naming the
setting and saying how to mend it (what does not go together, once each by itself is right); a secret's value is never
part of a sentence or a repr.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
import ssl
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, TypeVar, cast
from urllib.parse import urlsplit

from authix.claims import OURS, ClaimPaths
from authix.claims import Path as ClaimPath
from authix.errors import SettingsError
from authix.events import MAX_LEEWAY
from authix.freshness import WhenStale
from authix.keys import ALGORITHMS, AlgorithmName
from authix.revocations import MAX_ENTRIES

S = TypeVar("S")
REQUIRED = dataclasses.MISSING


def setting(
    name: str,
    parse: Callable[[str], Any],
    help: str,  # noqa: A002 - argparse's own term
    *,
    default: Any = REQUIRED,
    secret: bool = False,
) -> Any:
    """Declare a setting: ``parse`` turns text into its value and raises ``ValueError("must be …")``."""
    meta = {"name": name, "parse": parse, "help": help, "secret": secret}
    return dataclasses.field(default=default, repr=not secret, metadata=meta)


def load(cls: type[S], environ: Mapping[str, str] | None = None, arguments: Mapping[str, Any] | None = None) -> S:
    """Build the settings dataclass ``cls``.

    ``arguments`` are values by field name; None means not given. Raises ``SettingsError`` naming every problem.
    """
    environ = os.environ if environ is None else environ
    given = {name: value for name, value in (arguments or {}).items() if value is not None}
    values, problems = {}, []
    for field in dataclasses.fields(cast(Any, cls)):
        try:
            raw = given.get(field.name, _from_environment(field.metadata["name"], environ))
            if raw is None:
                if field.default is REQUIRED:
                    problems.append(f"{field.metadata['name']} is missing: set it to {field.metadata['help']}.")
                continue
            values[field.name] = field.metadata["parse"](str(raw)) if isinstance(raw, str | int | float) else raw
        except ValueError as error:
            problems.append(f"{field.metadata['name']} {error}.")
    if not problems:
        try:
            return cls(**values)
        except ValueError as error:
            problems.append(f"{error}.")
    raise SettingsError("\n".join(problems))


def named(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The ``arguments`` of ``load`` from a framework's configuration, by the settings' names; others are let be."""
    return {field.name: values.get(field.metadata["name"]) for field in dataclasses.fields(cls)}


def add_flags(parser: ArgumentParser, cls: type[Any]) -> None:
    """Give ``parser`` a ``--flag`` for every setting that is no secret (secrets would show in the process list)."""
    for field in dataclasses.fields(cls):
        if not field.metadata["secret"]:
            name = field.metadata["name"]
            spelt = spell(field.default)
            default = f" (default: {spelt})" if spelt else ""
            flag = "--" + field.name.replace("_", "-")
            parser.add_argument(
                flag, metavar="VALUE", help=f"{name}: {field.metadata['help']}{default}".replace("%", "%%")
            )


def from_flags(cls: type[S], options: Namespace) -> S:
    """The settings of a program: its flags over its environment."""
    return load(cls, arguments={f.name: getattr(options, f.name, None) for f in dataclasses.fields(cast(Any, cls))})


def spell(default: object) -> str:
    """A default as one would set it."""
    match default:
        case bool():
            return "yes" if default else "no"
        case frozenset() | tuple():
            return ",".join(sorted(default))
        case ClaimPaths():
            return ""  # the names are those of the tokens that the issuer makes
    return "" if default in {REQUIRED, None} else str(default)


def _from_environment(name: str, environ: Mapping[str, str]) -> str | None:
    path = environ.get(f"{name}_FILE")
    if path:
        if environ.get(name):
            raise ValueError(f"and {name}_FILE are both set: keep one")
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"can't be read from {name}_FILE={path} ({type(error).__name__}): mend the path") from None
    return environ.get(name) or None


def text(value: str) -> str:
    if not value or value != value.strip() or not value.isprintable():
        raise ValueError("must be printable text without a space at its ends")
    return value


_URL = re.compile(r"https?://[^\s,/?#@\\]+(/[^\s,?#@\\]*)?(?<!/)")


def url(value: str) -> str:
    """An absolute http(s) URL without query, fragment, credentials or trailing slash."""
    try:
        parts = urlsplit(value)
        good = _URL.fullmatch(value) and value.isprintable() and parts.hostname and parts.port != 0
    except ValueError:  # brackets or a port that are none
        good = False
    if not good:
        raise ValueError(
            "must be an http(s) URL such as https://auth.example.com, without a slash at the end and without a "
            f"password, not {_shown(value)}"
        )
    return value


def issuer_url(value: str) -> str:
    """As ``url``, but some issuers' names end in a slash."""
    url(value.removesuffix("/"))
    return value


def _shown(value: str) -> str:
    """``value`` for a sentence, unless it may hold a password."""
    return "the given one" if {"@", "?", "#"} & set(value) else repr(value)


class FeedUrl(NamedTuple):
    """Where a feed is: over HTTP, or in Kafka when ``servers`` and ``topic`` are given."""

    url: str
    servers: str = ""
    topic: str = ""


NO_FEED = FeedUrl("none")

_SERVER = r"(?:[^\s,:/@\[\]]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}"
_SERVERS = re.compile(rf"{_SERVER}(?:,{_SERVER})*")
_KAFKA_URL = re.compile(rf"kafka://({_SERVERS.pattern})/([A-Za-z0-9._-]{{1,249}})")


def kafka_servers(value: str) -> str:
    """Kafka's servers as aiokafka takes them."""
    ports = [int(server.rpartition(":")[2]) for server in value.split(",")] if _SERVERS.fullmatch(value) else []
    if not ports or min(ports) < 1 or max(ports) > 65535:
        raise ValueError(f"must be host:port, or several with commas between, not {_shown(value)}")
    return value


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
            raise ValueError(f"must name Kafka as kafka://host:port,host:port/topic, not {_shown(part)}") from None
    return tuple(found)


def whole_number(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not value.isascii() or not value.isdigit() or not low <= int(value) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}, not {value!r}")
        return int(value)

    return parse


def choice(*names: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in names:
            raise ValueError(f"must be one of {', '.join(names)}, not {value!r}")
        return value

    return parse


def flag(value: str) -> bool:
    if value.lower() not in {"yes", "no", "true", "false", "1", "0"}:
        raise ValueError(f"must be yes or no, not {value!r}")
    return value.lower() in {"yes", "true", "1"}


_SECRET = re.compile(r"[A-Za-z0-9._~+/-]{32,}=*", re.ASCII)


def secret_text(value: str) -> str:
    """A secret of at least 32 characters that a bearer token may have (RFC 6750, 2.1)."""
    if _SECRET.fullmatch(value) is None:
        raise ValueError("must be at least 32 letters, digits or -._~+/: make one with `openssl rand -base64 32`")
    return value


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


def is_loopback(host: str | None) -> bool:
    """Whether ``host`` names this machine only."""
    if host == "localhost":
        return True
    try:
        return host is not None and ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_plain(url: str) -> bool:
    """Whether what comes from ``url`` can be changed on its way: plain http beyond this machine."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname)


SASL_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


def existing_file(value: str) -> str:
    if not Path(value).is_file():
        raise ValueError(f"must name a file that is there, not {value!r}")
    return value


def certificates(value: str) -> str:
    try:
        ssl.create_default_context(cafile=existing_file(value))
    except OSError as error:  # an SSLError is one
        raise ValueError(f"must name a file of certificates in PEM, not {value!r} ({type(error).__name__})") from None
    return value


def file_to_be(value: str) -> str:
    if not Path(value).absolute().parent.is_dir() or Path(value).is_dir():
        raise ValueError(f"must name a file in a folder that is there, not {value!r}")
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class KafkaSecurity:
    """How to connect to Kafka, in the issuer and in every verifier alike."""

    kafka_tls: bool = setting("AUTHIX_KAFKA_TLS", flag, "yes: connect to Kafka over TLS", default=False)
    kafka_ca: str = setting(
        "AUTHIX_KAFKA_CA", certificates, "the file of the certificates that Kafka's TLS is trusted by", default=""
    )
    kafka_sasl: str = setting(
        "AUTHIX_KAFKA_SASL", choice(*SASL_MECHANISMS), f"one of {', '.join(SASL_MECHANISMS)}", default=""
    )
    kafka_username: str = setting("AUTHIX_KAFKA_USERNAME", text, "the user name at Kafka", default="")
    kafka_password: str = setting("AUTHIX_KAFKA_PASSWORD", text, "the password at Kafka", default="", secret=True)

    def __post_init__(self) -> None:
        if self.kafka_sasl and not (self.kafka_username and self.kafka_password):
            raise ValueError("AUTHIX_KAFKA_SASL is set: set AUTHIX_KAFKA_USERNAME and AUTHIX_KAFKA_PASSWORD too")
        if not self.kafka_sasl and (self.kafka_username or self.kafka_password):
            raise ValueError("AUTHIX_KAFKA_USERNAME or AUTHIX_KAFKA_PASSWORD is set: set AUTHIX_KAFKA_SASL too")
        if self.kafka_ca and not self.kafka_tls:
            raise ValueError("AUTHIX_KAFKA_CA is set: set AUTHIX_KAFKA_TLS=yes too")

    def kafka_options(self) -> dict[str, Any]:
        """Keyword arguments of aiokafka's clients."""
        options: dict[str, Any] = {
            "security_protocol": ("SASL_" if self.kafka_sasl else "") + ("SSL" if self.kafka_tls else "PLAINTEXT")
        }
        if self.kafka_tls:
            options["ssl_context"] = ssl.create_default_context(cafile=self.kafka_ca or None)
        if self.kafka_sasl:
            options["sasl_mechanism"] = self.kafka_sasl
            options["sasl_plain_username"] = self.kafka_username
            options["sasl_plain_password"] = self.kafka_password
        return options


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

    def tls(self) -> ssl.SSLContext | bool:
        """Whom to trust for keys and feed, as httpx takes it."""
        return _trusting(self.ca) if self.ca else True


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
