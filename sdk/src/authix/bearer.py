"""Bearer tokens over HTTP: how one comes in and how a refusal goes out.

Rule: exactly one ``Authorization`` header with exactly one token (RFC 6750, 2.1); a refusal is a problem+json body
(RFC 9457) with our ``code``, and a challenge on 401 and 403 that has no ``error`` when no token was sent (RFC 6750, 3).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

import msgspec

from authix.errors import AuthixError, RoleMissing, TokenError, TokenMalformed, TokenMissing, Unavailable

# The token's own letters are listed in both cases: to look at each without regard to its case takes four times as long.
_BEARER = re.compile(r"(?i:bearer) ([A-Za-z0-9\-._~+/]+=*)", re.ASCII)
_JOINT = re.compile(r",[ \t]*(?=bearer )", re.ASCII | re.IGNORECASE)
_SCHEME = re.compile(r"bearer( |$)", re.ASCII | re.IGNORECASE)

PROBLEM_JSON = "application/problem+json"
CLOSE_CODE = 4401
"""Closes a WebSocket whose token was revoked or has expired; its reason is the error's code."""


class Refusal(NamedTuple):
    """An HTTP answer that says no."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def bearer_token(authorization: Sequence[str]) -> str:
    """The token in a request's ``Authorization`` headers.

    Raises ``TokenMissing`` when there is none of scheme Bearer, ``TokenMalformed`` when there is more than one header
    or the header is not of RFC 6750's form.
    """
    if not authorization:
        raise TokenMissing("no access token was sent")
    if len(authorization) > 1:
        raise TokenMalformed("more than one Authorization header was sent")
    match = _BEARER.fullmatch(authorization[0])
    if match is None:
        if _SCHEME.match(authorization[0]) is None:
            raise TokenMissing("no access token was sent")
        raise TokenMalformed("the Authorization header is not 'Bearer <token>'")
    return match[1]


def apart(authorization: str | None) -> Sequence[str]:
    """A request's ``Authorization`` headers where the server joined them with commas, as WSGI and Django do."""
    return () if authorization is None else _JOINT.split(authorization)


def refusal(error: AuthixError) -> Refusal:
    """The HTTP answer for ``error``."""
    return _refusal(type(error), error.reason)  # type: ignore[arg-type] # mypy takes a class for not hashable


@lru_cache(maxsize=256)  # most reasons are one and the same sentence
def _refusal(kind: type[AuthixError], reason: str) -> Refusal:
    headers: list[tuple[str, str]] = [("Content-Type", PROBLEM_JSON), ("Cache-Control", "no-store")]
    if issubclass(kind, Unavailable):
        headers.append(("Retry-After", str(kind.retry_after)))
    elif issubclass(kind, TokenError | RoleMissing):
        headers.append(("WWW-Authenticate", _challenge(kind, reason)))
    return Refusal(kind.status, tuple(headers), problem(kind.status, kind.code, reason))


def challenge(error: TokenError | RoleMissing) -> str:
    """The ``WWW-Authenticate`` value for ``error``."""
    return _challenge(type(error), error.reason)


def _challenge(kind: type[AuthixError], reason: str) -> str:
    if issubclass(kind, TokenMissing):
        return 'Bearer realm="authix"'
    error = "insufficient_scope" if issubclass(kind, RoleMissing) else "invalid_token"
    description = reason.replace("\\", "").replace('"', "'")
    return f'Bearer realm="authix", error="{error}", error_description="{description}"'


def problem(status: int, code: str, detail: str, **more: object) -> bytes:
    """A problem+json body."""
    title = HTTPStatus(status).phrase
    return msgspec.json.encode({"title": title, "status": status, "code": code, "detail": detail, **more})
