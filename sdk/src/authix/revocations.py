"""The revoked-user-since map.

Rule: a token is revoked when ``iat_us <= since_us`` for its subject or its session. Merging takes the maximum, so it is
idempotent and needs no order. An entry leaves only after its ``until``, and what has left is still refused: the map
remembers the newest moment it forgot and refuses every token that old, so no clock step brings a token back to life.
A full map forgets its oldest entries in the same way: it refuses more, never less.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from authix.events import LOG_WINDOW, Revocation, SessionRevoked, UserRevoked, keep_until

logger = logging.getLogger("authix")

MAX_ENTRIES = 5_000_000
"""Subjects and sessions that a map holds unless it is told otherwise; each takes some 160 bytes."""
SHARDS = 256
"""Parts of each kind, by hash: no single step, such as a dict that grows, works on more than one of them."""
REST = 32
"""Seconds from one look at a shard for what may leave to the next."""
_OLDEST = 8  # one in so many makes room when the map is full


class _Shard:
    """Strings and numbers only: a garbage collection runs past those."""

    __slots__ = ("changes", "due", "since_us", "until")

    def __init__(self) -> None:
        self.changes = 0
        """How often an entry came or grew, counted when that is done."""
        self.since_us: dict[str, int] = {}
        self.until: dict[str, int] = {}
        """Of the entries that don't leave at the usual time."""
        self.due = math.inf
        """None leaves before."""

    def leaving(self, moment: int) -> list[str]:
        """The keys of those whose ``until`` lies before."""
        usual_us, until = (moment - 1 - LOG_WINDOW) * 1_000_000, self.until
        old = [key for key, since_us in self.since_us.items() if since_us <= usual_us]
        if not until:
            return old
        unusual = [key for key, its in until.items() if its < moment]
        return [key for key in old if key not in until] + unusual

    def earliest(self) -> float:
        """The moment that no ``until`` lies before."""
        usual = keep_until(min(self.since_us.values())) if self.since_us else math.inf
        return min(usual, min(self.until.values(), default=math.inf))


class Part(NamedTuple):
    """Some entries of one kind: ``user``, ``session`` or ``key``."""

    kind: str
    entries: list[tuple[str, int, int]]
    """Subject, session id or key id; ``since_us`` (0 for a key); ``until``."""


