"""Users and signing keys in SQLite.

Rule: uniqueness is the index's business, never a look before a write.
"""

from __future__ import annotations

import sqlite3

import msgspec

from authix_issuer.adapters.sqlite import Database
from authix_issuer.ports import StoredKey, User

SCHEMA = """
CREATE TABLE IF NOT EXISTS users (
    id TEXT PRIMARY KEY,
    email TEXT NOT NULL,
    email_key TEXT NOT NULL UNIQUE,
    password_hash TEXT NOT NULL,
    roles TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS keys (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    algorithm TEXT NOT NULL,
    state TEXT NOT NULL,
    sealed BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS one_signing_key ON keys (algorithm) WHERE state = 'signing';
"""


class SqliteUsers:
    """A ``UserStore``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, user: User) -> bool:
        row = (user.id, user.email, user.email_key, user.password_hash, msgspec.json.encode(user.roles).decode())

        def step(connection: sqlite3.Connection) -> bool:
            sql = "INSERT INTO users VALUES (?, ?, ?, ?, ?) ON CONFLICT (email_key) DO NOTHING"
            return connection.execute(sql, row).rowcount == 1

        return await self._database.write(step)

    async def by_email_key(self, email_key: str) -> User | None:
        def step(connection: sqlite3.Connection) -> User | None:
            sql = "SELECT id, email, email_key, password_hash, roles FROM users WHERE email_key = ?"
            row = connection.execute(sql, (email_key,)).fetchone()
            if row is None:
                return None
            user_id, email, key, password_hash, roles = row
            return User(user_id, email, key, password_hash, msgspec.json.decode(roles, type=tuple[str, ...]))

        return await self._database.read(step)

    async def replace_password_hash(self, user_id: str, *, old: str, new: str) -> None:
        sql = "UPDATE users SET password_hash = ? WHERE id = ? AND password_hash = ?"
        await self._database.write(lambda connection: connection.execute(sql, (new, user_id, old)).rowcount)

    async def check(self) -> None:
        await self._database.check()


class SqliteKeys:
    """A ``KeyStore``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> list[StoredKey]:
        sql = "SELECT id, algorithm, state, sealed FROM keys ORDER BY n"
        return await self._database.read(lambda connection: [StoredKey(*row) for row in connection.execute(sql)])

    async def add_if_none_signs(self, key: StoredKey) -> None:
        sql = "INSERT INTO keys (id, algorithm, state, sealed) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
        await self._database.write(lambda connection: connection.execute(sql, key).rowcount)

    async def check(self) -> None:
        await self._database.check()
