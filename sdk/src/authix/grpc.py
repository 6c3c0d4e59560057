"""gRPC: interceptors that let only verified calls through, for ``grpc.aio`` and for ``grpc`` servers.

Rule: every method needs ``authorization: Bearer <token>`` in its metadata unless it is public; the handler has
``current_claims()``. A refusal is UNAUTHENTICATED, PERMISSION_DENIED or UNAVAILABLE with the reason as details and the
code as trailing metadata ``authix-code``. A streaming call ends so when its token is revoked or expires: under
``grpc.aio`` at once, where the handler is cancelled; under ``grpc``, where a thread that waits can't be interrupted,
with the next message in either direction, or after two seconds without one with CANCELLED. A call with one request and
one answer is let finish.

Methods are named exactly (``/shop.Orders/Place``), or all of a service (``/grpc.health.v1.Health/*``).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextvars import Context, ContextVar, copy_context
from typing import Any, Generic, NamedTuple, NoReturn, TypeAlias, TypeVar, cast

import grpc
import grpc.aio

from authix.bearer import bearer_token
from authix.claims import Claims, names
from authix.errors import AuthixError, RoleMissing, TokenError, Unavailable
from authix.freshness import WhenStale
from authix.runtime import Authix
from authix.streams import items_until
from authix.threaded import SyncAuthix

CODE = "authix-code"
"""Trailing metadata with the error's code."""
SILENCE = 2.0
"""Seconds without a message after which a dead token's stream is cancelled under ``grpc``."""
_END = object()
_REFUSED = (TokenError, RoleMissing, Unavailable)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Details = grpc.HandlerCallDetails
Metadata = tuple[tuple[str, str], ...]
WhenStaleBy = WhenStale | Mapping[str, WhenStale] | None

_claims: ContextVar[Claims] = ContextVar("authix_claims")


def current_claims() -> Claims:
    """The claims of the call's token. Raises ``RuntimeError`` where no token was asked for."""
    try:
        return _claims.get()
    except LookupError:
        raise RuntimeError("no access token was asked of this call") from None


A = TypeVar("A")


class _Rule(NamedTuple):
    """What a method requires."""

    roles: frozenset[str]
    when_stale: WhenStale | None


class _Rules:
    def __init__(self, public: Collection[str], roles: Mapping[str, Collection[str]], when_stale: WhenStaleBy) -> None:
        self._public = names(public)
        self._roles = {method: names(needed) for method, needed in roles.items()}
        self._when_stale = when_stale

    def of(self, method: str) -> _Rule | None:
        """None: it is public."""
        service = f"{method.rpartition('/')[0]}/*"
        if not self._public.isdisjoint({method, service}):
            return None
        when_stale = self._when_stale
        if isinstance(when_stale, Mapping):
            when_stale = when_stale.get(method, when_stale.get(service))
        needed = self._roles.get(service, frozenset()) | self._roles.get(method, frozenset())
        return _Rule(needed, when_stale)


class _Interceptor(Generic[A]):
    """What both kinds are made of."""

    def __init__(
        self,
        auth: A,
        *,
        public: Collection[str] = (),
        roles: Mapping[str, Collection[str]] | None = None,
        when_stale: WhenStaleBy = None,
    ) -> None:
        """``roles``: those needed by method, all of them. ``when_stale``: the policy of all methods, or by method."""
        self._auth: A = auth
        self._rules = _Rules(public, roles or {}, when_stale)


class AuthixInterceptor(_Interceptor[Authix], grpc.aio.ServerInterceptor):
    """For ``grpc.aio.server(interceptors=[AuthixInterceptor(auth)])``; starting ``auth`` is the program's."""

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[Handler | None]], handler_call_details: Details
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        rule = self._rules.of(handler_call_details.method)
        if rule is None or handler is None:
            return handler
        behavior = _behavior(handler)
        if inspect.isasyncgenfunction(behavior):
            return _with_behavior(handler, self._of_generator(rule, behavior))
        if not inspect.iscoroutinefunction(behavior):
            raise TypeError(f"the handler of {handler_call_details.method} is no coroutine function")
        streams = handler.request_streaming or handler.response_streaming
        return _with_behavior(handler, self._of_coroutine(rule, behavior, streams=streams))

    def _of_coroutine(self, rule: _Rule, behavior: Callable[..., Any], *, streams: bool) -> Callable[..., Any]:
        async def judged(request: Any, context: Any) -> Any:
            claims = await self._judge(context, rule)
            if not streams:
                return await behavior(request, context)
            try:
                async with self._auth.until_revoked(claims):
                    return await behavior(request, context)
            except TokenError as error:
                await _abort_async(context, error)

        return judged

    def _of_generator(self, rule: _Rule, behavior: Callable[..., Any]) -> Callable[..., Any]:
        async def judged(request: Any, context: Any) -> AsyncIterator[Any]:
            claims = await self._judge(context, rule)
            end = asyncio.ensure_future(self._auth.until_revoked(claims))
            try:
                async with contextlib.aclosing(items_until(behavior(request, context), end)) as answers:
                    async for answer in answers:
                        yield answer
                if end.done():
                    await _abort_async(context, end.result())
            finally:
                end.cancel()

        return judged

    async def _judge(self, context: Any, rule: _Rule) -> Claims:
        try:
            token = bearer_token(_authorization(context))
            claims = await self._auth.authenticate(token, roles=rule.roles, when_stale=rule.when_stale)
        except _REFUSED as error:
            await _abort_async(context, error)
        _claims.set(claims)
        return claims


