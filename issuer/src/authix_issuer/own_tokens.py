"""The issuer's own access tokens, shown to itself.

Rule: judged by the keys and then by the session store itself, which no feed can be ahead of: exact, not within
milliseconds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from authix import tokens
from authix.claims import Claims
from authix.errors import RoleMissing, TokenRevoked
from authix.verifier import Verifier
from authix_issuer.ports import Presented, SessionStore


class OwnTokens:
    """``now`` gives the seconds since the epoch by the session store's clock: the one that dated every token."""

    def __init__(self, verifier: Verifier, store: SessionStore, now: Callable[[], Awaitable[float]]) -> None:
        self._verifier = verifier
        self._store = store
        self._now = now

    async def signed(self, token: str) -> Claims:
        """The claims of a token that we signed and that has not expired. Raises a ``TokenError``."""
        tokens.take_apart(token)  # before the clock is asked, which costs the store a write
        return self._verifier.verify(token, now=await self._now(), monotonic=0)

    async def live(self, token: str) -> Claims:
        """The same, if neither its session has ended nor its user logged out since. Raises a ``TokenError``."""
        claims = await self.signed(token)
        presented = Presented(claims.session or "", claims.subject, None)
        if not await self._store.is_live(presented, claims.issued_at_us):
            raise TokenRevoked("the user logged out after this token was issued")
        return claims

    async def with_role(self, token: str, role: str) -> Claims:
        """The same, if it carries ``role``. Raises a ``TokenError`` or ``RoleMissing``."""
        claims = await self.live(token)
        if role not in claims.roles:
            raise RoleMissing(f"this needs the role {role}")
        return claims
