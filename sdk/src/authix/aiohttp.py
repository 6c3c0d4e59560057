"""aiohttp's server: a decorator, or a middleware for the whole application.

Rule: ``@auth.required()`` puts the claims into ``request[CLAIMS]`` or answers the refusal, a WebSocket's at its
handshake. From the moment the token is revoked or expires, a WebSocket is closed and an event stream ended, and their
handler is cancelled; a plain request in flight is let finish. A ``TokenError`` that a handler raises before it has
answered is answered as a refusal. The verifier runs with the application.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from functools import wraps
from typing import Any, TypeVar, Unpack, cast

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from authix.bearer import CLOSE_CODE, bearer_token, refusal
from authix.claims import Claims, names
from authix.errors import AuthixError, TokenError
from authix.freshness import WhenStale
from authix.runtime import Authix
from authix.streams import UntilRevoked
from authix.verifier_settings import VerifierOptions

CLAIMS = web.RequestKey("authix.claims", Claims)
"""Where a request that was let through holds its claims."""

_INSTALLED: web.AppKey[list[Authix]] = web.AppKey("authix.installed", list)
_WATCH = web.RequestKey("authix.watch", object)
_BEGUN = web.RequestKey("authix.begun", bool)

H = TypeVar("H", bound=Callable[..., Awaitable[web.StreamResponse]])


class AiohttpAuthix(Authix):
    """An ``Authix`` that lives with an aiohttp application: ``AiohttpAuthix(app)``; settings as for ``Authix``."""

    def __init__(self, app: web.Application | None = None, **options: Unpack[VerifierOptions]) -> None:
        super().__init__(**options)
        if app is not None:
            self.install(app)

    def install(self, app: web.Application) -> None:
        """Live with ``app`` and the applications in it, for one that is made later."""
        app.setdefault(_INSTALLED, []).append(self)
        app.cleanup_ctx.append(self._run_with)
        app.on_response_prepare.append(_watch_response)

    def required(self, *, roles: Collection[str] = (), when_stale: WhenStale | None = None) -> Callable[[H], H]:
        """A decorator: require a good access token whose user has all of ``roles``."""
        needed = names(roles)

        def decorate(handler: H) -> H:
            @wraps(handler)
            async def judged(*args: Any) -> web.StreamResponse:
                last = args[-1]  # after the self of a method
                request = last.request if isinstance(last, web.View) else last
                return await self._serve(request, needed, when_stale, lambda: handler(*args))

            return cast("H", judged)

        return decorate

    def middleware(
        self, *, public: Collection[str] = (), roles: Collection[str] = (), when_stale: WhenStale | None = None
    ) -> Middleware:
        """A middleware: require it of every request except to the exact paths of ``public``.

        They are spelled as aiohttp routes on them: decoded, but for ``%2F`` and ``%25``.
        """
        open_paths, needed = names(public), names(roles)

        @web.middleware
        async def judged(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.rel_url.path_safe in open_paths:  # ``path`` may be that of another route: its %2F is decoded
                return await handler(request)
            return await self._serve(request, needed, when_stale, lambda: handler(request))

        return judged

    async def _serve(
        self,
        request: web.Request,
        roles: frozenset[str],
        when_stale: WhenStale | None,
        answer: Callable[[], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        if self not in request.config_dict.get(_INSTALLED, ()):
            raise RuntimeError("this AiohttpAuthix is not installed in the application")
        try:
            token = bearer_token(request.headers.getall("Authorization", []))
            claims = request[CLAIMS] = await self.authenticate(token, roles=roles, when_stale=when_stale)
        except AuthixError as error:
            return _refused(error)
        watch = request[_WATCH] = _Watch(self, claims)
        try:
            return await watch.over(answer)
        except TokenError as error:
            if _BEGUN in request:
                raise
            return _refused(error)

    async def _run_with(self, _: web.Application) -> AsyncIterator[None]:
        async with self:
            yield


class _Watch:
    """Over one request: what it opens ends when its token dies."""

    def __init__(self, auth: Authix, claims: Claims) -> None:
        self._claims = claims
        self._life = UntilRevoked(auth.streams, on_end=self._end)
        self._response: web.StreamResponse | None = None
        self._closing: asyncio.Task[None] | None = None

    def begin(self, response: web.StreamResponse) -> None:
        """``response`` is about to begin."""
        if isinstance(response, web.WebSocketResponse) or response.content_type == "text/event-stream":
            self._response = response
            self._life.begin(self._claims)

    async def over(self, answer: Callable[[], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
        try:
            async with self._life:
                return await answer()
        except TokenError as error:
            if error is not self._life.ended_by or self._response is None:
                raise
            return self._response  # aiohttp ends what has begun
        finally:
            if self._closing is not None:
                await self._closing

    def _end(self, why: AuthixError) -> None:
        # not by the cancelled task, which may have much to put away
        if isinstance(self._response, web.WebSocketResponse):
            self._closing = asyncio.create_task(self._close(self._response, why))

    @staticmethod
    async def _close(socket: web.WebSocketResponse, why: AuthixError) -> None:
        with contextlib.suppress(RuntimeError):  # its handshake did not get that far
            await socket.close(code=CLOSE_CODE, message=why.code.encode())


async def _watch_response(request: web.Request, response: web.StreamResponse) -> None:
    request[_BEGUN] = True
    watch = request.get(_WATCH)
    if isinstance(watch, _Watch):
        watch.begin(response)


def _refused(error: AuthixError) -> web.Response:
    status, headers, body = refusal(error)
    return web.Response(body=body, status=status, headers=dict(headers))
