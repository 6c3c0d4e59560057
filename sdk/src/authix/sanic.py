"""Sanic: a decorator that lets only verified requests through.

Rule: ``@auth.required()`` puts the claims into ``request.ctx.claims`` and into the handler's parameter of type
``Claims``, if it has one, or answers the refusal; a WebSocket is refused at its handshake. From the moment the token is
revoked or expires, a WebSocket is closed and an event stream ended, and their handler is cancelled; a plain request in
flight is let finish. A ``TokenError`` that its handler raises before it has answered is answered as a refusal. The
verifier runs with the application's worker.

This is for Sanic's own server; under an ASGI server wrap the application in ``authix.asgi.AuthixMiddleware``.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable, Collection, Coroutine
from functools import wraps
from inspect import isawaitable
from typing import Any, NamedTuple, Unpack, cast

from sanic import HTTPResponse, Request, Sanic
from sanic.http import Stage
from sanic.response import BaseHTTPResponse, ResponseStream

from authix.bearer import CLOSE_CODE, bearer_token, refusal
from authix.claims import Claims, names
from authix.errors import AuthixError, TokenError
from authix.freshness import WhenStale
from authix.runtime import Authix
from authix.streams import UntilRevoked
from authix.verifier_settings import VerifierOptions

Judged = Callable[..., Coroutine[Any, Any, Any]]


class _Rule(NamedTuple):
    """What a handler requires."""

    auth: SanicAuthix
    roles: frozenset[str]
    when_stale: WhenStale | None


class SanicAuthix(Authix):
    """An ``Authix`` that lives with a Sanic application: ``auth = SanicAuthix(app)``; settings as for ``Authix``."""

    def __init__(self, app: Sanic[Any, Any], **options: Unpack[VerifierOptions]) -> None:
        super().__init__(**options)
        app.before_server_start(self._start_with)
        app.after_server_stop(self._stop_with)
        app.register_middleware(self._at_the_handshake, "request")
        app.register_middleware(_watch_event_stream, "response")

    def required(
        self, *, roles: Collection[str] = (), when_stale: WhenStale | None = None
    ) -> Callable[[Callable[..., Any]], Judged]:
        """Require a good access token whose user has all of ``roles``; to stand right below the route."""
        rule = _Rule(self, names(roles), when_stale)

        def decorate(handler: Callable[..., Any]) -> Judged:
            wants_claims = _claims_parameter(handler)

            @wraps(handler)
            async def judged(*args: Any, **kwargs: Any) -> Any:
                request, *others = args if isinstance(args[0], Request) else args[1:]  # a view's method has a self
                socket = others[0] if request.route and request.route.extra.websocket else None
                try:
                    claims = await self._judge_request(request, rule)
                except AuthixError as error:
                    if socket is not None:  # one that could not be refused at its handshake
                        return await socket.close(CLOSE_CODE, error.code)
                    return _refused(error)
                if wants_claims:
                    kwargs[wants_claims] = claims

                async def answer() -> Any:
                    given = handler(*args, **kwargs)
                    return await given if isawaitable(given) else given

                if socket is not None:
                    return await self._serve_socket(socket, claims, answer)
                return await self._serve(request, answer)

            judged.authix_rule = rule  # type: ignore[attr-defined] # read at a handshake, before the handler is called
            return judged

        return decorate

    async def _judge_request(self, request: Request, rule: _Rule) -> Claims:
        token = bearer_token(request.headers.getall("authorization", []))
        request.ctx.claims = await self.authenticate(token, roles=rule.roles, when_stale=rule.when_stale)
        return cast("Claims", request.ctx.claims)

    async def _at_the_handshake(self, request: Request) -> HTTPResponse | None:
        route = request.route
        if route is None or not route.extra.websocket or request.app.asgi:
            return None
        handler = getattr(route.handler, "args", (route.handler,))[0]  # Sanic's partial(handshake, handler)
        rule: _Rule | None = getattr(handler, "authix_rule", None)
        if rule is not None and rule.auth is self:
            try:
                await self._judge_request(request, rule)
            except AuthixError as error:
                return _refused(error)
        return None

    async def _serve(self, request: Request, answer: Callable[[], Awaitable[Any]]) -> Any:
        life = request.ctx.authix_life = UntilRevoked(self.streams)
        try:
            async with life:
                given = await answer()
        except TokenError as error:
            if error is life.ended_by:
                return None  # Sanic ends the response that was begun
            if request.stream is None or request.stream.stage is not Stage.HANDLER:
                raise
            request.reset_response()  # or Sanic would send what ``request.respond`` prepared
            return _refused(error)
        if isinstance(given, ResponseStream) and _is_event_stream(given):
            tell = given.streaming_fn

            async def telling(response: Any) -> None:
                with contextlib.suppress(TokenError):
                    async with self.until_revoked(request.ctx.claims):
                        await tell(response)

            given.streaming_fn = telling
        return given

    async def _serve_socket(self, socket: Any, claims: Claims, answer: Callable[[], Awaitable[Any]]) -> Any:
        closing: list[asyncio.Task[None]] = []

        def close(why: AuthixError) -> None:
            # not by the cancelled task, which may have much to put away
            closing.append(asyncio.create_task(socket.close(CLOSE_CODE, why.code)))

        life = UntilRevoked(self.streams, on_end=close)
        try:
            async with life:
                life.begin(claims)
                return await answer()
        except TokenError as error:
            if error is not life.ended_by:
                raise
            return None
        finally:
            await asyncio.gather(*closing)

    async def _start_with(self, _: Sanic[Any, Any]) -> None:
        await self.start()

    async def _stop_with(self, _: Sanic[Any, Any]) -> None:
        await self.stop()


async def _watch_event_stream(request: Request, response: BaseHTTPResponse) -> None:
    life: UntilRevoked | None = getattr(request.ctx, "authix_life", None)
    if life is not None and _is_event_stream(response):
        life.begin(request.ctx.claims)


def _is_event_stream(response: BaseHTTPResponse | ResponseStream) -> bool:
    kind = response.headers.get("content-type") or response.content_type or ""
    return str(kind).lower().startswith("text/event-stream")


def _claims_parameter(handler: Callable[..., Any]) -> str | None:
    """The name of the handler's parameter that is annotated ``Claims``."""
    for parameter in inspect.signature(handler).parameters.values():
        annotation = parameter.annotation
        if annotation is Claims or (isinstance(annotation, str) and annotation.rpartition(".")[2] == "Claims"):
            return parameter.name
    return None


def _refused(error: AuthixError) -> HTTPResponse:
    status, headers, body = refusal(error)
    return HTTPResponse(body, status, dict(headers))
