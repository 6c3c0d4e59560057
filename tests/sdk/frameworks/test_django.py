"""What is Django's and DRF's own: settings, marks on views, classes, coroutines, streams, permissions, other errors."""

# ruff: noqa: E402 - Django must have its settings before the rest is imported

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import django
import pytest
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["testserver"],
    MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware", "authix.django.AuthixMiddleware"],
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": ["authix.rest_framework.AccessTokenAuthentication"],
        "UNAUTHENTICATED_USER": None,
    },
)
django.setup()

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View
from rest_framework.exceptions import NotFound
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from authix import SettingsError, WhenStale
from authix.django import AuthedRequest, access_token_not_required, access_token_required, guard, verifier
from authix.rest_framework import TokenUser, exception_handler, has_roles
from authix.testing import InProcessIssuer


@pytest.fixture(autouse=True)
def _anew(tokens: InProcessIssuer) -> Iterator[None]:
    verifier.cache_clear()
    yield
    verifier.cache_clear()


def urls(**views: Any) -> Any:
    """A project of these views, each at its name."""
    return override_settings(ROOT_URLCONF=tuple(path(name, view) for name, view in views.items()))


def me(request: AuthedRequest) -> HttpResponse:
    return HttpResponse(request.claims.subject)


async def me_async(request: AuthedRequest) -> HttpResponse:
    return HttpResponse(request.claims.subject)


def said(answer: Any) -> tuple[int, str]:
    if answer.headers.get("content-type") == "application/problem+json":
        return answer.status_code, answer.json()["code"]
    body = b"".join(answer.streaming_content) if answer.streaming else answer.content
    return answer.status_code, body.decode()


def test_the_projects_settings_go_before_the_environments(tokens: InProcessIssuer) -> None:
    with urls(me=me), override_settings(AUTHIX={"AUDIENCE": "billing", "STALE_AFTER": 30}):
        found = verifier().settings
        assert (found.issuer, found.audience, found.stale_after) == ("https://auth.example.com", "billing", 30)
        assert said(Client().get("/me", headers=tokens.issue("ada").headers)) == (401, "audience_wrong")
    assert verifier().settings.audience == "orders"


@pytest.mark.parametrize(
    ("wrong", "named"), [({"LEEWAY": "long"}, "AUTHIX_LEEWAY"), ({"ISUER": "https://a.example"}, "ISUER")]
)
def test_a_wrong_setting_is_told_when_the_application_is_made(wrong: dict[str, str], named: str) -> None:
    with urls(me=me), override_settings(AUTHIX=wrong), pytest.raises(SettingsError, match=named):
        Client().get("/me")


def test_with_the_middleware_every_view_needs_a_token_but_those_that_are_marked(tokens: InProcessIssuer) -> None:
    @access_token_not_required
    def health(_: HttpRequest) -> HttpResponse:
        return HttpResponse("for all")

    ada = tokens.issue("ada").headers
    lax = access_token_required(when_stale=WhenStale.ACCEPT)(me)
    with urls(health=health, me=me, lax=lax):
        client = Client()
        assert said(client.get("/health")) == (200, "for all")
        assert said(client.get("/me")) == (401, "token_missing")
        assert said(client.get("/me", headers=ada)) == (200, "ada")
        tokens.go_stale()
        assert said(client.get("/me", headers=ada)) == (503, "feed_stale")
        assert said(client.get("/lax", headers=ada)) == (200, "ada")


