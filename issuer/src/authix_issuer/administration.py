"""What an administrator does to the accounts and sessions of others, by the API and by the command line alike.

Rule: every change goes through ``changes``, so it revokes by the one rule: new roles and claims come with the next
refresh, a disabled, deleted or reset account loses its sessions. All of it is put on record with who did it. Nobody
takes the administration from oneself by the API; the command line, which needs no token, always can.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from authix_issuer.accounts import Accounts
from authix_issuer.audit import OK, Audit, Caller, Event
from authix_issuer.changes import Changes
from authix_issuer.emails import read_email
from authix_issuer.errors import (
    AccountBusy,
    AccountUnknown,
    InputInvalid,
    IssuerError,
    Reason,
    SelfLockout,
    SessionUnknown,
    StoreUnavailable,
)
from authix_issuer.grants import read_claims, read_roles
from authix_issuer.hashing import PasswordHasher
from authix_issuer.live_keys import KeyReport, LiveKeys
from authix_issuer.ports import AccountState, OpenSession, RevocationLog, User, UserStore
from authix_issuer.sessions import Sessions

T = TypeVar("T")

MOST_LISTED: Final = 1000
"""Accounts in a page."""
_AT_ONCE: Final = 100
"""Accounts that are logged out side by side."""
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


class NewGrants(NamedTuple):
    """What of an account is to be another; None: stays as it is."""

    roles: Sequence[str] | None = None
    claims: Mapping[str, Any] | None = None
    state: AccountState | None = None


class Page(NamedTuple):
    users: list[User]
    after: str | None
    """Where the next page begins; None: this is the last."""


class Stats(NamedTuple):
    """None where an engine that knows it does not answer."""

    users: int | None
    keys: tuple[KeyReport, ...] | None
    revocations: int | None
    """In the log; those that may be forgotten, and are not yet, included."""
    hashing: int
    """Passwords that this process hashes, or that wait for it."""
    hashing_most: int
    degraded: Mapping[str, str]
    """By the engine that does not do what it should: why."""
    at_us: int
    """When this was, by this machine's clock."""


