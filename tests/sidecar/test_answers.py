"""Answers through the proxy, framed for their client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.sidecar.conftest import Answer, Fleet, Visit


def framed(answer: Answer) -> dict[str, str]:
    return {
        name: value for name, value in answer.headers if name in {"content-length", "transfer-encoding", "connection"}
    }


class TestAnswer:
    @pytest.mark.parametrize(
        ("method", "version", "wire_form", "body", "framing"),
        [
            pytest.param(
                "GET",
                "HTTP/1.1",
                b"200 OK\r\nContent-Length: 3\r\n\r\nabc",
                b"abc",
                {"content-length": "3"},
                id="length",
            ),
            pytest.param(
                "HEAD", "HTTP/1.1", b"200 OK\r\nContent-Length: 3\r\n\r\n", b"", {"content-length": "3"}, id="HEAD"
            ),
            pytest.param(
                "HEAD", "HTTP/1.1", b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"", {}, id="HEAD, chunked"
            ),
            pytest.param("GET", "HTTP/1.1", b"204 No Content\r\n\r\n", b"", {}, id="204"),
            pytest.param("GET", "HTTP/1.1", b"204 No Content\r\nContent-Length: 0\r\n\r\n", b"", {}, id="204, length"),
            pytest.param(
                "GET",
                "HTTP/1.1",
                b"304 Not Modified\r\nContent-Length: 3\r\n\r\n",
                b"",
                {"content-length": "3"},
                id="304",
            ),
            pytest.param(
                "GET", "HTTP/1.1", b"200 OK\r\nContent-Length: 0\r\n\r\n", b"", {"content-length": "0"}, id="empty"
            ),
            pytest.param(
                "GET",
                "HTTP/1.1",
                b"200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n2;a=b\r\nab\r\n1\r\nc\r\n0\r\nX: y\r\n\r\n",
                b"abc",
                {"transfer-encoding": "chunked"},
                id="chunked, with extension and trailer",
            ),
            pytest.param(
                "GET",
                "HTTP/1.0",
                b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
                b"abc",
                {"connection": "close"},
                id="chunked, to HTTP/1.0",
            ),
            pytest.param(
                "GET",
                "HTTP/1.1",
                b"404 Not Found\r\nContent-Length: 1\r\n\r\nx",
                b"x",
                {"content-length": "1"},
                id="404",
            ),
        ],
    )
    def test_is_framed_for_its_client_and_the_next_one_is_another(
        self, fleet: Fleet, *, method: str, version: str, wire_form: bytes, body: bytes, framing: dict[str, str]
    ) -> None:
        fleet.upstream.answer = lambda request: (
            b"HTTP/1.1 " + wire_form if request.target == "/this" else fleet.upstream.saying(b"next")
        )
        wire = fleet.dial()
        answer = wire.send(fleet.get("/this", method=method, version=version)).answer(method)
        assert answer.status == int(wire_form[:3])
        assert answer.body == body
        assert framed(answer) == framing
        if version == "HTTP/1.1":
            assert wire.send(fleet.get("/next")).answer().body == b"next"

    @pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
    def test_until_the_upstream_closes_is_whole(self, fleet: Fleet, version: str) -> None:
        def closing(visit: Visit) -> None:
            visit.request()
            visit.send(b"HTTP/1.0 200 OK\r\n\r\nab")
            visit.send(b"c")

        fleet.upstream.script = closing
        wire = fleet.dial()
        answer = wire.send(fleet.get("/", version=version)).answer()
        assert answer.body == b"abc"
        expected = {"transfer-encoding": "chunked"} if version == "HTTP/1.1" else {"connection": "close"}
        assert framed(answer) == expected

    def test_keeps_its_fields_but_not_those_of_the_upstreams_connection(self, fleet: Fleet) -> None:
        fleet.upstream.answer = lambda _: fleet.upstream.saying(
            b"",
            "Set-Cookie: a=b",
            "Set-Cookie: c=d",
            "Keep-Alive: timeout=5",
            "Connection: X-Hop",
            "X-Hop: 1",
            status="201 Made",
        )
        answer = fleet.call(fleet.get("/"))
        assert answer.headers == [("set-cookie", "a=b"), ("set-cookie", "c=d"), ("content-length", "0")]

    def test_interim_answers_pass_to_those_who_know_them(self, fleet: Fleet) -> None:
        early = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
        fleet.upstream.answer = lambda _: early + b"HTTP/1.1 102 Processing\r\n\r\n" + fleet.upstream.saying(b"x")
        assert fleet.call(fleet.get("/")).interims == [103, 102]
        old = fleet.call(fleet.get("/", version="HTTP/1.0"))
        assert (old.interims, old.body) == ([], b"x")

    @pytest.mark.parametrize("status", ["000 x", "050 x", "102 Processing", "103 Early Hints"])
    @pytest.mark.parametrize("chunked", [False, True])
    def test_an_interim_answers_body_reaches_nobody(self, fleet: Fleet, status: str, *, chunked: bool) -> None:
        foreign = fleet.upstream.saying(b"foreign")
        framing, body = f"Content-Length: {len(foreign)}", foreign
        if chunked:
            framing, body = "Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(foreign), foreign)
        before = f"HTTP/1.1 {status}\r\n{framing}\r\n\r\n".encode() + body
        fleet.upstream.answer = lambda request: (
            before + fleet.upstream.saying() if request.target == "/this" else fleet.upstream.saying(b"next")
        )
        wire = fleet.dial()
        answer = wire.send(fleet.get("/this")).answer()
        assert (answer.status, answer.interims, answer.code) == (502, [], "upstream_broken")
        assert wire.send(fleet.get("/next")).answer().body == b"next"

    def test_an_interim_answer_that_says_it_has_no_body_passes(self, fleet: Fleet) -> None:
        early = b"HTTP/1.1 103 Early Hints\r\nContent-Length: 0\r\n\r\n"
        fleet.upstream.answer = lambda _: early + fleet.upstream.saying(b"x")
        answer = fleet.call(fleet.get("/"))
        assert (answer.interims, answer.body) == ([103], b"x")

    def test_surplus_bytes_behind_an_answer_reach_nobody(self, fleet: Fleet) -> None:
        surplus = fleet.upstream.saying(b"stolen")
        fleet.upstream.answer = lambda request: fleet.upstream.saying(request.target.encode()) + surplus
        wire = fleet.dial()
        for number in range(5):
            assert wire.send(fleet.get(f"/{number}")).answer().body == f"/{number}".encode()
        assert len(fleet.upstream.visits) == 5

    @pytest.mark.parametrize("close", ["Connection: close", "Connection: x, close"])
    def test_after_which_the_upstream_closes_ends_that_connection_only(self, fleet: Fleet, close: str) -> None:
        fleet.upstream.answer = lambda request: fleet.upstream.saying(request.target.encode(), close)
        wire = fleet.dial()
        for number in range(3):
            answer = wire.send(fleet.get(f"/{number}")).answer()
            assert (answer.body, answer.values("connection")) == (f"/{number}".encode(), [])
        assert len(fleet.upstream.visits) == 3
