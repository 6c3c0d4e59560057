"""A service that follows an issuer, to see what of an account's changes reaches it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from authix.errors import TokenRevoked
from authix.threaded import SyncAuthix
from tests.programs import IssuerProgram


@contextmanager
def service_of(issuer: IssuerProgram) -> Iterator[SyncAuthix]:
    with SyncAuthix(issuer=issuer.url, audience="tests") as auth:
        auth.wait_ready()
        yield auth


def refuses(service: SyncAuthix, token: str) -> bool:
    try:
        service.authenticate(token)
    except TokenRevoked:
        return True
    return False
