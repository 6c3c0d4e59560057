"""What is read does not depend on how the bytes arrive."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authix_sidecar.answer_reader import AnswerReader
from authix_sidecar.errors import HeadTooLarge, RequestRefused, UpstreamBroken
from authix_sidecar.request_reader import RequestReader
from authix_sidecar.requests import RequestHead, read_request

CUTS = st.lists(st.integers(1, 1500), max_size=15)


def cut(wire: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({0, len(wire), *(place for place in places if place < len(wire))})
    return [wire[begin:end] for begin, end in pairwise(ends)]


REQUESTS = [
    (b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n", b"/a", b""),
    (b"POST /b?c HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /", b"/b?c", b"GET /"),
    (
        b"PUT /d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\r\n\r\r\n1\r\nx\r\n0\r\nT: y\r\n\r\n",
        b"/d",
        b"\r\n\rx",
    ),
    (b"GET /e HTTP/1.0\r\nX: " + b"y" * 300 + b"\r\n\r\n", b"/e", b""),
]


@given(st.lists(st.sampled_from(REQUESTS), max_size=6), CUTS)
def test_requests_are_read_one_by_one(requests: list[tuple[bytes, bytes, bytes]], places: list[int]) -> None:
    reader, seen = RequestReader(), []
    target, body = None, b""
    for piece in cut(b"".join(wire for wire, _, _ in requests), places):
        reader.feed(piece)
        while reader.waiting:
            if target is None:
                head = reader.head()
                if head is None:
                    break
                target, body = head.target, b""
            body += reader.content()
            if reader.complete:
                seen.append((target, body))
                target = None
    assert seen == [(target, body) for _, target, body in requests]
    assert not reader.waiting


def starts(
    *targets: bytes, methods: tuple[bytes, ...] = (), versions: tuple[bytes, ...] = ()
) -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda method, target, version: b"%b %b HTTP/%b\r\n" % (method, target, version),
        st.sampled_from([b"GET", b"POST", *methods]),
        st.sampled_from(targets) | st.binary(min_size=1, max_size=5).map(b"/".__add__),
        st.sampled_from([b"1.1", b"1.0", *versions]),
    )


GOOD_STARTS = starts(b"/a", b"/b?c")
STARTS = GOOD_STARTS | starts(
    *(b"/a?b#c", b"/../a", b"/%2e", b"/\\", b"*", b"http://a/", b"/b\x80"),
    methods=(b"TRACE", b"BREW"),
    versions=(b"2.0",),
)
BLOCKS = st.lists(
    st.sampled_from(
        [
            *(b"Host: a", b"host: b", b"Content-Length: 3", b"Transfer-Encoding: chunked", b"Expect: 100-continue"),
            *(b"Connection: close", b"Connection: upgrade, X", b"Upgrade: websocket", b"X: y", b"X-Request-Id: 7"),
            *(b"Authorization: Bearer a", b" folded", b"bare\rreturn: x", b"nothing"),
        ]
    ),
    max_size=5,
).map(lambda lines: b"".join(line + b"\r\n" for line in [b"Host: h", *lines][len(lines) % 2 :]) + b"\r\n")


@given(GOOD_STARTS, STARTS, BLOCKS, st.none() | BLOCKS)
def test_a_head_is_read_alike_whatever_came_before_it_on_its_connection(
    first: bytes, second: bytes, block: bytes, other: bytes | None
) -> None:
    def verdict(head: bytes, before: RequestHead | None = None) -> RequestHead | str:
        try:
            return read_request(head, before)
        except RequestRefused as error:
            return error.code

    before = verdict(first + block)
    if isinstance(before, RequestHead):
        head = second + (block if other is None else other)
        assert verdict(head, before) == verdict(head)


@given(
    st.sampled_from([b"GET / HTTP/1.1\nHost: a\n\n", b"\r\nGET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n X: y\r\n"]), CUTS
)
def test_a_head_that_can_not_become_good_is_refused_before_its_end(wire: bytes, places: list[int]) -> None:
    reader = RequestReader()

    def read() -> None:
        for piece in cut(wire, places):
            reader.feed(piece)
            assert reader.head() is None

    with pytest.raises(RequestRefused):
        read()


@given(st.lists(st.integers(1, 20_000), max_size=20))
def test_a_head_without_an_end_is_refused_at_its_limit(places: list[int]) -> None:
    reader, received = RequestReader(), 0
    for piece in cut(b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000, places):
        reader.feed(piece)
        received += len(piece)
        if received < 16_384:
            assert reader.head() is None
        else:
            with pytest.raises(HeadTooLarge):
                reader.head()
            return


ANSWERS = [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"GET", b"hello", True),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nT: y\r\n\r\n",
        b"GET",
        b"hello",
        True,
    ),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 No\r\n\r\n", b"PUT", b"", True),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"HEAD", b"", True),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"GET", b"", True),
    (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx", b"GET", b"x", False),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", b"GET", b"x", False),
]


@given(st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=5), CUTS)
def test_answers_are_read_one_by_one(answers: list[tuple[bytes, bytes, bytes, bool]], places: list[int]) -> None:
    reader = AnswerReader()
    for wire, method, body, keep_alive in answers:
        reader.expect(method, b"")
        for piece in cut(wire, places):
            assert not reader.complete
            reader.feed(piece)
        assert reader.head is not None
        assert (b"".join(reader.content), reader.complete, reader.surplus) == (body, True, False)
        assert reader.keep_alive is keep_alive
        assert [name for name, _ in reader.head.fields if name in {b"T", b"Link"}] == []
        if not keep_alive:
            return


@given(st.sampled_from([answer for answer in ANSWERS if answer[3]]), st.binary(min_size=1, max_size=50))
def test_what_comes_behind_an_answer_is_surplus(answer: tuple[bytes, bytes, bytes, bool], behind: bytes) -> None:
    wire, method, body, _ = answer
    reader = AnswerReader()
    reader.expect(method, b"")
    reader.feed(wire + b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n" + behind)
    assert (b"".join(reader.content), reader.complete, reader.surplus) == (body, True, True)


@given(st.binary(max_size=200), CUTS)
def test_bytes_that_are_no_answer_are_broken_or_not_yet_complete(wire: bytes, places: list[int]) -> None:
    reader = AnswerReader()
    reader.expect(b"GET", b"")
    try:
        for piece in cut(wire, places):
            reader.feed(piece)
    except UpstreamBroken:
        return
    assert reader.head is None or wire.startswith(b"HTTP/1.")
