"""What every route shares: reading a body, answering, refusing.

Rule: every refusal goes through the one table below and is a problem+json document with a stable code.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any, TypeVar

import msgspec
from sanic import HTTPResponse, Request
from sanic.constants import HTTP_METHODS
from sanic.exceptions import MethodNotAllowed, NotFound, SanicException
from sanic.http import Http

from authix.bearer import PROBLEM_JSON, problem, refusal
from authix.errors import AuthixError, TokenMalformed
from authix.tokens import json_object
from authix_issuer import border, errors
from authix_issuer.audit import Caller
from authix_issuer.cookies import RefreshCookie
from authix_issuer.keys import Document
from authix_issuer.responses import Response
from authix_issuer.sessions import Tokens
from authix_issuer.wiring import Issuer

S = TypeVar("S", bound=msgspec.Struct)

logger = logging.getLogger("authix.issuer")

STATUS: dict[type[errors.IssuerError], int] = {
    errors.BodyMalformed: 400,
    errors.FormMalformed: 400,
    errors.CredentialsWrong: 401,
    errors.RefreshTokenMissing: 401,
    errors.RefreshTokenInvalid: 401,
    errors.RefreshTokenReused: 401,
    errors.FeedForbidden: 401,
    errors.IntrospectionForbidden: 401,
    errors.PasswordWrong: 403,
    errors.AccountDisabled: 403,
    errors.AccountUnknown: 404,
    errors.SessionUnknown: 404,
    errors.KeyUnknown: 404,
    errors.IntrospectionOff: 404,
    errors.OriginForbidden: 403,
    errors.EmailTaken: 409,
    errors.KeyNotReady: 409,
    errors.KeysTooMany: 409,
    errors.AccountBusy: 409,
    errors.SelfLockout: 409,
    errors.ContentTypeWrong: 415,
    errors.InputInvalid: 422,
    errors.TooManyRequests: 429,
    errors.TooManyAttempts: 429,
    errors.Overloaded: 503,
    errors.StoreUnavailable: 503,
}
OAUTH_ERROR: dict[type[errors.IssuerError], str] = {
    errors.FormMalformed: "invalid_request",
    errors.IntrospectionForbidden: "invalid_client",
}
"""What OAuth's clients read besides (RFC 6749, 5.2)."""
# What Sanic itself refuses
CODES = {
    400: "request_malformed",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
    431: "headers_too_large",
}
NO_STORE = {"Cache-Control": "no-store"}
READ = ["GET", "HEAD"]
_MOST_SHOWN, _MOST_UNKNOWN = 100, 10  # of what a client wrote, characters and names that an answer repeats


def issuer_of(request: Request) -> Issuer:
    issuer: Issuer = request.app.ctx.issuer
    return issuer


def caller_of(request: Request) -> Caller:
    agent = request.headers.get("user-agent", "")
    return Caller(address=client_address(request), agent=agent, request_id=request.ctx.request_id)


def cookie_of(request: Request) -> RefreshCookie:
    return _cookie(issuer_of(request).settings.cookie_profile)


_cookie = cache(RefreshCookie)


def read_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object. Raises ``ContentTypeWrong`` or ``BodyMalformed``."""
    if request.content_type.partition(";")[0].strip().lower() != "application/json":
        raise errors.ContentTypeWrong("send the body as application/json")
    try:
        return json_object(request.body or b"")
    except TokenMalformed:
        raise errors.BodyMalformed("the body is not one JSON object in UTF-8 without duplicate names") from None


def client_address(request: Request) -> str:
    """The client's address, by the trusted proxies alone; ``unknown`` where there is none."""
    clients = issuer_of(request).clients
    return clients.find(request.ip, request.headers.getall(clients.field, []))


@cache  # to look takes longer than to read a body
def _fields(kind: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.name: field for field in msgspec.structs.fields(kind)}


def read_body(request: Request, kind: type[S]) -> S:
    """The body as ``kind``, all of whose fields are texts; what it says beyond them is ignored.

    Raises ``ContentTypeWrong``, ``BodyMalformed`` or ``InputInvalid``.
    """
    body = read_object(request)
    reasons = []
    for field in _fields(kind).values():
        if not isinstance(body.get(field.name), str):
            detail = f"{field.name} must be given as a string"
            reasons.append(errors.Reason(field.name, f"{field.name}_missing", detail))
    if reasons:
        raise errors.InputInvalid(*reasons)
    return msgspec.convert(body, kind)


def read_strictly(request: Request, kind: type[S]) -> S:
    """The body as ``kind`` and no more: what is missing, of another type or unknown is named.

    Raises ``ContentTypeWrong``, ``BodyMalformed`` or ``InputInvalid``.
    """
    body, values = read_object(request), {}
    fields = _fields(kind)
    unknown = [name[:_MOST_SHOWN] for name in body if name not in fields][:_MOST_UNKNOWN]
    reasons = [errors.Reason(name, "field_unknown", f"{name} is no field of this call") for name in unknown]
    for name, field in fields.items():
        if name in body:
            try:
                values[name] = msgspec.convert(body[name], field.type)
            except msgspec.ValidationError as error:
                detail = f"{name}: {str(error)[:_MOST_SHOWN]}"
                reasons.append(errors.Reason(name, f"{name}_malformed", detail))
        elif field.required:
            reasons.append(errors.Reason(name, f"{name}_missing", f"{name} must be given"))
    if reasons:
        raise errors.InputInvalid(*reasons)
    return kind(**values)


