"""Users in SQLite, and the schema of the file that they share with the signing keys.

Rule: uniqueness is the index's business, never a look before a write.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from authix_issuer.adapters.sqlite import Database
from authix_issuer.ports import AccountState, Replaced, Unsettled, User

SCHEMA = (
    """
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
CREATE UNIQUE INDEX IF NOT EXISTS one_signing_key ON keys (algorithm) WHERE state = 'signing'
""",
    """
ALTER TABLE users ADD COLUMN claims TEXT NOT NULL DEFAULT '{}';
ALTER TABLE users ADD COLUMN state TEXT NOT NULL DEFAULT 'active';
ALTER TABLE users ADD COLUMN created_us INTEGER NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN unsettled TEXT;
CREATE INDEX unsettled_users ON users (id) WHERE unsettled IS NOT NULL
""",
    """
CREATE TABLE key_ring (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1), version INTEGER NOT NULL, sealed BLOB NOT NULL
);
DROP TABLE keys
""",
)
_COLUMNS = "id, email, email_key, password_hash, roles, claims, state, created_us, version, unsettled"


_SELECT = f"SELECT {_COLUMNS} FROM users WHERE "  # noqa: S608 - constants
_INSERT = f"INSERT INTO users ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (email_key) DO NOTHING"  # noqa: S608 - constants
_REPLACE = f"UPDATE users SET ({_COLUMNS}) = (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) WHERE id = ? AND version = ?"  # noqa: S608 - constants


class SqliteUsers:
    """A ``UserStore``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, user: User) -> bool:
        return await self._database.write(lambda connection: connection.execute(_INSERT, _row(user)).rowcount == 1)

    async def by_email_key(self, email_key: str) -> User | None:
        return await self._one("email_key", email_key)

    async def by_id(self, user_id: str) -> User | None:
        return await self._one("id", user_id)

    async def replace(self, user: User) -> Replaced:
        def step(connection: sqlite3.Connection) -> Replaced:
            try:
                changed = connection.execute(_REPLACE, (*_row(user), user.id, user.version - 1)).rowcount
            except sqlite3.IntegrityError:
                return Replaced.EMAIL_TAKEN
            return Replaced.DONE if changed else Replaced.OUTDATED

        return await self._database.write(step)

    async def replace_password_hash(self, user_id: str, *, old: str, new: str) -> None:
        sql = "UPDATE users SET password_hash = ? WHERE id = ? AND password_hash = ?"
        await self._database.write(lambda connection: connection.execute(sql, (new, user_id, old)).rowcount)

    async def settled(self, user: User) -> None:
        sql = (
            "DELETE FROM users WHERE id = ? AND version = ?"
            if user.state is AccountState.DELETED
            else "UPDATE users SET unsettled = NULL WHERE id = ? AND version = ?"
        )
        await self._database.write(lambda connection: connection.execute(sql, (user.id, user.version)).rowcount)

    async def unsettled(self, limit: int) -> list[User]:
        return await self._several("unsettled IS NOT NULL LIMIT ?", limit)

    async def page(self, after: str, limit: int) -> list[User]:
        return await self._several("id > ? ORDER BY id LIMIT ?", after, limit)

    async def count(self) -> int:
        def step(connection: sqlite3.Connection) -> int:
            return int(connection.execute("SELECT count(*) FROM users").fetchone()[0])

        return await self._database.read(step)

    async def check(self) -> None:
        await self._database.check()

    async def _one(self, column: str, value: str) -> User | None:
        found = await self._several(f"{column} = ?", value)
        return found[0] if found else None

    async def _several(self, where: str, *values: str | int) -> list[User]:
        def step(connection: sqlite3.Connection) -> list[User]:
            return [_user(row) for row in connection.execute(_SELECT + where, values)]

        return await self._database.read(step)


def _row(user: User) -> tuple[str | int | None, ...]:
    """The account in the order of the columns."""
    roles, claims, unsettled = (
        None if value is None else msgspec.json.encode(value).decode()
        for value in (user.roles, user.claims, user.unsettled)
    )
    head = (user.id, user.email, user.email_key, user.password_hash, roles, claims)
    return (*head, user.state.value, user.created_us, user.version, unsettled)


def _user(row: tuple[Any, ...]) -> User:
    user_id, email, email_key, password_hash, roles, claims, state, created_us, version, unsettled = row
    return User(
        user_id,
        email,
        email_key,
        password_hash,
        msgspec.json.decode(roles, type=tuple[str, ...]),
        msgspec.json.decode(claims, type=dict[str, Any]),
        AccountState(state),
        created_us,
        version,
        None if unsettled is None else msgspec.json.decode(unsettled, type=Unsettled),
    )
