"""What every outbox promises: nothing is forgotten before the topic has it, and the watermark never says too much."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from authix_issuer.ports import Logout, Outbox, Presented, RevocationLog, Scope, SessionStore, concerns
from tests.programs import eventually

OpenSession = Callable[..., Awaitable[tuple[Presented, int]]]

SUBJECTS = [name * 32 for name in "abcdefgh"]


async def log_out(sessions: SessionStore, open_session: OpenSession, subject: str) -> Logout:
    shown, _ = await open_session(subject)
    logout = await sessions.close(shown, Scope.USER)
    assert logout is not None
    return logout


def moments(logouts: list[Logout]) -> list[int]:
    return sorted(logout.since_us for logout in logouts)


async def test_every_revocation_waits_until_it_is_marked(
    sessions: SessionStore, outbox: Outbox, open_session: OpenSession
) -> None:
    logouts = [await log_out(sessions, open_session, subject) for subject in SUBJECTS]
    waiting = await outbox.unpublished(age=0, limit=100)
    assert sorted(waiting, key=concerns) == logouts
    assert await outbox.backlog() == 8
    await outbox.published(logouts[:5])
    assert await outbox.backlog() == 3
    assert moments(await outbox.unpublished(age=0, limit=100)) == moments(logouts[5:])
    await outbox.published(logouts)
    assert await outbox.unpublished(age=0, limit=100) == []


async def test_marking_twice_or_nothing_does_no_harm(
    sessions: SessionStore, outbox: Outbox, open_session: OpenSession
) -> None:
    logout = await log_out(sessions, open_session, SUBJECTS[0])
    await outbox.published([])
    await outbox.published([logout, logout])
    await outbox.published([logout])
    assert await outbox.unpublished(age=0, limit=100) == []


async def test_a_theft_is_published_like_a_logout(
    sessions: SessionStore, outbox: Outbox, open_session: OpenSession
) -> None:
    shown, _ = await open_session(SUBJECTS[0])
    await sessions.refresh(shown, 0, grace_us=0)
    await sessions.refresh(shown, 1, grace_us=0)
    await sessions.refresh(shown, 0, grace_us=0)
    (waiting,) = await outbox.unpublished(age=0, limit=100)
    assert (concerns(waiting), getattr(waiting, "sid", None)) == (shown.subject, shown.session)


async def test_only_what_is_old_enough_is_taken_over(
    sessions: SessionStore, outbox: Outbox, open_session: OpenSession
) -> None:
    logout = await log_out(sessions, open_session, SUBJECTS[0])
    assert await outbox.unpublished(age=3600, limit=100) == []
    assert await outbox.unpublished(age=0, limit=100) == [logout]


async def test_a_page_holds_what_it_may_and_the_rest_comes_later(
    sessions: SessionStore, outbox: Outbox, open_session: OpenSession
) -> None:
    logouts = [await log_out(sessions, open_session, SUBJECTS[0]) for _ in range(7)]
    found: list[Logout] = []
    while page := await outbox.unpublished(age=0, limit=3):
        assert len(page) <= 3
        found += page
        await outbox.published(page)
    assert moments(found) == moments(logouts)


async def test_the_watermark_stands_before_the_oldest_unpublished(
    sessions: SessionStore, outbox: Outbox, open_session: OpenSession
) -> None:
    logouts = [await log_out(sessions, open_session, subject) for subject in SUBJECTS]
    for position, logout in enumerate(logouts):
        mark = await outbox.watermark()
        assert mark.complete_until_us < min(moments(logouts[position:]))
        assert mark.at_us - mark.complete_until_us > 0
        await outbox.published([logout])
    mark = await outbox.watermark()
    assert mark.complete_until_us == mark.at_us


async def test_the_watermark_of_an_idle_outbox_rises_and_later_logouts_are_beyond_it(
    sessions: SessionStore, outbox: Outbox, open_session: OpenSession
) -> None:
    first, second = await outbox.watermark(), await outbox.watermark()
    assert first.complete_until_us < second.complete_until_us
    for subject in SUBJECTS:
        logout = await log_out(sessions, open_session, subject)
        assert logout.since_us > second.complete_until_us


async def test_the_log_keeps_what_is_published(
    sessions: SessionStore, outbox: Outbox, log: RevocationLog, open_session: OpenSession
) -> None:
    logout = await log_out(sessions, open_session, SUBJECTS[0])
    await outbox.published([logout])
    assert [entry.revocation for entry in await log.read(None, 10)] == [logout]


async def test_the_trail_is_what_was_kept_last(outbox: Outbox) -> None:
    assert await outbox.trail() is None
    for trail in (b"one", b'{"two":"\xc3\xb6"}'):
        await outbox.keep_trail(trail)
        assert await outbox.trail() == trail


async def test_the_lease_can_be_renewed_and_given_back(outbox: Outbox) -> None:
    assert await outbox.lease("one", 60)
    assert await outbox.lease("one", 60)
    await outbox.release("one")
    assert await outbox.lease("two", 60)


async def test_a_logout_wakes_whoever_follows_the_log(
    sessions: SessionStore, log: RevocationLog, open_session: OpenSession, engine: str
) -> None:
    heard: list[None] = []
    following = asyncio.create_task(log.follow(lambda: heard.append(None)))
    if engine.startswith("redis"):  # in SQLite no other process appends
        while not heard:  # it may have missed something before it began, so it wakes once
            await asyncio.sleep(0.01)
        heard.clear()
        await log_out(sessions, open_session, SUBJECTS[0])
        await asyncio.to_thread(eventually, lambda: bool(heard), "the log's follower hears of a logout")
    following.cancel()
    assert (await asyncio.gather(following, return_exceptions=True))[0].__class__ is asyncio.CancelledError


async def test_a_revoked_key_waits_until_it_is_published_and_holds_the_watermark(outbox: Outbox) -> None:
    revoked = await outbox.revoke_key("key-1")
    assert await outbox.unpublished(age=0, limit=10) == [revoked]
    assert (await outbox.watermark()).complete_until_us < revoked.since_us
    await outbox.published([revoked])
    assert await outbox.unpublished(age=0, limit=10) == []
    assert (await outbox.watermark()).complete_until_us > revoked.since_us