class Administration:
    """``admin_role`` opens the administration; ``topic_problem`` says why publishing does not work now."""

    def __init__(
        self,
        *,
        users: UserStore,
        log: RevocationLog,
        accounts: Accounts,
        changes: Changes,
        sessions: Sessions,
        keys: LiveKeys,
        hasher: PasswordHasher,
        audit: Audit,
        admin_role: str,
        topic_problem: Callable[[], str | None],
    ) -> None:
        self._users = users
        self._log = log
        self._accounts = accounts
        self._changes = changes
        self._sessions = sessions
        self._keys = keys
        self._hasher = hasher
        self._audit = audit
        self.admin_role = admin_role
        self._topic_problem = topic_problem

    async def create(
        self, email: str, password: str, *, roles: Sequence[str] = (), claims: Mapping[str, Any] = {}, caller: Caller
    ) -> User:
        """Add an account. Raises ``InputInvalid``, ``EmailTaken`` or ``Overloaded``."""
        try:
            granted, said = _read(NewGrants(roles, claims))
            user = await self._accounts.add(email, password, roles=granted or (), claims=said or {})
        except IssuerError as error:
            self._audit.record(Event.ADMIN_USER_CREATED, error.code, caller)
            raise
        self._audit.record(Event.ADMIN_USER_CREATED, OK, caller, subject=user.id, roles=" ".join(user.roles))
        return user

    async def get(self, user_id: str) -> User:
        """Raises ``AccountUnknown``."""
        user = await self._users.by_id(_known_form(user_id))
        if user is None or user.state is AccountState.DELETED:
            raise AccountUnknown("there is no such account")
        return user

    async def find(self, email: str) -> User | None:
        """The account with this email. Raises ``InputInvalid``."""
        user = await self._users.by_email_key(read_email(email).key)
        return None if user is None or user.state is AccountState.DELETED else user

    async def page(self, after: str, limit: int) -> Page:
        """Up to ``limit`` accounts, by id, of those after ``after``; the first ones for an empty text.

        Raises ``InputInvalid``.
        """
        if after and _ID.fullmatch(after) is None:
            told = "after must be the id of an account, which is 32 hexadecimal digits (0-9, a-f)"
            raise InputInvalid(Reason("after", "after_malformed", told))
        found = await self._users.page(after, limit + 1)
        return Page(found[:limit], found[limit - 1].id if len(found) > limit else None)

    async def change(self, user_id: str, new: NewGrants, caller: Caller) -> User:
        """Set roles, claims and state, those that are given, in one step; the account's access tokens die.

        Disabling ends its sessions. Raises ``InputInvalid``, ``AccountUnknown``, ``AccountBusy`` or ``SelfLockout``.
        """
        with self._recorded(_events(new), user_id, caller):
            roles, claims = _read(new)
            if new.state is AccountState.DISABLED or (roles is not None and self.admin_role not in roles):
                self._check_not_oneself(user_id, caller)

            def changed(user: User) -> User:
                return user._replace(
                    roles=user.roles if roles is None else roles,
                    claims=user.claims if claims is None else claims,
                    state=new.state or user.state,
                )

            end = new.state is AccountState.DISABLED
            return await self._changes.make(_known_form(user_id), changed, end=end)

    async def delete(self, user_id: str, caller: Caller) -> None:
        """End the account and all its sessions. Raises ``AccountUnknown``, ``AccountBusy`` or ``SelfLockout``."""
        with self._recorded({Event.ADMIN_USER_DELETED: {}}, user_id, caller):
            self._check_not_oneself(user_id, caller)
            await self._changes.make(
                _known_form(user_id), lambda user: user._replace(state=AccountState.DELETED), end=True
            )

    async def log_out(self, user_id: str, caller: Caller) -> None:
        """End every session of the account. Raises ``AccountUnknown`` or ``AccountBusy``."""
        with self._recorded({Event.ADMIN_USER_LOGGED_OUT: {}}, user_id, caller):
            await self._changes.make(_known_form(user_id), lambda user: user, end=True)

    async def log_out_all(self, after: str, caller: Caller) -> AsyncGenerator[tuple[int, str], None]:
        """End every session of every account whose id comes after ``after``, by id; tells after each page how many it
        has done and up to which id, from where it can be taken up again. Raises ``InputInvalid``.
        """
        done = 0
        while users := (await self.page(after, _AT_ONCE)).users:
            await asyncio.gather(*(self._log_out_surely(user.id, caller) for user in users))
            done, after = done + len(users), users[-1].id
            yield done, after

    async def reset_password(self, user_id: str, password: str, caller: Caller) -> None:
        """Give the account another password; every session ends.

        Raises ``AccountUnknown``, ``InputInvalid``, ``AccountBusy`` or ``Overloaded``.
        """
        with self._recorded({Event.ADMIN_PASSWORD_SET: {}}, user_id, caller):
            password_hash = await self._accounts.new_password_hash(await self.get(user_id), password)
            await self._changes.make(user_id, lambda user: user._replace(password_hash=password_hash), end=True)

    async def sessions_of(self, user_id: str) -> list[OpenSession]:
        """The open sessions of the account, the one opened last first. Raises ``AccountUnknown``."""
        return await self._sessions.list_open((await self.get(user_id)).id)

    async def end_session(self, user_id: str, session: str, caller: Caller) -> None:
        """End one session and revoke its access tokens. Raises ``SessionUnknown``."""
        event = Event.ADMIN_SESSION_ENDED
        try:
            if _ID.fullmatch(user_id) is None or _ID.fullmatch(session) is None:
                raise SessionUnknown("there is no such session; it may have ended")
            await self._sessions.end(user_id, session, caller, event)
        except SessionUnknown as error:
            self._audit.record(event, error.code, caller, subject=user_id, session=session)
            raise

    async def keys(self) -> tuple[KeyReport, ...]:
        """Every signing key, the oldest first."""
        return await self._keys.list()

    async def rotate_keys(self, caller: Caller, *, now: bool = False) -> KeyReport:
        """See ``LiveKeys.rotate``, which puts it on record."""
        return await self._keys.rotate(caller, now=now)

    async def revoke_key(self, key_id: str, caller: Caller) -> KeyReport:
        """See ``LiveKeys.revoke``, which puts it on record."""
        return await self._keys.revoke(key_id, caller)

    async def stats(self) -> Stats:
        """How the issuer is; what can't be told for an engine that is away is None, and the engine degraded."""
        degraded: dict[str, str] = {}

        async def told(engine: str, asked: Awaitable[T]) -> T | None:
            try:
                return await asked
            except StoreUnavailable as error:
                degraded[engine] = error.code
                return None

        users, keys, revocations = await asyncio.gather(
            told("users", self._users.count()),
            told("keys", self._keys.list()),
            told("sessions", self._log.size()),
        )
        if problem := self._topic_problem():
            degraded["topic"] = problem
        busy, most = self._hasher.load
        return Stats(users, keys, revocations, busy, most, degraded, time.time_ns() // 1000)

    async def _log_out_surely(self, user_id: str, caller: Caller) -> None:
        while True:
            with contextlib.suppress(AccountBusy):
                with contextlib.suppress(AccountUnknown):  # it was deleted meanwhile, which ends its sessions too
                    await self.log_out(user_id, caller)
                return

    def _check_not_oneself(self, user_id: str, caller: Caller) -> None:
        if caller.actor == user_id:
            raise SelfLockout("nobody takes the administration from oneself: ask another, or use the command line")

    @contextlib.contextmanager
    def _recorded(self, events: Mapping[Event, Mapping[str, str]], user_id: str, caller: Caller) -> Iterator[None]:
        def record(outcome: str) -> None:
            for event, details in events.items():
                self._audit.record(event, outcome, caller, subject=user_id, **details)

        try:
            yield
        except IssuerError as error:
            record(error.code)
            raise
        record(OK)


def _events(new: NewGrants) -> dict[Event, dict[str, str]]:
    """What a change goes on record as: of claims only their names, since what they say may be personal."""
    events: dict[Event, dict[str, str]] = {}
    if new.roles is not None:
        events[Event.ADMIN_ROLES_SET] = {"roles": " ".join(new.roles)}
    if new.claims is not None:
        events[Event.ADMIN_CLAIMS_SET] = {"claims": " ".join(new.claims)}
    if new.state is not None:
        events[_STATE_EVENTS[new.state]] = {}
    return events


_STATE_EVENTS = {
    AccountState.ACTIVE: Event.ADMIN_USER_ENABLED,
    AccountState.DISABLED: Event.ADMIN_USER_DISABLED,
}


def _read(new: NewGrants) -> tuple[tuple[str, ...] | None, dict[str, Any] | None]:
    """The roles and the claims that are given. Raises ``InputInvalid`` with what is wrong in both."""
    roles, claims = None, None
    problems: list[Reason] = []
    try:
        roles = None if new.roles is None else read_roles(new.roles)
    except InputInvalid as error:
        problems += error.reasons
    try:
        claims = None if new.claims is None else read_claims(new.claims)
    except InputInvalid as error:
        problems += error.reasons
    if problems:
        raise InputInvalid(*problems)
    return roles, claims


def _known_form(user_id: str) -> str:
    """Raises ``AccountUnknown`` for what is no subject at all, so that no engine is asked for it."""
    if _ID.fullmatch(user_id) is None:
        raise AccountUnknown("there is no such account")
    return user_id
