"""``authix-issuer users``, ``sessions`` and ``stats``: the administration on the command line.

Rule: every command is one call of ``administration``, made on the stores themselves, beside issuers that run or not;
whoever may read the settings is an administrator, ``cli`` in the audit log. What it answers goes to standard output, as
a table or as JSON. Exit code 1 and a sentence when something could not be done.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from getpass import getpass
from typing import Any, Final

from authix.errors import TokenMalformed
from authix.settings import add_flags
from authix.tokens import json_object
from authix_issuer.administration import MOST_LISTED, Administration, NewGrants
from authix_issuer.audit import Caller
from authix_issuer.console import fail, say, say_aside, say_table
from authix_issuer.errors import AccountUnknown, InputInvalid, IssuerError, Reason
from authix_issuer.ports import AccountState, User
from authix_issuer.settings import IssuerSettings
from authix_issuer.shown import shown_session, shown_stats, shown_to_admins
from authix_issuer.wiring import open_issuer

_CALLER: Final = Caller(actor="cli")
_STATES = {"disable": AccountState.DISABLED, "enable": AccountState.ACTIVE}
_USER_COLUMNS = ("id", "email", "state", "roles", "created", "claims")
_SESSION_COLUMNS = ("id", "created", "last_used", "expires", "address", "user_agent")
_KEY_COLUMNS = ("id", "algorithm", "state", "age")


def add_commands(users: ArgumentParser, sessions: ArgumentParser, stats: ArgumentParser) -> None:
    """Give the parsers of ``users``, ``sessions`` and ``stats`` what belongs to them."""
    commands = users.add_subparsers(dest="users_command", required=True)
    creating = commands.add_parser("create", help="add an account; its password is asked for, or read from a pipe")
    creating.add_argument("email", metavar="EMAIL")
    creating.add_argument("--role", action="append", default=[], metavar="ROLE", help="a role; may be given repeatedly")
    creating.add_argument("--admin", action="store_true", help="give it the administrators' role (AUTHIX_ADMIN_ROLE)")
    creating.add_argument("--claims", default="{}", metavar="JSON", help="custom claims, as a JSON object")
    listing = commands.add_parser("list", help="the accounts, by id, a page at a time")
    listing.add_argument("--after", default="", metavar="ID", help="begin after this id")
    listing.add_argument("--limit", type=int, default=100, metavar="N", help="accounts in the page (100)")
    changing = {
        name: commands.add_parser(name, help=explained)
        for name, explained in (
            ("show", "an account"),
            ("disable", "let nobody in, and end its sessions"),
            ("enable", "let its user in again"),
            ("delete", "remove the account, and end its sessions"),
            ("roles", "set its roles, in place of those that it has"),
            ("claims", "set its custom claims, in place of those that it has"),
            ("logout", "end every session, of one account or, by --all, of everybody"),
            ("reset-password", "set another password, which is asked for, or read from a pipe; every session ends"),
        )
    }
    listed = sessions.add_subparsers(dest="sessions_command", required=True)
    showing = listed.add_parser("list", help="the open sessions of an account")
    ending = listed.add_parser("end", help="end one session")
    for command in (*changing.values(), showing, ending):
        optional = command is changing["logout"]
        command.add_argument("who", nargs="?" if optional else None, metavar="WHO", help="the account's id or email")
    changing["logout"].add_argument("--all", action="store_true", help="every account, in place of WHO")
    changing["logout"].add_argument("--after", metavar="ID", help="with --all: only those after this id")
    changing["roles"].add_argument("roles", nargs="*", metavar="ROLE")
    changing["roles"].add_argument("--none", action="store_true", help="take every role away")
    changing["claims"].add_argument("claims", metavar="JSON", help="as a JSON object; {} takes every claim away")
    ending.add_argument("session", metavar="SESSION", help="the session's id")
    for command in (creating, changing["reset-password"]):
        command.add_argument("--generate", action="store_true", help="make a password, and print it once")
    for command in (creating, listing, *changing.values(), showing, ending, stats):
        command.add_argument("--json", action="store_true", help="answer in JSON")
        add_flags(command, IssuerSettings)


def run(settings: IssuerSettings, options: Namespace) -> int:
    """Returns the exit code. Raises ``SettingsError``."""
    try:
        # before there is a loop, which would keep an interrupt from whoever waits for the terminal
        password = _password(options) if "generate" in options else ""
        return asyncio.run(_run(settings, options, password))
    except IssuerError as error:
        return fail(error.reason)


async def _run(settings: IssuerSettings, options: Namespace, password: str) -> int:
    async with open_issuer(settings) as issuer:
        match options.command:
            case "users":
                answer = await _users(issuer.administration, options, password)
            case "sessions":
                answer = await _sessions(issuer.administration, options)
            case _:
                answer = shown_stats(await issuer.administration.stats())
                del answer["hashing"]  # this process's own, which says nothing of the issuers that serve
    if getattr(options, "generate", False):
        answer = (answer or {}) | {"password": password}
    _tell(answer, in_json=options.json)
    return 0


async def _users(administration: Administration, options: Namespace, password: str) -> dict[str, Any] | None:
    command = options.users_command
    if command == "create":
        roles = [*options.role, *([administration.admin_role] if options.admin else [])]
        claims = _claims(options.claims)
        user = await administration.create(options.email, password, roles=roles, claims=claims, caller=_CALLER)
        return shown_to_admins(user)
    if command == "list":
        if not 1 <= options.limit <= MOST_LISTED:
            raise InputInvalid(Reason("limit", "limit_malformed", f"--limit must be from 1 to {MOST_LISTED}"))
        page = await administration.page(options.after, options.limit)
        return {"users": list(map(shown_to_admins, page.users)), "after": page.after}
    if command == "logout" and (options.all or not options.who or options.after is not None):
        return await _log_out_all(administration, options)
    return await _change(administration, await _find(administration, options.who), options, password)


async def _change(
    administration: Administration, user: User, options: Namespace, password: str
) -> dict[str, Any] | None:
    match command := options.users_command:
        case "disable" | "enable":
            user = await administration.change(user.id, NewGrants(state=_STATES[command]), _CALLER)
        case "roles":
            if bool(options.roles) == options.none:
                raise InputInvalid(Reason("roles", "roles_missing", "name the roles, or --none to take all away"))
            user = await administration.change(user.id, NewGrants(roles=options.roles), _CALLER)
        case "claims":
            user = await administration.change(user.id, NewGrants(claims=_claims(options.claims)), _CALLER)
        case "delete":
            await administration.delete(user.id, _CALLER)
            return None
        case "logout":
            await administration.log_out(user.id, _CALLER)
            return None
        case "reset-password":
            await administration.reset_password(user.id, password, _CALLER)
            return None
    return shown_to_admins(user)


async def _log_out_all(administration: Administration, options: Namespace) -> dict[str, Any]:
    if options.who or not options.all:
        raise InputInvalid(Reason("who", "who_missing", "name one account, or --all, to which --after may be added"))
    done = 0
    async for done, last in administration.log_out_all(options.after or "", _CALLER):
        say_aside(f"{done} accounts are logged out; to go on from here: --after {last}")
    return {"logged_out": done}


async def _sessions(administration: Administration, options: Namespace) -> dict[str, Any] | None:
    user = await _find(administration, options.who)
    if options.sessions_command == "end":
        await administration.end_session(user.id, options.session, _CALLER)
        return None
    return {"sessions": list(map(shown_session, await administration.sessions_of(user.id)))}


async def _find(administration: Administration, who: str) -> User:
    """The account with this id or, as only an email holds an @, with this email."""
    if "@" not in who:
        return await administration.get(who)
    user = await administration.find(who)
    if user is None:
        raise AccountUnknown("there is no such account")
    return user


def _claims(text: str) -> dict[str, Any]:
    try:
        return json_object(text.encode("utf-8", "surrogateescape"))
    except TokenMalformed:
        detail = "the claims are not one JSON object in UTF-8 without duplicate names"
        raise InputInvalid(Reason("claims", "claims_malformed", detail)) from None


def _password(options: Namespace) -> str:
    """A new one, or the one that is typed, twice, or the line that comes through a pipe."""
    if options.generate:
        return secrets.token_urlsafe(24)
    try:
        if sys.stdin is None:
            raise EOFError
        if not sys.stdin.isatty():
            return sys.stdin.readline().removesuffix("\n").removesuffix("\r")
        password = getpass("New password: ")
        if password == getpass("Again: "):
            return password
    except (EOFError, UnicodeDecodeError):
        pass
    raise InputInvalid(Reason("password", "password_missing", "no password was given, or not the same one twice"))


def _tell(answer: Mapping[str, Any] | None, *, in_json: bool) -> None:
    if in_json:
        say(json.dumps(answer or {}))
        return
    match answer:
        case None:
            say("Done.")
        case {"users": list(users), "after": after}:
            _say_table(users, _USER_COLUMNS)
            if after:
                say(f"More: --after {after}")
        case {"sessions": sessions}:
            _say_table(sessions, _SESSION_COLUMNS)
        case {"degraded": degraded, "keys": keys}:
            say(f"users        {_cell(answer['users'])}")
            say(f"revocations  {_cell(answer['revocations'])}")
            say(f"degraded     {_cell(degraded)}")
            _say_table(keys or (), _KEY_COLUMNS)
        case {"logged_out": done}:
            say(f"{done} accounts are logged out.")
        case {"id": _}:
            _say_table([answer], _USER_COLUMNS)
    if answer and "password" in answer:
        say(f"Password, shown this once: {answer['password']}")


def _say_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    head = [column.upper().replace("_", " ") for column in columns]
    say_table(head, ([_cell(row[column]) for column in columns] for row in rows))


def _cell(value: object) -> str:
    match value:
        case None | "" | {} | []:
            return "-"
        case dict():
            return json.dumps(value)
        case list():
            return ",".join(value)
    return str(value)
