"""Sessions, their clock and the revocation log in SQLite.

Rule: each method is one transaction. The clock never stands still nor steps back, whatever the wall clock does, because
its last value is a row that the same transaction moves.
"""

from __future__ import annotations

import asyncio
import hmac
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import msgspec

from authix.errors import SourceError
from authix.events import LOG_WINDOW, KeyRevoked, SessionRevoked, UserRevoked, decode_event, encode_event, keep_until
from authix_issuer.adapters.sqlite import Database
from authix_issuer.errors import StoreUnavailable
from authix_issuer.ports import (
    KEEP_EXPIRED_US,
    Device,
    Entry,
    Grants,
    Logout,
    NewSession,
    Opened,
    OpenSession,
    Presented,
    Reused,
    Rotated,
    Scope,
    Unsettled,
    Watermark,
)

SCHEMA = (
    """
CREATE TABLE IF NOT EXISTS clock (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1), last_us INTEGER NOT NULL, log_id TEXT NOT NULL
);
INSERT INTO clock VALUES (1, 0, lower(hex(randomblob(8)))) ON CONFLICT DO NOTHING;
CREATE TABLE IF NOT EXISTS sessions (
    id TEXT PRIMARY KEY,
    subject TEXT NOT NULL,
    roles TEXT NOT NULL,
    secret_hash BLOB NOT NULL,
    counter INTEGER NOT NULL,
    opened_us INTEGER NOT NULL,
    rotated_us INTEGER NOT NULL,
    expires_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sessions_of_subject ON sessions (subject);
CREATE INDEX IF NOT EXISTS sessions_by_expiry ON sessions (expires_us);
CREATE TABLE IF NOT EXISTS revocations (
    since_us INTEGER PRIMARY KEY,
    event BLOB NOT NULL,
    until INTEGER NOT NULL,
    published INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS trail (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), written BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS revocations_unpublished ON revocations (since_us) WHERE published = 0;
CREATE INDEX IF NOT EXISTS revocations_by_until ON revocations (until)
""",
    """
DROP TABLE sessions;
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    subject TEXT NOT NULL,
    grants TEXT NOT NULL,
    version INTEGER NOT NULL,
    secret_hash BLOB NOT NULL,
    counter INTEGER NOT NULL,
    opened_us INTEGER NOT NULL,
    rotated_us INTEGER NOT NULL,
    expires_us INTEGER NOT NULL,
    last_us INTEGER NOT NULL,
    idle_us INTEGER NOT NULL,
    agent TEXT NOT NULL,
    address TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX sessions_of_subject ON sessions (subject);
CREATE INDEX sessions_by_expiry ON sessions (expires_us);
CREATE TABLE revoked_users (subject TEXT PRIMARY KEY, since_us INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX revoked_users_by_moment ON revoked_users (since_us)
""",
)


def wall_clock_us() -> int:
    return time.time_ns() // 1000


