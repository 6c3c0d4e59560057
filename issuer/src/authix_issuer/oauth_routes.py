"""OAuth's endpoints for services and libraries that know no Authix: metadata, introspection, revocation.

Rule: whoever may ask for introspection has its token; whoever revokes has the token to revoke. No cookie is read. What
is wrong with a token is never told here: it is not active, or there is nothing left to revoke.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

import msgspec
from sanic import Blueprint, HTTPResponse, Request

from authix.bearer import bearer_token
from authix.claims import Claims
from authix.errors import TokenError
from authix_issuer import discovery
from authix_issuer.answers import NO_STORE, caller_of, document_answer, issuer_of, json_answer
from authix_issuer.audit import Event
from authix_issuer.errors import FormMalformed, IntrospectionForbidden, IntrospectionOff, RefreshTokenInvalid
from authix_issuer.keys import Document
from authix_issuer.ports import Scope
from authix_issuer.responses import Response

FORM = "application/x-www-form-urlencoded"

routes = Blueprint("authix_issuer_oauth")


async def metadata(request: Request) -> HTTPResponse:
    issuer = issuer_of(request)
    found = discovery.metadata(issuer.settings, [key.algorithm for key in issuer.keys.published])
    body = msgspec.json.encode(found)
    return document_answer(request, Document("application/json", body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'))


@routes.post("/introspect")
async def introspect(request: Request) -> HTTPResponse:
    check_introspection_token(request)
    token = read_token(request)
    try:
        claims = await issuer_of(request).own_tokens.live(token)
    except TokenError:
        return json_answer({"active": False}, 200)
    return json_answer(shown_claims(claims), 200)


@routes.post("/revoke")
async def revoke(request: Request) -> HTTPResponse:
    token, issuer, caller = read_token(request), issuer_of(request), caller_of(request)
    try:
        await issuer.sessions.close(token, Scope.SESSION, caller, Event.TOKEN_REVOKED)
    except RefreshTokenInvalid:  # it is an access token, or as good as revoked (RFC 7009, 2.2)
        with contextlib.suppress(TokenError):
            claims = await issuer.own_tokens.signed(token)
            await issuer.sessions.close_of(claims, Scope.SESSION, caller, Event.TOKEN_REVOKED)
    return Response("", 200, NO_STORE, "text/plain")


def shown_claims(claims: Claims) -> dict[str, Any]:
    """An active token's claims (RFC 7662, 2.2), under the names that they have in it."""
    return {
        **claims.extra,
        "active": True,
        "token_type": "Bearer",
        "iss": claims.issuer,
        "sub": claims.subject,
        "aud": claims.audience[0] if len(claims.audience) == 1 else claims.audience,
        "iat": claims.issued_at_us // 1_000_000,
        "iat_us": claims.issued_at_us,
        "exp": int(claims.expires_at),
        "jti": claims.token_id,
        "sid": claims.session,
        "roles": sorted(claims.roles),
    }


def check_introspection_token(request: Request) -> None:
    """It comes as a bearer token, or as the password of Basic under any name, as a client's secret does."""
    expected = issuer_of(request).settings.introspection_token
    if not expected:
        raise IntrospectionOff("introspection is off; AUTHIX_INTROSPECTION_TOKEN turns it on")
    right = [hmac.compare_digest(given.encode(), expected.encode()) for given in given_secrets(request)]
    if not any(right):
        raise IntrospectionForbidden("introspection needs its token (AUTHIX_INTROSPECTION_TOKEN)")


def given_secrets(request: Request) -> tuple[str, ...]:
    """What the one ``Authorization`` header says: once as it stands, once as RFC 6749 (2.3.1) has a secret encoded."""
    given = request.headers.getall("authorization", [])
    try:
        if not (len(given) == 1 and given[0][:6].lower() == "basic "):
            return (bearer_token(given),)
        name_and_secret = base64.b64decode(given[0][6:].strip(), validate=True).decode("ascii")
    except (TokenError, binascii.Error, ValueError):
        return ()
    secret = name_and_secret.partition(":")[2]
    return secret, unquote_plus(secret)


def read_token(request: Request) -> str:
    """The ``token`` of a form, given once. What else the form holds is ignored, ``token_type_hint`` too.

    Raises ``FormMalformed``.
    """
    if request.content_type.partition(";")[0].strip().lower() != FORM:
        raise FormMalformed(f"send the body as {FORM}")
    try:
        fields = parse_qsl((request.body or b"").decode("utf-8"), keep_blank_values=True, errors="strict")
    except ValueError:
        raise FormMalformed("the body is not a form in UTF-8") from None
    names = [name for name, _ in fields]
    if len(names) != len(set(names)):
        raise FormMalformed("the form gives a parameter more than once")
    token = dict(fields).get("token", "")
    if not token:
        raise FormMalformed("the form gives no token")
    return token
