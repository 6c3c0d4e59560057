"""The revoked-user-since map: merging needs no order, entries leave late, and nothing that was refused comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from authix.events import LOG_WINDOW, KeyRevoked, Revocation, SessionRevoked, UserRevoked, keep_until
from authix.revocations import REST, SHARDS, RevocationMap

SUBJECTS, SESSIONS = ("u1", "u2"), ("s1", "s2", None)
NAMES = [f"n{n}" for n in range(20)]
LIFE = 10
"""Seconds that a token lives in the model."""

moments = st.integers(0, 30)
revocations: st.SearchStrategy[Revocation] = st.one_of(
    st.builds(UserRevoked, sub=st.sampled_from(SUBJECTS), since_us=moments, until=moments),
    st.builds(SessionRevoked, sub=st.just("u1"), sid=st.sampled_from(("s1", "s2")), since_us=moments, until=moments),
    st.builds(KeyRevoked, kid=st.sampled_from(("k1", "k2")), until=moments),
)


def merged(events: Sequence[Revocation]) -> RevocationMap:
    found = RevocationMap()
    for event in events:
        found.apply(event)
    return found


def verdicts(revoked: RevocationMap) -> list[bool]:
    tokens = product(SUBJECTS, SESSIONS, range(32))
    of_tokens = [revoked.revokes(subject=sub, session=sid, issued_at_us=at) for sub, sid, at in tokens]
    return [*of_tokens, *map(revoked.revokes_key, ("k1", "k2")), *map(revoked.has_forgotten, range(32))]


@given(st.data())
def test_merging_is_idempotent_and_needs_no_order(data: st.DataObject) -> None:
    events = data.draw(st.lists(revocations, max_size=8))
    again = data.draw(st.lists(st.sampled_from(events), max_size=8)) if events else []
    shuffled = data.draw(st.permutations([*events, *again]))
    one, other = merged(events), merged(shuffled)
    assert verdicts(one) == verdicts(other)
    for now in data.draw(st.lists(moments, max_size=4)):  # they forget the same too
        one.evict(now)
        other.evict(now)
        assert len(one) == len(other)
        assert verdicts(one) == verdicts(other)


@given(st.lists(revocations, max_size=8), revocations)
def test_an_event_is_news_exactly_when_it_revokes_what_was_not_revoked(
    events: list[Revocation], last: Revocation
) -> None:
    found = merged(events)
    before = verdicts(found)
    news = found.apply(last)
    # one of a moment before all that can be asked for changes no verdict here, and is told all the same
    changed = verdicts(found) != before
    assert news or not changed
    assert not found.apply(last)


@given(st.lists(revocations, max_size=8))
def test_the_parts_of_a_map_make_the_same_map(events: list[Revocation]) -> None:
    found = merged(events)
    made: dict[str, Callable[[str, int, int], Revocation]] = {
        "user": lambda key, since, until: UserRevoked(sub=key, since_us=since, until=until),
        "session": lambda key, since, until: SessionRevoked(sub="u1", sid=key, since_us=since, until=until),
        "key": lambda key, _, until: KeyRevoked(kid=key, until=until),
    }
    parts = [(part.kind, entry) for part in found.parts() for entry in part.entries]
    assert len(parts) == len(found)
    again = merged([made[kind](*entry) for kind, entry in parts])
    assert verdicts(again) == verdicts(found)
    assert sorted((part.kind, entry) for part in again.parts() for entry in part.entries) == sorted(parts)


def test_a_logout_revokes_up_to_and_with_its_own_microsecond() -> None:
    revoked = merged([UserRevoked(sub="u1", since_us=1000, until=400)])
    assert revoked.revokes(subject="u1", session="s1", issued_at_us=1000)
    assert not revoked.revokes(subject="u1", session="s1", issued_at_us=1001)
    assert not revoked.revokes(subject="u2", session="s1", issued_at_us=1000)


def test_the_logout_of_a_session_revokes_that_session_alone() -> None:
    revoked = merged([SessionRevoked(sub="u1", sid="s1", since_us=1000, until=400)])
    assert revoked.revokes(subject="u1", session="s1", issued_at_us=1000)
    assert not revoked.revokes(subject="u1", session="s1", issued_at_us=1001)
    assert not revoked.revokes(subject="u1", session="s2", issued_at_us=1)
    assert not revoked.revokes(subject="u1", session=None, issued_at_us=1)


def test_a_late_older_logout_takes_nothing_back() -> None:
    revoked = merged([UserRevoked(sub="u1", since_us=2000, until=400), UserRevoked(sub="u1", since_us=1, until=1)])
    assert revoked.revokes(subject="u1", session=None, issued_at_us=2000)
    revoked.evict(now=400.9)
    assert revoked.revokes(subject="u1", session=None, issued_at_us=2000)


@pytest.mark.parametrize(("now", "kept"), [(0, 1), (400, 1), (400.999, 1), (401, 0), (1e9, 0)])
def test_an_entry_leaves_only_after_its_until(now: float, kept: int) -> None:
    revoked = merged([UserRevoked(sub="u1", since_us=1000, until=400)])
    assert not revoked.evict(now)
    assert len(revoked) == kept


def test_a_longer_until_keeps_an_entry_longer() -> None:
    early, late = (SessionRevoked(sub="u1", sid="s1", since_us=1000, until=until) for until in (400, 500))
    for revoked in (merged([early, late]), merged([late, early])):
        revoked.evict(now=450)
        assert len(revoked) == 1
        revoked.evict(now=501)
        assert len(revoked) == 0


@pytest.mark.parametrize("limit", [1, 500, 10_000])
def test_forgetting_is_bounded_per_call_and_ends(limit: int) -> None:
    count = 20_000
    revoked = merged([UserRevoked(sub=f"u{n}", since_us=n, until=n // 3) for n in range(count)])
    shard = 2 * count // SHARDS  # the limit is looked at after each
    before = count
    while revoked.evict(now=1e9, limit=limit):
        assert 0 < before - len(revoked) <= limit + shard
        before = len(revoked)
    assert len(revoked) == 0


@pytest.mark.parametrize("usual", [True, False], ids=["usual", "unusual"])
def test_what_lives_on_stays_while_others_leave_and_leaves_in_its_turn(usual: bool) -> None:  # noqa: FBT001 - a parameter
    def of(sub: str, second: int) -> UserRevoked:
        since_us = second * 1_000_000
        return UserRevoked(sub=sub, since_us=since_us, until=keep_until(since_us) if usual else second + 50)

    revoked, life = RevocationMap(), LOG_WINDOW if usual else 50
    for second in range(1000, 1500):
        revoked.apply(of(f"u{second}", second))
    for now in range(1000 + life, 1600 + life):
        while revoked.evict(now):
            pass
        dead = max(min(now - life, 1500) - 1000, 0)
        assert 500 - dead <= len(revoked) <= 500 - max(dead - REST - 1, 0)
        assert all(
            revoked.revokes(subject=f"u{second}", session=None, issued_at_us=second * 1_000_000)
            for second in range(max(now - life, 1000), 1500)
        )
    assert len(revoked) == 0
    assert revoked.has_forgotten(1499 * 1_000_000)


class TestAFullMap:
    @given(
        st.integers(1, 30),
        st.lists(
            st.builds(
                SessionRevoked,
                sub=st.just("u1"),
                sid=st.sampled_from(NAMES),
                since_us=moments,
                until=st.integers(40, 60),
            )
            | st.builds(UserRevoked, sub=st.sampled_from(NAMES), since_us=moments, until=st.integers(40, 60))
            | st.builds(KeyRevoked, kid=st.sampled_from(("k1", "k2")), until=st.integers(40, 60))
            | st.integers(30, 60),
            max_size=80,
        ),
    )
    def test_refuses_all_that_one_without_end_does_and_otherwise_only_older_tokens(
        self, max_entries: int, steps: list[Revocation | int]
    ) -> None:
        full, endless = RevocationMap(max_entries), RevocationMap()
        for step in steps:
            for revoked in (full, endless):
                if isinstance(step, int):
                    revoked.evict(step)
                else:
                    revoked.apply(step)
            assert len(full) <= max_entries + 2, "two keys are not counted"
        coarse_us = -1 if full.coarse_us is None else full.coarse_us
        for name, at_us in product(NAMES, range(32)):
            refused = [
                revoked.revokes(subject=name, session=None, issued_at_us=at_us)
                or revoked.revokes(subject="", session=name, issued_at_us=at_us)
                or revoked.has_forgotten(at_us)
                for revoked in (full, endless)
            ]
            assert refused[0] is (refused[1] or at_us <= coarse_us)
        assert full.revokes_key("k1") == endless.revokes_key("k1")

    def test_says_so_once(self, caplog: pytest.LogCaptureFixture) -> None:
        revoked = RevocationMap(100)
        for n in range(100):
            revoked.apply(UserRevoked(sub=f"u{n}", since_us=n, until=10))
        assert (revoked.coarse_us, caplog.records) == (None, [])
        for n in range(100, 1000):
            revoked.apply(UserRevoked(sub=f"u{n}", since_us=n, until=10))
        assert 0 <= (revoked.coarse_us or -1) < 1000
        assert "AUTHIX_MAX_REVOCATIONS" in caplog.text
        assert len(caplog.records) == 1

    def test_still_remembers_most_of_what_it_can_hold(self) -> None:
        revoked = RevocationMap(50_000)
        for n in range(150_000):
            revoked.apply(UserRevoked(sub=f"u{n}", since_us=n, until=10))
            assert len(revoked) <= 50_000
        assert not revoked.has_forgotten(150_000 - 35_000)


class LogoutsUnderAJumpyClock(RuleBasedStateMachine):
    """Logouts, forgetting and a wall clock that steps both ways, against a model that never forgets."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.latest = 10_000
        self.revoked = RevocationMap()
        self.events: list[UserRevoked | SessionRevoked] = []

    @rule(sub=st.sampled_from(SUBJECTS), ago=st.integers(0, 50))
    def log_out_user(self, sub: str, ago: int) -> None:
        since_us = (self.now - ago) * 1_000_000
        self.take(UserRevoked(sub=sub, since_us=since_us, until=dead_at(since_us)))

    @rule(sid=st.sampled_from(("s1", "s2")), ago=st.integers(0, 50))
    def log_out_session(self, sid: str, ago: int) -> None:
        since_us = (self.now - ago) * 1_000_000
        self.take(SessionRevoked(sub="u1", sid=sid, since_us=since_us, until=dead_at(since_us)))

    @rule(place=st.integers(0))
    def hear_an_event_again(self, place: int) -> None:
        if self.events:
            self.take(self.events[place % len(self.events)])

    @rule(by=st.integers(1, 200))
    def let_time_pass(self, by: int) -> None:
        self.now += by
        self.latest = max(self.latest, self.now)

    @rule(by=st.integers(1, 400))
    def step_the_clock_back(self, by: int) -> None:
        self.now -= by

    @rule(limit=st.integers(1, 3))
    def forget(self, limit: int) -> None:
        self.revoked.evict(self.now, limit)

    @invariant()
    def a_covered_token_is_refused_and_without_steps_back_no_other(self) -> None:
        for sub, sid, age in product(SUBJECTS, SESSIONS, (-1, 0, 3, LIFE - 1, 60, 200)):
            at_us = (self.now - age) * 1_000_000
            refused = self.revoked.revokes(subject=sub, session=sid, issued_at_us=at_us)
            refused = refused or self.revoked.has_forgotten(at_us)
            if any(covers(event, sub, sid, at_us) for event in self.events):
                assert refused
            elif self.now == self.latest and age <= LIFE:
                assert not refused

    def take(self, event: UserRevoked | SessionRevoked) -> None:
        self.events.append(event)
        self.revoked.apply(event)


def dead_at(since_us: int) -> int:
    """As an issuer whose tokens live ``LIFE`` seconds at the most would say it."""
    return -(-since_us // 1_000_000) + LIFE + 120


def covers(event: UserRevoked | SessionRevoked, sub: str, sid: str | None, at_us: int) -> bool:
    same = event.sid == sid if isinstance(event, SessionRevoked) else event.sub == sub
    return same and at_us <= event.since_us


test_a_clock_step_back_revives_nothing = LogoutsUnderAJumpyClock.TestCase