class SqliteSessions:
    """A ``SessionStore`` with its ``RevocationLog`` and ``Outbox``. ``now_us`` is the wall clock in µs."""

    def __init__(self, database: Database, now_us: Callable[[], int] = wall_clock_us) -> None:
        self._database = database
        self._now_us = now_us

    async def open(self, session: NewSession, *, most: int = 0) -> Opened:
        def step(connection: sqlite3.Connection) -> Opened:
            at_us = self._tick(connection)
            last_us = at_us + session.life_us
            expires_us = _expiry(at_us, last_us, session.idle_us)
            grants = msgspec.json.encode(session.grants).decode()
            head = (session.id, session.subject, grants, session.grants.version, session.secret_hash, 0, at_us, 0)
            row = (*head, expires_us, last_us, session.idle_us, *session.device)
            connection.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            return Opened(at_us, expires_us, tuple(self._make_room(connection, session.subject, at_us, most)))

        return await self._database.write(step)

    async def refresh(self, presented: Presented, counter: int, *, grace_us: int) -> Rotated | Reused | None:
        def step(connection: sqlite3.Connection) -> Rotated | Reused | None:
            at_us = self._tick(connection)
            row = self._find(connection, presented)
            if row is None or row.expires_us <= at_us:
                return None
            current, expires_us = row.counter, row.expires_us
            if counter == current:
                current += 1
                expires_us = _expiry(at_us, row.last_us, row.idle_us)
                sql = "UPDATE sessions SET counter = ?, rotated_us = ?, expires_us = ? WHERE id = ?"
                connection.execute(sql, (current, at_us, expires_us, presented.session))
            elif counter != current - 1 or at_us - row.rotated_us > grace_us:
                return Reused(self._end(connection, presented, Scope.SESSION, at_us))
            grants = msgspec.json.decode(row.grants, type=Grants)
            return Rotated(at_us, current, grants, expires_us, repeated=current == row.counter)

        return await self._database.write(step)

    async def close(self, presented: Presented, scope: Scope) -> Logout | None:
        def step(connection: sqlite3.Connection) -> Logout | None:
            at_us = self._tick(connection)
            if self._find(connection, presented) is None:
                return None
            return self._end(connection, presented, scope, at_us)

        return await self._database.write(step)

    async def list_open(self, subject: str, limit: int) -> list[OpenSession]:
        def step(connection: sqlite3.Connection) -> list[OpenSession]:
            sql = """
                SELECT id, opened_us, max(opened_us, rotated_us), expires_us, agent, address FROM sessions
                WHERE subject = ? AND expires_us > max(?, (SELECT last_us FROM clock))
                ORDER BY expires_us DESC LIMIT ?
            """
            rows = connection.execute(sql, (subject, self._now_us(), limit))
            return [
                OpenSession(session, opened_us, used_us, expires_us, Device(agent, address))
                for session, opened_us, used_us, expires_us, agent, address in rows
            ]

        return await self._database.read(step)

    async def settle(self, subject: str, grants: Grants, unsettled: Unsettled) -> Logout:
        def step(connection: sqlite3.Connection) -> Logout:
            at_us = self._tick(connection)
            if unsettled.end:
                sql = "DELETE FROM sessions WHERE subject = ? AND id <> ? AND version < ?"
                connection.execute(sql, (subject, unsettled.keep, grants.version))
            sql = "UPDATE sessions SET grants = ?, version = ? WHERE subject = ? AND version < ?"
            written = msgspec.json.encode(grants).decode()
            connection.execute(sql, (written, grants.version, subject, grants.version))
            return self._append(connection, UserRevoked(sub=subject, since_us=at_us, until=keep_until(at_us)))

        return await self._database.write(step)

    async def is_live(self, presented: Presented, issued_us: int) -> bool:
        def step(connection: sqlite3.Connection) -> bool:
            sql = "SELECT since_us FROM revoked_users WHERE subject = ?"
            revoked = connection.execute(sql, (presented.subject,)).fetchone()
            return self._find(connection, presented) is not None and (revoked is None or issued_us > revoked[0])

        return await self._database.read(step)

    async def tick(self) -> Watermark:
        at_us = await self._database.write(self._tick)
        return Watermark(at_us, at_us)

    async def watermark(self) -> Watermark:
        def step(connection: sqlite3.Connection) -> Watermark:
            at_us = self._tick(connection)
            oldest = connection.execute("SELECT min(since_us) FROM revocations WHERE published = 0").fetchone()[0]
            return Watermark(at_us, at_us if oldest is None else oldest - 1)

        return await self._database.write(step)

    async def unpublished(self, *, age: float, limit: int) -> list[Logout]:
        def step(connection: sqlite3.Connection) -> list[Logout]:
            sql = "SELECT event FROM revocations WHERE published = 0 AND since_us <= ? ORDER BY since_us LIMIT ?"
            rows = connection.execute(sql, (self._tick(connection) - round(age * 1_000_000), limit))
            return [_revocation(event) for (event,) in rows]

        return await self._database.write(step)

    async def backlog(self) -> int:
        sql = "SELECT count(*) FROM revocations WHERE published = 0"
        found: int = await self._database.read(lambda connection: connection.execute(sql).fetchone()[0])
        return found

    async def published(self, revocations: Iterable[Logout]) -> None:
        moments = [(revocation.since_us,) for revocation in revocations]
        sql = "UPDATE revocations SET published = 1 WHERE since_us = ?"
        await self._database.write(lambda connection: connection.executemany(sql, moments).rowcount)

    async def trail(self) -> bytes | None:
        def step(connection: sqlite3.Connection) -> bytes | None:
            row = connection.execute("SELECT written FROM trail").fetchone()
            return None if row is None else row[0]

        return await self._database.read(step)

    async def keep_trail(self, trail: bytes) -> None:
        sql = "INSERT OR REPLACE INTO trail VALUES (1, ?)"
        await self._database.write(lambda connection: connection.execute(sql, (trail,)).rowcount)

    async def lease(self, holder: str, seconds: float) -> bool:  # noqa: ARG002 - one process is all there is
        return True

    async def release(self, holder: str) -> None:
        """Nothing to give back."""

    async def follow(self, grown: Callable[[], None]) -> None:  # noqa: ARG002 - no other process appends
        await asyncio.Event().wait()

    async def read(self, after: str | None, limit: int) -> list[Entry]:
        def step(connection: sqlite3.Connection) -> list[Entry]:
            log_id, last_us = connection.execute("SELECT log_id, last_us FROM clock").fetchone()
            sql = "SELECT since_us, event FROM revocations WHERE since_us > ? ORDER BY since_us LIMIT ?"
            rows = connection.execute(sql, (_position(after, log_id, last_us), limit))
            return [Entry(f"{log_id}:{since_us}", _revocation(event)) for since_us, event in rows]

        return await self._database.read(step)

    async def revoke_key(self, key_id: str) -> KeyRevoked:
        def step(connection: sqlite3.Connection) -> KeyRevoked:
            at_us = self._tick(connection)
            revocation = KeyRevoked(kid=key_id, at_us=at_us, until=keep_until(at_us))
            self._append(connection, revocation)
            return revocation

        return await self._database.write(step)

    async def end(self) -> str:
        def step(connection: sqlite3.Connection) -> str:
            log_id, last_us = connection.execute("SELECT log_id, last_us FROM clock").fetchone()
            return f"{log_id}:{last_us}"

        return await self._database.read(step)

    async def trim(self, limit: int) -> bool:
        def step(connection: sqlite3.Connection) -> bool:
            now_us = self._now_us()
            dead = "DELETE FROM revocations WHERE rowid IN (SELECT rowid FROM revocations WHERE until < ? LIMIT ?)"
            revocations = connection.execute(dead, (now_us // 1_000_000, limit)).rowcount
            some = "SELECT subject FROM revoked_users WHERE since_us < ? LIMIT ?"
            dead = f"DELETE FROM revoked_users WHERE subject IN ({some})"  # noqa: S608 - two constants
            users = connection.execute(dead, (now_us - LOG_WINDOW * 1_000_000, limit)).rowcount
            dead = "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_us < ? LIMIT ?)"
            sessions = connection.execute(dead, (now_us - KEEP_EXPIRED_US, limit)).rowcount
            return limit in {revocations, users, sessions}

        return await self._database.write(step)

    async def size(self) -> int:
        def step(connection: sqlite3.Connection) -> int:
            return int(connection.execute("SELECT count(*) FROM revocations").fetchone()[0])

        return await self._database.read(step)

    async def check(self) -> None:
        await self.tick()

    def _tick(self, connection: sqlite3.Connection) -> int:
        sql = "UPDATE clock SET last_us = max(?, last_us + 1) RETURNING last_us"
        at_us: int = connection.execute(sql, (self._now_us(),)).fetchone()[0]
        return at_us

    def _find(self, connection: sqlite3.Connection, presented: Presented) -> _Row | None:
        """The session that is presented, unless it has ended."""
        sql = """
            SELECT grants, counter, rotated_us, expires_us, last_us, idle_us, subject, secret_hash
            FROM sessions WHERE id = ?
        """
        found = connection.execute(sql, (presented.session,)).fetchone()
        if found is None:
            return None
        row = _Row(*found)
        if row.subject != presented.subject:
            return None
        if presented.secret_hash is not None and not hmac.compare_digest(row.secret_hash, presented.secret_hash):
            return None
        return row

    def _make_room(self, connection: sqlite3.Connection, subject: str, at_us: int, most: int) -> Iterator[Logout]:
        """End the oldest sessions beyond ``most``, each at a moment of its own."""
        if most:
            sql = (
                "SELECT id FROM sessions WHERE subject = ? AND expires_us > ? ORDER BY opened_us DESC LIMIT -1 OFFSET ?"
            )
            for (session,) in connection.execute(sql, (subject, at_us, most)).fetchall():
                presented = Presented(session, subject, None)
                yield self._end(connection, presented, Scope.SESSION, self._tick(connection))

    def _end(self, connection: sqlite3.Connection, presented: Presented, scope: Scope, at_us: int) -> Logout:
        subject, session, until = presented.subject, presented.session, keep_until(at_us)
        match scope:
            case Scope.ALL:
                connection.execute("DELETE FROM sessions WHERE subject = ?", (subject,))
            case Scope.OTHERS:
                connection.execute("DELETE FROM sessions WHERE subject = ? AND id <> ?", (subject, session))
            case Scope.USER | Scope.SESSION:
                connection.execute("DELETE FROM sessions WHERE id = ?", (session,))
        if scope is Scope.SESSION:
            return self._append(connection, SessionRevoked(sub=subject, sid=session, since_us=at_us, until=until))
        return self._append(connection, UserRevoked(sub=subject, since_us=at_us, until=until))

    def _append(self, connection: sqlite3.Connection, revocation: Logout) -> Logout:
        sql = "INSERT INTO revocations (since_us, event, until) VALUES (?, ?, ?)"
        connection.execute(sql, (revocation.since_us, encode_event(revocation), revocation.until))
        if isinstance(revocation, UserRevoked):
            sql = "INSERT OR REPLACE INTO revoked_users VALUES (?, ?)"
            connection.execute(sql, (revocation.sub, revocation.since_us))
        return revocation


class _Row(NamedTuple):
    grants: str
    counter: int
    rotated_us: int
    expires_us: int
    last_us: int
    idle_us: int
    subject: str
    secret_hash: bytes


def _expiry(at_us: int, last_us: int, idle_us: int) -> int:
    return min(last_us, at_us + idle_us) if idle_us else last_us


def _position(cursor: str | None, log_id: str, last_us: int) -> int:
    """The moment that ``cursor`` names; 0, the beginning, for one that is not of this log.

    A moment and not a row's number, so that a cursor from before a backup was restored skips nothing after it.
    """
    name, _, position = (cursor or "").partition(":")
    if name != log_id or not position.isascii() or not position.isdigit() or len(position) > 18:
        return 0
    return int(position) if int(position) <= last_us else 0


def _revocation(event: bytes) -> Logout:
    try:
        decoded = decode_event(event)
    except SourceError as error:
        raise StoreUnavailable(f"the revocation log holds {error.reason}", "sqlite") from None
    if not isinstance(decoded, Logout):
        raise StoreUnavailable("the revocation log holds an entry of no known kind", "sqlite")
    return decoded
