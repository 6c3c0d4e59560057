"""Django: a middleware and a decorator that let only verified requests through.

Rule: with the middleware every view needs a good access token unless it is marked otherwise; the decorator asks the
same of one view, and for roles. The claims are in ``request.claims``. No user model is needed. Settings are those of
``AUTHIX = {"ISSUER": …, "AUDIENCE": …}`` in the project's settings, else of the environment; the verifier starts in
each process with the first request there. Under ASGI the event loop never waits for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator
from functools import cache, wraps
from typing import Any, NamedTuple, TypeVar, cast, overload

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings as project
from django.core.signals import setting_changed
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from authix.bearer import apart, bearer_token, refusal
from authix.claims import Claims, names
from authix.errors import AuthixError, RoleMissing, SettingsError, TokenError, Unavailable
from authix.freshness import WhenStale
from authix.settings import load, named
from authix.threaded import SyncAuthix
from authix.verifier_settings import VerifierSettings

T = TypeVar("T")
View = TypeVar("View", bound=Callable[..., Any])

_RULE = "authix_rule"
_REFUSED = (TokenError, RoleMissing, Unavailable)


class _Rule(NamedTuple):
    """What a view requires; ``public``: nothing."""

    roles: frozenset[str] = frozenset()
    when_stale: WhenStale | None = None
    public: bool = False


class AuthedRequest(HttpRequest):
    """For annotations: a request that was let through."""

    claims: Claims


@cache
def verifier() -> SyncAuthix:
    """That of this project. Raises ``SettingsError`` when a setting is missing or wrong."""
    given = {f"AUTHIX_{name}": value for name, value in getattr(project, "AUTHIX", {}).items()}
    unknown = given.keys() - {field.metadata["name"] for field in dataclasses.fields(VerifierSettings)}
    if unknown:
        names = ", ".join(sorted(name.removeprefix("AUTHIX_") for name in unknown))
        raise SettingsError(f"AUTHIX in the project's settings names what is no setting: {names}.")
    return SyncAuthix(settings=load(VerifierSettings, arguments=named(VerifierSettings, given)))


def _forget(*, setting: str, **_: object) -> None:
    if setting == "AUTHIX":
        verifier.cache_clear()


setting_changed.connect(_forget)


class AuthixMiddleware:
    """``authix.django.AuthixMiddleware`` in ``MIDDLEWARE``: every view needs a token, unless it is marked."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self._get_response = get_response
        verifier()  # raises what the first request would
        self.process_view: Callable[..., Any] = _judge_view
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)
            self.process_view = _judge_view_async

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        return cast("HttpResponseBase", self._get_response(request))


def access_token_required(
    *, roles: Collection[str] = (), when_stale: WhenStale | None = None
) -> Callable[[View], View]:
    """Require a good access token whose user has all of ``roles``.

    For a class-based view ``method_decorator(access_token_required(…), name="dispatch")``. The view needs no CSRF token
    then: a page of another site can't send an access token.
    """
    rule = _Rule(names(roles), when_stale)

    def decorate(view: View) -> View:
        @wraps(view)
        def judged(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            refused = _judge(request, rule)
            return view(request, *args, **kwargs) if refused is None else refused

        @wraps(view)
        async def judged_async(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            refused = await _judge_async(request, rule)
            return await view(request, *args, **kwargs) if refused is None else refused

        found = judged_async if _is_async(view) else judged
        setattr(found, _RULE, rule)  # for the middleware
        setattr(found, "csrf_exempt", True)  # noqa: B010 - as Django marks it
        return cast("View", found)

    return decorate


def access_token_not_required(view: View) -> View:
    """Mark a view that needs no token although the middleware is there."""
    setattr(view, _RULE, _Rule(public=True))
    return view


@overload
def guard(request: HttpRequest, items: AsyncIterable[T]) -> AsyncIterator[T]: ...
@overload
def guard(request: HttpRequest, items: Iterable[T]) -> Iterator[T]: ...
def guard(request: HttpRequest, items: Iterable[T] | AsyncIterable[T]) -> Iterator[T] | AsyncIterator[T]:
    """The ``items`` of a ``StreamingHttpResponse``, which ends when the request's token is revoked or expires.

    Asynchronous ones end at once; others with the item after it, so a source that may be silent for long should give
    one now and then.
    """
    claims: Claims = getattr(request, "auth", None) or cast("AuthedRequest", request).claims
    if isinstance(items, AsyncIterable):
        return verifier().guard_async(claims, items)
    return verifier().guard(claims, items)


def _judge(request: HttpRequest, rule: _Rule) -> HttpResponse | None:
    try:
        token = bearer_token(apart(request.META.get("HTTP_AUTHORIZATION")))
        claims = verifier().authenticate(token, roles=rule.roles, when_stale=rule.when_stale)
    except _REFUSED as error:
        return refused(error)
    cast("AuthedRequest", request).claims = claims
    return None


async def _judge_async(request: HttpRequest, rule: _Rule) -> HttpResponse | None:
    try:
        token = bearer_token(apart(request.META.get("HTTP_AUTHORIZATION")))
        claims = await verifier().authenticate_async(token, roles=rule.roles, when_stale=rule.when_stale)
    except _REFUSED as error:
        return refused(error)
    cast("AuthedRequest", request).claims = claims
    return None


def _judge_view(request: HttpRequest, view: object, *_: object) -> HttpResponse | None:
    rule: _Rule = getattr(view, _RULE, _Rule())
    return None if rule.public else _judge(request, rule)


async def _judge_view_async(request: HttpRequest, view: object, *_: object) -> HttpResponse | None:
    rule: _Rule = getattr(view, _RULE, _Rule())
    return None if rule.public else await _judge_async(request, rule)


def refused(error: AuthixError) -> HttpResponse:
    """The answer for ``error``."""
    status, headers, body = refusal(error)
    return HttpResponse(body, status=status, headers=dict(headers))


def _is_async(view: Callable[..., Any]) -> bool:
    owner = getattr(getattr(view, "func", None), "__self__", None)  # of a ``dispatch``, by method_decorator
    return iscoroutinefunction(view) or bool(getattr(owner, "view_is_async", False))
