"""The revoked-user-since map.

Rule: a token is revoked when ``iat_us <= since_us`` for its subject or its session. Merging takes the maximum, so it is
idempotent and needs no order. An entry leaves only after its ``until``, and what has left is still refused: the map
remembers the newest moment it forgot and refuses every token that old, so no clock step brings a token back to life.
"""

from __future__ import annotations

import heapq
import math

from authix.events import KeyRevoked, Revocation, SessionRevoked, UserRevoked

_Entries = dict[str, tuple[int, int]]  # key -> (since_us, until)


class RevocationMap:
    """Revocations by subject, session and key. Does no I/O; the time is an argument. One thread writes."""

    def __init__(self) -> None:
        self._subjects: _Entries = {}
        self._sessions: _Entries = {}
        self._keys: _Entries = {}
        self._leaving: dict[int, list[tuple[_Entries, str]]] = {}
        self._leave_order: list[int] = []
        self._forgotten_us = -1

    def apply(self, event: Revocation) -> None:
        """Merge one revocation."""
        match event:
            case UserRevoked(sub=sub, since_us=since, until=until):
                self._merge(self._subjects, sub, since, until)
            case SessionRevoked(sid=sid, since_us=since, until=until):
                self._merge(self._sessions, sid, since, until)
            case KeyRevoked(kid=kid, until=until):
                self._merge(self._keys, kid, 0, until)

    def revokes(self, *, subject: str, session: str | None, issued_at_us: int) -> bool:
        """Whether a token of this subject and session, issued at that moment, is revoked."""
        entry = self._subjects.get(subject)
        if entry is not None and issued_at_us <= entry[0]:
            return True
        if session is None:
            return False
        entry = self._sessions.get(session)
        return entry is not None and issued_at_us <= entry[0]

    def revokes_key(self, key_id: str) -> bool:
        return key_id in self._keys

    def has_forgotten(self, issued_at_us: int) -> bool:
        """Whether a token is so old that a revocation of it may already have left the map."""
        return issued_at_us <= self._forgotten_us

    def evict(self, now: float, limit: int = 1000) -> bool:
        """Forget up to ``limit`` entries whose ``until`` lies before ``now`` (epoch seconds). True: more is due."""
        while self._leave_order and self._leave_order[0] < math.floor(now):
            until = self._leave_order[0]
            leaving = self._leaving[until]
            while leaving:
                if limit <= 0:
                    return True
                limit -= 1
                entries, key = leaving.pop()
                entry = entries.get(key)
                if entry is not None and entry[1] <= until:
                    self._forgotten_us = max(self._forgotten_us, entry[0])
                    del entries[key]
            del self._leaving[until]
            heapq.heappop(self._leave_order)
        return False

    def __len__(self) -> int:
        return len(self._subjects) + len(self._sessions) + len(self._keys)

    def _merge(self, entries: _Entries, key: str, since: int, until: int) -> None:
        before = entries.get(key)
        if before is not None:
            since, until = max(since, before[0]), max(until, before[1])
            if (since, until) == before:
                return
        entries[key] = (since, until)
        if before is not None and before[1] == until:
            return
        bucket = self._leaving.get(until)
        if bucket is None:
            bucket = self._leaving[until] = []
            heapq.heappush(self._leave_order, until)
        bucket.append((entries, key))
