"""Sessions: opened, refreshed, shown to their user, ended.

Rule: the store decides, in one atomic step that also takes the moment ``t``; only then is anything signed. So a refresh
that was in flight during a logout carries a ``t`` before it and is refused, however late it is signed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import NamedTuple

from authix import tracing
from authix.claims import Claims
from authix.errors import TokenRevoked
from authix.events import SessionRevoked
from authix_issuer.access_tokens import AccessTokens
from authix_issuer.addresses import Kept, kept
from authix_issuer.audit import NOBODY, OK, Audit, Caller, Event
from authix_issuer.errors import RefreshTokenInvalid, RefreshTokenReused, SessionUnknown
from authix_issuer.ports import (
    Device,
    Grants,
    Logout,
    NewSession,
    OpenSession,
    Presented,
    Reused,
    Scope,
    SessionStore,
    User,
)
from authix_issuer.refresh_tokens import RefreshToken, RefreshTokens, new_secret

MOST_SHOWN = 1000
"""Sessions that a user is shown at most."""
_LONGEST_AGENT = 256


class Tokens(NamedTuple):
    """What a login or a refresh hands out; the lives are in seconds."""

    session: str
    access_token: str
    access_life: int
    refresh_token: str
    refresh_life: int
    repeated: bool = False
    """Whether the refresh token was given out before: its answer was lost, or another tab asked at the same time."""

    def __repr__(self) -> str:
        return f"Tokens(session={self.session!r}, access_life={self.access_life}, refresh_life={self.refresh_life})"


class Sessions:
    """``life`` and ``idle`` are in seconds, 0 for no idle limit; ``most`` sessions may one user have, 0 for any number.

    ``address`` says how much of the client's address a session keeps. ``revoked`` is called with each revocation, once
    it is durable.
    """

    def __init__(
        self,
        store: SessionStore,
        access_tokens: AccessTokens,
        refresh_tokens: RefreshTokens,
        audit: Audit,
        *,
        life: int,
        idle: int,
        grace: int,
        most: int,
        address: Kept = Kept.FULL,
        revoked: Callable[[Logout], None],
    ) -> None:
        self._store = store
        self._access_tokens = access_tokens
        self._refresh_tokens = refresh_tokens
        self._audit = audit
        self._life_us = life * 1_000_000
        self._idle_us = idle * 1_000_000
        self._grace_us = grace * 1_000_000
        self._most = most
        self._address = address
        self._revoked = revoked

    async def open(self, user: User, caller: Caller = NOBODY) -> Tokens:
        """Open a session for a user whose credentials were checked."""
        token = RefreshToken(user.id, secrets.token_hex(16), 0, new_secret())
        grants = Grants(user.roles, user.claims, user.version)
        agent = "".join(filter(str.isprintable, caller.agent[:_LONGEST_AGENT]))
        device = Device(agent, kept(caller.address, self._address))
        session = NewSession(token.session, user.id, grants, token.secret_hash, self._life_us, self._idle_us, device)
        with tracing.span("open session"):
            opened = await self._store.open(session, most=self._most)
        for revocation in opened.ended:
            self._revoked(revocation)
            self._audit.record(Event.SESSION_DISPLACED, OK, caller, subject=user.id, session=session_of(revocation))
        return self._tokens(token, grants, opened.at_us, opened.expires_us)

    async def refresh(self, refresh_token: str, caller: Caller = NOBODY) -> Tokens:
        """Exchange a refresh token. Raises ``RefreshTokenInvalid`` or ``RefreshTokenReused``."""
        token = self._refresh_tokens.read(refresh_token)
        with tracing.span("refresh session"):
            outcome = await self._store.refresh(_present(token), token.counter, grace_us=self._grace_us)
        if isinstance(outcome, Reused):
            self._revoked(outcome.revocation)
            reused = RefreshTokenReused.code
            self._audit.record(Event.SESSION_REUSED, reused, caller, subject=token.subject, session=token.session)
            raise RefreshTokenReused("the refresh token was used before; its session was ended")
        if outcome is None:
            raise RefreshTokenInvalid("the session has ended; log in again")
        successor = token._replace(counter=outcome.counter)
        return self._tokens(successor, outcome.grants, outcome.at_us, outcome.expires_us, repeated=outcome.repeated)

    async def close(
        self, refresh_token: str, scope: Scope, caller: Caller = NOBODY, event: Event = Event.LOGOUT
    ) -> None:
        """Log out; again is no error. Any refresh token of the session will do, even one already exchanged.

        Raises ``RefreshTokenInvalid`` for a forged one, and when all are to end by one that has ended itself.
        """
        presented = _present(self._refresh_tokens.read(refresh_token))
        if not await self._close(presented, scope, caller, event) and await self._leaves_open(presented, scope):
            raise RefreshTokenInvalid("the session has ended, and others are open; log in again")

    async def close_of(
        self, claims: Claims, scope: Scope, caller: Caller = NOBODY, event: Event = Event.LOGOUT
    ) -> None:
        """Log out by a verified access token; again is no error.

        Raises ``TokenRevoked`` where all sessions were to end by one that has ended itself.
        """
        if claims.session is None:
            return
        presented = Presented(claims.session, claims.subject, None)
        if not await self._close(presented, scope, caller, event) and await self._leaves_open(presented, scope):
            raise TokenRevoked("the session has ended, and others are open; log in again")

    async def list_open(self, subject: str) -> list[OpenSession]:
        """The user's open sessions, the one opened last first."""
        found = await self._store.list_open(subject, MOST_SHOWN)
        return sorted(found, key=lambda session: session.opened_us, reverse=True)

    async def end(self, subject: str, session: str, caller: Caller, event: Event = Event.SESSION_ENDED) -> None:
        """End one of the user's sessions and revoke its access tokens. Raises ``SessionUnknown``."""
        if not await self._close(Presented(session, subject, None), Scope.SESSION, caller, event):
            raise SessionUnknown("there is no such session; it may have ended")

    async def end_others(self, subject: str, session: str, caller: Caller) -> None:
        """End all of the user's sessions but this one, and revoke every access token.

        Raises ``TokenRevoked`` when this one has ended meanwhile: then it ends no other.
        """
        if not await self._close(Presented(session, subject, None), Scope.OTHERS, caller, Event.SESSION_ENDED):
            raise TokenRevoked("the session has ended; log in again")

    async def withdraw(self, tokens: Tokens, subject: str) -> None:
        """End a session that should not have been opened, before anybody has its tokens."""
        revocation = await self._store.close(Presented(tokens.session, subject, None), Scope.SESSION)
        if revocation is not None:
            self._revoked(revocation)

    async def _close(self, presented: Presented, scope: Scope, caller: Caller, event: Event) -> bool:
        with tracing.span("close session"):
            revocation = await self._store.close(presented, scope)
        if revocation is None:
            return False
        self._revoked(revocation)
        self._audit.record(event, OK, caller, subject=presented.subject, session=presented.session, scope=scope.value)
        return True

    async def _leaves_open(self, presented: Presented, scope: Scope) -> bool:
        """Whether what was done before, and is done again, was less than what is asked for now."""
        return scope is Scope.ALL and bool(await self._store.list_open(presented.subject, 1))

    def _tokens(
        self, token: RefreshToken, grants: Grants, at_us: int, expires_us: int, *, repeated: bool = False
    ) -> Tokens:
        access_token = self._access_tokens.issue(
            subject=token.subject, session=token.session, roles=grants.roles, claims=grants.claims, at_us=at_us
        )
        refresh_life = (expires_us - at_us) // 1_000_000
        refresh_token = self._refresh_tokens.write(token)
        return Tokens(token.session, access_token, self._access_tokens.life, refresh_token, refresh_life, repeated)


def session_of(revocation: Logout) -> str:
    """The session that it ends; empty where it concerns all of its user's."""
    return revocation.sid if isinstance(revocation, SessionRevoked) else ""


def _present(token: RefreshToken) -> Presented:
    return Presented(token.session, token.subject, token.secret_hash)
