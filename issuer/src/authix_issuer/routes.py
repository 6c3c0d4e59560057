"""The routes that the fleet lives by: register, log in, refresh, log out, keys, feed, probes.

Rule: a route reads the request, calls one use case and writes the answer; refusals are ``answers``' business.
"""

from __future__ import annotations

import hmac
import logging
from contextlib import aclosing
from functools import lru_cache

import msgspec
from sanic import Blueprint, HTTPResponse, Request
from sanic.headers import parse_accept

from authix.bearer import bearer_token
from authix.errors import AuthixError, TokenError
from authix.settings import leads_here
from authix.sse import CONTENT_TYPE as EVENT_STREAM
from authix_issuer import errors
from authix_issuer.answers import (
    NO_STORE,
    READ,
    caller_of,
    cookie_of,
    document_answer,
    issuer_of,
    json_answer,
    last_on_its_connection,
    problem_answer,
    read_body,
    tokens_answer,
)
from authix_issuer.ports import Scope
from authix_issuer.responses import Response

logger = logging.getLogger("authix.issuer")

LOGOUT_SCOPES = {scope.value: scope for scope in (Scope.USER, Scope.SESSION, Scope.ALL)}

REPEATED = "repeated"

routes = Blueprint("authix_issuer")


class Credentials(msgspec.Struct):
    email: str
    password: str


@routes.post("/register")
async def register(request: Request) -> HTTPResponse:
    credentials = read_body(request, Credentials)
    issuer, caller = issuer_of(request), caller_of(request)
    await issuer.throttle.registration(caller.address)
    user = await issuer.accounts.register(credentials.email, credentials.password, caller)
    return json_answer({"id": user.id, "email": user.email}, 201)


@routes.post("/login")
async def login(request: Request) -> HTTPResponse:
    credentials = read_body(request, Credentials)
    issuer, caller = issuer_of(request), caller_of(request)
    async with issuer.throttle.attempt(caller.address, credentials.email):
        instead = cookie_of(request).find(request)
        tokens = await issuer.logins.login(credentials.email, credentials.password, caller, instead=instead)
    return tokens_answer(request, tokens)


@routes.post("/access_token")
async def access_token(request: Request) -> HTTPResponse:
    refresh_token = cookie_of(request).read(request)
    tokens = await issuer_of(request).sessions.refresh(refresh_token, caller_of(request))
    if tokens.repeated:
        request.ctx.code = REPEATED  # for the log and the metrics: no rotation, and nothing wrong
    return tokens_answer(request, tokens)


async def logout(request: Request) -> HTTPResponse:
    """Ends every session that is shown, by the cookie and by an access token; one of them must be good."""
    scope, cookie, issuer = read_scope(request), cookie_of(request), issuer_of(request)
    refused: errors.IssuerError | None = None
    try:
        await issuer.sessions.close(cookie.read(request), scope, caller_of(request))
    except (errors.RefreshTokenMissing, errors.RefreshTokenInvalid) as error:
        refused = error
    if "authorization" in request.headers:
        try:
            token = bearer_token(request.headers.getall("authorization"))
            claims = await issuer.own_tokens.signed(token)
        except TokenError:
            if refused is not None:
                raise
        else:
            await issuer.sessions.close_of(claims, scope, caller_of(request))
    elif refused is not None:
        raise refused
    answer = Response(status=204, headers=NO_STORE)
    cookie.clear(answer)
    return answer


@lru_cache(maxsize=256)  # few clients write it in a way of their own
def _prefers_json(accept: str | None) -> bool:
    chosen = parse_accept(accept).match("application/x-pem-file", "application/jwk-set+json", "application/json")
    return bool(chosen) and "json" in str(chosen.mime)


async def public_key(request: Request) -> HTTPResponse:
    keys = issuer_of(request).keys
    document = keys.jwks if _prefers_json(request.headers.getone("accept", None)) else keys.pem
    answer = document_answer(request, document)
    answer.headers["Vary"] = "Accept"
    return answer


async def jwks(request: Request) -> HTTPResponse:
    return document_answer(request, issuer_of(request).keys.jwks)


@routes.get("/revocations")
async def revocations(request: Request) -> HTTPResponse | None:
    check_feed_token(request)
    feed = issuer_of(request).feed
    if EVENT_STREAM not in request.headers.get("accept", ""):
        return Response(msgspec.json.encode(await feed.snapshot()), 200, NO_STORE, "application/json")
    last_on_its_connection(request)
    headers = NO_STORE | {"X-Accel-Buffering": "no"}
    response = await request.respond(content_type=EVENT_STREAM, headers=headers)
    async with aclosing(feed.follow(request.headers.get("last-event-id"))) as chunks:
        async for chunk in chunks:
            await response.send(chunk)
    return None


async def livez(_: Request) -> HTTPResponse:
    return json_answer({"status": "alive"}, 200)


async def readyz(request: Request) -> HTTPResponse:
    issuer, failures = issuer_of(request), {}
    for name, store in (("users", issuer.users), ("sessions", issuer.store)):
        try:
            await store.check()
        except errors.StoreUnavailable as error:
            logger.error("store %s does not answer: %s", name, error.reason)  # noqa: TRY400 - the reason is enough
            failures[name] = error.code
    if failures:
        request.ctx.code = "not_ready"
        return problem_answer(503, "not_ready", "a store does not answer", engines=failures)
    # Without the topic logins and logouts go on, and what is to be published is kept: no reason to take no requests.
    degraded = {"topic": issuer.relay.problem} if issuer.relay and issuer.relay.problem else {}
    return json_answer({"status": "ready", "degraded": degraded}, 200)


routes.add_route(logout, "/logout", methods=["POST", "DELETE"])
for path, read in (
    ("/public_key", public_key),
    ("/.well-known/jwks.json", jwks),
    ("/livez", livez),
    ("/readyz", readyz),
):
    routes.add_route(read, path, methods=READ)


def read_scope(request: Request) -> Scope:
    values = request.get_args(keep_blank_values=True).getlist("scope", [Scope.USER])
    try:
        (value,) = values
        return LOGOUT_SCOPES[value]
    except (ValueError, KeyError):
        detail = f"scope must be given once, as one of {', '.join(LOGOUT_SCOPES)}"
        raise errors.InputInvalid(errors.Reason("scope", "scope_unknown", detail)) from None


def check_feed_token(request: Request) -> None:
    """The feed tells who logged out, so it needs its token; without one it is for this machine alone (see settings)."""
    expected = issuer_of(request).settings.feed_token
    if expected:
        try:
            given = bearer_token(request.headers.getall("authorization", []))
        except AuthixError:
            given = ""
        if not hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode("utf-8")):
            raise errors.FeedForbidden("the revocation feed needs its bearer token (AUTHIX_FEED_TOKEN)")
    elif not _is_local(request):
        raise errors.FeedForbidden("beyond this machine the revocation feed needs AUTHIX_FEED_TOKEN")


def _is_local(request: Request) -> bool:
    """Whether it is of this machine: some proxies tell nothing of themselves, so all names must be this machine's."""
    if {"forwarded", "x-forwarded-for", "via"} & request.headers.keys():
        return False
    return leads_here(f"//{request.headers.get('host', '')}") and leads_here(issuer_of(request).settings.issuer)
