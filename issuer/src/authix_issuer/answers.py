"""What every route shares: reading a body, answering, refusing.

Rule: every refusal goes through the one table below and is a problem+json document with a stable code.
"""

from __future__ import annotations

import logging
from typing import Any, TypeVar

import msgspec
from sanic import HTTPResponse, Request
from sanic.exceptions import SanicException
from sanic.http import Http

from authix.bearer import PROBLEM_JSON, problem, refusal
from authix.errors import AuthixError, TokenMalformed
from authix.tokens import json_object
from authix_issuer import errors
from authix_issuer.cookies import RefreshCookie
from authix_issuer.sessions import Tokens
from authix_issuer.wiring import Issuer

S = TypeVar("S", bound=msgspec.Struct)

logger = logging.getLogger("authix.issuer")

STATUS: dict[type[errors.IssuerError], int] = {
    errors.BodyMalformed: 400,
    errors.CredentialsWrong: 401,
    errors.RefreshTokenMissing: 401,
    errors.RefreshTokenInvalid: 401,
    errors.RefreshTokenReused: 401,
    errors.FeedForbidden: 401,
    errors.EmailTaken: 409,
    errors.ContentTypeWrong: 415,
    errors.InputInvalid: 422,
    errors.Overloaded: 503,
    errors.StoreUnavailable: 503,
}
# What Sanic itself refuses
CODES = {400: "request_malformed", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
NO_STORE = {"Cache-Control": "no-store"}
READ = ["GET", "HEAD"]


def issuer_of(request: Request) -> Issuer:
    issuer: Issuer = request.app.ctx.issuer
    return issuer


def cookie_of(request: Request) -> RefreshCookie:
    return RefreshCookie(issuer_of(request).settings.cookie_profile)


def read_body(request: Request, kind: type[S]) -> S:
    """The body as ``kind``. Raises ``ContentTypeWrong``, ``BodyMalformed`` or ``InputInvalid``."""
    if request.content_type.partition(";")[0].strip().lower() != "application/json":
        raise errors.ContentTypeWrong("send the body as application/json")
    try:
        body = json_object(request.body or b"")
    except TokenMalformed:
        raise errors.BodyMalformed("the body is not one JSON object in UTF-8 without duplicate names") from None
    reasons = []
    for field in msgspec.structs.fields(kind):
        if not isinstance(body.get(field.name), str):
            detail = f"{field.name} must be given as a string"
            reasons.append(errors.Reason(field.name, f"{field.name}_missing", detail))
    if reasons:
        raise errors.InputInvalid(*reasons)
    return msgspec.convert(body, kind)


def last_on_its_connection(request: Request) -> None:
    """Have the connection closed after the answer: one that stays open holds up the end of the program."""
    if isinstance(request.stream, Http):
        request.stream.keep_alive = False


def json_answer(body: dict[str, Any], status: int) -> HTTPResponse:
    return HTTPResponse(msgspec.json.encode(body), status, NO_STORE, "application/json")


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
    return HTTPResponse(problem(status, code, detail, **more), status, headers, PROBLEM_JSON)


async def refuse(request: Request, error: errors.IssuerError) -> HTTPResponse:
    more = {"reasons": error.reasons} if isinstance(error, errors.InputInvalid) else {}
    reason = error.reason
    if isinstance(error, errors.StoreUnavailable):
        logger.error("a store does not answer: %s", reason)
        reason = "a store does not answer; try again in a moment"  # what ails it is not the client's business
    answer = problem_answer(STATUS[type(error)], error.code, reason, **more)
    if isinstance(error, errors.RefreshTokenInvalid | errors.RefreshTokenReused):
        cookie_of(request).clear(answer)
    return answer


async def refuse_token(_: Request, error: AuthixError) -> HTTPResponse:
    status, headers, body = refusal(error)
    return HTTPResponse(body, status, dict(headers))


async def refuse_request(_: Request, error: SanicException) -> HTTPResponse:
    """What Sanic refuses by itself: an unknown path or method, a body too large, a request it can't read."""
    detail = str(error).encode("utf-8", "backslashreplace").decode("utf-8")  # it may quote bytes that are no text
    answer = problem_answer(error.status_code, CODES.get(error.status_code, "request_refused"), detail)
    answer.headers.update(error.headers)
    return answer