@override_settings(MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"])
def test_without_the_middleware_the_decorated_views_need_one(tokens: InProcessIssuer) -> None:
    @method_decorator(access_token_required(roles=["admin"]), name="dispatch")
    class Admin(View):
        def get(self, request: AuthedRequest) -> HttpResponse:
            return me(request)

    ada, root = tokens.issue("ada").headers, tokens.issue("root", roles=["admin"]).headers
    with urls(me=access_token_required()(me), admin=Admin.as_view(), plain=lambda _: HttpResponse("plain")):
        client = Client(enforce_csrf_checks=True)
        assert [said(client.get(f"/{name}")) for name in ("me", "admin")] == [(401, "token_missing")] * 2
        assert said(client.get("/plain")) == (200, "plain")
        assert said(client.post("/me", headers=ada)) == (200, "ada"), "another site can't send an access token"
        assert said(client.get("/admin", headers=ada)) == (403, "role_missing")
        assert said(client.get("/admin", headers=root)) == (200, "root")


async def test_coroutines_and_classes_of_them_are_judged_alike(tokens: InProcessIssuer) -> None:
    @method_decorator(access_token_required(roles=["admin"]), name="dispatch")
    class Admin(View):
        async def get(self, request: AuthedRequest) -> HttpResponse:
            return await me_async(request)

    ada, root = tokens.issue("ada").headers, tokens.issue("root", roles=["admin"]).headers
    for middleware in ([], ["authix.django.AuthixMiddleware"]):
        views = {"me": access_token_required()(me_async), "admin": Admin.as_view(), "sync": access_token_required()(me)}
        with override_settings(MIDDLEWARE=middleware), urls(**views):
            client = AsyncClient()
            for name in views:
                assert said(await client.get(f"/{name}")) == (401, "token_missing")
            assert said(await client.get("/me", headers=ada)) == (200, "ada")
            assert said(await client.get("/sync", headers=ada)) == (200, "ada")
            assert said(await client.get("/admin", headers=ada)) == (403, "role_missing")
            assert said(await client.get("/admin", headers=root)) == (200, "root")


def test_a_guarded_stream_ends_at_the_logout(tokens: InProcessIssuer) -> None:
    def stream(request: AuthedRequest) -> StreamingHttpResponse:
        def tell() -> Iterator[str]:
            yield "1"
            tokens.logout("ada")
            yield "2"

        return StreamingHttpResponse(guard(request, tell()))

    with urls(stream=stream):
        assert said(Client().get("/stream", headers=tokens.issue("ada").headers)) == (200, "1")
        assert said(Client().get("/stream", headers=tokens.issue("bob").headers)) == (200, "12")


async def test_a_guarded_stream_of_a_coroutine_ends_while_it_is_silent(tokens: InProcessIssuer) -> None:
    put_away = []

    async def stream(request: AuthedRequest) -> StreamingHttpResponse:
        async def tell() -> AsyncIterator[str]:
            try:
                yield "1"
                await asyncio.Event().wait()
            finally:
                put_away.append("source")

        return StreamingHttpResponse(guard(request, tell()))

    with urls(stream=stream):
        answer: Any = await AsyncClient().get("/stream", headers=tokens.issue("ada").headers)
        items = aiter(answer.streaming_content)
        assert await anext(items) == b"1"
        tokens.logout("ada")
        assert [item async for item in items] == []
        assert put_away == ["source"]


class Me(APIView):
    permission_classes = (IsAuthenticated,)

    def get(self, request: Request) -> Response:
        user: Any = request.user  # the stubs know Django's own users only
        assert isinstance(user, TokenUser)
        return Response({"user": str(user), "roles": sorted(user.roles), "session": user.claims.session})


class TestRestFramework:
    @pytest.fixture(autouse=True)
    def _alone(self) -> Iterator[None]:
        with override_settings(MIDDLEWARE=[]):
            yield

    def test_a_user_is_who_the_token_says(self, tokens: InProcessIssuer) -> None:
        token = tokens.issue("ada", roles=["buyer"])
        with urls(me=Me.as_view()):
            answer = Client().get("/me", headers=token.headers)
            assert answer.json() == {"user": "ada", "roles": ["buyer"], "session": token.session}

    def test_a_view_for_all_is_for_those_without_a_token_too(self, tokens: InProcessIssuer) -> None:
        class Open(APIView):
            def get(self, request: Request) -> Response:
                user: Any = request.user
                return Response({"user": user and str(user)})

        with urls(open=Open.as_view()):
            assert Client().get("/open").json() == {"user": None}
            assert Client().get("/open", headers=tokens.issue("ada").headers).json() == {"user": "ada"}
            assert Client().get("/open", headers={"Authorization": "Bearer x.y.z"}).status_code == 401

    def test_without_our_handler_status_and_headers_are_right(self, tokens: InProcessIssuer) -> None:
        with urls(me=Me.as_view(), admin=Me.as_view(permission_classes=[has_roles("admin")])):
            missing = Client().get("/me")
            assert (missing.status_code, missing.headers["WWW-Authenticate"]) == (401, 'Bearer realm="authix"')
            expired = Client().get("/me", headers=tokens.issue(expires_in=-60).headers)
            assert expired.status_code == 401
            assert 'error="invalid_token"' in expired.headers["WWW-Authenticate"]
            forbidden = Client().get("/admin", headers=tokens.issue().headers)
            assert forbidden.status_code == 403
            assert Client().get("/admin").status_code == 401
            tokens.go_stale()
            stale = Client().get("/me", headers=tokens.issue().headers)
            assert (stale.status_code, stale.headers["Retry-After"]) == (503, "1")

    def test_our_handler_answers_a_missing_role_as_everywhere_else(self, tokens: InProcessIssuer) -> None:
        class Admin(Me):
            def get_exception_handler(self) -> Any:
                return exception_handler

        with urls(admin=Admin.as_view(permission_classes=[IsAuthenticated, has_roles("admin")])):
            forbidden = Client().get("/admin", headers=tokens.issue().headers)
            assert said(forbidden) == (403, "role_missing")
            assert forbidden.json()["detail"] == "the user lacks a role that this needs"
            assert 'error="insufficient_scope"' in forbidden.headers["WWW-Authenticate"]
            assert said(Client().get("/admin")) == (401, "token_missing")
            assert Client().get("/admin", headers=tokens.issue(roles=["admin"]).headers).status_code == 200

    def test_roles_may_be_combined_with_other_permissions(self, tokens: InProcessIssuer) -> None:
        buyer, seller, banned = has_roles("buyer"), has_roles("seller"), has_roles("banned")
        allowed = {
            "either": (buyer | seller, [[], ["banned"]], [["buyer"], ["seller"], ["buyer", "seller"]]),
            "both": (buyer & seller, [[], ["buyer"], ["seller"]], [["buyer", "seller"]]),
            "not": (IsAuthenticated & ~banned, [["banned"], ["buyer", "banned"]], [[], ["buyer"]]),
        }

        class Thing(Me):
            def get(self, request: Request) -> Response:
                self.check_object_permissions(request, object())
                return super().get(request)

        with urls(**{name: Thing.as_view(permission_classes=[it]) for name, (it, _, __) in allowed.items()}):
            for name, (_, refused, let_through) in allowed.items():
                for status, many in ((403, refused), (200, let_through)):
                    for roles in many:
                        answer = Client().get(f"/{name}", headers=tokens.issue(roles=roles).headers)
                        assert (name, roles, answer.status_code) == (name, roles, status)
                assert Client().get(f"/{name}").status_code == 401

    def test_our_handler_leaves_other_errors_as_they_are(self, tokens: InProcessIssuer) -> None:
        class Missing(Me):
            def get(self, request: Request) -> Response:
                raise NotFound

            def get_exception_handler(self) -> Any:
                return exception_handler

        with urls(missing=Missing.as_view()):
            answer = Client().get("/missing", headers=tokens.issue().headers)
            assert (answer.status_code, answer.json()) == (404, {"detail": "Not found."})
            assert said(Client().get("/missing")) == (401, "token_missing")
