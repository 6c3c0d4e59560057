"""The issuer's HTTP feed over a real log."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from itertools import pairwise

import pytest

from authix import sse
from authix.events import Event, Heartbeat, decode_event
from authix_issuer.adapters import sqlite_sessions
from authix_issuer.adapters.sqlite import MEMORY, Database
from authix_issuer.adapters.sqlite_sessions import SqliteSessions
from authix_issuer.feed import Feed
from authix_issuer.ports import Grants, Logout, NewSession, Presented, Scope

DEADLINE = 20.0

LogOut = Callable[[], Awaitable[Logout]]


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    async with Database(MEMORY, sqlite_sessions.SCHEMA) as opened:
        yield opened


@pytest.fixture
def store(database: Database) -> SqliteSessions:
    return SqliteSessions(database)


@pytest.fixture
async def feed(store: SqliteSessions) -> AsyncIterator[Feed]:
    async with Feed(store) as opened:
        yield opened


@pytest.fixture
def log_out(store: SqliteSessions) -> LogOut:
    count = 0

    async def once() -> Logout:
        nonlocal count
        count += 1
        subject, session = f"subject-{count % 7}", f"session-{count}"
        await store.open(NewSession(session, subject, Grants(), bytes(32), 60_000_000))
        logout = await store.close(Presented(session, subject, bytes(32)), Scope.USER)
        assert logout is not None
        return logout

    return once


class Reader:
    """A follower: reads events from the feed and remembers them."""

    def __init__(self, feed: Feed, cursor: str | None = None) -> None:
        self._chunks = feed.follow(cursor)
        self._decoder = sse.Decoder()
        self.events: list[Event] = []
        self.cursor = cursor

    async def read_until(self, found: Callable[[], bool]) -> None:
        """Read on until ``found``, or to the end of the stream."""
        async with asyncio.timeout(DEADLINE):
            while not found():
                try:
                    chunk = await anext(self._chunks)
                except StopAsyncIteration:
                    return
                for received in self._decoder.feed(chunk):
                    event = decode_event(received.data)
                    assert event is not None
                    self.events.append(event)
                    self.cursor = received.cursor or self.cursor

    async def read_to_heartbeat(self) -> None:
        seen = len(self.events)
        await self.read_until(lambda: any(isinstance(event, Heartbeat) for event in self.events[seen:]))

    async def read_to_end(self) -> None:
        await self.read_until(lambda: False)

    @property
    def revocations(self) -> list[Logout]:
        """What it was told; a newcomer may be told something twice."""
        return list(dict.fromkeys(event for event in self.events if isinstance(event, Logout)))

    def assert_heartbeats_kept(self, written: list[Logout]) -> None:
        """Every revocation that a heartbeat vouches for stands before it."""
        for position, event in enumerate(self.events):
            if isinstance(event, Heartbeat):
                vouched_for = {logout for logout in written if logout.since_us <= event.complete_until_us}
                assert vouched_for <= set(self.events[:position])

    async def close(self) -> None:
        async with aclosing(self._chunks):
            return


async def test_a_snapshot_holds_all_revocations_and_vouches_for_them(feed: Feed, log_out: LogOut) -> None:
    assert (await feed.snapshot()).cursor == ""
    written = [await log_out() for _ in range(5)]
    snapshot = await feed.snapshot()
    assert snapshot.revocations == written
    assert snapshot.heartbeat.complete_until_us > written[-1].since_us
    assert snapshot.heartbeat.at_us >= snapshot.heartbeat.complete_until_us


async def test_a_newcomer_gets_everything_and_then_a_heartbeat_at_once(feed: Feed, log_out: LogOut) -> None:
    written = [await log_out() for _ in range(5)]
    reader = Reader(feed)
    await reader.read_to_heartbeat()
    assert reader.revocations == written
    assert isinstance(reader.events[-1], Heartbeat)
    assert reader.events[-1].complete_until_us > written[-1].since_us
    await reader.close()


async def test_a_newcomer_need_not_wait_for_the_next_heartbeat(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("authix_issuer.feed.HEARTBEAT_EVERY", 3600.0)
    for _ in range(3):
        reader = Reader(feed)
        await reader.read_to_heartbeat()
        assert reader.revocations == []
        await reader.close()


async def test_a_newcomers_heartbeat_is_for_the_newcomer_alone(
    feed: Feed, log_out: LogOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or ten thousand who come back at once would be sent fifty million."""
    monkeypatch.setattr("authix_issuer.feed.HEARTBEAT_EVERY", 3600.0)
    first = Reader(feed)
    await first.read_to_heartbeat()
    for _ in range(5):
        other = Reader(feed)
        await other.read_to_heartbeat()
        await other.close()
    await log_out()
    await first.read_until(lambda: len(first.revocations) > 0)
    assert sum(isinstance(event, Heartbeat) for event in first.events) <= 2  # its own, and that of the feed's start
    await first.close()


