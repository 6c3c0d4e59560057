"""What every revocation log promises, whatever its engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from authix.events import keep_until
from authix_issuer.ports import (
    Entry,
    Grants,
    Logout,
    NewSession,
    Presented,
    RevocationLog,
    Scope,
    SessionStore,
    concerns,
)

OpenSession = Callable[..., Awaitable[tuple[Presented, int]]]

SUBJECTS = [name * 32 for name in "abcde"]


@pytest.fixture
def log_out(sessions: SessionStore, open_session: OpenSession) -> Callable[[str], Awaitable[Logout]]:
    """``log_out(subject)``: a login and its logout; returns the revocation."""

    async def once(subject: str) -> Logout:
        shown, _ = await open_session(subject)
        logout = await sessions.close(shown, Scope.SESSION)
        assert logout is not None
        return logout

    return once


LogOut = Callable[[str], Awaitable[Logout]]


async def read_all(log: RevocationLog, limit: int, cursor: str | None = None) -> list[Entry]:
    found: list[Entry] = []
    while page := await log.read(cursor, limit):
        assert len(page) <= limit
        cursor = page[-1].cursor
        found += page
    return found


def of(subject: str, entries: list[Entry]) -> list[Logout]:
    return [entry.revocation for entry in entries if concerns(entry.revocation) == subject]


async def test_a_new_log_is_empty(log: RevocationLog) -> None:
    assert await log.read(None, 10) == []
    assert await log.size() == 0


@pytest.mark.parametrize("limit", [1, 3, 1000])
async def test_every_entry_is_read_once_in_the_order_of_its_subject(
    log: RevocationLog, log_out: LogOut, limit: int
) -> None:
    written = [await log_out(subject) for subject in SUBJECTS * 4]
    entries = await read_all(log, limit)
    assert len(entries) == len(written) == await log.size()
    for subject in SUBJECTS:
        assert of(subject, entries) == [logout for logout in written if concerns(logout) == subject]


async def test_reading_resumes_after_any_entry(log: RevocationLog, log_out: LogOut) -> None:
    for subject in SUBJECTS * 2:
        await log_out(subject)
    entries = await read_all(log, 1000)
    for position, entry in enumerate(entries, start=1):
        rest = await read_all(log, 1000, entry.cursor)
        assert [found.revocation for found in rest] == [found.revocation for found in entries[position:]]


async def test_a_reader_at_the_end_sees_what_is_appended_later(log: RevocationLog, log_out: LogOut) -> None:
    for subject in SUBJECTS:
        await log_out(subject)
    cursor = (await read_all(log, 1000))[-1].cursor
    assert await log.read(cursor, 10) == []
    appended = [await log_out(subject) for subject in SUBJECTS]
    found = [entry.revocation for entry in await read_all(log, 1000, cursor)]
    assert sorted(found, key=concerns) == sorted(appended, key=concerns)


@pytest.mark.parametrize("cursor", ["", ":", "nonsense", "0", "-1", "x:1", "1:x", "é:1", "\udcff", "9" * 400])
async def test_an_unknown_cursor_reads_from_the_beginning(log: RevocationLog, log_out: LogOut, cursor: str) -> None:
    logout = await log_out(SUBJECTS[0])
    assert [entry.revocation for entry in await log.read(cursor, 10)] == [logout]


async def test_another_logs_cursor_reads_from_the_beginning(
    log: RevocationLog, log_out: LogOut, other_sessions: SessionStore, other_log: RevocationLog
) -> None:
    for subject in SUBJECTS:
        await log_out(subject)
    foreign = (await read_all(log, 1000))[-1].cursor
    assert await other_log.read(foreign, 10) == []
    await other_sessions.open(NewSession("session", SUBJECTS[0], Grants(), bytes(32), 3_600_000_000))
    shown = Presented("session", SUBJECTS[0], bytes(32))
    logout = await other_sessions.close(shown, Scope.USER)
    assert [entry.revocation for entry in await other_log.read(foreign, 10)] == [logout]


async def test_all_up_to_a_tick_is_in_the_log_and_all_later_is_greater(log: RevocationLog, log_out: LogOut) -> None:
    written = [await log_out(subject) for subject in SUBJECTS]
    tick = await log.tick()
    assert tick.complete_until_us <= tick.at_us
    read = {entry.revocation for entry in await read_all(log, 1000)}
    assert read == {logout for logout in written if logout.since_us <= tick.complete_until_us}
    later = [await log_out(subject) for subject in SUBJECTS]
    assert all(logout.since_us > tick.complete_until_us for logout in later)


async def test_a_tick_amid_logouts_vouches_only_for_what_can_be_read(log: RevocationLog, log_out: LogOut) -> None:
    async def vouched_for() -> tuple[int, set[Logout]]:
        tick = await log.tick()
        return tick.complete_until_us, {entry.revocation for entry in await read_all(log, 1000)}

    async def log_out_many(subject: str) -> list[Logout]:
        return [await log_out(subject) for _ in range(10)]

    looks = asyncio.gather(*(vouched_for() for _ in range(10)))
    written = [logout for many in await asyncio.gather(*map(log_out_many, SUBJECTS)) for logout in many]
    for complete_until_us, read in await looks:
        assert {logout for logout in written if logout.since_us <= complete_until_us} <= read


async def test_ticks_of_an_idle_store_rise(log: RevocationLog) -> None:
    ticks = [(await log.tick()).complete_until_us for _ in range(5)]
    assert ticks == sorted(set(ticks))


async def test_trimming_keeps_what_is_alive(log: RevocationLog, log_out: LogOut, open_session: OpenSession) -> None:
    await open_session(SUBJECTS[0], life_us=1)
    written = [await log_out(subject) for subject in SUBJECTS]
    while await log.trim(1):
        pass
    assert {entry.revocation for entry in await read_all(log, 1000)} == set(written)


async def test_a_revoked_key_stands_in_the_log_among_the_logouts(log: RevocationLog, log_out: LogOut) -> None:
    logout = await log_out(SUBJECTS[0])
    before = await log.tick()
    revoked = await log.revoke_key("key-1")
    again = await log.revoke_key("key-1")
    assert (revoked.kid, revoked.until) == ("key-1", keep_until(revoked.since_us))
    assert before.complete_until_us < revoked.since_us < again.since_us
    found = [entry.revocation for entry in await read_all(log, 1000)]
    assert len(found) == 3
    assert set(found) == {logout, revoked, again}
    assert [event for event in found if concerns(event) == "key-1"] == [revoked, again]


async def test_a_reader_that_begins_at_the_end_sees_only_what_is_appended_later(
    log: RevocationLog, log_out: LogOut
) -> None:
    at_the_start = await log.end()
    early = [await log_out(subject) for subject in SUBJECTS]
    end = await log.end()
    late = [await log_out(subject) for subject in SUBJECTS]
    assert {found.revocation for found in await read_all(log, 100, end)} == set(late)
    assert {found.revocation for found in await read_all(log, 100, at_the_start)} == {*early, *late}
