"""What stands before every route and goes with every answer: the check of origins, CORS, security headers.

Rule: it is the application's, not a route's, so a new route can't forget it. A request that may change something is
refused unless its origin may write here; so neither a refresh cookie nor a login can be used by another site's page.
"""

from __future__ import annotations

from sanic import HTTPResponse, Request
from sanic.response import BaseHTTPResponse

from authix_issuer.errors import OriginForbidden
from authix_issuer.origins import SAFE, Origins
from authix_issuer.responses import Response, as_one
from authix_issuer.settings import IssuerSettings

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_HTTPS_ONLY = {"Strict-Transport-Security": "max-age=31536000"}
_WELL_KNOWN, _KEYS = "/.well-known/", "/public_key"


class Border:
    """Stands around every route."""

    def __init__(self, settings: IssuerSettings) -> None:
        self.origins = Origins(settings.issuer, settings.origins)
        self._dress = _HEADERS | (_HTTPS_ONLY if settings.issuer.startswith("https:") else {})
        self._in_bytes = as_one(self._dress)

    def check(self, request: Request) -> None:
        """Raises ``OriginForbidden``."""
        if request.method in SAFE:
            return
        headers = request.headers
        if not self.origins.may_write(headers.getall("origin", ()), headers.getall("sec-fetch-site", ())):
            raise OriginForbidden("this origin may not use the issuer; AUTHIX_ORIGINS lists those that may")

    def dress(self, request: Request, response: BaseHTTPResponse) -> None:
        """Put on every answer what a browser must know."""
        headers, origins = response.headers, self.origins
        if isinstance(response, Response) and not any(name in headers for name in self._dress):
            response.always = self._in_bytes
        else:
            for name, value in self._dress.items():
                headers.setdefault(name, value)
        path = request.path
        public = path == _KEYS or path.startswith(_WELL_KNOWN)
        if public or origins.vary:
            headers.update(origins.headers(request.headers.getall("origin", ()), public=public))
            if origins.vary:
                vary(response, "Origin")


def preflight(request: Request, methods: str) -> HTTPResponse | None:
    """The answer to a CORS preflight for a route that has ``methods``; None unless it is one, of a listed origin."""
    origin, origins = request.headers.getall("origin", ()), request.app.ctx.origins
    if (
        request.method != "OPTIONS"
        or "access-control-request-method" not in request.headers
        or not origins.is_listed(origin)
    ):
        return None
    return Response(status=204, headers={"Cache-Control": "no-store"} | origins.preflight(origin, methods))


def vary(response: BaseHTTPResponse, field: str) -> None:
    """Say that the answer depends on a request's ``field`` too."""
    before = response.headers.get("vary")
    response.headers["Vary"] = f"{before}, {field}" if before else field
