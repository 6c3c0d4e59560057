"""What the issuer needs of its engines.

Rule: few small Protocols. Each method is one atomic step of the engine; an answer means the step is durable. Any method
raises ``StoreUnavailable`` when the engine fails, and then nothing was changed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, Protocol

from authix.events import Revocation
from authix.keys import AlgorithmName


class User(NamedTuple):
    """An account. ``email_key`` is what makes an email unique."""

    id: str
    email: str
    email_key: str
    password_hash: str
    roles: tuple[str, ...] = ()


class UserStore(Protocol):
    async def add(self, user: User) -> bool:
        """Add ``user``; False when its ``email_key`` is taken, decided by a unique index."""

    async def by_email_key(self, email_key: str) -> User | None:
        """The user with this ``email_key``."""

    async def replace_password_hash(self, user_id: str, *, old: str, new: str) -> None:
        """Replace the hash if it still is ``old``."""

    async def check(self) -> None:
        """Return when the engine answers."""


class Scope(StrEnum):
    """How far a logout reaches."""

    USER = "user"
    """End this session; revoke every access token of the user. Other sessions heal by one refresh."""
    SESSION = "session"
    """End this session; revoke its access tokens only."""
    ALL = "all"
    """End every session of the user; revoke every access token."""


class NewSession(NamedTuple):
    id: str
    subject: str
    roles: tuple[str, ...]
    secret_hash: bytes
    life_us: int


class Presented(NamedTuple):
    """What a client shows of a session: read from an authentic refresh token, or from a verified access token."""

    session: str
    subject: str
    secret_hash: bytes | None
    """None when an access token was shown: it proves the session without knowing its secret."""


class Rotated(NamedTuple):
    """A refresh that succeeded: at ``at_us``, ``counter`` is the one that the successor carries."""

    at_us: int
    counter: int
    roles: tuple[str, ...]
    expires_us: int


class RefreshOutcome(StrEnum):
    """Why a refresh did not succeed."""

    UNKNOWN = "unknown"
    """There is no such open session."""
    REUSED = "reused"
    """The counter was exchanged before: the session was ended and its access tokens revoked."""


class SessionStore(Protocol):
    """Open sessions and the strictly increasing clock ``t = max(now in µs, last t + 1)``.

    Every step that opens, refreshes or ends a session takes its ``t`` within the same atomic step; a step that ends one
    also appends to the revocation log.
    """

    async def open(self, session: NewSession) -> int:
        """Open a session with counter 0; returns its ``t``."""

    async def refresh(
        self, presented: Presented, counter: int, *, grace_us: int, token_life: int
    ) -> Rotated | RefreshOutcome:
        """Exchange ``counter``.

        The current counter rotates to the next. The one before, within ``grace_us`` of that rotation, gets the same
        successor again. Anything else ends the session as stolen.
        """

    async def close(self, presented: Presented, scope: Scope, *, token_life: int) -> bool:
        """End sessions by ``scope`` and append the revocation; False, and nothing done, when it has ended before.

        An expired session can still be closed while access tokens of it may live.
        """

    async def check(self) -> None:
        """Return when the engine answers."""


class Tick(NamedTuple):
    """A moment of the clock: all revocations up to ``at_us`` are in the log, and later ones will be greater."""

    at_us: int


class Entry(NamedTuple):
    cursor: str
    revocation: Revocation


class RevocationLog(Protocol):
    """The issuer's write side of the feed, in the order it was written."""

    async def tick(self) -> Tick:
        """Take a ``t``."""

    async def read(self, after: str | None, limit: int) -> list[Entry]:
        """Up to ``limit`` entries after the cursor; from the beginning for None or a cursor of another log."""

    async def trim(self, limit: int) -> bool:
        """Forget up to ``limit`` dead entries and sessions; True when more are due."""


class StoredKey(NamedTuple):
    """A signing key at rest; ``sealed`` is its private part, encrypted."""

    id: str
    algorithm: AlgorithmName
    state: str
    sealed: bytes


class KeyStore(Protocol):
    async def all(self) -> list[StoredKey]:
        """Every key, the newest last."""

    async def add_if_none_signs(self, key: StoredKey) -> None:
        """Add ``key`` unless a signing key of its algorithm is there already: of several issuers, one wins."""

    async def check(self) -> None:
        """Return when the engine answers."""
