"""What the issuer needs of its engines.

Rule: few small Protocols. Each method is one atomic step of the engine; an answer means the step is durable. Any method
raises ``StoreUnavailable`` when the engine fails; then nothing was changed, or its answer was lost on the way: every
method may be called again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from authix.events import MAX_TOKEN_LIFE, Heartbeat, SessionRevoked, UserRevoked
from authix.keys import AlgorithmName

KEEP_EXPIRED_US: Final = 2 * MAX_TOKEN_LIFE * 1_000_000
"""An expired session is kept beyond the longest access token it gave out, because a logout must still revoke that."""

Logout = UserRevoked | SessionRevoked
"""A revocation of a moment, as the revocation log holds it."""


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


class OpenSession(NamedTuple):
    """A session as its user is shown it; ``id`` is the ``sid`` of its access tokens."""

    id: str
    opened_us: int
    refreshed_us: int
    """The last rotation; the opening, before the first."""
    expires_us: int


class Reused(NamedTuple):
    """The counter was exchanged before: the session was ended and its access tokens revoked."""

    revocation: Logout


class SessionStore(Protocol):
    """Open sessions and the strictly increasing clock ``t = max(now in µs, last t + 1)``.

    Every step that opens, refreshes or ends a session takes its ``t`` within the same atomic step; a step that ends one
    also appends to the revocation log.
    """

    async def open(self, session: NewSession) -> int:
        """Open a session with counter 0; returns its ``t``."""

    async def refresh(self, presented: Presented, counter: int, *, grace_us: int) -> Rotated | Reused | None:
        """Exchange ``counter``; None when there is no such open session.

        The current counter rotates to the next. The one before, within ``grace_us`` of that rotation, gets the same
        successor again. Anything else ends the session as stolen.
        """

    async def close(self, presented: Presented, scope: Scope) -> Logout | None:
        """End sessions by ``scope`` and append the revocation; None, and nothing done, when it has ended before.

        An expired session can still be closed while access tokens of it may live.
        """

    async def list_open(self, subject: str, limit: int) -> list[OpenSession]:
        """Up to ``limit`` open sessions of ``subject``, the one that expires last first.

        What has ended, was stolen or has expired is not among them. One of them is closed by presenting its id.
        """

    async def check(self) -> None:
        """Return when the engine answers."""


class Watermark(NamedTuple):
    """All revocations up to ``complete_until_us`` are there; ``at_us`` is greater by the lag that this shows."""

    at_us: int
    complete_until_us: int


class Entry(NamedTuple):
    cursor: str
    revocation: Logout


class RevocationLog(Protocol):
    """The issuer's write side of the feed; what concerns one subject is in the order it was written."""

    async def tick(self) -> Watermark:
        """Take a ``t`` from every clock: what is read from the log afterwards is complete up to it."""

    async def read(self, after: str | None, limit: int) -> list[Entry]:
        """Up to ``limit`` entries after the cursor; from the beginning for None or a cursor of another log."""

    async def follow(self, grown: Callable[[], None]) -> None:
        """Call ``grown`` when another process may have appended; runs for ever."""

    async def trim(self, limit: int) -> bool:
        """Forget up to ``limit`` dead entries and sessions; True when more are due."""


class Outbox(RevocationLog, Protocol):
    """The revocation log, and what of it stands on the topic already."""

    async def unpublished(self, *, age: float, limit: int) -> list[Logout]:
        """Up to ``limit`` entries (a shard) older than ``age`` seconds that nobody has marked as published."""

    async def published(self, revocations: Iterable[Logout]) -> None:
        """Mark entries as published; only after the topic has confirmed them."""

    async def watermark(self) -> Watermark:
        """Take a ``t`` from every clock, then look: the moment up to which everything is published."""

    async def trail(self) -> bytes | None:
        """What was last kept by ``keep_trail``, if it is not older than the log."""

    async def keep_trail(self, trail: bytes) -> None:
        """Remember where on the topic the published entries stand."""

    async def lease(self, holder: str, seconds: float) -> bool:
        """Take or renew the one lease; False while another holds it."""

    async def release(self, holder: str) -> None:
        """Give the lease back, if it is this holder's."""


Positions = dict[int, int]
"""By partition, where its next record will stand."""


class Span(NamedTuple):
    first: int
    end: int


class Extent(NamedTuple):
    """From where to where the partitions of a topic reach; ``topic`` tells it from those of other clusters."""

    topic: str
    spans: dict[int, Span]


class Topic(Protocol):
    """The logout topic. Any method raises ``TopicUnavailable`` when it is not confirmed in time.

    What is appended is answered with the positions after it, once all replicas that must have it do.
    """

    async def publish(self, revocations: list[Logout]) -> Positions:
        """Append them, each to its subject's partition."""

    async def announce(self, heartbeat: Heartbeat) -> Positions:
        """Append a heartbeat to every partition."""

    async def extent(self) -> Extent:
        """What the topic holds now."""

    async def check(self) -> None:
        """Return when the engine answers."""


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