async def test_many_followers_get_everything_and_every_heartbeat_is_kept(
    feed: Feed, log_out: LogOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authix_issuer.feed.HEARTBEAT_EVERY", 0.02)
    monkeypatch.setattr("authix_issuer.feed._AT_ONCE", 3)
    readers = [Reader(feed) for _ in range(20)]
    reading = [asyncio.create_task(reader.read_until(lambda: False)) for reader in readers]
    written = []
    async with asyncio.timeout(DEADLINE):  # nobody is left without heartbeats, however fast the logouts come
        while any(sum(isinstance(event, Heartbeat) for event in reader.events) < 5 for reader in readers):
            written.append(await log_out())
    feed.end()
    await asyncio.gather(*reading)
    for reader in readers:
        reader.assert_heartbeats_kept(written)
        assert reader.revocations == written[: len(reader.revocations)]


async def test_the_live_feed_goes_on_where_the_snapshot_ends(feed: Feed, log_out: LogOut) -> None:
    for _ in range(3):
        await log_out()
    snapshot = await feed.snapshot()
    later = [await log_out() for _ in range(3)]
    reader = Reader(feed, snapshot.cursor)
    await reader.read_to_heartbeat()
    assert reader.revocations[:3] == later
    await reader.close()


async def test_a_reader_resumes_from_its_last_cursor(feed: Feed, log_out: LogOut) -> None:
    written = [await log_out() for _ in range(3)]
    first = Reader(feed)
    await first.read_to_heartbeat()
    await first.close()
    written += [await log_out() for _ in range(3)]
    second = Reader(feed, first.cursor)
    await second.read_to_heartbeat()
    assert first.revocations + second.revocations == written
    await second.close()


async def test_a_logout_is_passed_on_when_the_feed_is_woken(feed: Feed, log_out: LogOut) -> None:
    readers = [Reader(feed) for _ in range(3)]
    for reader in readers:
        await reader.read_to_heartbeat()
    logout = await log_out()
    feed.wake()
    for reader in readers:
        await reader.read_until(lambda reader=reader: bool(reader.revocations))  # type: ignore[misc]  # a default binds it
        assert reader.revocations == [logout]
        await reader.close()


async def test_a_logout_of_another_process_is_passed_on_unasked(feed: Feed, log_out: LogOut) -> None:
    reader = Reader(feed)
    await reader.read_to_heartbeat()
    logout = await log_out()
    await reader.read_until(lambda: bool(reader.revocations))
    assert reader.revocations == [logout]
    await reader.close()


async def test_heartbeats_rise_and_go_on_without_logouts(feed: Feed) -> None:
    reader = Reader(feed)
    for _ in range(3):
        await reader.read_to_heartbeat()
    heartbeats = [event.complete_until_us for event in reader.events if isinstance(event, Heartbeat)]
    assert len(heartbeats) >= 3
    assert all(earlier < later for earlier, later in pairwise(heartbeats))
    await reader.close()


async def test_every_heartbeat_is_kept_to_readers_who_come_and_go_amid_logouts(feed: Feed, log_out: LogOut) -> None:
    chance = random.Random(7)
    written: list[Logout] = []
    finished = asyncio.Event()

    async def log_out_many() -> None:
        for _ in range(60):
            written.append(await log_out())
            feed.wake()
            if chance.random() < 0.3:
                await asyncio.sleep(0.002)

    async def come_and_go() -> Reader:
        known: list[Event] = []
        cursor: str | None = None
        while True:
            reader = Reader(feed, cursor)
            reader.events = known
            await reader.read_to_heartbeat()
            cursor = reader.cursor
            if finished.is_set():
                await reader.read_to_heartbeat()
                await reader.close()
                return reader
            await reader.close()

    readers = [asyncio.ensure_future(come_and_go()) for _ in range(5)]
    await asyncio.gather(*(log_out_many() for _ in range(4)))
    finished.set()
    for reader in await asyncio.gather(*readers):
        reader.assert_heartbeats_kept(written)
        assert set(reader.revocations) == set(written)


async def test_a_reader_who_cannot_keep_up_is_cut_off_and_resumes_without_a_gap(
    feed: Feed, log_out: LogOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authix_issuer.feed._BACKLOG", 3)
    slow, quick = Reader(feed), Reader(feed)
    await slow.read_to_heartbeat()
    written = []
    for _ in range(8):
        written.append(await log_out())
        feed.wake()
        await quick.read_until(lambda: len(quick.revocations) == len(written))
    await slow.read_to_end()
    assert 0 < len(slow.revocations) < len(written)
    again = Reader(feed, slow.cursor)
    await again.read_to_heartbeat()
    assert slow.revocations + again.revocations == written
    assert quick.revocations == written
    await again.close()
    await quick.close()


async def test_ending_the_feed_ends_every_stream_now_and_later(feed: Feed, log_out: LogOut) -> None:
    reader = Reader(feed)
    await reader.read_to_heartbeat()
    logout = await log_out()
    feed.end()
    await reader.read_to_end()
    late = Reader(feed)
    await late.read_to_end()
    assert late.revocations == [logout]


def break_log(log: Database) -> Awaitable[object]:
    return log.write(lambda connection: connection.execute("ALTER TABLE revocations RENAME TO hidden"))


def mend_log(log: Database) -> Awaitable[object]:
    return log.write(lambda connection: connection.execute("ALTER TABLE hidden RENAME TO revocations"))


async def test_the_feed_stands_still_while_the_log_is_away_and_goes_on_after(
    feed: Feed, log_out: LogOut, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    reader = Reader(feed)
    await reader.read_to_heartbeat()
    logout = await log_out()
    with caplog.at_level(logging.INFO):
        await break_log(database)
        feed.wake()
        async with asyncio.timeout(DEADLINE):
            while "the feed stands still" not in caplog.text:
                await asyncio.sleep(0.01)
        assert "is read again" not in caplog.text
        await mend_log(database)
        await reader.read_until(lambda: bool(reader.revocations))
        for _ in range(2):
            await reader.read_to_heartbeat()
    assert caplog.text.count("the revocation log is read again") == 1
    assert reader.revocations == [logout]
    reader.assert_heartbeats_kept([logout])
    await reader.close()


async def test_the_feed_outlives_an_entry_that_it_cannot_read(
    feed: Feed, log_out: LogOut, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    reader = Reader(feed)
    await reader.read_to_heartbeat()
    torn = "INSERT INTO revocations (since_us, event, until) SELECT last_us + 1, 'torn', 9e9 FROM clock"
    await database.write(lambda connection: connection.execute(torn))
    feed.wake()
    async with asyncio.timeout(DEADLINE):
        while "the feed stands still" not in caplog.text:
            await asyncio.sleep(0.01)
    await database.write(lambda connection: connection.execute("DELETE FROM revocations"))
    logout = await log_out()
    await reader.read_until(lambda: bool(reader.revocations))
    assert reader.revocations == [logout]
    await reader.close()


async def test_the_feed_outlives_an_error_that_nobody_foresaw(
    feed: Feed,
    store: SqliteSessions,
    log_out: LogOut,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    reader = Reader(feed)
    await reader.read_to_heartbeat()

    async def surprise(*_: object) -> None:
        raise LookupError

    with monkeypatch.context() as patch:
        for step in ("read", "tick", "trim"):
            patch.setattr(store, step, surprise)
        feed.wake()
        async with asyncio.timeout(DEADLINE):
            while "the feed stands still" not in caplog.text:
                await asyncio.sleep(0.01)
    logout = await log_out()
    await reader.read_until(lambda: bool(reader.revocations))
    assert reader.revocations == [logout]
    await reader.close()


async def test_dead_entries_are_trimmed_in_the_background(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    moment_us = 1_800_000_000_000_000
    store = SqliteSessions(database, lambda: moment_us)
    monkeypatch.setattr("authix_issuer.feed._TRIM_EVERY", 0.01)
    for number in range(3):
        await store.open(NewSession(f"{number}", "ann", Grants(), bytes(32), 60_000_000))
        await store.close(Presented(f"{number}", "ann", bytes(32)), Scope.SESSION)
    async with Feed(store):
        assert len(await store.read(None, 10)) == 3
        moment_us += 7200 * 1_000_000
        async with asyncio.timeout(DEADLINE):
            while await store.read(None, 10):
                await asyncio.sleep(0.01)
