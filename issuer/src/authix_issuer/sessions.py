"""Sessions: login, refresh, logout.

Rule: the store decides, in one atomic step that also takes the moment ``t``; only then is anything signed. So a refresh
that was in flight during a logout carries a ``t`` before it and is refused, however late it is signed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import NamedTuple

from authix.claims import Claims
from authix_issuer.access_tokens import AccessTokens
from authix_issuer.errors import RefreshTokenInvalid, RefreshTokenReused
from authix_issuer.ports import Logout, NewSession, Presented, Reused, Scope, SessionStore, User
from authix_issuer.refresh_tokens import RefreshToken, RefreshTokens, new_secret


class Tokens(NamedTuple):
    """What a login or a refresh hands out; the lives are in seconds."""

    access_token: str
    access_life: int
    refresh_token: str
    refresh_life: int

    def __repr__(self) -> str:
        return f"Tokens(access_life={self.access_life}, refresh_life={self.refresh_life})"


class Sessions:
    """``revoked`` is called with each revocation, once it is durable."""

    def __init__(
        self,
        store: SessionStore,
        access_tokens: AccessTokens,
        refresh_tokens: RefreshTokens,
        *,
        life: int,
        grace: int,
        revoked: Callable[[Logout], None],
    ) -> None:
        self._store = store
        self._access_tokens = access_tokens
        self._refresh_tokens = refresh_tokens
        self._life = life
        self._grace_us = grace * 1_000_000
        self._revoked = revoked

    async def open(self, user: User) -> Tokens:
        """Open a session for a user whose credentials were checked."""
        token = RefreshToken(user.id, secrets.token_hex(16), 0, new_secret())
        session = NewSession(token.session, user.id, user.roles, token.secret_hash, self._life * 1_000_000)
        at_us = await self._store.open(session)
        return self._tokens(token, user.roles, at_us, at_us + session.life_us)

    async def refresh(self, refresh_token: str) -> Tokens:
        """Exchange a refresh token. Raises ``RefreshTokenInvalid`` or ``RefreshTokenReused``."""
        token = self._refresh_tokens.read(refresh_token)
        outcome = await self._store.refresh(_present(token), token.counter, grace_us=self._grace_us)
        if isinstance(outcome, Reused):
            self._revoked(outcome.revocation)
            raise RefreshTokenReused("the refresh token was used before; its session was ended")
        if outcome is None:
            raise RefreshTokenInvalid("the session has ended; log in again")
        successor = token._replace(counter=outcome.counter)
        return self._tokens(successor, outcome.roles, outcome.at_us, outcome.expires_us)

    async def close(self, refresh_token: str, scope: Scope) -> None:
        """Log out; again is no error. Any refresh token of the session will do, even one already exchanged.

        Raises ``RefreshTokenInvalid`` for a forged one.
        """
        await self._close(_present(self._refresh_tokens.read(refresh_token)), scope)

    async def close_of(self, claims: Claims, scope: Scope) -> None:
        """Log out by a verified access token; again is no error."""
        if claims.session is not None:
            await self._close(Presented(claims.session, claims.subject, None), scope)

    async def _close(self, presented: Presented, scope: Scope) -> None:
        revocation = await self._store.close(presented, scope)
        if revocation is not None:
            self._revoked(revocation)

    def _tokens(self, token: RefreshToken, roles: tuple[str, ...], at_us: int, expires_us: int) -> Tokens:
        access_token = self._access_tokens.issue(subject=token.subject, session=token.session, roles=roles, at_us=at_us)
        refresh_life = (expires_us - at_us) // 1_000_000
        return Tokens(access_token, self._access_tokens.life, self._refresh_tokens.write(token), refresh_life)


def _present(token: RefreshToken) -> Presented:
    return Presented(token.session, token.subject, token.secret_hash)
