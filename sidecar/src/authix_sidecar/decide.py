"""Decide over a request.

Rule: the default is that every path needs a good access token. A policy says what a request needs from its head
alone: its method, its ``Host`` and its path, which is the one that will be forwarded. Where it needs no token none is
looked at, so nobody is anybody there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from authix.bearer import bearer_token
from authix.claims import Claims
from authix.freshness import WhenStale
from authix.recent import Recent
from authix.verifier import CACHE_ENTRIES, CACHED_TOKEN_BYTES
from authix_sidecar.errors import ClaimRefused, TokenTooOld
from authix_sidecar.requests import RequestHead

ALLOWED = "allowed"
"""The decision's code when the request may pass; every other code is the refusal's own."""

ClaimValue = tuple[type, object]
"""With its type, because ``1`` is not ``true`` in a token."""


class Requirement(NamedTuple):
    """What a request needs."""

    token: bool = True
    """False: nothing, it is public."""
    roles: frozenset[str] = frozenset()
    """All of them."""
    claims: tuple[tuple[str, frozenset[ClaimValue]], ...] = ()
    """For each claim the values of which its token must have one."""
    max_age: int | None = None
    """The oldest token in seconds since its issue moment."""
    when_stale: WhenStale | None = None
    """None: as it is set."""
    passes_authorization: bool = True
    """Whether the upstream gets the ``Authorization`` field."""


A_TOKEN = Requirement()
NOTHING = Requirement(token=False)
Policy = Callable[[RequestHead], Requirement]
"""Says what a request needs. Raises ``RequestRefused`` where that can't be said."""


def every_path_needs(needs: Requirement) -> Policy:
    """Whatever is asked for."""
    return lambda _: needs


_tokens: Recent[bytes, str] = Recent(CACHE_ENTRIES)
"""By the field's value: the same text object each time also brings its hash along for the verifier's cache."""


def token_of(request: RequestHead) -> str:
    """The request's one access token. Raises ``TokenMissing`` or ``TokenMalformed``."""
    values = request.authorization
    if len(values) == 1 and len(values[0]) <= CACHED_TOKEN_BYTES:
        return _token_in(values[0])
    return bearer_token([value.decode("latin-1") for value in values])


def _token_in(authorization: bytes) -> str:
    token = _tokens.get(authorization)
    if token is None:
        token = bearer_token([authorization.decode("latin-1")])
        _tokens.keep(authorization, token)
    return token


def decide(
    request: RequestHead, needs: Requirement, verify: Callable[..., Claims], now: Callable[[], float]
) -> Claims | None:
    """The claims behind ``request``, by ``verify``, which judges a token; None where none is needed.

    ``now`` gives epoch seconds. Raises ``AuthixError``, which is the refusal.
    """
    if not needs.token:
        return None
    claims = verify(token_of(request), roles=needs.roles, when_stale=needs.when_stale)
    if needs.max_age is not None and now() - claims.issued_at_us / 1_000_000 > needs.max_age:
        raise TokenTooOld("the token is older than this path allows: refresh it")
    for name, allowed in needs.claims:
        if allowed.isdisjoint(_values(claims.extra.get(name))):
            raise ClaimRefused(f"the token's claim {name!r} is not what this path needs")
    return claims


def _values(found: object) -> list[ClaimValue]:
    return [(type(value), value) for value in (found if isinstance(found, list) else [found]) if _is_plain(value)]


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int)
