"""The walk's service on Django under ASGI: ``uvicorn django_async_service:app``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

from authix import WhenStale
from authix.django import AuthedRequest, access_token_not_required, access_token_required, guard, verifier
from tests.sdk.frameworks.services.naming_worker import NamingWorker


@access_token_not_required
async def open_to_all(_: HttpRequest) -> JsonResponse:
    return JsonResponse({"ready": verifier().ready()})


async def me(request: AuthedRequest) -> JsonResponse:
    claims = request.claims
    return JsonResponse({"subject": claims.subject, "session": claims.session, "roles": sorted(claims.roles)})


@method_decorator(access_token_required(roles=["admin"]), name="dispatch")
class Admin(View):
    async def get(self, request: AuthedRequest) -> JsonResponse:
        return await me(request)


async def events(request: AuthedRequest) -> StreamingHttpResponse:
    async def tell() -> AsyncIterator[str]:
        yield f"data: {request.claims.subject}\n\n"
        while True:
            await asyncio.sleep(0.05)
            yield "data: tick\n\n"

    return StreamingHttpResponse(guard(request, tell()), content_type="text/event-stream")


urlpatterns = [
    path("open", open_to_all),
    path("me", me),
    path("admin", Admin.as_view()),
    path("lax", access_token_required(when_stale=WhenStale.ACCEPT)(me)),
    path("events", events),
]

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["127.0.0.1"],
    MIDDLEWARE=["authix.django.AuthixMiddleware"],
)
app = NamingWorker(get_asgi_application())