def read_query(request: Request, *known: str) -> dict[str, str]:
    """The query, of these names and no others, each at most once. Raises ``InputInvalid``."""
    query, reasons = {}, []
    for name, values in request.get_args(keep_blank_values=True).items():
        query[name] = values[0]
        if name not in known or len(values) > 1:
            detail = f"the query may hold {', '.join(known)}, each once"
            reasons.append(errors.Reason(name[:_MOST_SHOWN], "query_malformed", detail))
    if reasons:
        raise errors.InputInvalid(*reasons[:_MOST_UNKNOWN])
    return query


def last_on_its_connection(request: Request) -> None:
    """Have the connection closed after the answer: one that stays open holds up the end of the program."""
    if isinstance(request.stream, Http):
        request.stream.keep_alive = False


def json_answer(body: dict[str, Any], status: int) -> HTTPResponse:
    return Response(msgspec.json.encode(body), status, NO_STORE, "application/json")


def document_answer(request: Request, document: Document) -> HTTPResponse:
    request.ctx.document = document
    headers = {"ETag": document.etag, "Cache-Control": f"public, max-age={issuer_of(request).settings.keys_max_age}"}
    known = request.headers.get("if-none-match")
    if known is not None:
        wanted = {tag.strip().removeprefix("W/") for tag in known.split(",")}
        if document.etag in wanted or "*" in wanted:
            return Response(status=304, headers=headers)
    return Response(document.body, 200, headers, document.content_type)


def tokens_answer(request: Request, tokens: Tokens) -> HTTPResponse:
    body = {"access_token": tokens.access_token, "token_type": "Bearer", "expires_in": tokens.access_life}
    answer = json_answer(body, 200)
    answer.headers["Authorization"] = f"Bearer {tokens.access_token}"
    cookie_of(request).write(answer, tokens.refresh_token, tokens.refresh_life)
    return answer


def problem_answer(status: int, code: str, detail: str, **more: object) -> HTTPResponse:
    headers = dict(NO_STORE)
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="authix"'
    if status == 503:
        headers["Retry-After"] = "1"
    return Response(problem(status, code, detail, **more), status, headers, PROBLEM_JSON)


async def refuse(request: Request, error: errors.IssuerError) -> HTTPResponse:
    more: dict[str, object] = {}
    if isinstance(error, errors.InputInvalid):
        more["reasons"] = error.reasons
    if type(error) in OAUTH_ERROR:
        more["error"] = OAUTH_ERROR[type(error)]
    reason = error.reason
    request.ctx.code = error.code
    if isinstance(error, errors.StoreUnavailable):
        request.app.ctx.metrics.store_errors[error.engine or "several"] += 1
        logger.error("a store does not answer: %s", reason)
        reason = "a store does not answer; try again in a moment"  # what ails it is not the client's business
    answer = problem_answer(STATUS[type(error)], error.code, reason, **more)
    if isinstance(error, errors.TooManyRequests):
        answer.headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, errors.RefreshTokenInvalid | errors.RefreshTokenReused):
        cookie_of(request).clear(answer)
    if isinstance(error, errors.IntrospectionForbidden):
        answer.headers["WWW-Authenticate"] = 'Basic realm="authix", Bearer realm="authix"'
    return answer


async def refuse_token(request: Request, error: AuthixError) -> HTTPResponse:
    request.ctx.code = error.code
    status, headers, body = refusal(error)
    return Response(body, status, dict(headers))


def methods_of(request: Request) -> str:
    """The methods that the request's path has; Sanic does not tell them of a path with parameters."""

    def is_served(method: str) -> bool:
        try:
            request.app.router.get(request.path, method, None)
        except (MethodNotAllowed, NotFound):
            return False
        return True

    return ", ".join(filter(is_served, HTTP_METHODS))


async def refuse_request(request: Request, error: SanicException) -> HTTPResponse:
    """What Sanic refuses by itself: an unknown path or method, a body too large, a request it can't read."""
    if isinstance(error, MethodNotAllowed):
        error.headers["Allow"] = methods = methods_of(request)
        if preflight := border.preflight(request, methods):
            return preflight
    detail = str(error).encode("utf-8", "backslashreplace").decode("utf-8")  # it may quote bytes that are no text
    status = error.status_code
    if status == 413 and request.method == "NONE":  # there is no request yet: it is the header fields
        status = 431
    request.ctx.code = CODES.get(status, "request_refused")
    answer = problem_answer(status, request.ctx.code, detail)
    answer.headers.update(error.headers)
    return answer
