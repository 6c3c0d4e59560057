"""The walk's service on Django under WSGI: ``gunicorn --preload django_service:app``."""

from __future__ import annotations

import time
from collections.abc import Iterator

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.urls import path

from authix import WhenStale
from authix.django import AuthedRequest, access_token_not_required, access_token_required, guard, verifier
from tests.sdk.frameworks.services.naming_wsgi_worker import NamingWsgiWorker


@access_token_not_required
def open_to_all(_: HttpRequest) -> JsonResponse:
    return JsonResponse({"ready": verifier().ready()})


def me(request: AuthedRequest) -> JsonResponse:
    claims = request.claims
    return JsonResponse({"subject": claims.subject, "session": claims.session, "roles": sorted(claims.roles)})


def events(request: AuthedRequest) -> StreamingHttpResponse:
    def tell() -> Iterator[str]:
        yield f"data: {request.claims.subject}\n\n"
        while True:
            time.sleep(0.05)
            yield "data: tick\n\n"

    return StreamingHttpResponse(guard(request, tell()), content_type="text/event-stream")


urlpatterns = [
    path("open", open_to_all),
    path("me", me),
    path("admin", access_token_required(roles=["admin"])(me)),
    path("lax", access_token_required(when_stale=WhenStale.ACCEPT)(me)),
    path("events", events),
]

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["127.0.0.1"],
    MIDDLEWARE=["authix.django.AuthixMiddleware"],
    AUTHIX={"AUDIENCE": "tests"},
)
app = NamingWsgiWorker(get_wsgi_application())
