"""What is read does not depend on how the bytes arrive."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authix_sidecar.answer_reader import AnswerReader
from authix_sidecar.errors import HeadTooLarge, RequestRefused, UpstreamBroken
from authix_sidecar.request_reader import RequestReader
from authix_sidecar.requests import RequestHead

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
ALL_VALUES = [
    *(b"0", b"3", b"3 ", b"0003", b"+3", b"3, 3", b"4" * 18, b"4" * 19, b"", b"\t7\t"),
    *(b"Bearer a", b"Bearer bb", b"Bearer a\rb", b"a b", b"a\nb", b"a\0", b"a\x7f", b"caf\xc3\xa9", b"a\r\n b"),
    *(b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01", b"id-1"),
]
VALUES = st.sampled_from(ALL_VALUES)
LINES = [
    *(b"Host: a", b"host: b", b"Content-Length: 3", b"Transfer-Encoding: chunked", b"Expect: 100-continue"),
    *(b"Connection: close", b"Connection: upgrade, X", b"Upgrade: websocket", b"X: y", b"X-Request-Id: 7"),
    *(b"Authorization: Bearer a", b" folded", b"bare\rreturn: x", b"nothing"),
]
USUAL = {
    b"Authorization": [b"Bearer a", b"Bearer bb"],
    b"authorization": [b"Basic a", b"Bearer c"],
    b"Content-Length": [b"1", b"12", b"0"],
    b"Cookie": [b"a=b", b"a=b; c=d"],
    b"traceparent": [b"00-" + digit * 32 + b"-" + b"2" * 16 + b"-01" for digit in (b"1", b"a")],
    b"X-Request-Id": [b"id-1", b"id-2"],
    b"X": [b"same"],
    b"X-Authix-Subject": [b"admin"],
}


@st.composite
def heads_in_a_row(draw: st.DrawFn) -> list[bytes]:
    """As of one client: some of one shape, then one that is almost of it, then the same again."""
    names = draw(st.lists(st.sampled_from(list(USUAL)), max_size=5))
    constant = draw(
        st.sampled_from(
            [[], [b"Connection: cookie, x"], [b"Expect: 100-continue"], [b"Connection: upgrade", b"Upgrade: websocket"]]
        )
    )
    start = draw(GOOD_STARTS)

    def usual() -> list[bytes]:
        return [b"Host: h", *constant, *(b"%b: %b" % (name, draw(st.sampled_from(USUAL[name]))) for name in names)]

    heads = [usual() for _ in range(3)]
    odd = usual()
    place = draw(st.integers(0, len(odd) - 1))
    match draw(st.sampled_from(["value", "value", "value", "letter", "line", "insert", "drop", "start"])):
        case "value":
            odd[place] = odd[place].partition(b":")[0] + b":" + draw(VALUES)
        case "letter":
            odd[place] = odd[place][:-1] + b"z"
        case "line":
            odd[place] = draw(st.sampled_from(LINES))
        case "insert":
            odd.insert(place, draw(st.sampled_from(LINES)))
        case "drop":
            del odd[place]
        case "start":
            return [*(as_head(start, lines) for lines in heads), as_head(draw(STARTS), odd), as_head(start, usual())]
    return [as_head(start, lines) for lines in (*heads, odd, usual())]


def as_head(start: bytes, lines: list[bytes]) -> bytes:
    return b"".join([start, *(line + b"\r\n" for line in lines), b"\r\n"])


def read_on(reader: RequestReader, head: bytes) -> RequestHead | str:
    """What ``reader``, whose last request is complete, reads next; the code where it refuses that."""
    reader.feed(head)
    try:
        found = reader.head()
    except RequestRefused as error:
        return error.code
    assert found is not None
    return found


@settings(max_examples=1000)
@given(heads_in_a_row())
def test_a_head_is_read_alike_whatever_came_before_it_on_its_connection(heads: list[bytes]) -> None:
    reader = RequestReader()
    for head in heads:
        alone, next_one = read_on(RequestReader(), head), read_on(reader, head)
        assert next_one == alone
        if isinstance(alone, str):
            return  # so does its connection


@pytest.mark.parametrize("value", ALL_VALUES)
@pytest.mark.parametrize("name", [b"Authorization", b"Content-Length", b"Cookie", b"traceparent", b"X-Request-Id"])
def test_a_value_is_read_alike_though_all_else_was_read_before(name: bytes, value: bytes) -> None:
    reader = RequestReader()
    heads = [as_head(b"POST / HTTP/1.1\r\n", [b"Host: h", name + b": " + said, b"X: y"]) for said in (b"1", b"2", b"3")]
    assert all(isinstance(read_on(reader, head), RequestHead) for head in heads)
    head = as_head(b"POST / HTTP/1.1\r\n", [b"Host: h", name + b": " + value, b"X: y"])
    assert read_on(reader, head) == read_on(RequestReader(), head)


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


def test_long_names_are_read_as_any_and_do_not_stay_in_memory() -> None:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(200):
            lines = [b"%b%d%b: y" % (begin, number, b"A" * 7000) for begin in (b"X-", b"X_Authix_")]
            found = read_on(RequestReader(), as_head(b"GET / HTTP/1.1\r\n", [b"Host: h", *lines]))
            assert isinstance(found, RequestHead)
            assert found.passed == b"Host: h\r\n%b\r\n" % lines[0] or found.passed == lines[0] + b"\r\n"
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 500_000  # of 2,800,000


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
        assert b"T:" not in reader.head.passed
        assert b"Link:" not in reader.head.passed
        if not keep_alive:
            return


ANSWERED = {
    b"Content-Length": [b"3", b"12", b"0"],
    b"Date": [b"Sat, 28 Nov 2026 07:00:00 GMT", b"now"],
    b"ETag": [b'"a"', b'W/"bb"'],
    b"Last-Modified": [b"then"],
    b"X-Request-Id": [b"1", b"2"],
    b"X": [b"same"],
    b"Set-Cookie": [b"a=b", b"c=d"],
}
ODD_LINES = [
    *(b"Transfer-Encoding: chunked", b"Connection: close", b"Connection: etag", b"Content-Length: 3", b"Upgrade: h"),
    *(b" folded", b"nothing", b"X: y", b"Content-Type: text/event-stream", b"bare\rreturn: x", b"Date:"),
]


def usual_body(start: bytes, method: bytes, lines: list[bytes]) -> bytes:
    if method == b"HEAD" or not start.endswith((b"200 OK", b"\xe9")):
        return b""
    if b"Transfer-Encoding: chunked" in lines:
        return b"3\r\nabc\r\n0\r\n\r\n"
    length = next((line[16:] for line in lines if line.startswith(b"Content-Length: ")), b"0")
    return {b"3": b"abc", b"12": b"twelve bytes"}.get(length, b"")


@st.composite
def answers_in_a_row(draw: st.DrawFn) -> list[tuple[bytes, bytes]]:
    """As of one server, each with the method it answers: some of one shape, one that is almost of it, and again."""
    names = draw(st.lists(st.sampled_from(list(ANSWERED)), max_size=5))
    constant = draw(
        st.sampled_from(
            [[], [b"Connection: etag"], [b"Connection: keep-alive", b"Keep-Alive: 5"], [b"Transfer-Encoding: chunked"]]
        )
    )
    hints = draw(st.integers(0, 9)) == 0
    status = draw(st.sampled_from([b"200 OK", b"204 No Content", b"304 Not Modified", b"404 Not\xe9"]))
    bodies = st.sampled_from([b"abc", b"abc", b"", b"twelve bytes", b"3\r\nabc\r\n0\r\n\r\n", b"abcHTTP/1.1 200 OK"])

    def usual() -> list[bytes]:
        return [*constant, *(b"%b: %b" % (name, draw(st.sampled_from(ANSWERED[name]))) for name in names)]

    def answer(lines: list[bytes], start: bytes = b"HTTP/1.1 " + status) -> tuple[bytes, bytes]:
        method = b"GET" if draw(st.integers(0, 5)) else b"HEAD"
        body = usual_body(start, method, lines) if draw(st.integers(0, 5)) else draw(bodies)
        rest = b"\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
        return (b"HTTP/1.1 103 Hints" + rest) * hints + start + rest + body, method

    answers = [answer(usual()) for _ in range(3)]
    odd = usual()
    place = draw(st.integers(0, len(odd)))
    match draw(st.sampled_from(["value", "value", "letter", "insert", "drop", "start"])):
        case "value":
            odd[place : place + 1] = [line.partition(b":")[0] + b":" + draw(VALUES) for line in odd[place : place + 1]]
        case "letter":
            odd[place : place + 1] = [line[:-1] + b"z" for line in odd[place : place + 1]]
        case "insert":
            odd.insert(place, draw(st.sampled_from(ODD_LINES)))
        case "drop":
            del odd[place : place + 1]
        case "start":
            starts = (b"HTTP/1.0 200 OK", b"HTTP/1.1 100 Continue", b"HTTP/1.1 101 Switching", b"HTTP/1.1 200 Ok", b"x")
            return [*answers, answer(odd, draw(st.sampled_from(starts))), answer(usual())]
    return [*answers, answer(odd), answer(usual())]


def read_answer_in(reader: AnswerReader, wire: bytes, method: bytes, places: list[int]) -> tuple[object, ...] | str:
    """All that ``reader`` says of an answer; the code where it refuses that."""
    reader.expect(method, b"")
    try:
        for piece in cut(wire, places):
            reader.feed(piece)
    except UpstreamBroken as error:
        return error.code
    found = (reader.head, b"".join(reader.content), reader.complete, reader.surplus, reader.keep_alive)
    return *found, reader.interims, reader.behind


@settings(max_examples=1000)
@given(answers_in_a_row(), st.lists(st.integers(1, 300), max_size=2))
def test_an_answer_is_read_alike_whatever_came_before_it_on_its_connection(
    answers: list[tuple[bytes, bytes]], places: list[int]
) -> None:
    reader = AnswerReader()
    for number, (wire, method) in enumerate(answers):
        cuts = places if number > 1 else []
        alone = read_answer_in(AnswerReader(), wire, method, cuts)
        assert read_answer_in(reader, wire, method, cuts) == alone
        if isinstance(alone, str) or not (reader.complete and reader.keep_alive) or reader.surplus:
            return  # so does its connection


@pytest.mark.parametrize("value", ALL_VALUES)
@pytest.mark.parametrize("name", [b"Content-Length", b"Date", b"ETag", b"Last-Modified", b"X-Request-Id"])
def test_an_answers_value_is_read_alike_though_all_else_was_read_before(name: bytes, value: bytes) -> None:
    def wire(said: bytes) -> bytes:
        length = b"" if name == b"Content-Length" else b"Content-Length: 3\r\n"
        return b"HTTP/1.1 200 OK\r\n%b%b: %b\r\nX: y\r\n\r\nabc" % (length, name, said)

    reader = AnswerReader()
    for _ in range(3):
        read_answer_in(reader, wire(b"3"), b"GET", [])
        assert reader.complete
    assert read_answer_in(reader, wire(value), b"GET", []) == read_answer_in(AnswerReader(), wire(value), b"GET", [])


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