class SyncAuthixInterceptor(_Interceptor[SyncAuthix], grpc.ServerInterceptor):
    """For ``grpc.server(…, interceptors=[SyncAuthixInterceptor(auth)])``; ``auth`` starts with the first call."""

    def intercept_service(
        self, continuation: Callable[[Details], Handler | None], handler_call_details: Details
    ) -> Handler | None:
        handler = continuation(handler_call_details)
        rule = self._rules.of(handler_call_details.method)
        if rule is None or handler is None:
            return handler
        of_kind = self._of_stream if handler.response_streaming else self._of_one
        return _with_behavior(handler, of_kind(rule, _behavior(handler), requests=bool(handler.request_streaming)))

    def _of_one(self, rule: _Rule, behavior: Callable[..., Any], *, requests: bool) -> Callable[..., Any]:
        def judged(request: Any, context: grpc.ServicerContext) -> Any:
            claims = self._judge(context, rule)
            if requests:
                self._watch(claims, context)
            messages = self._while_good(claims, request, context) if requests else request
            return _with_claims(claims).run(behavior, messages, context)

        return judged

    def _of_stream(self, rule: _Rule, behavior: Callable[..., Any], *, requests: bool) -> Callable[..., Any]:
        def judged(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            claims = self._judge(context, rule)
            self._watch(claims, context)
            messages = self._while_good(claims, request, context) if requests else request
            within = _with_claims(claims)
            answers = iter(within.run(behavior, messages, context))
            yield from self._while_good(claims, iter(lambda: within.run(next, answers, _END), _END), context)

        return judged

    def _judge(self, context: grpc.ServicerContext, rule: _Rule) -> Claims:
        try:
            token = bearer_token(_authorization(context))
            return self._auth.authenticate(token, roles=rule.roles, when_stale=rule.when_stale)
        except _REFUSED as error:
            _abort(context, error)

    def _watch(self, claims: Claims, context: grpc.ServicerContext) -> None:
        def cut(_: AuthixError) -> None:
            timer = threading.Timer(SILENCE, context.cancel)
            timer.daemon = True
            timer.start()

        try:
            forget = self._auth.watch(claims, cut)
        except TokenError as error:
            _abort(context, error)
        if not context.add_callback(forget):
            forget()

    def _while_good(self, claims: Claims, messages: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        for message in messages:
            try:
                self._auth.recheck(claims)
            except TokenError as error:
                _abort(context, error)
            yield message


def _with_claims(claims: Claims) -> Context:
    """A context of the call's own: its thread will serve others."""
    context = copy_context()
    context.run(_claims.set, claims)
    return context


def _authorization(context: Any) -> list[str]:
    return [str(value) for name, value in context.invocation_metadata() or () if name == "authorization"]


def _status(error: AuthixError) -> tuple[grpc.StatusCode, str, Metadata]:
    if isinstance(error, Unavailable):
        pushback = ("grpc-retry-pushback-ms", str(error.retry_after * 1000))  # gRFC A6
        return grpc.StatusCode.UNAVAILABLE, error.reason, ((CODE, error.code), pushback)
    kind = grpc.StatusCode.PERMISSION_DENIED if isinstance(error, RoleMissing) else grpc.StatusCode.UNAUTHENTICATED
    return kind, error.reason, ((CODE, error.code),)


def _abort(context: grpc.ServicerContext, error: AuthixError) -> NoReturn:
    status, details, metadata = _status(error)
    context.set_trailing_metadata(metadata)
    context.abort(status, details)


async def _abort_async(context: Any, error: AuthixError) -> NoReturn:
    await context.abort(*_status(error))
    raise AssertionError("abort raises")


def _behavior(handler: Handler) -> Callable[..., Any]:
    return cast("Callable[..., Any]", getattr(handler, _KINDS[_kind(handler)][0]))


def _with_behavior(handler: Handler, behavior: Callable[..., Any]) -> Handler:
    make = _KINDS[_kind(handler)][1]
    return cast("Handler", make(behavior, handler.request_deserializer, handler.response_serializer))


def _kind(handler: Handler) -> tuple[bool, bool]:
    return bool(handler.request_streaming), bool(handler.response_streaming)


_KINDS: dict[tuple[bool, bool], tuple[str, Callable[..., Any]]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}
