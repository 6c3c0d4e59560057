"""What every session store promises when its wall clock misbehaves: for engines whose clock a test can set."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from authix_issuer.ports import KEEP_EXPIRED_US, Presented, Reused, RevocationLog, Rotated, Scope, SessionStore

OpenSession = Callable[..., Awaitable[tuple[Presented, int]]]
SetWallClock = Callable[[int], None]


@pytest.fixture(params=["sqlite-memory", "sqlite-file"])
def engine(request: pytest.FixtureRequest) -> str:
    """Those whose clock a test can set; what the others do is in tests of their own."""
    return str(request.param)


ANN = "a" * 32
NOW_US = 1_800_000_000_000_000
SECOND_US, HOUR_US = 1_000_000, 3_600_000_000
GRACE_US = 10 * SECOND_US


async def a_life(sessions: SessionStore, log: RevocationLog, open_session: OpenSession) -> list[int]:
    """The moments of a login, a refresh, a look at the clock, a logout and another login."""
    shown, opened_us = await open_session(ANN)
    rotated = await sessions.refresh(shown, 0, grace_us=GRACE_US)
    assert isinstance(rotated, Rotated)
    tick = await log.tick()
    logout = await sessions.close(shown, Scope.USER)
    assert logout is not None
    _, reopened_us = await open_session(ANN)
    return [opened_us, rotated.at_us, tick.complete_until_us, logout.since_us, reopened_us]


def rising(moments: list[int]) -> bool:
    return all(earlier < later for earlier, later in pairwise(moments))


async def test_moments_rise_while_the_wall_clock_stands_still(
    sessions: SessionStore, log: RevocationLog, open_session: OpenSession, set_wall_clock: SetWallClock
) -> None:
    set_wall_clock(NOW_US)
    moments = await a_life(sessions, log, open_session)
    assert rising(moments)
    assert moments[0] == NOW_US


async def test_moments_rise_when_the_wall_clock_steps_back(
    sessions: SessionStore, log: RevocationLog, open_session: OpenSession, set_wall_clock: SetWallClock
) -> None:
    set_wall_clock(NOW_US)
    moments = await a_life(sessions, log, open_session)
    set_wall_clock(NOW_US - HOUR_US)
    moments += await a_life(sessions, log, open_session)
    assert rising(moments)


async def test_moments_follow_the_wall_clock_when_it_runs(
    sessions: SessionStore, open_session: OpenSession, set_wall_clock: SetWallClock
) -> None:
    for at_us in (NOW_US, NOW_US + 1, NOW_US + HOUR_US):
        set_wall_clock(at_us)
        assert (await open_session(ANN))[1] == at_us


async def test_the_grace_ends_on_time(
    sessions: SessionStore, open_session: OpenSession, set_wall_clock: SetWallClock
) -> None:
    set_wall_clock(NOW_US)
    shown, _ = await open_session(ANN)
    rotated = await sessions.refresh(shown, 0, grace_us=GRACE_US)
    assert isinstance(rotated, Rotated)
    set_wall_clock(rotated.at_us + GRACE_US)
    again = await sessions.refresh(shown, 0, grace_us=GRACE_US)
    assert isinstance(again, Rotated)
    assert again.counter == 1
    set_wall_clock(rotated.at_us + GRACE_US + 1)
    late = await sessions.refresh(shown, 0, grace_us=GRACE_US)
    assert isinstance(late, Reused)


async def test_a_repeated_refresh_does_not_make_the_grace_longer(
    sessions: SessionStore, open_session: OpenSession, set_wall_clock: SetWallClock
) -> None:
    set_wall_clock(NOW_US)
    shown, _ = await open_session(ANN)
    for seconds in (0, 6):
        set_wall_clock(NOW_US + seconds * SECOND_US + 1)
        assert isinstance(await sessions.refresh(shown, 0, grace_us=GRACE_US), Rotated)
    set_wall_clock(NOW_US + 12 * SECOND_US)
    assert isinstance(await sessions.refresh(shown, 0, grace_us=GRACE_US), Reused)


async def test_a_session_ends_at_its_expiry_however_often_it_was_refreshed(
    sessions: SessionStore, open_session: OpenSession, set_wall_clock: SetWallClock
) -> None:
    set_wall_clock(NOW_US)
    shown, opened_us = await open_session(ANN, life_us=HOUR_US)
    set_wall_clock(opened_us + HOUR_US - 1)
    last = await sessions.refresh(shown, 0, grace_us=GRACE_US)
    assert isinstance(last, Rotated)
    assert last.expires_us == opened_us + HOUR_US
    assert await sessions.refresh(shown, 1, grace_us=GRACE_US) is None


async def test_a_session_is_listed_until_its_expiry_by_a_clock_that_does_not_step_back(
    sessions: SessionStore, open_session: OpenSession, set_wall_clock: SetWallClock
) -> None:
    set_wall_clock(NOW_US)
    shown, opened_us = await open_session(ANN, life_us=HOUR_US)
    set_wall_clock(opened_us + HOUR_US - 1)
    assert [session.id for session in await sessions.list_open(ANN, 10)] == [shown.session]
    set_wall_clock(opened_us + HOUR_US)
    assert await sessions.list_open(ANN, 10) == []
    await sessions.check()
    set_wall_clock(NOW_US)
    assert await sessions.list_open(ANN, 10) == []


async def test_entries_of_neighbouring_moments_are_each_read(
    sessions: SessionStore, log: RevocationLog, open_session: OpenSession, set_wall_clock: SetWallClock
) -> None:
    set_wall_clock(NOW_US)
    opened = [(await open_session(ANN))[0] for _ in range(4)]
    written = [await sessions.close(shown, Scope.SESSION) for shown in opened]
    found, cursor = [], None
    while page := await log.read(cursor, 1):
        cursor = page[-1].cursor
        found += [entry.revocation for entry in page]
    assert found == written


async def test_trimming_forgets_entries_once_they_are_dead_and_not_before(
    sessions: SessionStore, log: RevocationLog, open_session: OpenSession, set_wall_clock: SetWallClock
) -> None:
    set_wall_clock(NOW_US)
    shown, _ = await open_session(ANN)
    logout = await sessions.close(shown, Scope.USER)
    assert logout is not None
    set_wall_clock(logout.until * SECOND_US)
    await log.trim(100)
    assert [entry.revocation for entry in await log.read(None, 100)] == [logout]
    set_wall_clock(NOW_US + 2 * HOUR_US)
    await log.trim(100)
    assert await log.read(None, 100) == []


async def test_trimming_goes_on_until_nothing_dead_is_left(
    sessions: SessionStore, log: RevocationLog, open_session: OpenSession, set_wall_clock: SetWallClock
) -> None:
    set_wall_clock(NOW_US)
    for _ in range(7):
        shown, _ = await open_session(ANN)
        await sessions.close(shown, Scope.SESSION)
    set_wall_clock(NOW_US + 2 * HOUR_US)
    rounds = 1
    while await log.trim(3):
        rounds += 1
    assert rounds <= 4
    assert await log.read(None, 100) == []


async def test_a_cursor_outlives_the_entry_that_it_names(
    sessions: SessionStore, log: RevocationLog, open_session: OpenSession, set_wall_clock: SetWallClock
) -> None:
    set_wall_clock(NOW_US)
    shown, _ = await open_session(ANN)
    await sessions.close(shown, Scope.USER)
    (entry,) = await log.read(None, 100)
    set_wall_clock(NOW_US + 2 * HOUR_US)
    await log.trim(100)
    assert await log.read(entry.cursor, 100) == []
    shown, _ = await open_session(ANN)
    logout = await sessions.close(shown, Scope.USER)
    assert [found.revocation for found in await log.read(entry.cursor, 100)] == [logout]


async def test_an_expired_session_can_be_closed_as_long_as_its_last_access_token_lives(
    sessions: SessionStore, log: RevocationLog, open_session: OpenSession, set_wall_clock: SetWallClock
) -> None:
    set_wall_clock(NOW_US)
    shown, opened_us = await open_session(ANN, life_us=HOUR_US)
    set_wall_clock(opened_us + HOUR_US + KEEP_EXPIRED_US - 1)
    await log.trim(100)
    assert await sessions.close(shown, Scope.USER) is not None


async def test_trimming_forgets_long_expired_sessions(
    sessions: SessionStore, log: RevocationLog, open_session: OpenSession, set_wall_clock: SetWallClock
) -> None:
    set_wall_clock(NOW_US)
    shown, opened_us = await open_session(ANN, life_us=HOUR_US)
    set_wall_clock(opened_us + HOUR_US + KEEP_EXPIRED_US + 1)
    await log.trim(100)
    assert await sessions.close(shown, Scope.USER) is None
