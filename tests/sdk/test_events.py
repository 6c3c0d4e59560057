"""Revocation events: what a reader takes, what it ignores and what it must never skip."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authix.errors import SourceError
from authix.events import (
    MARGIN,
    MAX_LEEWAY,
    Event,
    Heartbeat,
    KeyRevoked,
    SessionRevoked,
    UserRevoked,
    decode_event,
    encode_event,
    keep_until,
)

GOOD: dict[str, dict[str, Any]] = {
    "user": {"v": 1, "type": "user", "sub": "u", "since_us": 5, "until": 6},
    "session": {"v": 1, "type": "session", "sub": "u", "sid": "s", "since_us": 5, "until": 6},
    "key": {"v": 1, "type": "key", "kid": "k", "until": 6},
    "heartbeat": {"v": 1, "type": "heartbeat", "at_us": 5, "complete_until_us": 4},
}
names = st.text(min_size=1, max_size=128)
moments = st.integers(0, 2**63 - 1)
events = st.one_of(
    st.builds(UserRevoked, sub=names, since_us=moments, until=moments),
    st.builds(SessionRevoked, sub=names, sid=names, since_us=moments, until=moments),
    st.builds(KeyRevoked, kid=names, until=moments),
    st.builds(Heartbeat, at_us=moments, complete_until_us=moments),
)


@given(events)
def test_an_event_read_is_the_event_written(event: Event) -> None:
    assert decode_event(encode_event(event)) == event


@pytest.mark.parametrize("good", GOOD.values(), ids=GOOD)
def test_unknown_fields_are_ignored(good: dict[str, Any]) -> None:
    more = {**good, "reason": "password_changed", "deep": {"a": [1, None]}}
    assert decode_event(json.dumps(more).encode()) == decode_event(json.dumps(good).encode()) is not None


@pytest.mark.parametrize("data", [b'{"type":"device"}', b'{"v":9,"type":"device","x":[{}]}', b'{"type":""}'])
def test_an_unknown_type_is_no_event(data: bytes) -> None:
    assert decode_event(data) is None


def spoiled() -> dict[str, bytes]:
    found = {}
    for kind, good in GOOD.items():
        for field in sorted(good.keys() - {"type", "v"}):
            values: tuple[Any, ...] = (
                (None, True, [], {}, -1, 1.5, "") if field not in {"sub", "sid", "kid"} else (1, "")
            )
            for value in (*values, 2**63, "x" * 257):
                found[f"{kind} with {field} {str(value)[:20]!r}"] = json.dumps({**good, field: value}).encode()
            missing = {name: value for name, value in good.items() if name != field}
            found[f"{kind} without {field}"] = json.dumps(missing).encode()
        found[f"{kind} of another version"] = json.dumps({**good, "v": 2}).encode()
        found[f"{kind} cut short"] = json.dumps(good).encode()[:-1]
        found[f"{kind} nested without end"] = json.dumps(good).encode()[:-1] + b',"x":' + b"[" * 50_000
        found[f"{kind} that is not UTF-8"] = json.dumps(good).encode()[:-1] + b',"type":"\xff"}'
    no_events = (b"", b"{}", b"[]", b"null", b"1", b'"user"', b"[" * 50_000, b'{"type":1}', b'{"type":null}', b"\xff")
    return found | {f"the bytes {data[:12]!r}": data for data in no_events}


@pytest.mark.parametrize("data", spoiled().values(), ids=spoiled().keys())
def test_an_event_of_a_known_type_that_can_not_be_read_is_an_error(data: bytes) -> None:
    with pytest.raises(SourceError):
        decode_event(data)


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_an_event_or_none_or_an_error(data: bytes) -> None:
    with contextlib.suppress(SourceError):
        decode_event(data)


@given(st.integers(0, 2**60), st.integers(1, 3600))
def test_a_revocation_is_kept_until_every_token_it_covers_is_dead(since_us: int, life: int) -> None:
    latest_expiry = since_us // 1_000_000 + life
    assert keep_until(since_us) >= latest_expiry + MAX_LEEWAY + MARGIN
