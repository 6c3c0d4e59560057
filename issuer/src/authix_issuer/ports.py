"""What the issuer needs of its engines.

Rule: few small Protocols. Each method is one atomic step of the engine; an answer means the step is durable. Any method
raises ``StoreUnavailable`` when the engine fails; then nothing was changed, or its answer was lost on the way: every
method may be called again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol

from authix.events import MAX_TOKEN_LIFE, Heartbeat, KeyRevoked, SessionRevoked, UserRevoked
from authix.tracing import Headers

KEEP_EXPIRED_US: Final = 2 * MAX_TOKEN_LIFE * 1_000_000
"""An expired session is kept beyond the longest access token it gave out, because a logout must still revoke that."""

Logout = UserRevoked | SessionRevoked | KeyRevoked
"""A revocation of a moment, as the revocation log holds it."""


def concerns(revocation: Logout) -> str:
    """The subject, or the key, whose revocations stay in their order."""
    return revocation.kid if isinstance(revocation, KeyRevoked) else revocation.sub


class AccountState(StrEnum):
    ACTIVE = "active"
    DISABLED = "disabled"
    """Kept, but nobody gets in."""
    DELETED = "deleted"
    """About to go: its sessions are being ended, then its record is removed."""


class Unsettled(NamedTuple):
    """What a change of an account still has to do to its sessions, beyond revoking every access token."""

    end: bool
    """End the sessions; else they stay and get the account's roles and claims."""
    keep: str = ""
    """Among those to end, the one session that stays."""


class User(NamedTuple):
    """An account. ``email_key`` is what makes an email unique."""

    id: str
    email: str
    email_key: str
    password_hash: str
    roles: tuple[str, ...] = ()
    claims: Mapping[str, Any] = {}
    """What its access tokens say beyond the registered claims, as JSON values."""
    state: AccountState = AccountState.ACTIVE
    created_us: int = 0
    version: int = 0
    """Counts the changes: one is made only to the version that its author has seen."""
    unsettled: Unsettled | None = None
    """Written with the change itself and cleared once the session store has it: a crash between loses nothing."""


class Replaced(StrEnum):
    """What became of a change."""

    DONE = "done"
    OUTDATED = "outdated"
    """The account has changed meanwhile, or is gone."""
    EMAIL_TAKEN = "email_taken"


class UserStore(Protocol):
    async def add(self, user: User) -> bool:
        """Add ``user``; False when its ``email_key`` is taken, decided by a unique index."""

    async def by_email_key(self, email_key: str) -> User | None:
        """The user with this ``email_key``."""

    async def by_id(self, user_id: str) -> User | None:
        """The user with this id."""

    async def replace(self, user: User) -> Replaced:
        """Write ``user`` over its version ``user.version - 1``, if that is still the present one."""

    async def replace_password_hash(self, user_id: str, *, old: str, new: str) -> None:
        """Replace the hash if it still is ``old``; the password is the same, so this is no change of the account."""

    async def settled(self, user: User) -> None:
        """Clear ``unsettled``, and remove an account that is deleted; only if ``user.version`` is the present one."""

    async def unsettled(self, limit: int) -> list[User]:
        """Up to ``limit`` accounts with changes that the session store may not have."""

    async def page(self, after: str, limit: int) -> list[User]:
        """Up to ``limit`` accounts whose id is greater than ``after``, by id."""

    async def count(self) -> int:
        """How many accounts there are; an estimate where counting would read them all."""

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
    OTHERS = "others"
    """End every session of the user but this one, which heals by one refresh; revoke every access token."""


class Grants(NamedTuple):
    """What the access tokens of a session say about their subject; ``version`` is the account's."""

    roles: tuple[str, ...] = ()
    claims: Mapping[str, Any] = {}
    version: int = 0


class Device(NamedTuple):
    """Where a session was opened, for its user to recognise it."""

    agent: str = ""
    address: str = ""


class NewSession(NamedTuple):
    id: str
    subject: str
    grants: Grants
    secret_hash: bytes
    life_us: int
    idle_us: int = 0
    """How long it lives without a refresh; 0: as long as ``life_us``."""
    device: Device = Device()


class Opened(NamedTuple):
    """A session that was opened at ``at_us``; ``ended`` are those that had to make room for it."""

    at_us: int
    expires_us: int
    ended: tuple[Logout, ...] = ()


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
    grants: Grants
    expires_us: int
    repeated: bool = False
    """Whether it is the successor that was given out before, again."""


class OpenSession(NamedTuple):
    """A session as its user is shown it; ``id`` is the ``sid`` of its access tokens."""

    id: str
    opened_us: int
    refreshed_us: int
    """The last rotation; the opening, before the first."""
    expires_us: int
    device: Device = Device()