_NOWHERE = _Shard()


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where the revocations of one subject and session would stand.

    As long as its ``mark`` stays the same, so does what the map says of a token: nothing has to be looked up again. A
    mark is read before what it vouches for, because another thread may be writing.
    """

    subjects: _Shard
    sessions: _Shard
    map: RevocationMap

    def mark(self) -> int:
        """Greater after each revocation that may concern it, and after anything was forgotten."""
        return self.subjects.changes + self.sessions.changes + self.map.forgettings


class RevocationMap:
    """Revocations by subject, session and key. Does no I/O; the time is an argument. One thread writes."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self._subjects = [_Shard() for _ in range(SHARDS)]
        self._sessions = [_Shard() for _ in range(SHARDS)]
        self._keys: dict[str, int] = {}  # and their until
        self._round = itertools.cycle([*self._subjects, *self._sessions])
        self._size = 0
        self._forgotten_us = -1
        self.forgettings = 0
        """How often the forgotten moment may have moved, counted when it has."""
        self._coarse_us: int | None = None

    @property
    def coarse_us(self) -> int | None:
        """The moment up to which every token is refused because the map was full; None when it never was."""
        return self._coarse_us

    def apply(self, event: Revocation) -> bool:
        """Merge one revocation; whether it was news."""
        if isinstance(event, UserRevoked):
            shards, key = self._subjects, event.sub
        elif isinstance(event, SessionRevoked):
            shards, key = self._sessions, event.sid
        else:
            known_until = self._keys.get(event.kid, -1)
            self._keys[event.kid] = max(event.until, known_until)
            return known_until < 0
        since_us, until = event.since_us, event.until
        if since_us <= self._forgotten_us:
            return True  # all that it covers is refused, but not everybody may have been told
        shard = shards[hash(key) % SHARDS]
        if until < shard.due:  # noqa: PLR1730 - min() would be a call for each of a million
            shard.due = until
        known_us = shard.since_us.get(key)
        if known_us is None:
            self._size += 1
        else:
            until = max(until, shard.until.pop(key) if key in shard.until else keep_until(known_us))
            since_us = max(since_us, known_us)
        shard.since_us[key] = since_us
        if until != -(-since_us // 1_000_000) + LOG_WINDOW:  # keep_until, without the call
            shard.until[key] = until
        shard.changes += 1
        if self._size > self._max_entries:
            self._make_room()
        return known_us is None or since_us > known_us

    def revokes(self, *, subject: str, session: str | None, issued_at_us: int) -> bool:
        """Whether a token of this subject and session, issued at that moment, is revoked."""
        since_us = self._subjects[hash(subject) % SHARDS].since_us.get(subject)
        if since_us is not None and issued_at_us <= since_us:
            return True
        if session is None:
            return False
        since_us = self._sessions[hash(session) % SHARDS].since_us.get(session)
        return since_us is not None and issued_at_us <= since_us

    def place_of(self, subject: str, session: str | None) -> Place:
        sessions = _NOWHERE if session is None else self._sessions[hash(session) % SHARDS]
        return Place(self._subjects[hash(subject) % SHARDS], sessions, self)

    def revokes_key(self, key_id: str) -> bool:
        return key_id in self._keys

    def has_forgotten(self, issued_at_us: int) -> bool:
        """Whether a token is so old that a revocation of it may already have left the map."""
        return issued_at_us <= self._forgotten_us

    def evict(self, now: float, limit: int = 1000) -> bool:
        """Forget entries whose ``until`` lies before ``now`` (epoch seconds). True: more may be due.

        It ends with the shard in which it has come to look at ``limit`` entries.
        """
        moment = math.floor(now)
        for key_id in [key_id for key_id, until in self._keys.items() if until < moment]:
            del self._keys[key_id]
        for shards in (self._subjects, self._sessions):
            for shard in shards:
                if shard.due >= moment:
                    continue
                if limit <= 0:
                    return True
                limit -= len(shard.since_us)
                self._forget(shard, shard.leaving(moment))
                shard.due = max(shard.earliest(), moment + REST)
        return False

    def parts(self) -> Iterator[Part]:
        """All entries, a part at a time; what comes or goes meanwhile may be in them or not."""
        yield Part("key", [(key_id, 0, until) for key_id, until in self._keys.items()])
        for kind, shards in (("user", self._subjects), ("session", self._sessions)):
            for shard in shards:
                unusual = shard.until
                yield Part(
                    kind,
                    [
                        (key, since_us, unusual[key] if key in unusual else keep_until(since_us))
                        for key, since_us in shard.since_us.items()
                    ],
                )

    def __len__(self) -> int:
        return self._size + len(self._keys)

    def _make_room(self) -> None:
        """Remove what the forgotten moment covers from the next shard; where that is nothing, advance the moment."""
        shard = next(shard for shard in self._round if shard.since_us)
        gone = [key for key, since_us in shard.since_us.items() if since_us <= self._forgotten_us]
        if not gone:
            oldest = sorted(shard.since_us, key=shard.since_us.__getitem__)
            gone = oldest[: len(oldest) // _OLDEST + 1]
            if self._coarse_us is None:
                logger.warning(
                    "the map of logouts is full at %d: older tokens are refused, whoever has logged out;"
                    " raise AUTHIX_MAX_REVOCATIONS",
                    self._max_entries,
                )
            self._coarse_us = shard.since_us[gone[-1]]
        self._forget(shard, gone)

    def _forget(self, shard: _Shard, keys: list[str]) -> None:
        if not keys:
            return
        # First the moment, then the entries: another thread may be asking.
        newest_us = max(shard.since_us[key] for key in keys)
        self._forgotten_us = max(self._forgotten_us, newest_us)
        self.forgettings += 1
        for key in keys:
            del shard.since_us[key]
            shard.until.pop(key, None)
        self._size -= len(keys)
