"""SQLite as an engine: what is its own, beyond the ports."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from authix.errors import SettingsError
from authix_issuer.adapters import sqlite_sessions, sqlite_users
from authix_issuer.adapters.sqlite import MEMORY, Database
from authix_issuer.adapters.sqlite_keys import SqliteKeys
from authix_issuer.adapters.sqlite_sessions import SqliteSessions
from authix_issuer.adapters.sqlite_users import SqliteUsers
from authix_issuer.errors import StoreUnavailable
from authix_issuer.ports import Grants, KeptRing, NewSession, Presented, Rotated, Scope, User

ANN = "a" * 32
SHOWN = Presented("session", ANN, bytes(32))
OPENED = NewSession("session", ANN, Grants(), bytes(32), 3_600_000_000)
NOTES = ("CREATE TABLE notes (text TEXT NOT NULL UNIQUE)",)


@asynccontextmanager
async def sessions_in(path: Path) -> AsyncIterator[SqliteSessions]:
    async with Database(str(path), sqlite_sessions.SCHEMA) as database:
        yield SqliteSessions(database)


def insert(text: str | None) -> Callable[[sqlite3.Connection], int]:
    return lambda connection: connection.execute("INSERT INTO notes VALUES (?)", (text,)).rowcount


def notes(connection: sqlite3.Connection) -> list[str]:
    return [text for (text,) in connection.execute("SELECT text FROM notes ORDER BY text")]


def forbid_writing(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA query_only=1")


@pytest.fixture(params=["memory", "file"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    path = MEMORY if request.param == "memory" else str(tmp_path / "notes.db")
    async with Database(path, NOTES) as opened:
        yield opened


async def test_what_was_answered_is_in_the_file_at_once(tmp_path: Path) -> None:
    async with Database(str(tmp_path / "notes.db"), NOTES) as database:
        await database.write(insert("kept"))
        with closing(sqlite3.connect(tmp_path / "notes.db")) as other:
            assert notes(other) == ["kept"]


async def test_every_commit_is_forced_to_the_disk(tmp_path: Path) -> None:
    def durability(connection: sqlite3.Connection) -> tuple[str, int]:
        return (
            connection.execute("PRAGMA journal_mode").fetchone()[0],
            connection.execute("PRAGMA synchronous").fetchone()[0],
        )

    async with Database(str(tmp_path / "notes.db"), NOTES) as database:
        assert await database.read(durability) == ("wal", 2)
        assert await database.write(lambda connection: connection.execute("PRAGMA synchronous").fetchone()[0]) == 2


async def test_a_failed_step_does_no_harm_to_those_that_share_its_commit(database: Database) -> None:
    await database.write(insert("first"))
    steps = [insert("second"), insert("first"), insert(None), insert("third")]
    outcomes = await asyncio.gather(*map(database.write, steps), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [int, StoreUnavailable, StoreUnavailable, int]
    assert await database.read(notes) == ["first", "second", "third"]


async def test_a_step_that_fails_half_way_changes_nothing(database: Database) -> None:
    def half(connection: sqlite3.Connection) -> None:
        insert("half")(connection)
        raise LookupError

    with pytest.raises(LookupError):
        await database.write(half)
    assert await database.read(notes) == []


async def test_more_steps_than_one_commit_takes_are_all_done(database: Database) -> None:
    await asyncio.gather(*(database.write(insert(f"{n:04}")) for n in range(1500)))
    assert await database.read(notes) == [f"{n:04}" for n in range(1500)]


async def test_steps_that_wait_when_the_database_closes_are_still_done(tmp_path: Path) -> None:
    async with Database(str(tmp_path / "notes.db"), NOTES) as database:
        waiting = [asyncio.ensure_future(database.write(insert(f"{n:04}"))) for n in range(600)]
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    with closing(sqlite3.connect(tmp_path / "notes.db")) as other:
        assert len(notes(other)) == 600


async def test_a_caller_who_goes_away_does_not_hold_up_the_others(database: Database) -> None:
    gone = asyncio.ensure_future(database.write(insert("gone")))
    await asyncio.sleep(0)
    gone.cancel()
    await database.write(insert("stays"))
    assert "stays" in await database.read(notes)


async def test_a_full_disk_is_told_and_changes_nothing(tmp_path: Path) -> None:
    async with Database(str(tmp_path / "users.db"), sqlite_users.SCHEMA) as database:
        users = SqliteUsers(database)
        await database.write(lambda connection: connection.execute("PRAGMA max_page_count=20").fetchone())
        large = [User(f"{n:032x}", f"{n}@example.com", f"{n}@example.com", "x" * 2000) for n in range(100)]
        outcomes = await asyncio.gather(*map(users.add, large), return_exceptions=True)
        failures = [outcome for outcome in outcomes if outcome is not True]
        assert all(isinstance(failure, StoreUnavailable) and "full" in failure.reason for failure in failures)
        assert failures
        for user, outcome in zip(large, outcomes, strict=True):
            assert (await users.by_email_key(user.email_key) == user) is (outcome is True)
        await database.write(lambda connection: connection.execute("PRAGMA max_page_count=10000").fetchone())
        for user, outcome in zip(large, outcomes, strict=True):
            assert await users.add(user) is (outcome is not True)


async def test_a_logout_that_cannot_be_logged_ends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    async with sessions_in(path) as store:
        await store.open(OPENED)
        with closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TRIGGER broken BEFORE INSERT ON revocations BEGIN SELECT RAISE(ABORT, 'broken'); END")
        for scope in Scope:
            with pytest.raises(StoreUnavailable):
                await store.close(SHOWN, scope)
        with pytest.raises(StoreUnavailable):  # theft
            await store.refresh(SHOWN, 7, grace_us=0)
        assert isinstance(await store.refresh(SHOWN, 0, grace_us=0), Rotated)
        with closing(sqlite3.connect(path)) as other:
            other.execute("DROP TRIGGER broken")
        logout = await store.close(SHOWN, Scope.USER)
        assert [entry.revocation for entry in await store.read(None, 10)] == [logout]


async def test_a_store_that_cannot_write_is_not_ready(tmp_path: Path) -> None:
    async with (
        Database(str(tmp_path / "sessions.db"), sqlite_sessions.SCHEMA) as sessions,
        Database(str(tmp_path / "users.db"), sqlite_users.SCHEMA) as users,
    ):
        checks = (SqliteSessions(sessions).check, SqliteUsers(users).check, SqliteKeys(users).check)
        for check in checks:
            await check()
        for database in (sessions, users):
            await database.write(forbid_writing)
        for check in checks:
            with pytest.raises(StoreUnavailable):
                await check()


async def test_only_its_owner_may_read_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o777)
    async with Database(str(folder / "users.db"), sqlite_users.SCHEMA) as database:
        await SqliteKeys(database).save(KeptRing(1, b"sealed"))
        files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert files == dict.fromkeys(("users.db", "users.db-wal", "users.db-shm"), 0o600)


async def test_sessions_and_the_clock_outlive_the_process(tmp_path: Path) -> None:
    async with sessions_in(tmp_path / "sessions.db") as store:
        opened_us = (await store.open(OPENED)).at_us
        await store.refresh(SHOWN, 0, grace_us=0)
    async with sessions_in(tmp_path / "sessions.db") as store:
        rotated = await store.refresh(SHOWN, 1, grace_us=0)
    assert isinstance(rotated, Rotated)
    assert rotated.counter == 2
    assert rotated.at_us > opened_us


async def test_a_cursor_is_good_after_a_restart(tmp_path: Path) -> None:
    async with sessions_in(tmp_path / "sessions.db") as store:
        await store.open(OPENED)
        await store.close(SHOWN, Scope.USER)
        (entry,) = await store.read(None, 10)
    async with sessions_in(tmp_path / "sessions.db") as store:
        assert await store.read(entry.cursor, 10) == []


async def test_a_reader_who_knows_more_than_a_restored_backup_is_shown_all_of_it(tmp_path: Path) -> None:
    path, backup = tmp_path / "sessions.db", tmp_path / "backup.db"
    async with sessions_in(path) as store:
        await store.open(OPENED)
    shutil.copy(path, backup)
    async with sessions_in(path) as store:
        await store.close(SHOWN, Scope.USER)
        (lost,) = await store.read(None, 10)
    shutil.copy(backup, path)
    async with sessions_in(path) as store:
        assert await store.read(lost.cursor, 10) == []
        for number in range(2):
            session = OPENED._replace(id=f"after-{number}")
            await store.open(session)
            await store.close(SHOWN._replace(session=session.id), Scope.USER)
            assert len(await store.read(lost.cursor, 10)) == number + 1


async def test_a_reader_from_before_a_wrong_clock_was_mended_is_shown_everything(tmp_path: Path) -> None:
    """The clock was ahead, and a backup from before that was restored."""
    path = str(tmp_path / "sessions.db")
    async with Database(path, sqlite_sessions.SCHEMA) as database:
        ahead = SqliteSessions(database, lambda: 2_000_000_000_000_000)
        await ahead.open(OPENED)
        await ahead.close(SHOWN, Scope.USER)
        (lost,) = await ahead.read(None, 10)
        await database.write(lambda connection: connection.execute("UPDATE clock SET last_us = 0").rowcount)
        await database.write(lambda connection: connection.execute("DELETE FROM revocations").rowcount)
        right = SqliteSessions(database, lambda: 1_800_000_000_000_000)
        await right.open(OPENED)
        logout = await right.close(SHOWN, Scope.USER)
        assert [entry.revocation for entry in await right.read(lost.cursor, 10)] == [logout]


async def test_two_processes_may_open_one_file_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    async with sessions_in(path) as one, sessions_in(path) as other:
        await asyncio.gather(*(store.open(OPENED._replace(id=f"{n}")) for n in range(50) for store in (one,)))
        shown = [SHOWN._replace(session=f"{n}") for n in range(50)]
        outcomes = await asyncio.gather(*(store.close(s, Scope.SESSION) for s in shown for store in (one, other)))
        assert sum(outcome is not None for outcome in outcomes) == 50
        assert [entry.revocation for entry in await one.read(None, 100)] == [
            entry.revocation for entry in await other.read(None, 100)
        ]


@pytest.mark.parametrize("content", [b"not a database, but long enough to look like one" * 100, b""])
async def test_a_file_that_is_no_database_stops_the_start(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "users.db"
    path.write_bytes(content)
    if content:
        with pytest.raises(SettingsError, match="AUTHIX_DATA_DIR"):
            async with Database(str(path), sqlite_users.SCHEMA):
                pass
    else:
        async with Database(str(path), sqlite_users.SCHEMA) as database:
            assert await SqliteKeys(database).load() == KeptRing(0, b"")


async def test_a_folder_that_cannot_be_made_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="AUTHIX_DATA_DIR"):
        async with Database(str(tmp_path / "file" / "users.db"), sqlite_users.SCHEMA):
            pass


async def test_an_entry_that_cannot_be_read_is_told_as_the_stores_failure(tmp_path: Path) -> None:
    async with Database(str(tmp_path / "sessions.db"), sqlite_sessions.SCHEMA) as database:
        store = SqliteSessions(database)
        await store.open(OPENED)
        await store.close(SHOWN, Scope.USER)
        await database.write(lambda connection: connection.execute("UPDATE revocations SET event = 'torn'").rowcount)
        with pytest.raises(StoreUnavailable):
            await store.read(None, 10)
