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
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

from authix.errors import SettingsError
from authix.events import MAX_LEEWAY
from authix.freshness import WhenStale
from authix.keys import ALGORITHMS, AlgorithmName

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


def _shown(value: str) -> str:
    """``value`` for a sentence, unless it may hold a password."""
    return "the given one" if {"@", "?", "#"} & set(value) else repr(value)


class FeedUrl(NamedTuple):
    """Where a feed is: over HTTP, or in Kafka when ``servers`` and ``topic`` are given."""

    url: str
    servers: str = ""
    topic: str = ""


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
    """One or more URLs with commas between; a Kafka one may name several servers."""
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


SASL_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


def existing_file(value: str) -> str:
    if not Path(value).is_file():
        raise ValueError(f"must name a file that is there, not {value!r}")
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class KafkaSecurity:
    """How to connect to Kafka, in the issuer and in every verifier alike."""

    kafka_tls: bool = setting("AUTHIX_KAFKA_TLS", flag, "yes: connect to Kafka over TLS", default=False)
    kafka_ca: str = setting(
        "AUTHIX_KAFKA_CA", existing_file, "the file of the certificates that Kafka's TLS is trusted by", default=""
    )
    kafka_sasl: str = setting(
        "AUTHIX_KAFKA_SASL", choice(*SASL_MECHANISMS), f"one of {', '.join(SASL_MECHANISMS)}", default=""
    )
    kafka_username: str = setting("AUTHIX_KAFKA_USERNAME", text, "the user name at Kafka", default="")
    kafka_password: str = setting("AUTHIX_KAFKA_PASSWORD", text, "the password at Kafka", default="", secret=True)

    def __post_init__(self) -> None:
        if self.kafka_sasl and not (self.kafka_username and self.kafka_password):
            raise ValueError("AUTHIX_KAFKA_SASL is set: set AUTHIX_KAFKA_USERNAME and AUTHIX_KAFKA_PASSWORD too")
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

    issuer: str = setting("AUTHIX_ISSUER", url, "the issuer's URL, exactly as in the tokens' iss claim")
    audience: str = setting("AUTHIX_AUDIENCE", text, "the audience that tokens for this service carry")
    keys: str = setting("AUTHIX_KEYS", url, "the key set's URL, if not the issuer's own", default="")
    feed: tuple[FeedUrl, ...] = setting(
        "AUTHIX_FEED",
        feed_urls,
        "the revocation feeds, if not the issuer's own: https://… or kafka://host:port/topic, the preferred one first",
        default=(),
    )
    feed_token: str = setting("AUTHIX_FEED_TOKEN", secret_text, "the feed's bearer token", default="", secret=True)
    allow_http: bool = setting(
        "AUTHIX_ALLOW_HTTP", flag, "yes: fetch keys and feed over plain http beyond this machine", default=False
    )
    algorithms: frozenset[AlgorithmName] = setting(
        "AUTHIX_ALGORITHM",
        algorithms,
        "the accepted signature algorithms, comma-separated",
        default=frozenset({"ES256"}),
    )
    leeway: int = setting("AUTHIX_LEEWAY", whole_number(0, MAX_LEEWAY), "the clock leeway in seconds", default=5)
    stale_after: int = setting(
        "AUTHIX_STALE_AFTER", whole_number(2, 3600), "the age in seconds from which the feed is stale", default=15
    )
    when_stale: WhenStale = setting(
        "AUTHIX_WHEN_STALE", when_stale, "reject, clamp or accept", default=WhenStale.REJECT
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        sources = [("AUTHIX_KEYS", self.keys_url), *(("AUTHIX_FEED", feed.url) for feed in self.feeds)]
        plain = [
            f"{name} {source} is plain http beyond this machine: use https, or set AUTHIX_ALLOW_HTTP=yes"
            for name, source in sources
            if source.startswith("http:") and not is_loopback(urlsplit(source).hostname)
        ]
        if plain and not self.allow_http:
            raise ValueError(".\n".join(plain))

    @property
    def keys_url(self) -> str:
        return self.keys or f"{self.issuer}/.well-known/jwks.json"

    @property
    def feeds(self) -> tuple[FeedUrl, ...]:
        return self.feed or (FeedUrl(f"{self.issuer}/revocations"),)
