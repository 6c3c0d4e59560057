"""What every session store promises, whatever its engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from authix.events import MARGIN, MAX_LEEWAY, MAX_TOKEN_LIFE, SessionRevoked, UserRevoked
from authix_issuer import ports
from authix_issuer.ports import Logout, Presented, Reused, RevocationLog, Rotated, Scope, SessionStore, concerns

OpenSession = Callable[..., Awaitable[tuple[Presented, int]]]

ANN, BOB = "a" * 32, "b" * 32
GRACE_US = 60_000_000
NO_GRACE = 0

LOGOUTS = (Scope.USER, Scope.SESSION, Scope.ALL)


async def refresh(
    sessions: SessionStore, shown: Presented, counter: int, grace_us: int = GRACE_US
) -> Rotated | Reused | None:
    return await sessions.refresh(shown, counter, grace_us=grace_us)


async def rotate(sessions: SessionStore, shown: Presented, counter: int, grace_us: int = GRACE_US) -> Rotated:
    outcome = await refresh(sessions, shown, counter, grace_us)
    assert isinstance(outcome, Rotated)
    return outcome


async def close(sessions: SessionStore, shown: Presented, scope: Scope = Scope.USER) -> Logout | None:
    return await sessions.close(shown, scope)


async def entries_of(log: RevocationLog, subject: str) -> list[Logout]:
    found: list[Logout] = []
    cursor = None
    while page := await log.read(cursor, 100):
        cursor = page[-1].cursor
        found += [entry.revocation for entry in page if concerns(entry.revocation) == subject]
    return found


async def is_open(sessions: SessionStore, shown: Presented, counter: int = 0) -> bool:
    return isinstance(await refresh(sessions, shown, counter), Rotated)


async def test_the_store_answers(sessions: SessionStore) -> None:
    await sessions.check()


async def test_each_step_of_a_user_takes_a_later_moment_than_the_one_before(
    sessions: SessionStore, open_session: OpenSession
) -> None:
    shown, opened_us = await open_session(ANN)
    first = await rotate(sessions, shown, 0)
    again = await rotate(sessions, shown, 0)
    logout = await close(sessions, shown)
    assert logout is not None
    _, reopened_us = await open_session(ANN)
    moments = [opened_us, first.at_us, again.at_us, logout.since_us, reopened_us]
    assert all(earlier < later for earlier, later in pairwise(moments))


async def test_steps_at_the_same_time_each_take_a_moment_of_their_own(
    sessions: SessionStore, open_session: OpenSession
) -> None:
    moments = [at_us for _, at_us in await asyncio.gather(*(open_session(ANN) for _ in range(50)))]
    assert len(set(moments)) == 50


async def test_the_current_counter_rotates_to_the_next(sessions: SessionStore, open_session: OpenSession) -> None:
    shown, opened_us = await open_session(ANN, life_us=3_600_000_000)
    rotations = [await rotate(sessions, shown, counter) for counter in range(3)]
    assert [(r.counter, r.grants.roles, r.expires_us) for r in rotations] == [
        (counter, ("reader", "writer"), opened_us + 3_600_000_000) for counter in (1, 2, 3)
    ]


async def test_the_counter_before_gets_the_same_successor_within_the_grace(
    sessions: SessionStore, open_session: OpenSession
) -> None:
    shown, _ = await open_session(ANN)
    first = await rotate(sessions, shown, 0)
    again = await rotate(sessions, shown, 0)
    assert again.counter == first.counter == 1
    assert (first.repeated, again.repeated) == (False, True)
    assert (await rotate(sessions, shown, 1)).counter == 2


async def test_many_uses_of_one_counter_at_once_are_one_rotation(
    sessions: SessionStore, open_session: OpenSession
) -> None:
    shown, _ = await open_session(ANN)
    rotations = await asyncio.gather(*(rotate(sessions, shown, 0) for _ in range(20)))
    assert {rotation.counter for rotation in rotations} == {1}
    assert len({rotation.at_us for rotation in rotations}) == 20
    assert (await rotate(sessions, shown, 1)).counter == 2


async def test_the_counter_before_is_theft_after_the_grace(sessions: SessionStore, open_session: OpenSession) -> None:
    shown, _ = await open_session(ANN)
    await rotate(sessions, shown, 0)
    assert isinstance(await refresh(sessions, shown, 0, NO_GRACE), Reused)


@pytest.mark.parametrize("counter", [0, 1, 99, 2**40])
async def test_any_other_counter_is_theft_even_within_the_grace(
    sessions: SessionStore, open_session: OpenSession, counter: int
) -> None:
    shown, _ = await open_session(ANN)
    for current in range(3):
        await rotate(sessions, shown, current)
    assert isinstance(await refresh(sessions, shown, counter), Reused)


async def test_theft_ends_the_session_and_revokes_its_tokens(
    sessions: SessionStore, log: RevocationLog, open_session: OpenSession
) -> None:
    shown, _ = await open_session(ANN)
    last = await rotate(sessions, shown, 0)
    outcome = await refresh(sessions, shown, 0, NO_GRACE)
    assert isinstance(outcome, Reused)
    assert isinstance(outcome.revocation, SessionRevoked)
    assert (outcome.revocation.sub, outcome.revocation.sid) == (ANN, shown.session)
    assert outcome.revocation.since_us > last.at_us
    assert await entries_of(log, ANN) == [outcome.revocation]
    assert await refresh(sessions, shown, 1) is None
    assert await close(sessions, shown) is None


async def test_theft_leaves_the_users_other_sessions_alone(sessions: SessionStore, open_session: OpenSession) -> None:
    stolen, _ = await open_session(ANN)
    other, _ = await open_session(ANN)
    await rotate(sessions, stolen, 0)
    await refresh(sessions, stolen, 0, NO_GRACE)
    assert await is_open(sessions, other)


def wrong_secret(shown: Presented) -> Presented:
    return shown._replace(secret_hash=bytes(32))


def other_subject(shown: Presented) -> Presented:
    return shown._replace(subject=BOB)


def other_session(shown: Presented) -> Presented:
    return shown._replace(session="0" * 32)


STRANGERS = pytest.mark.parametrize("stranger", [wrong_secret, other_subject, other_session])


@STRANGERS
async def test_who_shows_something_wrong_is_not_known_and_changes_nothing(
    sessions: SessionStore, log: RevocationLog, open_session: OpenSession, stranger: Callable[[Presented], Presented]
) -> None:
    shown, _ = await open_session(ANN)
    for counter in (0, 7):
        assert await refresh(sessions, stranger(shown), counter) is None
    for scope in Scope:
        assert await close(sessions, stranger(shown), scope) is None
    assert await entries_of(log, ANN) == await entries_of(log, BOB) == []
    assert await is_open(sessions, shown)


async def test_an_ended_session_is_not_known(
    sessions: SessionStore, log: RevocationLog, open_session: OpenSession
) -> None:
    shown, _ = await open_session(ANN)
    await close(sessions, shown, Scope.SESSION)
    for counter in (0, 1):
        assert await refresh(sessions, shown, counter) is None
    assert len(await entries_of(log, ANN)) == 1


async def test_an_expired_session_is_not_refreshed(sessions: SessionStore, open_session: OpenSession) -> None:
    shown, _ = await open_session(ANN, life_us=1)
    assert await refresh(sessions, shown, 0) is None


async def test_an_expired_session_can_still_be_closed(
    sessions: SessionStore, log: RevocationLog, open_session: OpenSession
) -> None:
    shown, _ = await open_session(ANN, life_us=1)
    assert await refresh(sessions, shown, 0) is None
    logout = await close(sessions, shown)
    assert await entries_of(log, ANN) == [logout]


async def test_an_access_token_closes_its_session_without_the_secret(
    sessions: SessionStore, open_session: OpenSession
) -> None:
    shown, _ = await open_session(ANN)
    assert await close(sessions, shown._replace(secret_hash=None)) is not None
    assert not await is_open(sessions, shown)


async def test_scope_session_ends_this_session_only(
    sessions: SessionStore, log: RevocationLog, open_session: OpenSession
) -> None:
    (shown, at_us), (other, _) = await open_session(ANN), await open_session(ANN)
    logout = await close(sessions, shown, Scope.SESSION)
    assert isinstance(logout, SessionRevoked)
    assert (logout.sub, logout.sid) == (ANN, shown.session)
    assert logout.since_us > at_us
    assert await entries_of(log, ANN) == [logout]
    assert not await is_open(sessions, shown)
    assert await is_open(sessions, other)


async def test_scope_user_ends_this_session_and_revokes_every_access_token(
    sessions: SessionStore, log: RevocationLog, open_session: OpenSession
) -> None:
    (shown, _), (other, at_us), (stranger, _) = [await open_session(subject) for subject in (ANN, ANN, BOB)]
    logout = await close(sessions, shown, Scope.USER)
    assert isinstance(logout, UserRevoked)
    assert logout.sub == ANN
    assert logout.since_us > at_us
    assert await entries_of(log, ANN) == [logout]
    assert not await is_open(sessions, shown)
    assert (await rotate(sessions, other, 0)).at_us > logout.since_us
    assert await is_open(sessions, stranger)


async def test_scope_all_ends_every_session_of_the_user(
    sessions: SessionStore, log: RevocationLog, open_session: OpenSession
) -> None:
    opened = [await open_session(ANN) for _ in range(4)]
    stranger, _ = await open_session(BOB)
    logout = await close(sessions, opened[1][0], Scope.ALL)
    assert isinstance(logout, UserRevoked)
    assert await entries_of(log, ANN) == [logout]
    assert not any([await is_open(sessions, shown) for shown, _ in opened])
    assert [await close(sessions, shown) for shown, _ in opened] == [None] * 4
    assert await is_open(sessions, stranger)
    assert await entries_of(log, BOB) == []


@pytest.mark.parametrize("scope", LOGOUTS)
async def test_a_session_is_closed_once(
    sessions: SessionStore, log: RevocationLog, open_session: OpenSession, scope: Scope
) -> None:
    shown, _ = await open_session(ANN)
    outcomes = await asyncio.gather(*(close(sessions, shown, scope) for _ in range(10)))
    logouts = [outcome for outcome in outcomes if outcome is not None]
    assert len(logouts) == 1
    assert await close(sessions, shown, scope) is None
    assert await entries_of(log, ANN) == logouts


async def test_a_revocation_is_kept_until_every_token_it_covers_is_dead(
    sessions: SessionStore, open_session: OpenSession
) -> None:
    shown, _ = await open_session(ANN)
    logout = await close(sessions, shown)
    assert logout is not None
    # of the longest life, since the configured one may have been shortened a moment ago
    dead = logout.since_us / 1_000_000 + MAX_TOKEN_LIFE + MAX_LEEWAY + MARGIN
    assert dead <= logout.until < dead + 2


async def test_a_refresh_that_races_a_logout_comes_before_it_or_fails(
    sessions: SessionStore, open_session: OpenSession
) -> None:
    for scope in (*LOGOUTS, *LOGOUTS):
        shown, _ = await open_session(ANN)
        outcomes = await asyncio.gather(
            *(refresh(sessions, shown, 0) for _ in range(5)),
            close(sessions, shown, scope),
            *(refresh(sessions, shown, 0) for _ in range(5)),
        )
        (logout,) = [outcome for outcome in outcomes if isinstance(outcome, Logout)]
        rotations = [outcome for outcome in outcomes if isinstance(outcome, Rotated)]
        assert all(rotation.at_us < logout.since_us for rotation in rotations)
        assert not await is_open(sessions, shown, 1)


async def ids_of(sessions: SessionStore, subject: str) -> list[str]:
    return [session.id for session in await sessions.list_open(subject, 100)]


async def test_a_user_sees_when_each_session_was_opened_and_last_refreshed_and_when_it_ends(
    sessions: SessionStore, open_session: OpenSession
) -> None:
    (old, old_us), (new, new_us) = await open_session(ANN, life_us=10**9), await open_session(ANN, life_us=10**10)
    await open_session(BOB)
    await rotate(sessions, old, 0)
    rotated = await rotate(sessions, old, 1)
    await rotate(sessions, old, 1)  # the same successor again is no new refresh
    assert await sessions.list_open(ANN, 100) == [
        ports.OpenSession(new.session, new_us, new_us, new_us + 10**10),
        ports.OpenSession(old.session, old_us, rotated.at_us, old_us + 10**9),
    ]


async def test_who_has_no_session_sees_none(sessions: SessionStore) -> None:
    assert await sessions.list_open(ANN, 100) == []


async def test_of_many_sessions_those_are_listed_that_live_longest(
    sessions: SessionStore, open_session: OpenSession
) -> None:
    opened = [(await open_session(ANN, life_us=10**9 + n * 10**6))[0].session for n in range(7)]
    assert [session.id for session in await sessions.list_open(ANN, 3)] == opened[:-4:-1]
    assert await ids_of(sessions, ANN) == opened[::-1]


@pytest.mark.parametrize("scope", LOGOUTS)
async def test_a_session_that_was_closed_is_not_listed(
    sessions: SessionStore, open_session: OpenSession, scope: Scope
) -> None:
    (shown, _), (other, _), (stranger, _) = [await open_session(subject) for subject in (ANN, ANN, BOB)]
    await close(sessions, shown, scope)
    assert await ids_of(sessions, ANN) == ([] if scope is Scope.ALL else [other.session])
    assert await ids_of(sessions, BOB) == [stranger.session]


async def test_a_stolen_session_is_not_listed(sessions: SessionStore, open_session: OpenSession) -> None:
    stolen, _ = await open_session(ANN)
    other, _ = await open_session(ANN)
    await rotate(sessions, stolen, 0)
    await refresh(sessions, stolen, 0, NO_GRACE)
    assert await ids_of(sessions, ANN) == [other.session]


async def test_an_expired_session_is_not_listed(sessions: SessionStore, open_session: OpenSession) -> None:
    await open_session(ANN, life_us=1)
    live, _ = await open_session(ANN)
    assert await ids_of(sessions, ANN) == [live.session]


async def test_a_listed_session_is_closed_by_its_id(
    sessions: SessionStore, log: RevocationLog, open_session: OpenSession
) -> None:
    lost, _ = await open_session(ANN)
    here, _ = await open_session(ANN)
    (found,) = [session.id for session in await sessions.list_open(ANN, 100) if session.id != here.session]
    logout = await close(sessions, Presented(found, ANN, None), Scope.SESSION)
    assert await entries_of(log, ANN) == [logout]
    assert not await is_open(sessions, lost)
    assert await ids_of(sessions, ANN) == [here.session]
