"""The ring of signing keys in SQLite.

Rule: one row, and a write of it names the version that it replaces.
"""

from __future__ import annotations

import sqlite3

from authix_issuer.adapters.sqlite import Database
from authix_issuer.ports import KeptRing


class SqliteKeys:
    """A ``KeyStore``; its table is in the schema of the users, whose file it shares."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> KeptRing:
        def step(connection: sqlite3.Connection) -> KeptRing:
            row = connection.execute("SELECT version, sealed FROM key_ring").fetchone()
            return KeptRing(*row) if row else KeptRing(0, b"")

        return await self._database.read(step)

    async def save(self, ring: KeptRing) -> bool:
        def step(connection: sqlite3.Connection) -> bool:
            if ring.version == 1:
                sql = "INSERT INTO key_ring VALUES (1, ?, ?) ON CONFLICT DO NOTHING"
                return connection.execute(sql, (ring.version, ring.sealed)).rowcount == 1
            sql = "UPDATE key_ring SET version = ?, sealed = ? WHERE version = ?"
            return connection.execute(sql, (ring.version, ring.sealed, ring.version - 1)).rowcount == 1

        return await self._database.write(step)

    async def check(self) -> None:
        await self._database.check()
