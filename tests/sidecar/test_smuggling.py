"""Requests that two readers could read differently: refused as a whole, with nothing sent on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.sidecar.conftest import Fleet

BODY = b"hello"
CHUNKED_BODY = b"5\r\nhello\r\n0\r\n\r\n"
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: orders.example\r\n\r\n"


def post(*lines: bytes, body: bytes = BODY, start: bytes = b"POST /seen HTTP/1.1", host: bytes = b"Host: a") -> bytes:
    """A request with these lines; ``AUTH`` stands for a good token."""
    return b"\r\n".join([start, *([host] if host else []), b"AUTH", *lines, b"", body])


def lengths() -> Iterator[tuple[str, bytes]]:
    for value in (
        *(b"+5", b"-5", b"5 5", b"5,5", b"5, 5", b"0x5", b"5.0", b"5e0", b"", b"5;a", b"_5", b"5_", b"\xef\xbc\x95"),
        *(b"9" * 19, b"9" * 4000, b"five", b'"5"', b"5\x0b", b"\x005", b"\xa05", b"(5)"),
    ):
        yield f"length {value[:20]!r}", post(b"Content-Length: " + value)
    yield "length twice, the same", post(b"Content-Length: 5", b"Content-Length: 5")
    yield "length twice, another", post(b"Content-Length: 5", b"Content-Length: 6")
    yield "length twice, one empty", post(b"Content-Length: 5", b"Content-Length:")
    yield "length twice, in another case", post(b"Content-Length: 5", b"content-length: 50")


def codings() -> Iterator[tuple[str, bytes]]:
    wrong = (
        *(
            b"Chunked",
            b"CHUNKED",
            b"xchunked",
            b"chunkedx",
            b"chunked, chunked",
            b"chunked,",
            b", chunked",
            b"identity",
        ),
        *(
            b"gzip, chunked",
            b"chunked, gzip",
            b"identity, chunked",
            b"chunked;q=1",
            b'"chunked"',
            b"",
            b"chunk",
            b"cow",
        ),
        *(b"chunked\x0b", b"\x0bchunked", b"chunked\x00", b"chun\x00ked", b"\xa0chunked", b"chunked identity"),
    )
    for value in wrong:
        coding = b"Transfer-Encoding: " + value
        yield f"coding {value!r}", post(coding, body=CHUNKED_BODY)
        yield f"coding {value!r} behind a length", post(b"Content-Length: 15", coding, body=CHUNKED_BODY)
        yield f"coding {value!r} before a length", post(coding, b"Content-Length: 15", body=CHUNKED_BODY)
    right = b"Transfer-Encoding: chunked"
    yield "chunked behind a length", post(b"Content-Length: 5", right, body=CHUNKED_BODY + HIDDEN)
    yield "chunked before a length", post(right, b"Content-Length: 5", body=CHUNKED_BODY + HIDDEN)
    yield "chunked and a length of 0", post(right, b"Content-Length: 0", body=CHUNKED_BODY)
    yield "chunked twice", post(right, right, body=CHUNKED_BODY)
    yield "chunked and identity", post(right, b"Transfer-Encoding: identity", body=CHUNKED_BODY)
    yield "chunked in HTTP/1.0", post(right, body=CHUNKED_BODY, start=b"POST /seen HTTP/1.0")
    yield "a coding over two lines", post(b"Transfer-Encoding:", b" chunked", body=CHUNKED_BODY)


def names() -> Iterator[tuple[str, bytes]]:
    for name, value in ((b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")):
        for byte in b' \t\x00\x0b\x0c\x7f\x80\xa0\xad()"/@[]{}<>,;=?\\':
            trick = bytes((byte,))
            yield f"{trick!r} before {name.decode()}", post(trick + name + b": " + value, b"X: y")
            yield f"{trick!r} behind {name.decode()}", post(name + trick + b": " + value, b"X: y")
        yield f"{name.decode()} without a colon", post(name, b"X: y")
        yield f"{name.decode()} with a space inside", post(name.replace(b"-", b" ") + b": " + value)
    yield "no name", post(b": 5")
    yield "only a colon", post(b":")
    yield "a line of spaces", post(b"  ")


def line_ends() -> Iterator[tuple[str, bytes]]:
    whole = post(b"Content-Length: 5", b"X: y")
    head, body = whole.split(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    for end in (b"\n", b"\r", b"\n\r", b"\r\r\n", b"\r\n\n", b"\r\n\r", b" \r\r\n", b"\x00\r\n", b"\x0b\r\n", b"\r \n"):
        for at in range(1, len(lines)):
            tricked = b"\r\n".join(lines[:at]) + end + b"\r\n".join(lines[at:])
            yield f"{end!r} after line {at}", tricked + b"\r\n\r\n" + body
    for end in (b"\n\n", b"\r\r", b"\n\r\n", b"\r\n\n", b"\r\n \r\n", b"\r\n\t\r\n"):
        yield f"{end!r} instead of the blank line", head + end + body
    yield "folded value", post(b"X: a", b" Content-Length: 5")
    yield "folded by a tab", post(b"X: a", b"\tb", b"Content-Length: 5")
    yield "folded first line", post(b" X: a", b"Content-Length: 5")
    for byte in (*range(9), 11, 12, *range(14, 32), 127):
        yield f"{bytes((byte,))!r} in a value", post(b"Content-Length: 5", b"X: a" + bytes((byte,)) + b"b")


def request_lines() -> Iterator[tuple[str, bytes]]:
    for line in (
        *(b"GET  / HTTP/1.1", b"GET /  HTTP/1.1", b"GET / HTTP/1.1 ", b" GET / HTTP/1.1", b"GET\t/ HTTP/1.1"),
        *(
            b"GET /\tHTTP/1.1",
            b"GET\x0b/ HTTP/1.1",
            b"GET /",
            b"GET / ",
            b"GET",
            b"GET HTTP/1.1",
            b"",
            b"GET / a HTTP/1.1",
        ),
        *(
            b"GET / HTTP/1.2",
            b"GET / HTTP/2.0",
            b"GET / HTTP/0.9",
            b"GET / HTTP/1",
            b"GET / HTTP/11",
            b"GET / http/1.1",
        ),
        *(
            b"GET / HTTP/1.1x",
            b"GET / HTTP/01.1",
            b"GET / HTTP/1.10",
            b"GET / HTTP /1.1",
            b"GET / HTTP/1,1",
            b"GET / HTP/1.1",
        ),
        *(b"GET / RTSP/1.0", b"SOURCE / ICE/1.0", b"GET / HTTP/-1.1", b"GET / HTTP/1.1\x00", b"GET / HTTP\x00/1.1"),
        *(b"GET http://a/ HTTP/1.1", b"GET https://a/ HTTP/1.1", b"GET a:80 HTTP/1.1", b"OPTIONS * HTTP/1.1"),
        *(b"GET a HTTP/1.1", b"GET ?a HTTP/1.1", b"GET //a/b HTTP/1.1", b"GET /# HTTP/1.1", b"GET /a?b#c HTTP/1.1"),
        *(b"CONNECT a:80 HTTP/1.1", b"CONNECT / HTTP/1.1", b"TRACE / HTTP/1.1", b"get / HTTP/1.1", b"Get / HTTP/1.1"),
        *(
            b"GE\x00T / HTTP/1.1",
            b"G(T / HTTP/1.1",
            b"HELLO / HTTP/1.1",
            b"G" * 33 + b" / HTTP/1.1",
            b"GET: / HTTP/1.1",
        ),
        *(b"GET /\x00 HTTP/1.1", b"GET /\x80 HTTP/1.1", b"GET /\xc3\xa9 HTTP/1.1", b"GET /a\\b HTTP/1.1"),
        *(b"\r\nGET / HTTP/1.1", b"\nGET / HTTP/1.1", b"\x00GET / HTTP/1.1", b"\xef\xbb\xbfGET / HTTP/1.1"),
    ):
        yield f"request line {line[:30]!r}", post(start=line, body=b"")
    yield "the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield "a TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


def hosts() -> Iterator[tuple[str, bytes]]:
    yield "no Host", post(host=b"", body=b"")
    yield "Host twice, the same", post(b"Host: a", body=b"")
    yield "Host twice, another", post(b"Host: b", body=b"")
    for value in (
        *(b"", b"a b", b"a,b", b"a/b", b"u@a", b"http://a", b"a:80:80", b"a:port", b"[::1", b"::1", b"a\\b", b"a?b"),
        *(b"a#b", b"a%00b", b"\xc3\xa9", b"a;b", b"a:123456", b"'a'"),
    ):
        yield f"Host {value!r}", post(host=b"Host: " + value, body=b"")


def sizes() -> Iterator[tuple[str, bytes]]:
    yield "a head over 16 KiB", post(b"X: " + b"y" * 16384, body=b"")
    yield "a target over 16 KiB", post(start=b"GET /" + b"y" * 16384 + b" HTTP/1.1", body=b"")
    yield "over 16 KiB without an end", b"GET / HTTP/1.1\r\nX: " + b"y" * 17000
    yield "101 fields", post(*(b"X-%d: y" % number for number in range(99)), body=b"")
    yield "another expectation", post(b"Expect: 200-ok", b"Content-Length: 5")
    yield "two expectations", post(b"Expect: 100-continue", b"Expect: 100-continue", b"Content-Length: 5")


def chunks() -> Iterator[tuple[str, bytes]]:
    """Bodies of a chunked request."""
    sizes = (
        *(
            b"5;a=b",
            b"5;",
            b"5 ;a",
            b"5 ",
            b" 5",
            b"\t5",
            b"5\t",
            b"0x5",
            b"+5",
            b"-5",
            b"5\x00",
            b"5\x0b",
            b"g",
            b"",
            b"5_",
        ),
        *(b"5.0", b"5,5", b"5h", b"0" * 16 + b"5", b"f" * 16, b"5\r", b"\x005", b'"5"', b"5\xa0", b"\xc2\xb25", b"5 5"),
    )
    for size in sizes:
        yield f"chunk size {size!r}", size + b"\r\nhello\r\n0\r\n\r\n"
        yield f"last chunk's size {size!r}", b"5\r\nhello\r\n" + size.replace(b"5", b"0") + b"\r\n\r\n"
    yield from (
        ("a size ended by LF", b"5\nhello\r\n0\r\n\r\n"),
        ("a size ended by CR", b"5\rhello\r\n0\r\n\r\n"),
        ("a chunk ended by LF", b"5\r\nhello\n0\r\n\r\n"),
        ("a chunk ended by CR", b"5\r\nhello\r0\r\n\r\n"),
        ("a chunk longer than its size", b"5\r\nhello!\r\n0\r\n\r\n"),
        ("a chunk shorter than its size", b"5\r\nhell\r\n0\r\n\r\n"),
        ("a chunk without an end", b"5\r\nhello0\r\n\r\n"),
        ("the last chunk ended by LF", b"5\r\nhello\r\n0\n\r\n"),
        ("the body ended by LF", b"5\r\nhello\r\n0\r\n\n"),
        ("the body ended by CR", b"5\r\nhello\r\n0\r\n\rX"),
        ("a trailer without a colon", b"0\r\nX\r\n\r\n"),
        ("a trailer with a space before the colon", b"0\r\nX : y\r\n\r\n"),
        ("a folded trailer", b"0\r\nX: y\r\n z\r\n\r\n"),
        ("a trailer with a control", b"0\r\nX: \x00\r\n\r\n"),
        ("a trailer ended by LF", b"0\r\nX: y\n\r\n"),
        ("a trailer with a bare CR", b"0\r\nX: y\rZ: 1\r\n\r\n"),
        ("a trailer without a name", b"0\r\n: y\r\n\r\n"),
        ("a request as a trailer", b"0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a length as a trailer", b"0\r\nContent-Length: 5\r\n\r\n"),
        ("a coding as a trailer", b"0\r\ntransfer-encoding: chunked\r\n\r\n"),
        ("trailers over 8 KiB", b"0\r\nX: " + b"y" * 8192 + b"\r\n\r\n"),
        ("many trailers", b"0\r\n" + b"X: y\r\n" * 2000 + b"\r\n"),
    )


HEADS = dict((*lengths(), *codings(), *names(), *line_ends(), *request_lines(), *hosts(), *sizes()))
CHUNKS = dict(chunks())
CHUNKED_HEAD = post(b"Transfer-Encoding: chunked", body=b"")


def test_the_tables_are_as_large_as_they_look() -> None:
    assert len(HEADS) > 300
    assert len(CHUNKS) > 60


def wire_form(fleet: Fleet, request: bytes) -> bytes:
    return request.replace(b"AUTH", b"Authorization: Bearer " + fleet.token.encode())


def refused(everything: bytes) -> bool:
    """Whether this is one refusal and nothing else."""
    return (
        everything.startswith((b"HTTP/1.1 4", b"HTTP/1.1 505 "))
        and len(re.findall(rb"HTTP/1\.1 [0-9]{3} ", everything)) == 1
        and b"\r\nConnection: close\r\n" in everything
        and not everything.startswith((b"HTTP/1.1 401", b"HTTP/1.1 403", b"HTTP/1.1 404"))
    )


@pytest.mark.parametrize("request_bytes", HEADS.values(), ids=HEADS.keys())
def test_a_request_with_two_readings_is_refused_and_reaches_nobody(fleet: Fleet, request_bytes: bytes) -> None:
    wire = fleet.dial()
    wire.try_send(wire_form(fleet, request_bytes))
    everything = wire.rest()
    fleet.settle()
    assert refused(everything), everything
    assert fleet.upstream.requests == []
    assert fleet.upstream.incomplete == 0
    assert b"/seen" not in fleet.upstream.received()


@pytest.mark.parametrize("request_bytes", HEADS.values(), ids=HEADS.keys())
def test_nor_does_one_that_follows_good_ones_and_resembles_them(fleet: Fleet, request_bytes: bytes) -> None:
    wire = fleet.dial()
    for length in (5, 7, 9):  # so that their heads are known but for the length and the token
        good = post(b"Content-Length: %d" % length, body=b"x" * length, start=b"POST /good HTTP/1.1")
        assert wire.send(wire_form(fleet, good)).answer().status == 200
    wire.try_send(wire_form(fleet, request_bytes))
    everything = wire.rest()
    fleet.settle()
    assert refused(everything), everything
    assert [request.target for request in fleet.upstream.requests] == ["/good"] * 3
    assert fleet.upstream.incomplete == 0
    assert b"/seen" not in fleet.upstream.received()


@pytest.mark.parametrize("body", CHUNKS.values(), ids=CHUNKS.keys())
def test_a_malformed_chunk_in_the_first_packet_reaches_nobody(fleet: Fleet, body: bytes) -> None:
    wire = fleet.dial()
    wire.try_send(wire_form(fleet, CHUNKED_HEAD) + body)
    everything = wire.rest()
    fleet.settle()
    assert refused(everything), everything
    assert b"/seen" not in fleet.upstream.received()


@pytest.mark.parametrize("body", CHUNKS.values(), ids=CHUNKS.keys())
def test_a_malformed_chunk_later_on_never_becomes_a_whole_request(fleet: Fleet, body: bytes) -> None:
    wire = fleet.dial()
    wire.send(wire_form(fleet, CHUNKED_HEAD) + b"1\r\nX\r\n")
    fleet.settle()  # the first packet has been taken
    wire.try_send(body)
    everything = wire.rest()
    fleet.settle()
    assert refused(everything), everything
    assert fleet.upstream.requests == []


@pytest.mark.parametrize("cut", range(1, len(CHUNKED_BODY)))
def test_a_body_that_comes_in_two_packets_is_the_same_body(fleet: Fleet, cut: int) -> None:
    wire = fleet.dial()
    wire.send(wire_form(fleet, CHUNKED_HEAD) + CHUNKED_BODY[:cut])
    fleet.settle()
    wire.send(CHUNKED_BODY[cut:] + fleet.get("/next"))
    assert wire.answer().status == 200
    assert wire.answer().body == b"/next"
    assert [(request.target, request.body) for request in fleet.upstream.requests] == [("/seen", BODY), ("/next", b"")]


@pytest.mark.parametrize(
    ("lines", "body", "seen"),
    [
        pytest.param([b"Content-Length: \t5 \t"], BODY, BODY, id="space around a length"),
        pytest.param([b"Content-Length:5"], BODY, BODY, id="no space before a length"),
        pytest.param([b"Content-Length: 005"], BODY, BODY, id="zeros before a length"),
        pytest.param([b"Transfer-Encoding: \tchunked "], CHUNKED_BODY, BODY, id="space around chunked"),
        pytest.param([b"tRANSFER-eNCODING: chunked"], CHUNKED_BODY, BODY, id="a name in any case"),
        pytest.param([b"Transfer-Encoding: chunked"], b"005\r\nhello\r\n00\r\n\r\n", BODY, id="zeros before a size"),
        pytest.param([b"Transfer-Encoding: chunked"], b"0\r\nX-Authix-Subject: a\r\n\r\n", b"", id="a trailer"),
        pytest.param([b"Content_Length: 50"], b"", b"", id="a folded length"),
        pytest.param([b"Transfer.Encoding: chunked"], b"", b"", id="a folded coding"),
        pytest.param([b"Content-Length: 5", b"Transfer_Encoding: chunked"], BODY, BODY, id="length and folded coding"),
        pytest.param([b"Connection: Content-Length", b"Content-Length: 5"], BODY, BODY, id="a length to be dropped"),
        pytest.param([b"TE: chunked", b"Trailer: Content-Length"], b"", b"", id="talk about trailers"),
    ],
)
def test_what_is_accepted_is_framed_anew_and_what_follows_is_judged_by_itself(
    fleet: Fleet, lines: list[bytes], body: bytes, seen: bytes
) -> None:
    answers = fleet.dial().send(wire_form(fleet, post(*lines, body=body)) + HIDDEN)
    assert answers.answer().status == 200
    assert answers.answer().code == "token_missing"
    fleet.settle()
    assert [(request.target, request.body) for request in fleet.upstream.requests] == [("/seen", seen)]
    names = {name for name, _ in fleet.upstream.requests[0].headers}
    assert not names & {"content_length", "transfer.encoding", "transfer_encoding", "te", "trailer", "connection"}