class Reused(NamedTuple):
    """The counter was exchanged before: the session was ended and its access tokens revoked."""

    revocation: Logout


class SessionStore(Protocol):
    """Open sessions and the strictly increasing clock ``t = max(now in µs, last t + 1)``.

    Every step that opens, refreshes or ends a session takes its ``t`` within the same atomic step; a step that ends one
    also appends to the revocation log.
    """

    async def open(self, session: NewSession, *, most: int = 0) -> Opened:
        """Open a session with counter 0. Of more than ``most`` open ones (0: no limit) of its subject the oldest end.

        Those are revoked as by ``Scope.SESSION``, each at a ``t`` of its own.
        """

    async def refresh(self, presented: Presented, counter: int, *, grace_us: int) -> Rotated | Reused | None:
        """Exchange ``counter``; None when there is no such open session.

        The current counter rotates to the next. The one before, within ``grace_us`` of that rotation, gets the same
        successor again. Anything else ends the session as stolen.
        """

    async def close(self, presented: Presented, scope: Scope) -> Logout | None:
        """End sessions by ``scope`` and append the revocation; None, and nothing done, when it has ended before.

        An expired session can still be closed while access tokens of it may live.
        """

    async def settle(self, subject: str, grants: Grants, unsettled: Unsettled) -> Logout:
        """Bring the sessions of ``subject`` to the account's version ``grants.version``; revoke every access token.

        Sessions that are to end do; the others get ``grants``. One that was opened for this version or a later one is
        left as it is. Repeatable.
        """

    async def is_live(self, presented: Presented, issued_us: int) -> bool:
        """Whether an access token of this session and moment is good: the session not ended, the token not revoked.

        It is the exact answer, from the store itself, and as good for a session that has expired.
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

    async def end(self) -> str:
        """The cursor after all that is in the log now, however long it is."""

    async def follow(self, grown: Callable[[], None]) -> None:
        """Call ``grown`` when another process may have appended; runs for ever."""

    async def revoke_key(self, key_id: str) -> KeyRevoked:
        """Append that this signing key is revoked, at a ``t`` of its own. Repeatable."""

    async def trim(self, limit: int) -> bool:
        """Forget up to ``limit`` dead entries and sessions; True when more are due."""

    async def size(self) -> int:
        """How many entries there are, dead ones that are not forgotten yet included."""


class Outbox(RevocationLog, Protocol):
    """The revocation log, and what of it stands on the topic already."""

    async def unpublished(self, *, age: float, limit: int) -> list[Logout]:
        """Up to ``limit`` entries (a shard) older than ``age`` seconds that nobody has marked as published."""

    async def backlog(self) -> int:
        """How many entries nobody has marked as published."""

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

    async def publish(self, revocations: list[Logout], contexts: Mapping[Logout, Headers] = {}) -> Positions:
        """Append them, each to its subject's partition, with the context of its trace where there is one."""

    async def announce(self, heartbeat: Heartbeat) -> Positions:
        """Append a heartbeat to every partition."""

    async def extent(self) -> Extent:
        """What the topic holds now."""

    async def check(self) -> None:
        """Return when the engine answers."""


class KeptRing(NamedTuple):
    """The signing keys at rest, sealed as one. Version 0: there are none yet."""

    version: int
    sealed: bytes


class KeyStore(Protocol):
    async def load(self) -> KeptRing:
        """The present ring; what was loaded once is never lost again."""

    async def save(self, ring: KeptRing) -> bool:
        """Write ``ring`` over the version before its own; False when another is there: of several writers one wins."""

    async def check(self) -> None:
        """Return when the engine answers."""


KEEP_ATTEMPTS: Final = 3600
"""Seconds after the last attempt until they are forgotten: at least as long as any delay."""


class Tried(NamedTuple):
    """Something for which passwords are tried; ``free`` attempts in a row cost no delay."""

    key: str
    """Those that are counted together begin with the same ``{…}``: it keeps them on one node of a cluster."""
    free: int


def delay_after(failures: int, free: int, max_delay: int) -> float:
    """Seconds until the next attempt may begin: 0 while attempts are free, then 1, 2, 4 … up to ``max_delay``."""
    return min(2.0 ** min(failures - free, 30), max_delay) if failures >= free else 0


class AttemptStore(Protocol):
    """Attempts at passwords, counted when they begin."""

    async def begin(self, tried: Sequence[Tried], max_delay: int) -> float:
        """Count an attempt for each and return 0; or, where a delay is not over, count none and return what is left."""

    async def withdraw(self, tried: Sequence[Tried]) -> None:
        """Take one attempt back, which came to nothing."""

    async def succeed(self, tried: Sequence[Tried]) -> None:
        """Forget the attempts: the last one was right."""
