"""Clients' connections: kept, pipelined, half closed, slow."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.programs import eventually

if TYPE_CHECKING:
    from tests.sidecar.conftest import Fleet, Visit


class TestConnections:
    def test_are_kept_on_both_sides(self, fleet: Fleet) -> None:
        wire = fleet.dial()
        for number in range(50):
            assert wire.send(fleet.get(f"/{number}")).answer().body == f"/{number}".encode()
        assert len(fleet.upstream.visits) == 1

    def test_take_pipelined_requests_and_answer_them_in_order(self, fleet: Fleet) -> None:
        wire = fleet.dial()
        wire.send(b"".join(fleet.get(f"/{number}") for number in range(100)))
        assert [wire.answer().body for _ in range(100)] == [f"/{number}".encode() for number in range(100)]

    def test_take_pipelined_bodies_and_refusals_in_order(self, fleet: Fleet) -> None:
        post = fleet.get("/post", "Content-Length: 3", method="POST") + b"abc"
        chunked = fleet.get("/chunked", "Transfer-Encoding: chunked", method="PUT") + b"2\r\nde\r\n0\r\n\r\n"
        refused = fleet.get("/refused", "Content-Length: 4", method="POST", token="a.b.c") + b"GET "
        wire = fleet.dial().send((post + refused + chunked) * 10 + fleet.get("/end"))
        answers = [wire.answer() for _ in range(31)]
        assert [answer.status for answer in answers] == [200, 401, 200] * 10 + [200]
        assert [request.body for request in fleet.upstream.requests] == [b"abc", b"de"] * 10 + [b""]

    def test_of_one_slow_request_do_not_begin_the_next(self, fleet: Fleet) -> None:
        go = threading.Event()

        def slow(visit: Visit) -> None:
            while (request := visit.request()) is not None:
                assert go.wait(20)
                visit.send(fleet.upstream.answer(request))

        fleet.upstream.script = slow
        wire = fleet.dial().send(fleet.get("/1") + fleet.get("/2"))
        other = fleet.dial().send(fleet.get("/3"))
        eventually(lambda: len(fleet.upstream.requests) == 2, "both connections' first requests are begun")
        assert {request.target for request in fleet.upstream.requests} == {"/1", "/3"}
        go.set()
        assert other.answer().body == b"/3"
        assert [wire.answer().body for _ in range(2)] == [b"/1", b"/2"]

    @pytest.mark.parametrize(
        ("version", "line", "goes_on"),
        [
            ("HTTP/1.1", "Accept: */*", True),
            ("HTTP/1.1", "Connection: close", False),
            ("HTTP/1.1", "Connection: x, CLOSE", False),
            ("HTTP/1.0", "Accept: */*", False),
            ("HTTP/1.0", "Connection: keep-alive", True),
        ],
    )
    def test_go_on_as_the_client_asks(self, fleet: Fleet, *, version: str, line: str, goes_on: bool) -> None:
        wire = fleet.dial()
        answer = wire.send(fleet.get("/1", line, version=version)).answer()
        assert answer.body == b"/1"
        assert (
            answer.values("connection")
            == {
                (True, "HTTP/1.0"): ["keep-alive"],
                (False, "HTTP/1.0"): ["close"],
                (True, "HTTP/1.1"): [],
                (False, "HTTP/1.1"): ["close"],
            }[goes_on, version]
        )
        if goes_on:
            assert wire.send(fleet.get("/2")).answer().body == b"/2"
        else:
            assert wire.recv() == b""

    def test_a_client_that_has_said_all_still_gets_its_answers(self, fleet: Fleet) -> None:
        wire = fleet.dial().send(fleet.get("/1") + fleet.get("/2"))
        wire.socket.shutdown(socket.SHUT_WR)
        assert [wire.answer().body for _ in range(2)] == [b"/1", b"/2"]
        assert wire.recv() == b""

    def test_http_1_0_needs_no_host(self, fleet: Fleet) -> None:
        request = fleet.get("/old", version="HTTP/1.0").replace(b"Host: orders.example\r\n", b"")
        assert fleet.call(request).status == 200
        assert fleet.upstream.requests[0].values("host") == [fleet.upstream.url.removeprefix("http://")]

    def test_a_slow_head_is_ended_whatever_trickles(self, impatient: Fleet) -> None:
        wire, silent = impatient.dial(), impatient.dial()
        wire.send(b"GET / HTTP/1.1\r\n")
        wire.socket.settimeout(0.05)
        received, sent = b"", 0
        while not received:
            wire.send(b"x")
            sent += 1
            assert sent < 300
            try:
                received = wire.socket.recv(65536)
            except TimeoutError:
                continue
        assert received.startswith(b"HTTP/1.1 408 ")
        assert silent.recv() == b""
        assert impatient.call(impatient.get("/")).status == 200

    def test_a_slow_body_is_ended(self, impatient: Fleet) -> None:
        wire = impatient.dial().send(impatient.get("/", "Content-Length: 3", method="POST") + b"ab")
        answer = wire.answer()
        assert (answer.status, answer.code, answer.values("connection")) == (408, "request_too_slow", ["close"])
        assert wire.recv() == b""
        impatient.settle()
        assert impatient.upstream.requests == []

    def test_a_body_that_trickles_is_ended(self, impatient: Fleet) -> None:
        wire = impatient.dial().send(impatient.get("/", "Content-Length: 10000", method="POST"))
        end = time.monotonic() + 20
        wire.socket.settimeout(0.1)
        while time.monotonic() < end:
            wire.try_send(b"x")
            with contextlib.suppress(TimeoutError):
                if wire.socket.recv(12, socket.MSG_PEEK):
                    break
        wire.socket.settimeout(20)
        answer = wire.answer("POST")
        assert (answer.status, answer.code) == (408, "request_too_slow")

    def test_a_body_that_keeps_its_pace_may_take_long(self, impatient: Fleet) -> None:
        wire = impatient.dial().send(impatient.get("/", "Content-Length: 3000", method="POST"))
        for _ in range(15):
            wire.send(b"x" * 200)
            time.sleep(0.1)  # three times BODY_TIME in all
        assert wire.answer("POST").status == 200

    def test_a_body_has_no_time_to_keep_before_the_go_ahead_that_its_client_waits_for(self, impatient: Fleet) -> None:
        def thinking(visit: Visit) -> None:
            visit.head()
            time.sleep(1.5)  # three times BODY_TIME
            visit.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            if visit.recv_exactly(5):
                visit.send(impatient.upstream.saying(b"thanks"))

        impatient.upstream.script = thinking
        request = impatient.get("/", "Expect: 100-continue", "Content-Length: 5", method="POST")
        wire, silent = impatient.dial().send(request), impatient.dial().send(request)
        assert wire.recv_exactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert wire.send(b"hello").answer().body == b"thanks"
        answer = silent.answer("POST")
        assert (answer.interims, answer.status, answer.code) == ([100], 408, "request_too_slow")

    @pytest.mark.parametrize(
        "said", [b"HTTP/1.1 102 Processing\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\na"]
    )
    def test_a_go_ahead_that_never_comes_is_not_waited_for_for_ever(self, impatient: Fleet, said: bytes) -> None:
        def silent(visit: Visit) -> None:
            visit.head()
            visit.send(said)
            while visit.recv():
                pass

        impatient.upstream.script = silent
        request = impatient.get("/", "Expect: 100-continue", "Content-Length: 5", method="POST")
        assert impatient.dial().send(request).rest().startswith(said[:12])

    def test_an_answer_instead_of_the_go_ahead_may_take_long(self, impatient: Fleet) -> None:
        def telling(visit: Visit) -> None:
            visit.head()
            visit.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 15\r\n\r\n")
            for _ in range(15):
                visit.send(b"x")
                time.sleep(0.1)  # three times BODY_TIME in all

        impatient.upstream.script = telling
        request = impatient.get("/", "Expect: 100-continue", "Content-Length: 5", method="POST")
        assert impatient.call(request).body == b"x" * 15

    def test_a_body_that_comes_without_the_go_ahead_keeps_its_time(self, impatient: Fleet) -> None:
        def silent(visit: Visit) -> None:
            while visit.recv():
                pass

        impatient.upstream.script = silent
        wire = impatient.dial().send(impatient.get("/", "Expect: 100-continue", "Content-Length: 5", method="POST"))
        wire.send(b"he")
        began = time.monotonic()
        assert (wire.answer("POST").code, time.monotonic() - began < 1.9) == ("request_too_slow", True)

    @pytest.mark.parametrize(("size", "line"), [(16 << 20, "Accept: */*"), (768 << 10, "Connection: close")])
    def test_a_client_that_reads_slowly_but_all_the_time_gets_all(self, impatient: Fleet, size: int, line: str) -> None:
        def giving(visit: Visit) -> None:
            visit.request()
            visit.send(impatient.upstream.saying(bytes(size)))

        impatient.upstream.script = giving
        wire = impatient.dial()
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        wire.send(impatient.get("/", line))
        assert wire.head().status == 200
        received, end = len(wire.piece()), time.monotonic() + 3  # three times SEND_TIME
        while time.monotonic() < end:
            received += len(wire.recv_exactly(10_000))
            time.sleep(0.05)
        received += len(wire.recv_exactly(size - received))
        assert received == size

    def test_a_client_that_does_not_read_is_cut_and_told_from_one_that_went_away(self, impatient: Fleet) -> None:
        impatient.upstream.answer = lambda _: impatient.upstream.saying(bytes(16 << 20))
        impatient.dial().send(impatient.get("/not-read"))
        said = impatient.sidecar.output
        eventually(lambda: "GET /not-read 200 " in said(), "it is cut")
        (line,) = [line for line in said().splitlines() if "GET /not-read " in line]
        assert " ms client_too_slow [" in line

    def test_an_idle_connection_is_ended_in_silence(self, impatient: Fleet) -> None:
        wire = impatient.dial()
        assert wire.send(impatient.get("/1")).answer().status == 200
        assert wire.recv() == b""
