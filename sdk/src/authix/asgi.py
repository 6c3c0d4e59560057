"""ASGI: a middleware that lets only verified requests through.

Rule: every http and websocket request needs a good access token unless its path is public; the claims are in
``scope["authix.claims"]``. From the moment the token is revoked or expires, nothing more goes out on a WebSocket or an
event stream; it is closed, and the application's task cancelled. A plain request in flight is let finish. A
``TokenError`` that the application raises before it has answered is answered as a refusal.

The verifier runs with the application's lifespan; where server or application have none, it starts with the first
request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from typing import Any
from urllib.parse import quote

from authix.bearer import CLOSE_CODE, bearer_token, refusal
from authix.claims import Claims, names
from authix.errors import AuthixError, TokenError
from authix.freshness import WhenStale
from authix.runtime import Authix
from authix.streams import UntilRevoked

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]
"""Each framework has types of its own for the three."""

CLAIMS = "authix.claims"
"""Where the scope holds the claims of a request that was let through."""
_GUARDS = "authix.guards"
_ENDS: dict[str, Message] = {
    "http.response.start": {"type": "http.response.body", "body": b""},
    "websocket.http.response.start": {"type": "websocket.http.response.body", "body": b""},
}
"""What ends an answer that began so."""
_STRICTEST_FIRST = (WhenStale.REJECT, WhenStale.CLAMP, WhenStale.ACCEPT)
_NEVER_QUOTED = "/:@!$&'()*+,;=-._~"
"""What a path holds as it is (RFC 3986, 3.3), besides letters and digits."""


class Guard:
    """What goes out on one connection, and its end when the token behind it dies."""

    def __init__(self, auth: Authix, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._life = UntilRevoked(auth.streams, on_end=self._end)
        self._claims: Claims | None = None
        self._begun: str | None = None
        self._over = False
        self._closing: asyncio.Task[None] | None = None

    def hold(self, claims: Claims) -> None:
        """From now on the connection stands on this token."""
        # for what stands around: the scope that was judged may be a copy of this one
        self._scope[CLAIMS] = self._claims = claims
        if self._scope["type"] == "websocket":
            self._life.begin(claims)

    async def run(self, application: Application) -> None:
        try:
            async with self._life:
                await application(self._scope, self._receive, self._sending)
        except TokenError as error:
            if error is self._life.ended_by:
                return
            if self._life.ended_by is not None or self._begun is not None or self._over:
                raise
            await refuse(error, self._scope, self._send)
        finally:
            if self._closing is not None:
                await self._closing

    async def _sending(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start" and self._claims is not None and _is_event_stream(message):
            self._life.begin(self._claims)
        if self._life.ended_by is not None:
            return
        if kind == "websocket.accept" or kind in _ENDS:
            self._begun = kind
        elif kind == "websocket.close" or (kind.endswith("http.response.body") and not message.get("more_body")):
            self._over = True
        await self._send(message)

    def _end(self, why: AuthixError) -> None:
        # not by the cancelled task, which may have much to put away
        if not self._over:
            self._closing = asyncio.create_task(self._close(why))

    async def _close(self, why: AuthixError) -> None:
        if self._begun is None:
            await refuse(why, self._scope, self._send)
        elif self._begun in _ENDS:
            await self._send(dict(_ENDS[self._begun]))
        else:
            await self._send({"type": "websocket.close", "code": CLOSE_CODE, "reason": why.code})


class GuardMiddleware:
    """Runs the verifier and watches over connections for what judges them further inside."""

    def __init__(self, app: Application, *, auth: Authix) -> None:
        self._app = app
        self._auth = auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._around_lifespan(send))
            return
        if scope["type"] not in {"http", "websocket"}:
            raise ValueError(f"no token can be asked of ASGI scope type {scope['type']!r}")
        await self._start()
        guards = scope.setdefault(_GUARDS, {})
        if self._auth in guards:
            await self._serve(scope, receive, send)
        else:
            guard = guards[self._auth] = Guard(self._auth, scope, receive, send)
            await guard.run(self._serve)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
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


class AuthixMiddleware(GuardMiddleware):
    """Wraps an ASGI application (Starlette, Quart, Litestar, …), or one Starlette ``Route`` or ``Mount``.

    ``public`` names exact paths that need no token; ``roles`` are all required of every other request. ``when_stale``
    is the policy here, or a mapping of exact paths to theirs. Paths are named decoded, and count where they are spelled
    in the usual way: one with a needless percent-encoding (``/%61``) is not public, and no policy asks for less there.
    """

    def __init__(
        self,
        app: Application,
        *,
        auth: Authix,
        public: Collection[str] = (),
        roles: Collection[str] = (),
        when_stale: WhenStale | Mapping[str, WhenStale] | None = None,
    ) -> None:
        super().__init__(app, auth=auth)
        self._public = names(public)
        self._roles = names(roles)
        self._when_stale = when_stale

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in self._public or not _is_spelled_as_usual(scope):
            try:
                await judge(self._auth, scope, roles=self._roles, when_stale=self._policy(scope))
            except AuthixError as error:
                await refuse(error, scope, send)
                return
        await super()._serve(scope, receive, send)

    def _policy(self, scope: Scope) -> WhenStale | None:
        if not isinstance(self._when_stale, Mapping):
            return self._when_stale
        policy = self._when_stale.get(scope["path"])
        if policy is None or _is_spelled_as_usual(scope):
            return policy
        # the application may route it to this path or to another
        return min(policy, self._auth.settings.when_stale, key=_STRICTEST_FIRST.index)


async def judge(
    auth: Authix, scope: Scope, *, roles: frozenset[str] = frozenset(), when_stale: WhenStale | None = None
) -> Claims:
    """The claims of a connection's token, which it stands on from now on. Raises as ``Authix.authenticate`` does."""
    headers = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
    claims = await auth.authenticate(bearer_token(headers), roles=roles, when_stale=when_stale)
    guard: Guard | None = scope.get(_GUARDS, {}).get(auth)
    if guard is None:
        raise RuntimeError("the application lacks the middleware of this Authix")
    guard.hold(claims)
    scope[CLAIMS] = claims
    return claims


async def refuse(error: AuthixError, scope: Scope, send: Send) -> None:
    """Answer with the refusal; a WebSocket at its handshake."""
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


def _is_spelled_as_usual(scope: Scope) -> bool:
    """Whether the request's path encodes nothing that needs no encoding.

    Some applications (Sanic) route on the raw path: to them ``/%61`` and ``/a`` are two paths, where ``scope["path"]``
    is one.
    """
    raw: bytes | None = scope.get("raw_path")
    if raw is None:
        return True
    raw = raw.partition(b"?")[0]  # httpx's transport leaves the query there
    return b"%" not in raw or raw == quote(scope["path"], safe=_NEVER_QUOTED).encode("ascii")


def _is_event_stream(start: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.lower().lstrip().startswith(b"text/event-stream")
        for name, value in start.get("headers", ())
    )
