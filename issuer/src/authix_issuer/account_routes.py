"""What users do to their own account and sessions.

Rule: who asks is said by an access token in the ``Authorization`` header and judged by the session store itself; no
cookie is read, so no other site's page can ask. A change needs the password too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from sanic import Blueprint, HTTPResponse, Request

from authix.bearer import bearer_token
from authix.claims import Claims
from authix_issuer.accounts import Accounts
from authix_issuer.answers import NO_STORE, READ, caller_of, cookie_of, issuer_of, json_answer, read_body
from authix_issuer.errors import AccountUnknown
from authix_issuer.ports import OpenSession, User
from authix_issuer.responses import Response
from authix_issuer.shown import shown_account, shown_session

routes = Blueprint("authix_issuer_account")


class NewPassword(msgspec.Struct):
    current_password: str
    new_password: str


class NewEmail(msgspec.Struct):
    password: str
    email: str


class Confirmation(msgspec.Struct):
    password: str


async def who_asks(request: Request) -> Claims:
    """Raises a ``TokenError`` without a live access token."""
    return await issuer_of(request).own_tokens.live(bearer_token(request.headers.getall("authorization", [])))


async def list_sessions(request: Request) -> HTTPResponse:
    claims = await who_asks(request)
    found = await issuer_of(request).sessions.list_open(claims.subject)
    return json_answer({"sessions": [shown_session(session) | _current(session, claims) for session in found]}, 200)


@routes.delete("/sessions")
async def end_other_sessions(request: Request) -> HTTPResponse:
    claims = await who_asks(request)
    await issuer_of(request).sessions.end_others(claims.subject, claims.session or "", caller_of(request))
    return Response(status=204, headers=NO_STORE)


@routes.delete("/sessions/<session:str>")
async def end_session(request: Request, session: str) -> HTTPResponse:
    claims = await who_asks(request)
    await issuer_of(request).sessions.end(claims.subject, session, caller_of(request))
    answer = Response(status=204, headers=NO_STORE)
    if session == claims.session:
        cookie_of(request).clear(answer)
    return answer


async def account(request: Request) -> HTTPResponse:
    claims = await who_asks(request)
    return json_answer(shown_account(await account_of(request, claims)), 200)


@routes.post("/account/password")
async def change_password(request: Request) -> HTTPResponse:
    claims, given, caller = await who_asks(request), read_body(request, NewPassword), caller_of(request)
    old, new, keep = given.current_password, given.new_password, claims.session or ""
    async with confirmation(request, claims) as accounts:
        await accounts.change_password(claims.subject, old, new, keep=keep, caller=caller)
    return Response(status=204, headers=NO_STORE)


@routes.post("/account/email")
async def change_email(request: Request) -> HTTPResponse:
    claims, given, caller = await who_asks(request), read_body(request, NewEmail), caller_of(request)
    await issuer_of(request).throttle.registration(caller.address)  # this too tells which emails are taken
    async with confirmation(request, claims) as accounts:
        user = await accounts.change_email(claims.subject, given.password, given.email, caller=caller)
    return json_answer(shown_account(user), 200)


@routes.post("/account/delete")
async def delete_account(request: Request) -> HTTPResponse:
    claims, given, caller = await who_asks(request), read_body(request, Confirmation), caller_of(request)
    async with confirmation(request, claims) as accounts:
        await accounts.delete(claims.subject, given.password, caller=caller)
    answer = Response(status=204, headers=NO_STORE)
    cookie_of(request).clear(answer)
    return answer


async def account_of(request: Request, claims: Claims) -> User:
    user = await issuer_of(request).users.by_id(claims.subject)
    if user is None:
        raise AccountUnknown("there is no such account")
    return user


@asynccontextmanager
async def confirmation(request: Request, claims: Claims) -> AsyncIterator[Accounts]:
    """Around what the account's password has to confirm: tries of it count like those of a login."""
    user = await account_of(request, claims)
    async with issuer_of(request).throttle.attempt(caller_of(request).address, user.email):
        yield issuer_of(request).accounts


routes.add_route(list_sessions, "/sessions", methods=READ)
routes.add_route(account, "/account", methods=READ)


def _current(session: OpenSession, claims: Claims) -> dict[str, bool]:
    return {"current": session.id == claims.session}
