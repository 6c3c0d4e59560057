"""The id of a request: in its answer, in each line of the log that it leads to, and in the audit log.

Rule: it is there before anything else is done for the request; ``authix.request_ids`` says what is taken for one. The
line of a decision comes at debug, with the code that decided.
"""

from __future__ import annotations

import logging
import secrets
from typing import Any

from sanic import Request, Sanic
from sanic.response import BaseHTTPResponse
from structlog.contextvars import bind_contextvars, clear_contextvars

from authix import tracing
from authix.request_ids import HEADER, accepted, trace_id

logger = logging.getLogger("authix.issuer.decisions")

_TRACE = ("traceparent", "tracestate")


def watch(app: Sanic[Any, Any]) -> None:
    """Give every request of ``app`` its id and its span; to be called before other middleware is registered."""

    async def begin(request: Request) -> None:
        _begin(request)

    async def finish(request: Request, response: BaseHTTPResponse) -> None:
        response.headers[HEADER] = id_of(request)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s: %s", route_of(request), getattr(request.ctx, "code", "ok"))
        request.ctx.served.end(response.status)

    app.register_middleware(begin, "request")
    app.register_middleware(finish, "response")


def id_of(request: Request) -> str:
    if not hasattr(request.ctx, "request_id"):  # what could not be read has passed no middleware
        _begin(request)
    name: str = request.ctx.request_id
    return name


def route_of(request: Request) -> str:
    """The method and the route's template: nothing of a path that may hold a secret, or of a method made up."""
    method = request.method if request.method.isascii() and request.method.isalpha() else "-"
    return f"{method} /{request.route.path if request.route else '-'}"


def _begin(request: Request) -> None:
    traceparents = request.headers.getall("traceparent", [])
    request.ctx.request_id = accepted(request.headers.getall(HEADER, []), traceparents) or secrets.token_hex(16)
    clear_contextvars()  # a connection's requests share them
    bind_contextvars(request_id=request.ctx.request_id)
    came = {name: request.headers[name] for name in _TRACE if name in request.headers} if trace_id(traceparents) else {}
    request.ctx.served = tracing.Served(route_of(request), came)
