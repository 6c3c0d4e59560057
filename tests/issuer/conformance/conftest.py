"""The engines under test: one fixture a port, one parameter an adapter.

Rule: a new adapter is a new parameter here and nothing else. Moments are compared for one subject only, since an engine
may keep a clock for each part of its data.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from authix_issuer.adapters import sqlite_sessions, sqlite_users
from authix_issuer.adapters.mongo import MongoUsers, open_mongo
from authix_issuer.adapters.mongo_keys import MongoKeys
from authix_issuer.adapters.redis_pipeline import RedisEngine
from authix_issuer.adapters.redis_sessions import RedisSessions
from authix_issuer.adapters.sqlite import MEMORY, Database
from authix_issuer.adapters.sqlite_keys import SqliteKeys
from authix_issuer.adapters.sqlite_sessions import SqliteSessions
from authix_issuer.adapters.sqlite_users import SqliteUsers
from authix_issuer.ports import Grants, KeyStore, NewSession, Outbox, Presented, RevocationLog, SessionStore, UserStore

SQLITE_MEMORY, SQLITE_FILE, REDIS, REDIS_CLUSTER, MONGODB = (
    "sqlite-memory",
    "sqlite-file",
    "redis",
    "redis-cluster",
    "mongodb",
)
SESSION_ENGINES = (SQLITE_MEMORY, SQLITE_FILE, REDIS, REDIS_CLUSTER)
USER_ENGINES = (SQLITE_MEMORY, SQLITE_FILE, MONGODB)
SessionEngine = SqliteSessions | RedisSessions
OpenSession = Callable[..., Awaitable[tuple[Presented, int]]]
SetWallClock = Callable[[int], None]


@pytest.fixture(params=SESSION_ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The name of the engine of sessions under test."""
    return str(request.param)


@pytest.fixture(params=USER_ENGINES)
def user_engine(request: pytest.FixtureRequest) -> str:
    """The name of the engine of users and keys under test."""
    return str(request.param)


def _path(engine: str, folder: Path) -> str:
    return MEMORY if engine == SQLITE_MEMORY else str(folder / "engine.db")


class _WallClock:
    """The real one until it is set to a moment; there it stands."""

    set_to_us: int | None = None

    def now_us(self) -> int:
        return time.time_ns() // 1000 if self.set_to_us is None else self.set_to_us


@pytest.fixture
def _wall_clock() -> _WallClock:
    return _WallClock()


@pytest.fixture
def set_wall_clock(engine: str, _wall_clock: _WallClock) -> SetWallClock:
    """``set_wall_clock(moment in µs)``: there it stands until it is set again."""

    def put(moment_us: int) -> None:
        _wall_clock.set_to_us = moment_us

    return put


OpenEngine = Callable[[Path], AbstractAsyncContextManager[SessionEngine]]


@pytest.fixture
def open_engine(engine: str, request: pytest.FixtureRequest, _wall_clock: _WallClock) -> OpenEngine:
    """``open_engine(folder)``: an empty store."""
    url = ""
    if engine in {REDIS, REDIS_CLUSTER}:
        url = request.getfixturevalue("redis_url" if engine == REDIS else "redis_cluster_url")

    @asynccontextmanager
    async def open_one(folder: Path) -> AsyncIterator[SessionEngine]:
        if url:
            async with RedisEngine(url) as redis:
                yield RedisSessions(redis, namespace=secrets.token_hex(8))
        else:
            async with Database(_path(engine, folder), sqlite_sessions.SCHEMA) as database:
                yield SqliteSessions(database, _wall_clock.now_us)

    return open_one


@pytest.fixture
async def session_engine(open_engine: OpenEngine, tmp_path: Path) -> AsyncIterator[SessionEngine]:
    async with open_engine(tmp_path) as opened:
        yield opened


@pytest.fixture
async def other_session_engine(open_engine: OpenEngine, tmp_path: Path) -> AsyncIterator[SessionEngine]:
    """Another store of the same kind, which knows nothing of the first."""
    async with open_engine(tmp_path / "other") as opened:
        yield opened


@pytest.fixture
def sessions(session_engine: SessionEngine) -> SessionStore:
    return session_engine


@pytest.fixture
def outbox(session_engine: SessionEngine) -> Outbox:
    return session_engine


@pytest.fixture
def log(session_engine: SessionEngine) -> RevocationLog:
    return session_engine


@pytest.fixture
def other_sessions(other_session_engine: SessionEngine) -> SessionStore:
    return other_session_engine


@pytest.fixture
def other_log(other_session_engine: SessionEngine) -> RevocationLog:
    return other_session_engine


@pytest.fixture
def open_session(sessions: SessionStore) -> OpenSession:
    """``open_session(subject)``: what the client of a new session will present, and the session's first moment."""

    async def open_one(subject: str, *, life_us: int = 3_600_000_000) -> tuple[Presented, int]:
        shown = Presented(secrets.token_hex(16), subject, secrets.token_bytes(32))
        assert shown.secret_hash is not None
        opened = NewSession(shown.session, subject, Grants(("reader", "writer")), shown.secret_hash, life_us)
        return shown, (await sessions.open(opened)).at_us

    return open_one


@pytest.fixture
async def user_stores(
    user_engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[UserStore, KeyStore]]:
    if user_engine == MONGODB:
        url = request.getfixturevalue("mongodb_url").rstrip("/")
        async with open_mongo(f"{url}/{secrets.token_hex(8)}") as documents:
            yield MongoUsers(documents), MongoKeys(documents)
    else:
        async with Database(_path(user_engine, tmp_path), sqlite_users.SCHEMA) as database:
            yield SqliteUsers(database), SqliteKeys(database)


@pytest.fixture
def users(user_stores: tuple[UserStore, KeyStore]) -> UserStore:
    return user_stores[0]


@pytest.fixture
def keys(user_stores: tuple[UserStore, KeyStore]) -> KeyStore:
    return user_stores[1]
