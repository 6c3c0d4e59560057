"""What is kept of late: the last that came, each with what it came with."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from authix.recent import Recent


@given(st.integers(0, 4), st.lists(st.tuples(st.integers(0, 6), st.integers()), max_size=40))
def test_the_entries_that_came_last_are_kept(size: int, came: list[tuple[int, int]]) -> None:
    recent: Recent[int, int] = Recent(size)
    expected: list[tuple[int, int]] = []
    for key, value in came:
        recent.keep(key, value)
        if any(known == key for known, _ in expected):
            expected = [(known, value if known == key else other) for known, other in expected]
        elif size:
            expected = [*expected, (key, value)][-size:]
        assert list(recent.items()) == expected
