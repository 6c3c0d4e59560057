# pyright: strict
"""What a service's author writes with the public API. Never run: mypy and pyright check that the types say the truth.

Rule: only public names, spelled as the documentation spells them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, assert_type

from aiohttp import web
from django.http import HttpResponse
from fastapi import Depends, FastAPI
from flask import Flask

from authix import (
    Authix,
    AuthixError,
    Claims,
    FeedStale,
    NotReady,
    RoleMissing,
    SettingsError,
    SyncAuthix,
    TokenError,
    TokenExpired,
    TokenMissing,
    TokenRevoked,
    Unavailable,
    Verifier,
    VerifierSettings,
    WhenStale,
)
from authix.aiohttp import CLAIMS, AiohttpAuthix
from authix.asgi import AuthixMiddleware
from authix.django import AuthedRequest, access_token_required
from authix.events import Heartbeat, Revocation, UserRevoked
from authix.fastapi import FastAPIAuthix
from authix.flask import FlaskAuthix, current_claims
from authix.grpc import AuthixInterceptor, SyncAuthixInterceptor
from authix.grpc import current_claims as grpc_claims
from authix.keys import KeySet
from authix.testing import InProcessIssuer, Token


async def an_asyncio_service(token: str) -> None:
    async with Authix(issuer="https://auth.example.com", audience="orders", leeway=5, feed_token=None) as auth:
        assert_type(auth, Authix)
        await auth.wait_ready(timeout=10)
        claims = assert_type(auth.verify(token), Claims)
        assert_type(await auth.authenticate(token, roles=frozenset({"admin"})), Claims)
        assert_type(auth.verify(token, when_stale=WhenStale.ACCEPT), Claims)
        assert_type(auth.freshness, float | None)
        assert_type(auth.ready(), bool)
        assert_type(auth.problems(), list[str])
        assert_type(await auth.until_revoked(claims), AuthixError)
        async with auth.until_revoked(claims):
            auth.recheck(claims)


def a_program_of_threads(token: str, rows: list[int]) -> Iterator[int]:
    def cut(error: AuthixError) -> None:
        assert_type(error.code, str)

    with SyncAuthix() as auth:
        assert_type(auth, SyncAuthix)
        auth.wait_ready()
        claims = assert_type(auth.verify(token), Claims)
        assert_type(auth.authenticate(token), Claims)
        yield from assert_type(auth.guard(claims, rows), Iterator[int])
        end = assert_type(auth.watch(claims, cut), Callable[[], None])
        end()


def what_a_token_says(claims: Claims) -> None:
    assert_type(claims.subject, str)
    assert_type(claims.session, str | None)
    assert_type(claims.roles, frozenset[str])
    assert_type(claims.issuer, str)
    assert_type(claims.audience, tuple[str, ...])
    assert_type(claims.issued_at_us, int)
    assert_type(claims.expires_at, float)
    assert_type(claims.token_id, str | None)
    assert_type(claims.key_id, str)
    assert_type(claims.extra, Mapping[str, Any])


def why_a_token_is_refused(auth: Authix, token: str) -> tuple[int, str]:
    try:
        auth.verify(token)
    except (TokenMissing, TokenExpired, TokenRevoked) as error:
        return error.status, error.code
    except RoleMissing as error:
        return error.status, error.reason
    except (NotReady, FeedStale) as error:
        return error.retry_after, error.code
    except (TokenError, Unavailable, SettingsError) as error:
        return error.status, error.code
    except AuthixError as error:
        return error.status, error.code
    return 200, ""


def logouts_as_they_come(auth: Authix) -> None:
    def listener(event: Revocation) -> None:
        if isinstance(event, UserRevoked):
            assert_type(event.sub, str)

    assert_type(auth.on_revoked(listener), Callable[[], None])()


def the_verifier_alone(document: bytes, token: str) -> Claims:
    verifier = Verifier(
        issuer="https://auth.example.com",
        audience="orders",
        algorithms=frozenset({"ES256", "EdDSA"}),
        when_stale=WhenStale.CLAMP,
    )
    verifier.use_keys(KeySet.from_json(document))
    verifier.apply(Heartbeat(at_us=2, complete_until_us=1), monotonic=0.0)
    return verifier.verify(token, now=1_700_000_000.0, monotonic=1.0, when_stale=WhenStale.REJECT)


def settings_that_were_read_elsewhere(settings: VerifierSettings) -> Authix:
    assert_type(settings.issuer, str)
    return Authix(settings=settings)


async def an_asgi_application(scope: Any, receive: Any, send: Any) -> None:
    await AuthixMiddleware(an_asgi_application, auth=Authix())(scope, receive, send)


def a_flask_application(app: Flask) -> None:
    auth = FlaskAuthix(app, issuer="https://auth.example.com", audience="orders")

    @auth.required(roles=["buyer"], when_stale=WhenStale.ACCEPT)
    def orders() -> str:
        return current_claims.subject

    assert_type(orders(), Any)


def a_fastapi_application(app: FastAPI) -> None:
    auth = FastAPIAuthix(app)
    needed = Depends(auth.required(roles=["buyer"]))

    async def orders(claims: Annotated[Claims, needed]) -> str:
        return claims.subject

    app.get("/orders")(orders)


def an_aiohttp_application(app: web.Application) -> None:
    auth = AiohttpAuthix(app, audience="orders")

    @auth.required()
    async def orders(request: web.Request) -> web.Response:
        return web.Response(text=assert_type(request[CLAIMS], Claims).subject)

    app.router.add_get("/orders", orders)


@access_token_required(roles=["buyer"])
def a_django_view(request: AuthedRequest) -> HttpResponse:
    return HttpResponse(assert_type(request.claims, Claims).subject)


def grpc_servers(auth: Authix, sync_auth: SyncAuthix) -> tuple[AuthixInterceptor, SyncAuthixInterceptor]:
    assert_type(grpc_claims(), Claims)
    roles = {"/orders.Orders/Delete": ["admin"]}
    return AuthixInterceptor(auth, roles=roles), SyncAuthixInterceptor(sync_auth, public=["/grpc.health.v1.Health/*"])


def a_services_test(authix_tokens: InProcessIssuer) -> None:
    token = assert_type(authix_tokens.issue("user-1", roles=["admin"], tenant="acme"), Token)
    assert_type(token.headers, dict[str, str])
    authix_tokens.logout("user-1")
    authix_tokens.advance(301)
    authix_tokens.rotate_keys()
    authix_tokens.go_stale()
    authix_tokens.recover()
