"""The revoked-user-since map.

Rule: a token is revoked when ``iat_us <= since_us`` for its subject or its session. Merging takes the maximum, so it is
idempotent and needs no order. An entry leaves only after its ``until``, and what has left is still refused: the map
remembers the newest moment it forgot and refuses every token that old, so no clock step brings a token back to life.
"""

from __future__ import annotations

import heapq
import math

from authix.events import KeyRevoked, Revocation, SessionRevoked, UserRevoked


class _Entries:
    """Revocations of one kind: strings and numbers only.

    A garbage collection runs past those; with an object for each entry it would hold up every request for long.
    """

    def __init__(self) -> None:
        self.since_us: dict[str, int] = {}
        self.until: dict[str, int] = {}
        self.leaving: dict[int, list[str]] = {}  # by until; an entry may be in several


class RevocationMap:
    """Revocations by subject, session and key. Does no I/O; the time is an argument. One thread writes."""

    def __init__(self) -> None:
        self._subjects = _Entries()
        self._sessions = _Entries()
        self._keys = _Entries()
        self._kinds = (self._subjects, self._sessions, self._keys)
        self._leave_order: list[tuple[int, int]] = []  # until and kind
        self._forgotten_us = -1

    def apply(self, event: Revocation) -> None:
        """Merge one revocation."""
        match event:
            case UserRevoked(sub=sub, since_us=since, until=until):
                self._merge(0, sub, since, until)
            case SessionRevoked(sid=sid, since_us=since, until=until):
                self._merge(1, sid, since, until)
            case KeyRevoked(kid=kid, until=until):
                self._merge(2, kid, 0, until)

    def revokes(self, *, subject: str, session: str | None, issued_at_us: int) -> bool:
        """Whether a token of this subject and session, issued at that moment, is revoked."""
        since_us = self._subjects.since_us.get(subject)
        if since_us is not None and issued_at_us <= since_us:
            return True
        if session is None:
            return False
        since_us = self._sessions.since_us.get(session)
        return since_us is not None and issued_at_us <= since_us

    def revokes_key(self, key_id: str) -> bool:
        return key_id in self._keys.until

    def has_forgotten(self, issued_at_us: int) -> bool:
        """Whether a token is so old that a revocation of it may already have left the map."""
        return issued_at_us <= self._forgotten_us

    def evict(self, now: float, limit: int = 1000) -> bool:
        """Forget up to ``limit`` entries whose ``until`` lies before ``now`` (epoch seconds). True: more is due."""
        while self._leave_order and self._leave_order[0][0] < math.floor(now):
            until, kind = self._leave_order[0]
            entries = self._kinds[kind]
            leaving = entries.leaving[until]
            while leaving:
                if limit <= 0:
                    return True
                limit -= 1
                key = leaving.pop()
                if entries.until.get(key, math.inf) <= until:
                    self._forgotten_us = max(self._forgotten_us, entries.since_us.pop(key))
                    del entries.until[key]
            del entries.leaving[until]
            heapq.heappop(self._leave_order)
        return False

    def __len__(self) -> int:
        return sum(len(entries.until) for entries in self._kinds)

    def _merge(self, kind: int, key: str, since_us: int, until: int) -> None:
        entries = self._kinds[kind]
        if since_us > entries.since_us.get(key, -1):
            entries.since_us[key] = since_us
        if until <= entries.until.get(key, -1):
            return
        entries.until[key] = until
        leaving = entries.leaving.get(until)
        if leaving is None:
            leaving = entries.leaving[until] = []
            heapq.heappush(self._leave_order, (until, kind))
        leaving.append(key)
