"""Server-sent events: the same events come out however the bytes were cut up, as WHATWG HTML 9.2.6 reads them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, repeat

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from authix.errors import SourceError
from authix.sse import MAX_EVENT, Decoder, ServerSentEvent, encode

cursors = st.none() | st.text("0123456789abcdef:", min_size=1, max_size=20)
documents = st.binary(max_size=40).filter(lambda data: not {0x0A, 0x0D} & set(data))
pieces = (
    b"data",
    b"id",
    b"event",
    b"retry",
    b":",
    b" ",
    b"\n",
    b"\r",
    b"\r\n",
    b"x",
    b'{"a":1}',
    b"7",
    b"\xef\xbb\xbf",
)
streams = st.lists(st.sampled_from(pieces), max_size=40).map(b"".join)


def decode(chunks: Sequence[bytes]) -> list[ServerSentEvent]:
    decoder = Decoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def read(chunks: Sequence[bytes]) -> list[ServerSentEvent | str]:
    """The events, and the error if there is one in the end."""
    decoder, found = Decoder(), list[ServerSentEvent | str]()
    try:
        for chunk in chunks:
            found.extend(decoder.feed(chunk))
    except SourceError as error:
        found.append(error.reason)
    return found


def cut(data: bytes, at: Sequence[int]) -> list[bytes]:
    places = [0, *sorted(place % (len(data) + 1) for place in at), len(data)]
    return [data[begin:end] for begin, end in pairwise(places)]


@given(st.lists(st.tuples(documents, cursors)), st.lists(st.integers(0)))
def test_what_was_encoded_is_decoded_however_it_was_cut(
    sent: list[tuple[bytes, str | None]], places: list[int]
) -> None:
    received = decode(cut(b"".join(encode(data, cursor) for data, cursor in sent), places))
    assert [event.data for event in received] == [data for data, _ in sent]
    last = None
    for event, (_, cursor) in zip(received, sent, strict=True):
        last = last if cursor is None else cursor
        assert event.cursor == last


@given(streams, st.lists(st.integers(0)))
@example(b"data\n\nid\xff\n", [3])
@example(b"data\n\nid:\xef\xbb\xbf\n", [3])
@example(b"\rdata\n\n", [5])
@example(b"data\r\n\r\n", [5, 7])
def test_any_stream_gives_the_same_events_however_it_was_cut(stream: bytes, places: list[int]) -> None:
    assert read(cut(stream, places)) == read([stream]) == read([bytes([octet]) for octet in stream])


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [(None, b"a")]),
        (b"data: a\r\n\r\n", [(None, b"a")]),
        (b"data: a\r\r", [(None, b"a")]),
        (b"data: a\n\r\n", [(None, b"a")]),
        (b"data: a\r\n\n", [(None, b"a")]),
        (b"data:a\n\n", [(None, b"a")]),
        (b"data:  a\n\n", [(None, b" a")]),
        (b"data: a: b\n\n", [(None, b"a: b")]),
        (b"data: a\ndata: b\n\n", [(None, b"a\nb")]),
        (b"data\n\n", [(None, b"")]),
        (b"data:\ndata:\n\n", [(None, b"\n")]),
        (b"\xef\xbb\xbfdata: a\n\n", [(None, b"a")]),
        (b"\n\xef\xbb\xbfdata: a\n\n", []),
        (b": a comment\n\n: and one\ndata: a\n\n", [(None, b"a")]),
        (b"event: user\nretry: 5\nfuture: x\ndata: a\n\n", [(None, b"a")]),
        (b"Data: a\n\n data: a\n\n", []),
        (b"id: 7\ndata: a\n\ndata: b\n\n", [("7", b"a"), ("7", b"b")]),
        (b"id: 7\n\ndata: b\n\n", [("7", b"b")]),
        (b"id: 7\ndata: a\n\nid\ndata: b\n\n", [("7", b"a"), ("", b"b")]),
        (b"id: 7\nid: a\0b\ndata: a\n\n", [("7", b"a")]),
        (b"data: a\n", []),
        (b"data: a", []),
        (b"", []),
    ],
)
def test_a_stream_is_read_as_the_standard_says(stream: bytes, events: list[tuple[str | None, bytes]]) -> None:
    assert decode([stream]) == events


@pytest.mark.parametrize("cursor", [b"\xff", "é".encode(), b"a b", b"a\tb", b"\x7f", b"x" * 257])
def test_a_cursor_that_could_not_be_sent_back_is_an_error(cursor: bytes) -> None:
    with pytest.raises(SourceError):
        decode([b"id: " + cursor + b"\ndata: a\n\n"])


@pytest.mark.parametrize("chunk", [b"x" * 1000, b"data: x\n" * 100, b"data:\n" * 200, b":" * 1000], ids=lambda c: c[:7])
def test_an_event_without_end_is_given_up_at_64_kib(chunk: bytes) -> None:
    with pytest.raises(SourceError):
        decode(list(repeat(chunk, MAX_EVENT // len(chunk) + 1)))


@pytest.mark.parametrize("size", [1, 1000, 10**6])
def test_an_event_over_64_kib_is_refused_however_it_was_cut(size: int) -> None:
    stream = b"data: " + b"x" * MAX_EVENT + b"\n\n"
    with pytest.raises(SourceError):
        decode([stream[at : at + size] for at in range(0, len(stream), size)])


def test_many_events_in_one_chunk_may_be_longer_than_64_kib_together() -> None:
    assert len(decode([b"data: %b\n\n" % (b"x" * 1000) * 1000])) == 1000
