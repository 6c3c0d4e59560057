"""What the relay believes the logout topic still holds."""

from __future__ import annotations

import pytest

from authix.events import LOG_WINDOW, MARGIN
from authix_issuer.ports import Extent, Positions, Span
from authix_issuer.trail import Trail

SECOND_US = 1_000_000
NOW_US = 1_800_000_000 * SECOND_US
TOPIC = "cluster/authix.logout"


def extent(first: int, end: int, *, topic: str = TOPIC, partitions: int = 3) -> Extent:
    return Extent(topic, dict.fromkeys(range(partitions), Span(first, end)))


def everywhere(position: int) -> Positions:
    return dict.fromkeys(range(3), position)


def walked(seconds: int, begin: int = 0, every: int = 1) -> Trail:
    """A trail of a heartbeat a second, so that after ``n`` seconds the partitions end at ``begin + n``."""
    trail: Trail | None = Trail.begin(extent(0, begin), NOW_US)
    for second in range(every, seconds + 1, every):
        assert trail is not None
        trail = trail.further(NOW_US + second * SECOND_US, everywhere(begin + second))
    assert trail is not None
    return trail


@pytest.mark.parametrize("seconds", [0, 1, 49, 50, 51, 700])
def test_a_topic_that_goes_on_fits_and_one_that_was_emptied_or_made_anew_does_not(seconds: int) -> None:
    trail = walked(seconds, begin=7)
    end = 7 + seconds
    assert trail.fits(extent(0, end))
    assert trail.fits(extent(7, end + 1000)), "nothing before its begin is needed"
    assert not trail.fits(extent(8, end + 1000)), "the first record after its begin is gone"
    assert not trail.fits(extent(end + 1, end + 1)), "all records are gone"
    assert not trail.fits(extent(0, end - 1)), "the last record is not there"
    assert not trail.fits(extent(0, 0)), "it was made anew"


def test_each_partition_counts() -> None:
    trail = walked(10)
    for partition in range(3):
        for span in (Span(1, 100), Span(0, 9)):
            spans = extent(0, 100).spans | {partition: span}
            assert not trail.fits(Extent(TOPIC, spans))
    assert trail.fits(extent(0, 10, partitions=4)), "a new partition is no loss"
    assert not trail.fits(extent(0, 10, partitions=2))


def test_another_topic_or_cluster_does_not_fit_whatever_it_holds() -> None:
    assert not walked(10).fits(extent(0, 10, topic="other/authix.logout"))


def test_a_topic_may_forget_what_is_dead_and_nothing_else() -> None:
    """By retention; the margin is the longest that something stays unguarded, and it is dead by then."""
    seconds = 3 * LOG_WINDOW
    trail = walked(seconds)
    assert trail.fits(extent(seconds - LOG_WINDOW, seconds))
    assert not trail.fits(extent(seconds - LOG_WINDOW + MARGIN, seconds))


def test_a_trail_stays_small() -> None:
    assert len(walked(3 * LOG_WINDOW, begin=10**9).write()) < 10_000


def test_after_a_long_silence_the_last_position_is_all_that_is_needed() -> None:
    trail = walked(100).further(NOW_US + 2 * LOG_WINDOW * SECOND_US, everywhere(200))
    assert trail is not None
    assert trail.fits(extent(200, 200))
    assert not trail.fits(extent(0, 199))


@pytest.mark.parametrize("position", [0, 1, 10])
def test_a_record_that_does_not_stand_after_the_last_is_on_another_topic(position: int) -> None:
    trail = walked(10)
    assert trail.further(NOW_US + 11 * SECOND_US, everywhere(11)) is not None
    assert trail.further(NOW_US + 11 * SECOND_US, everywhere(11) | {2: position}) is None


def test_a_step_in_some_partitions_keeps_what_is_known_of_the_others() -> None:
    trail = walked(10).further(NOW_US + 11 * SECOND_US, {1: 30})
    assert trail is not None
    assert trail.fits(Extent(TOPIC, {0: Span(0, 10), 1: Span(0, 30), 2: Span(0, 10)}))
    for spans in ({0: Span(0, 9)}, {1: Span(0, 29)}, {2: Span(0, 9)}):
        assert not trail.fits(Extent(TOPIC, extent(0, 30).spans | spans))


def test_a_trail_is_read_as_it_was_written() -> None:
    trail = walked(200, every=20)
    assert Trail.read(trail.write()) == trail


@pytest.mark.parametrize("written", [None, b"", b"{}", b"[]", b'{"topic":"t","marks":[]}', b"\xff"])
def test_one_that_is_not_there_or_can_not_be_read_is_none(written: bytes | None) -> None:
    assert Trail.read(written) is None
