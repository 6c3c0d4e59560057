"""ASGI: a middleware that lets only verified requests through.

Rule: every http and websocket request needs a good access token unless its path is public; the claims are in
``scope["authix.claims"]``. The verifier runs with the application's lifespan; where server or application have none, it
starts with the first request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from authix.bearer import bearer_token, refusal
from authix.errors import AuthixError
from authix.runtime import Authix

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class AuthixMiddleware:
    """Wraps an ASGI application (Starlette, FastAPI, Quart, Litestar, …).

    ``public`` names exact paths that need no token; ``roles`` are all required of every other request.
    """

    def __init__(
        self, app: Application, *, auth: Authix, public: Collection[str] = (), roles: Collection[str] = ()
    ) -> None:
        self._app = app
        self._auth = auth
        self._public = frozenset(public)
        self._roles = frozenset(roles)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._around_lifespan(send))
            return
        if scope["type"] not in {"http", "websocket"}:
            raise ValueError(f"no token can be asked of ASGI scope type {scope['type']!r}")
        await self._start()
        if scope["path"] not in self._public:
            headers = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
            try:
                scope["authix.claims"] = await self._auth.authenticate(bearer_token(headers), roles=self._roles)
            except AuthixError as error:
                await _refuse(error, scope, send)
                return
        await self._app(scope, receive, send)

    async def _start(self) -> None:
        if not self._auth.running:
            await self._auth.start()

    def _around_lifespan(self, send: Send) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await self._start()
            if message["type"].startswith("lifespan.shutdown."):
                await self._auth.stop()
            await send(message)

        return sending


async def _refuse(error: AuthixError, scope: Scope, send: Send) -> None:
    kind = "http"
    if scope["type"] == "websocket":
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": 1008, "reason": error.code})
            return
        kind = "websocket.http"
    status, headers, body = refusal(error)
    encoded = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in headers]
    encoded.append((b"content-length", str(len(body)).encode("ascii")))
    await send({"type": f"{kind}.response.start", "status": status, "headers": encoded})
    await send({"type": f"{kind}.response.body", "body": body})
