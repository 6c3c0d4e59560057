"""Empty stores of every engine, for walks at random."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from authix_issuer.adapters import sqlite_sessions
from authix_issuer.adapters.redis_pipeline import RedisEngine
from authix_issuer.adapters.redis_sessions import RedisSessions
from authix_issuer.adapters.sqlite import MEMORY, Database
from authix_issuer.adapters.sqlite_sessions import SqliteSessions
from tests.e2e.logout_rule import ENGINES, OpenStore, Store, WallClock


@pytest.fixture(params=ENGINES)
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    """``open_store(clock)``: an empty store of the engine; a new adapter is a new parameter here.

    Redis has a clock of its own, which runs; the steps of the walk's clock are lost on it.
    """
    url = ""
    if request.param.startswith("redis"):
        url = request.getfixturevalue("redis_url" if request.param == "redis" else "redis_cluster_url")

    @asynccontextmanager
    async def open_one(clock: WallClock) -> AsyncIterator[Store]:
        if url:
            async with RedisEngine(url) as redis:
                yield RedisSessions(redis, namespace=secrets.token_hex(8))
            return
        path = MEMORY if request.param == "sqlite-memory" else str(tmp_path / f"{secrets.token_hex(8)}.db")
        async with Database(path, sqlite_sessions.SCHEMA) as database:
            yield SqliteSessions(database, clock.now_us)

    return open_one
