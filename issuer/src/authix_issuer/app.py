"""The Sanic application: routes, documents and life cycle put together.

Rule: nothing connects before the worker starts, and the feed's streams end before the worker waits for its connections.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from sanic import HTTPResponse, Request, Sanic
from sanic.exceptions import SanicException
from sanic.response import BaseHTTPResponse
from swagger_ui_bundle import swagger_ui_path

from authix import tracing
from authix.accepting import accept_all
from authix.errors import AuthixError
from authix_issuer import (
    account_routes,
    admin_routes,
    answers,
    discovery,
    logs,
    oauth_routes,
    openapi,
    request_ids,
    routes,
)
from authix_issuer.audit import OK
from authix_issuer.border import Border
from authix_issuer.cookies import RefreshCookie
from authix_issuer.errors import IssuerError
from authix_issuer.known_requests import KnownRequests
from authix_issuer.metrics import Metrics
from authix_issuer.requests import StrictRequest
from authix_issuer.responses import Response
from authix_issuer.settings import IssuerSettings
from authix_issuer.wiring import open_issuer

logger = logging.getLogger("authix.issuer")

MAX_BODY = 16 * 1024
# its links are relative, because a proxy may have the issuer below a path
_DOCS = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Authix issuer</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="docs/swagger-ui.css"></head>
<body><div id="api"></div><script src="docs/swagger-ui-bundle.js"></script><script src="docs/start.js"></script>
</body></html>
"""
_DOCS_START = b'SwaggerUIBundle({url: "openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null});\n'
_DOCS_POLICY = (
    "default-src 'none'; img-src data:; script-src 'self'; connect-src 'self'; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def build_app(settings: IssuerSettings, name: str = "authix-issuer") -> Sanic[Any, Any]:
    """The application; its parts are opened when a worker starts. Two in one process need two names."""
    access = logs.set_up(settings.log, settings.log_level)
    app: Sanic[Any, Any] = Sanic(name, request_class=StrictRequest, strict_slashes=True, configure_logging=False)
    app.config.update(
        REQUEST_MAX_SIZE=MAX_BODY,
        REQUEST_TIMEOUT=10,
        RESPONSE_TIMEOUT=60,
        GRACEFUL_SHUTDOWN_TIMEOUT=float(settings.drain_time),
        ACCESS_LOG=False,
        MOTD=False,
        AUTO_EXTEND=False,
    )
    app.ctx.metrics = metrics = Metrics()
    app.ctx.listeners = ()
    app.ctx.known_requests = KnownRequests(metrics, access, lambda: (app.ctx.issuer.keys.jwks, app.ctx.issuer.keys.pem))
    app.blueprint([routes.routes, account_routes.routes, admin_routes.routes, oauth_routes.routes])
    app.exception(IssuerError)(answers.refuse)
    app.exception(AuthixError)(answers.refuse_token)
    app.exception(SanicException)(answers.refuse_request)
    app.exception(Exception)(_fail)
    app.error_handler.add(asyncio.CancelledError, _gone)
    _serve_documents(app, settings)
    border = Border(settings)
    app.ctx.origins = border.origins

    @app.before_server_start
    async def start(app: Sanic[Any, Any]) -> None:
        app.ctx.parts = AsyncExitStack()
        app.ctx.parts.enter_context(tracing.set_up("authix-issuer"))
        app.ctx.issuer = await app.ctx.parts.enter_async_context(open_issuer(settings))

    @app.before_server_stop
    async def end_streams(app: Sanic[Any, Any]) -> None:
        app.config.KEEP_ALIVE = False
        app.ctx.issuer.feed.end()
        await accept_all(app.ctx.listeners)

    @app.after_server_stop
    async def stop(app: Sanic[Any, Any]) -> None:
        await app.ctx.parts.aclose()
        access.flush()

    # one of each, because to be called at all takes as long as what most would do
    @app.on_request
    async def begin(request: Request) -> None:
        request.ctx.began = time.perf_counter()
        request_ids.begin(request)
        border.check(request)

    async def finish(request: Request, response: BaseHTTPResponse) -> None:
        report(request, response)
        border.dress(request, response)
        request_ids.finish(request, response)

    app.register_middleware(finish, "response")

    def report(request: Request, response: BaseHTTPResponse) -> None:
        if not app.config.KEEP_ALIVE:
            answers.last_on_its_connection(request)
        route = request.route.path if request.route else None
        spent = time.perf_counter() - getattr(request.ctx, "began", time.perf_counter())
        code = getattr(request.ctx, "code", OK)
        metrics.answered(route, request.method, response.status, code, spent)
        method, path = request_ids.route_of(request)
        access.tell(method, path, response.status, spent, code, request_id=request_ids.id_of(request))

    return app


def _serve_documents(app: Sanic[Any, Any], settings: IssuerSettings) -> None:
    cookie = RefreshCookie(settings.cookie_profile).name
    api = msgspec.json.encode(openapi.document(version=version("authix-issuer"), issuer=settings.issuer, cookie=cookie))

    async def openapi_json(_: Request) -> HTTPResponse:
        return Response(api, 200, None, "application/json")

    async def docs(_: Request) -> HTTPResponse:
        return Response(_DOCS, 200, {"Content-Security-Policy": _DOCS_POLICY}, "text/html; charset=utf-8")

    async def docs_start(_: Request) -> HTTPResponse:
        return Response(_DOCS_START, 200, None, "text/javascript")

    for path, read in (("/openapi.json", openapi_json), ("/docs", docs), ("/docs/start.js", docs_start)):
        app.add_route(read, path, methods=answers.READ)
    for number, path in enumerate(discovery.paths(settings.issuer)):
        app.add_route(oauth_routes.metadata, path, methods=answers.READ, name=f"metadata_{number}")
    for name in ("swagger-ui.css", "swagger-ui-bundle.js"):
        app.static(f"/docs/{name}", Path(swagger_ui_path) / name, name=name.replace(".", "_"))


async def _gone(request: Request, _: asyncio.CancelledError) -> HTTPResponse:
    """The client went away before its answer; only the log sees this, and can tell it from a failure."""
    request.ctx.code = "client_gone"
    return Response(status=499)


async def _fail(request: Request, error: Exception) -> HTTPResponse:
    request.ctx.code = "internal_error"
    logger.error("a request failed", exc_info=error)
    return answers.problem_answer(500, "internal_error", "the issuer failed; the log says why")
