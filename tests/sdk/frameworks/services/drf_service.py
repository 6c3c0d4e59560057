"""The walk's service on Django REST framework: ``gunicorn --preload drf_service:app``."""

from __future__ import annotations

import time
from collections.abc import Iterator

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import StreamingHttpResponse
from django.urls import path

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["127.0.0.1"],
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": ["authix.rest_framework.AccessTokenAuthentication"],
        "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
        "EXCEPTION_HANDLER": "authix.rest_framework.exception_handler",
        "UNAUTHENTICATED_USER": None,
    },
)
wsgi = get_wsgi_application()

from rest_framework.decorators import api_view, permission_classes  # noqa: E402 - it reads the settings
from rest_framework.permissions import AllowAny  # noqa: E402 - as above
from rest_framework.request import Request  # noqa: E402 - as above
from rest_framework.response import Response  # noqa: E402 - as above
from rest_framework.views import APIView  # noqa: E402 - as above

from authix import Claims, WhenStale  # noqa: E402 - as above
from authix.django import guard, verifier  # noqa: E402 - as above
from authix.rest_framework import AccessTokenAuthentication, has_roles  # noqa: E402 - as above
from tests.sdk.frameworks.services.naming_wsgi_worker import NamingWsgiWorker  # noqa: E402 - as above


@api_view()
@permission_classes([AllowAny])
def open_to_all(_: Request) -> Response:
    return Response({"ready": verifier().ready()})


class Me(APIView):
    def get(self, request: Request) -> Response:
        claims: Claims = request.auth  # type: ignore[assignment] # the stubs know DRF's own tokens only
        return Response({"subject": request.user.pk, "session": claims.session, "roles": sorted(claims.roles)})


class EvenStale(AccessTokenAuthentication):
    when_stale = WhenStale.ACCEPT


@api_view()
def events(request: Request) -> StreamingHttpResponse:
    def tell() -> Iterator[str]:
        yield f"data: {request.user}\n\n"
        while True:
            time.sleep(0.05)
            yield "data: tick\n\n"

    return StreamingHttpResponse(guard(request, tell()), content_type="text/event-stream")


urlpatterns = [
    path("open", open_to_all),
    path("me", Me.as_view()),
    path("admin", Me.as_view(permission_classes=[has_roles("admin")])),
    path("lax", Me.as_view(authentication_classes=[EvenStale])),
    path("events", events),
]
app = NamingWsgiWorker(wsgi)
