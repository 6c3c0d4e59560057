"""The id of a request: in its answer, in each line of the log that it leads to, and in the audit log.

Rule: it is there before anything else is done for the request; ``authix.request_ids`` says what is taken for one. The
line of a decision comes at debug, with the code that decided.
"""

from __future__ import annotations

import logging

from sanic import Request
from sanic.response import BaseHTTPResponse

from authix import tracing
from authix.request_ids import HEADER, accepted, new_id, trace_id
from authix_issuer import logs

logger = logging.getLogger("authix.issuer.decisions")

_TRACE = ("traceparent", "tracestate")


def begin(request: Request) -> None:
    """Give ``request`` its id and its span."""
    headers = request.headers
    traceparents = headers.getall("traceparent", ())
    name = accepted(headers.getall(HEADER, ()), traceparents) or new_id()
    request.ctx.request_id = name
    logs.request_id.set(name)
    came = {name: headers[name] for name in _TRACE if name in headers} if trace_id(traceparents) else {}
    traced = came or tracing.makes_spans()
    request.ctx.served = tracing.Served(" ".join(route_of(request)), came) if traced else None


def finish(request: Request, response: BaseHTTPResponse) -> None:
    """Tell the id in the answer, and the code that decided."""
    response.headers[HEADER] = id_of(request)
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("%s %s: %s", *route_of(request), getattr(request.ctx, "code", "ok"))
    if request.ctx.served is not None:
        request.ctx.served.end(response.status)


def id_of(request: Request) -> str:
    if not hasattr(request.ctx, "request_id"):  # what could not be read has passed no middleware
        begin(request)
    name: str = request.ctx.request_id
    return name


def route_of(request: Request) -> tuple[str, str]:
    """The method and the route's template: nothing of a path that may hold a secret, or of a method made up."""
    method = request.method if request.method.isascii() and request.method.isalpha() else "-"
    return method, f"/{request.route.path if request.route else '-'}"
