"""FastAPI: claims as a dependency, and the "Authorize" button in the docs page.

Rule: ``Annotated[Claims, Depends(auth.required())]`` lets only a good access token through, over HTTP and WebSocket;
the scopes of a ``Security`` are roles that it needs besides. Errors are answered as by every integration. The
application's middleware runs the verifier and cuts what outlives its token (see ``authix.asgi``).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Unpack, cast

from fastapi import FastAPI, Response
from fastapi.openapi.models import HTTPBearer
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from authix.asgi import GuardMiddleware, judge, refuse
from authix.bearer import refusal
from authix.claims import Claims, names
from authix.errors import AuthixError
from authix.freshness import WhenStale
from authix.runtime import Authix
from authix.verifier_settings import VerifierOptions


class FastAPIAuthix(Authix):
    """An ``Authix`` that lives with a FastAPI application: ``FastAPIAuthix(app)``; settings as for ``Authix``."""

    def __init__(self, app: FastAPI | None = None, **options: Unpack[VerifierOptions]) -> None:
        super().__init__(**options)
        if app is not None:
            self.install(app)

    def install(self, app: FastAPI) -> None:
        """Live with ``app``: for an application made later, and for each one that is mounted in another."""
        app.add_middleware(GuardMiddleware, auth=self)
        app.add_exception_handler(AuthixError, cast("Any", _answer))  # over HTTP and for WebSockets alike

    def required(self, *, roles: Collection[str] = (), when_stale: WhenStale | None = None) -> RequiredClaims:
        """A dependency: the claims of a good access token whose user has all of ``roles``."""
        return RequiredClaims(self, names(roles), when_stale)


class RequiredClaims(SecurityBase):
    """What ``Depends`` and ``Security`` take; OpenAPI shows it as a bearer token."""

    def __init__(self, auth: Authix, roles: frozenset[str], when_stale: WhenStale | None) -> None:
        self.model = HTTPBearer(bearerFormat="JWT", description="An access token of the issuer")
        self.scheme_name = "Authix"
        self._auth, self._roles, self._when_stale = auth, roles, when_stale

    async def __call__(self, connection: HTTPConnection, security: SecurityScopes) -> Claims:
        roles = self._roles.union(security.scopes)
        return await judge(self._auth, connection.scope, roles=roles, when_stale=self._when_stale)


async def _answer(connection: Any, error: Exception) -> Response | None:
    assert isinstance(error, AuthixError)  # noqa: S101 - it is installed for these
    if isinstance(connection, WebSocket):
        await refuse(error, connection.scope, connection.send)
        return None
    status, headers, body = refusal(error)
    return Response(body, status, dict(headers))
