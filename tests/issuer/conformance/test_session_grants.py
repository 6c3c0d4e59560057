"""What every session store promises of an account's changes, of devices, of limits, and of its own exact answer."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable

import pytest

from authix.events import SessionRevoked, UserRevoked
from authix_issuer.ports import (
    Device,
    Grants,
    NewSession,
    Presented,
    RevocationLog,
    Rotated,
    Scope,
    SessionStore,
    Unsettled,
)

OpenSession = Callable[..., Awaitable[tuple[Presented, int]]]

ANN, BOB = "a" * 32, "b" * 32
HOUR_US = 3_600_000_000
WRITER = Grants(("writer",), {"tenant": {"id": 7, "naïve": [True, None]}}, version=2)
KEEP, END = Unsettled(end=False), Unsettled(end=True)


def new(subject: str = ANN, *, idle_us: int = 0, device: Device = Device("", "")) -> tuple[NewSession, Presented]:  # noqa: B008 - a constant
    shown = Presented(secrets.token_hex(16), subject, secrets.token_bytes(32))
    session = NewSession(
        shown.session, subject, Grants(("reader",)), shown.secret_hash or b"", HOUR_US, idle_us, device
    )
    return session, shown


async def grants_of(sessions: SessionStore, shown: Presented, counter: int) -> Grants | None:
    outcome = await sessions.refresh(shown, counter, grace_us=0)
    return outcome.grants if isinstance(outcome, Rotated) else None


async def ids_of(sessions: SessionStore, subject: str) -> set[str]:
    return {session.id for session in await sessions.list_open(subject, 100)}


async def test_the_next_refresh_after_a_change_carries_the_new_grants_in_every_session(
    sessions: SessionStore, open_session: OpenSession
) -> None:
    opened = [(await open_session(ANN))[0] for _ in range(3)]
    other, _ = await open_session(BOB)
    await sessions.settle(ANN, WRITER, KEEP)
    assert [await grants_of(sessions, shown, 0) for shown in opened] == [WRITER] * 3
    assert await grants_of(sessions, other, 0) == Grants(("reader", "writer"))


async def test_a_change_revokes_every_token_of_before_and_none_of_after(
    sessions: SessionStore, log: RevocationLog, open_session: OpenSession
) -> None:
    shown, opened_us = await open_session(ANN)
    revocation = await sessions.settle(ANN, WRITER, KEEP)
    assert isinstance(revocation, UserRevoked)
    rotated = await sessions.refresh(shown, 0, grace_us=0)
    assert isinstance(rotated, Rotated)
    assert opened_us < revocation.since_us < rotated.at_us
    assert revocation in [entry.revocation for entry in await log.read(None, 100)]


async def test_changes_that_arrive_in_the_wrong_order_leave_the_later_grants(
    sessions: SessionStore, open_session: OpenSession
) -> None:
    shown, _ = await open_session(ANN)
    await sessions.settle(ANN, WRITER, KEEP)
    await sessions.settle(ANN, Grants(("late",), {}, version=1), KEEP)
    assert await grants_of(sessions, shown, 0) == WRITER


@pytest.mark.parametrize("kept", [0, None])
async def test_a_change_that_ends_the_sessions_keeps_the_one_that_it_names(
    sessions: SessionStore, open_session: OpenSession, kept: int | None
) -> None:
    opened = [(await open_session(ANN))[0] for _ in range(3)]
    other, _ = await open_session(BOB)
    named = "" if kept is None else opened[kept].session
    await sessions.settle(ANN, WRITER, Unsettled(end=True, keep=named))
    assert await ids_of(sessions, ANN) == {named} - {""}
    assert await ids_of(sessions, BOB) == {other.session}
    grants = [await grants_of(sessions, shown, 0) for shown in opened]
    assert grants == [WRITER if place == kept else None for place in range(3)]


async def test_a_session_opened_after_a_change_outlives_the_late_end_of_the_others(
    sessions: SessionStore, open_session: OpenSession
) -> None:
    await open_session(ANN)
    session, shown = new()
    await sessions.open(session._replace(grants=WRITER))
    await sessions.settle(ANN, WRITER, END)
    assert await ids_of(sessions, ANN) == {shown.session}
    assert await grants_of(sessions, shown, 0) == WRITER


async def test_a_change_can_be_settled_again(sessions: SessionStore, open_session: OpenSession) -> None:
    shown, _ = await open_session(ANN)
    first = await sessions.settle(ANN, WRITER, KEEP)
    second = await sessions.settle(ANN, WRITER, KEEP)
    assert first.since_us < second.since_us
    assert await grants_of(sessions, shown, 0) == WRITER


async def test_a_change_of_an_account_without_sessions_revokes_all_the_same(
    sessions: SessionStore, log: RevocationLog
) -> None:
    revocation = await sessions.settle(ANN, WRITER, END)
    assert [entry.revocation for entry in await log.read(None, 100)] == [revocation]


async def test_logging_out_the_others_keeps_the_one_that_asks(
    sessions: SessionStore, open_session: OpenSession
) -> None:
    opened = [(await open_session(ANN))[0] for _ in range(3)]
    stranger, _ = await open_session(BOB)
    revocation = await sessions.close(opened[1], Scope.OTHERS)
    assert isinstance(revocation, UserRevoked)
    assert await ids_of(sessions, ANN) == {opened[1].session}
    assert await ids_of(sessions, BOB) == {stranger.session}
    assert isinstance(await sessions.refresh(opened[1], 0, grace_us=0), Rotated)


async def test_the_store_itself_says_which_token_is_live(sessions: SessionStore, open_session: OpenSession) -> None:
    shown, opened_us = await open_session(ANN)
    other, other_us = await open_session(ANN)
    by_token = shown._replace(secret_hash=None)
    assert await sessions.is_live(by_token, opened_us)
    assert not await sessions.is_live(by_token._replace(subject=BOB), opened_us)
    assert not await sessions.is_live(by_token._replace(session="c" * 32), opened_us)
    await sessions.close(other, Scope.SESSION)
    assert not await sessions.is_live(other, other_us)
    assert await sessions.is_live(by_token, opened_us)
    revocation = await sessions.settle(ANN, WRITER, KEEP)
    assert not await sessions.is_live(by_token, opened_us)
    assert not await sessions.is_live(by_token, revocation.since_us)
    assert await sessions.is_live(by_token, revocation.since_us + 1)


async def test_a_logout_of_one_session_kills_the_tokens_of_the_others_but_not_their_sessions(
    sessions: SessionStore, open_session: OpenSession
) -> None:
    (shown, _), (other, other_us) = await open_session(ANN), await open_session(ANN)
    await sessions.close(shown, Scope.USER)
    assert not await sessions.is_live(other, other_us)
    rotated = await sessions.refresh(other, 0, grace_us=0)
    assert isinstance(rotated, Rotated)
    assert await sessions.is_live(other, rotated.at_us)


async def test_a_user_sees_where_each_session_was_opened(sessions: SessionStore) -> None:
    device = Device("Mozilla/5.0 (naïve; \U0001f98a)", "2001:db8::7")
    session, _ = new(device=device)
    opened = await sessions.open(session)
    (shown,) = await sessions.list_open(ANN, 10)
    assert shown == (session.id, opened.at_us, opened.at_us, opened.expires_us, device)


async def test_the_oldest_sessions_make_room_and_are_revoked_each_at_its_own_moment(
    sessions: SessionStore, log: RevocationLog
) -> None:
    opened = []
    for _ in range(5):
        session, shown = new()
        await sessions.open(session)
        opened.append(shown)
    session, shown = new()
    made = await sessions.open(session, most=3)
    assert {revocation.sid for revocation in made.ended if isinstance(revocation, SessionRevoked)} == {
        opened[n].session for n in range(3)
    }
    assert len({revocation.since_us for revocation in made.ended} | {made.at_us}) == 4
    assert await ids_of(sessions, ANN) == {opened[3].session, opened[4].session, shown.session}
    logged = [entry.revocation for entry in await log.read(None, 100)]
    assert sorted(logged, key=repr) == sorted(made.ended, key=repr)
    assert await sessions.refresh(opened[0], 0, grace_us=0) is None


async def test_only_so_many_sessions_are_left_when_logins_come_at_once(sessions: SessionStore) -> None:
    await asyncio.gather(*(sessions.open(new()[0], most=4) for _ in range(20)))
    assert len(await ids_of(sessions, ANN)) == 4


async def test_a_session_that_is_used_lives_on_and_one_that_is_not_ends(sessions: SessionStore) -> None:
    used, shown = new(idle_us=400_000)
    idle, forgotten = new(idle_us=400_000)
    opened = await sessions.open(used)
    await sessions.open(idle)
    assert opened.expires_us == opened.at_us + 400_000
    for counter in range(4):
        await asyncio.sleep(0.2)
        rotated = await sessions.refresh(shown, counter, grace_us=0)
        assert isinstance(rotated, Rotated)
        assert rotated.expires_us == rotated.at_us + 400_000
    assert await sessions.refresh(forgotten, 0, grace_us=0) is None
    assert await ids_of(sessions, ANN) == {used.id}


async def test_no_use_prolongs_a_session_beyond_its_life(sessions: SessionStore) -> None:
    session, shown = new(idle_us=2 * HOUR_US)
    opened = await sessions.open(session)
    rotated = await sessions.refresh(shown, 0, grace_us=0)
    assert isinstance(rotated, Rotated)
    assert rotated.expires_us == opened.expires_us == opened.at_us + HOUR_US
