"""Header fields: their names, and which of them may pass a proxy.

Rule: what a field is follows from its name in lower case with every non-alphanumeric byte read as ``-``, because
upstreams (CGI, WSGI) fold names like that; so ``x_authix.subject`` is ``x-authix-subject``. A request never brings in a
field of ours, nor one that speaks for a proxy before us as it is (a listed one is heard in ``forwarded``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

Field = tuple[bytes, bytes]

END_OF_HEAD = b"\r\n\r\n"
TEXT = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])
"""What a field's value may hold (RFC 9110, 5.5)."""

_MOST_DIGITS = 18
_KEPT_NAME = 64
"""Longest name in bytes that is kept in a cache: all that are in use are shorter, and who sends one needs no token."""
_NO_TOKENS: frozenset[bytes] = frozenset()
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_ALPHANUMERIC = re.compile(rb"[^0-9a-z]")

# RFC 9110, 7.6.1, with the ones of old
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# set anew from what was read
_FRAMING = frozenset({b"content-length", b"expect", b"host"})
# a client's word about itself or about its path, which upstreams take from a proxy as the truth
_A_PROXYS_WORD = frozenset({b"forwarded", b"x-original-uri", b"x-original-url", b"x-real-ip", b"x-rewrite-url"})
# set anew, because what came may be unfit for a log
_OURS_TO_SAY = frozenset({b"x-request-id"})
# by which frameworks take a request for one of another method
_METHOD_OVERRIDES = frozenset({b"x-http-method", b"x-http-method-override", b"x-method-override"})
_FAMILIES = (b"x-authix-", b"x-forwarded-")
_NOT_FORWARDED = HOP_BY_HOP | _FRAMING | _A_PROXYS_WORD | _OURS_TO_SAY


def is_token(name: bytes) -> bool:
    """Whether ``name`` may name a field at all (RFC 9110, 5.6.2)."""
    return _TOKEN.fullmatch(name) is not None


def length_in(value: bytes) -> int | None:
    """The number that a ``Content-Length`` of ``value`` says (RFC 9110, 8.6); None where it is none."""
    return int(value) if value.isdigit() and len(value) <= _MOST_DIGITS else None


def lower(name: bytes) -> bytes:
    return _lower(name) if len(name) <= _KEPT_NAME else name.lower()


@lru_cache(maxsize=2048)
def _lower(name: bytes) -> bytes:
    return name.lower()


def noted(found: Iterable[Field], names: frozenset[bytes]) -> dict[bytes, list[bytes]]:
    """The values of the fields called ``names``, by name in lower case."""
    values: dict[bytes, list[bytes]] = {}
    for name, value in found:
        key = lower(name)
        if key in names:
            if key in values:
                values[key].append(value.strip(b" \t"))
            else:
                values[key] = [value.strip(b" \t")]
    return values


def goes_upstream(name: bytes) -> bool:
    """Whether a request's field of this name is passed on as it is."""
    return _known_to_go_upstream(name) if len(name) <= _KEPT_NAME else _goes_upstream(name)


def _goes_upstream(name: bytes) -> bool:
    folded = _NOT_ALPHANUMERIC.sub(b"-", name.lower())
    # a trailing "-" of the family's own name, so that x-authix alone belongs to it too
    return folded not in _NOT_FORWARDED and not (folded + b"-").startswith(_FAMILIES)


_known_to_go_upstream = lru_cache(maxsize=2048)(_goes_upstream)


def overrides_method(name: bytes) -> bool:
    """Whether a field of this name tells an upstream to take the request for one of another method."""
    return len(name) <= _KEPT_NAME and _overrides_method(name)


@lru_cache(maxsize=2048)
def _overrides_method(name: bytes) -> bool:
    return _NOT_ALPHANUMERIC.sub(b"-", name.lower()) in _METHOD_OVERRIDES


def goes_downstream(name: bytes) -> bool:
    """Whether an answer's field of this name is passed on as it is."""
    return len(name) > _KEPT_NAME or _goes_downstream(name)


@lru_cache(maxsize=2048)
def _goes_downstream(name: bytes) -> bool:
    key = name.lower()
    return key not in HOP_BY_HOP and key != b"content-length"


def upstream_lines(found: Iterable[Field], dropped: frozenset[bytes]) -> bytes:
    """Those of ``found`` that are passed on to an upstream, ``dropped`` being what ``Connection`` names."""
    return _lines(found, goes_upstream, dropped)


def downstream_lines(found: Iterable[Field], dropped: frozenset[bytes]) -> bytes:
    """Those of ``found`` that are passed on to a client, ``dropped`` being what ``Connection`` names."""
    return _lines(found, goes_downstream, dropped)


def _lines(found: Iterable[Field], goes: Callable[[bytes], bool], dropped: frozenset[bytes]) -> bytes:
    return b"".join(
        [
            b"%b: %b\r\n" % (name, value.strip(b" \t"))
            for name, value in found
            if goes(name) and not (dropped and lower(name) in dropped)
        ]
    )


def tokens(values: Iterable[bytes] | None) -> frozenset[bytes]:
    """The members of a comma-separated list of tokens, in lower case."""
    if not values:
        return _NO_TOKENS
    return frozenset(token for token in (part.strip(b" \t").lower() for part in b",".join(values).split(b",")) if token)
