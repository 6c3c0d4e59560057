"""What administrators do, over HTTP.

Rule: who asks is said by a live access token with the administrators' role, and by nothing else; no cookie is read, so
no other site's page can ask. Every call is one of ``administration``'s, as on the command line. A body holds what is
asked for, each field as it must be, and nothing more.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from sanic import Blueprint, HTTPResponse, Request

from authix.bearer import bearer_token
from authix.errors import RoleMissing, TokenError
from authix_issuer.administration import MOST_LISTED, Administration, NewGrants
from authix_issuer.answers import NO_STORE, READ, caller_of, issuer_of, json_answer, read_query, read_strictly
from authix_issuer.audit import Caller, Event
from authix_issuer.errors import InputInvalid, Reason
from authix_issuer.ports import AccountState
from authix_issuer.responses import Response
from authix_issuer.shown import shown_key, shown_session, shown_stats, shown_to_admins

routes = Blueprint("authix_issuer_admin", url_prefix="/admin")

PAGE = 100
"""Accounts in a page, unless asked otherwise."""


class NewUser(msgspec.Struct):
    email: str
    password: str
    roles: list[str] = []
    claims: dict[str, Any] = {}


class ChangedUser(msgspec.Struct):
    roles: list[str] | msgspec.UnsetType = msgspec.UNSET
    claims: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    state: Literal["active", "disabled"] | msgspec.UnsetType = msgspec.UNSET


class NewPassword(msgspec.Struct):
    password: str


class Rotation(msgspec.Struct):
    now: bool = False


async def administrator(request: Request) -> tuple[Administration, Caller]:
    """The administration, and who asks for it. Raises a ``TokenError`` or ``RoleMissing``.

    A refusal is put on record if it is known whose token it was: nobody else shall fill the log.
    """
    issuer, caller = issuer_of(request), caller_of(request)
    token = bearer_token(request.headers.getall("authorization", []))
    who = (await issuer.own_tokens.signed(token)).subject
    try:
        await issuer.own_tokens.with_role(token, issuer.settings.admin_role)
    except (TokenError, RoleMissing) as error:
        issuer.audit.record(Event.ADMIN_REFUSED, error.code, caller, subject=who)
        raise
    return issuer.administration, caller._replace(actor=who)


async def list_users(request: Request) -> HTTPResponse:
    administration, _ = await administrator(request)
    query = read_query(request, "email", "after", "limit")
    if "email" in query:
        if len(query) > 1:
            raise InputInvalid(Reason("email", "email_not_alone", "email goes with neither after nor limit"))
        user = await administration.find(query["email"])
        return json_answer({"users": [] if user is None else [shown_to_admins(user)], "after": None}, 200)
    page = await administration.page(query.get("after", ""), read_limit(query.get("limit", str(PAGE))))
    return json_answer({"users": list(map(shown_to_admins, page.users)), "after": page.after}, 200)


@routes.post("/users")
async def create_user(request: Request) -> HTTPResponse:
    administration, caller = await administrator(request)
    given = read_strictly(request, NewUser)
    user = await administration.create(
        given.email, given.password, roles=given.roles, claims=given.claims, caller=caller
    )
    return json_answer(shown_to_admins(user), 201)


async def show_user(request: Request, user: str) -> HTTPResponse:
    administration, _ = await administrator(request)
    return json_answer(shown_to_admins(await administration.get(user)), 200)


@routes.patch("/users/<user:str>")
async def change_user(request: Request, user: str) -> HTTPResponse:
    administration, caller = await administrator(request)
    given = msgspec.structs.asdict(read_strictly(request, ChangedUser))
    new = {name: value for name, value in given.items() if value is not msgspec.UNSET}
    if not new:
        raise InputInvalid(Reason("body", "nothing_to_change", "name one of roles, claims and state, or more"))
    if "state" in new:
        new["state"] = AccountState(new["state"])
    return json_answer(shown_to_admins(await administration.change(user, NewGrants(**new), caller)), 200)


@routes.delete("/users/<user:str>")
async def delete_user(request: Request, user: str) -> HTTPResponse:
    administration, caller = await administrator(request)
    await administration.delete(user, caller)
    return done()


@routes.post("/users/<user:str>/logout")
async def log_user_out(request: Request, user: str) -> HTTPResponse:
    administration, caller = await administrator(request)
    await administration.log_out(user, caller)
    return done()


@routes.post("/users/<user:str>/password")
async def reset_password(request: Request, user: str) -> HTTPResponse:
    administration, caller = await administrator(request)
    await administration.reset_password(user, read_strictly(request, NewPassword).password, caller)
    return done()


async def list_user_sessions(request: Request, user: str) -> HTTPResponse:
    administration, _ = await administrator(request)
    return json_answer({"sessions": list(map(shown_session, await administration.sessions_of(user)))}, 200)


@routes.delete("/users/<user:str>/sessions/<session:str>")
async def end_user_session(request: Request, user: str, session: str) -> HTTPResponse:
    administration, caller = await administrator(request)
    await administration.end_session(user, session, caller)
    return done()


async def list_keys(request: Request) -> HTTPResponse:
    administration, _ = await administrator(request)
    return json_answer({"keys": list(map(shown_key, await administration.keys()))}, 200)


@routes.post("/keys/rotate")
async def rotate_keys(request: Request) -> HTTPResponse:
    administration, caller = await administrator(request)
    now = read_strictly(request, Rotation).now
    return json_answer(shown_key(await administration.rotate_keys(caller, now=now)), 200)


@routes.delete("/keys/<key:str>")
async def revoke_key(request: Request, key: str) -> HTTPResponse:
    administration, caller = await administrator(request)
    return json_answer(shown_key(await administration.revoke_key(key, caller)), 200)


async def show_stats(request: Request) -> HTTPResponse:
    administration, _ = await administrator(request)
    return json_answer(shown_stats(await administration.stats()), 200)


for path, read in (
    ("/users", list_users),
    ("/users/<user:str>", show_user),
    ("/users/<user:str>/sessions", list_user_sessions),
    ("/keys", list_keys),
    ("/stats", show_stats),
):
    routes.add_route(read, path, methods=READ)


def read_limit(value: str) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 9 or not 1 <= int(value) <= MOST_LISTED:
        detail = f"limit must be a whole number from 1 to {MOST_LISTED}"
        raise InputInvalid(Reason("limit", "limit_malformed", detail))
    return int(value)


def done() -> HTTPResponse:
    return Response(status=204, headers=NO_STORE)
