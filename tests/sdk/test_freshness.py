"""Freshness: how old the knowledge of logouts is, by the watermark and this machine's own clock alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authix.events import Heartbeat
from authix.freshness import Freshness


def beat(complete_until: float, at: float | None = None) -> Heartbeat:
    """A heartbeat, its moments in seconds."""
    at = complete_until if at is None else at
    return Heartbeat(at_us=int(at * 1_000_000), complete_until_us=int(complete_until * 1_000_000))


def after(*beats: tuple[Heartbeat, float]) -> Freshness:
    freshness = Freshness()
    for heartbeat, monotonic in beats:
        freshness.observe(heartbeat, monotonic)
    return freshness


def test_nothing_is_known_before_the_first_heartbeat() -> None:
    assert Freshness().age(monotonic=1e9) is None


def test_silence_ages() -> None:
    freshness = after((beat(100), 7.0))
    assert [freshness.age(monotonic) for monotonic in (7.0, 8.5, 3607.0)] == [0.0, 1.5, 3600.0]


def test_the_lag_that_a_heartbeat_shows_is_added() -> None:
    freshness = after((beat(100, at=112), 7.0))
    assert freshness.age(7.0) == 12.0
    assert freshness.age(9.0) == 14.0


def test_a_heartbeat_that_shows_no_lag_ends_the_lag() -> None:
    assert after((beat(100, at=112), 7.0), (beat(113), 8.0)).age(8.0) == 0.0


@pytest.mark.parametrize("late", [beat(100, at=200), beat(99, at=200), beat(0, at=0)])
def test_a_watermark_that_stands_still_or_goes_back_does_not_make_fresh(late: Heartbeat) -> None:
    assert after((beat(100), 7.0), (late, 17.0)).age(17.0) == 10.0


def test_the_clocks_of_two_hosts_are_never_compared() -> None:
    for skew in (-1e6, 0, 1e6):
        assert after((beat(2e6 + skew), 7.0)).age(7.0) == 0.0


def test_a_watermark_ahead_of_its_moment_makes_nothing_younger_than_now() -> None:
    freshness = after((beat(100, at=50), 7.0))
    assert [freshness.age(monotonic) for monotonic in (7.0, 37.0)] == [0.0, 30.0]


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100), st.floats(0, 10)), min_size=1),
    st.floats(0, 100),
)
def test_the_age_is_never_less_than_the_silence_and_the_lag_of_the_last_advance(
    beats: list[tuple[int, int, float]], silence: float
) -> None:
    freshness, monotonic, watermark = Freshness(), 0.0, -1
    advanced: Any = None
    for complete_until, lag, pause in beats:
        monotonic += pause
        freshness.observe(beat(complete_until, at=complete_until + lag), monotonic)
        if complete_until > watermark:
            watermark, advanced = complete_until, (monotonic, lag)
    monotonic += silence
    assert freshness.complete_until_us == watermark * 1_000_000
    assert freshness.age(monotonic) == pytest.approx(monotonic - advanced[0] + advanced[1])
