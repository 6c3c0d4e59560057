"""Decide over a request.

Rule: the default is that every path needs a good access token. A policy says what a request needs from its head
alone: its method, its ``Host`` and its raw path, which is the one that will be forwarded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from authix.bearer import bearer_token
from authix.claims import Claims
from authix.verifier import CACHED_TOKEN_BYTES
from authix_sidecar.requests import RequestHead

ALLOWED = "allowed"
"""The decision's code when the request may pass; every other code is the refusal's own."""


class Requirement(NamedTuple):
    """What a request needs beside a good token."""

    roles: frozenset[str] = frozenset()


A_TOKEN = Requirement()
Policy = Callable[[RequestHead], Requirement | None]
"""Says what a request needs; None: nothing, it is public."""


def every_path_needs_a_token(_: RequestHead) -> Requirement:
    return A_TOKEN


def token_of(request: RequestHead) -> str:
    """The request's one access token. Raises ``TokenMissing`` or ``TokenMalformed``."""
    values = request.authorization
    if len(values) == 1 and len(values[0]) <= CACHED_TOKEN_BYTES:
        return _token_in(values[0])
    return bearer_token([value.decode("latin-1") for value in values])


@lru_cache(maxsize=4096)
def _token_in(authorization: bytes) -> str:
    # the same text object each time also brings its hash along for the verifier's cache
    return bearer_token([authorization.decode("latin-1")])


def decide(request: RequestHead, policy: Policy, verify: Callable[..., Claims]) -> Claims | None:
    """The claims behind ``request``, by ``verify``, which judges a token; None where the request is public.

    Raises ``AuthixError``, which is the refusal.
    """
    requirement = policy(request)
    if requirement is None:
        return None
    return verify(token_of(request), roles=requirement.roles)
