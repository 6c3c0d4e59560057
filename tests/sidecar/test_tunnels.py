"""Upgrades: bytes both ways, unread, and never without a yes from the upstream."""

from __future__ import annotations

import os
import signal
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from tests.programs import bearer, eventually, login

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import StartSidecar
    from tests.sidecar.conftest import Fleet, Visit, Wire

UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
FAREWELL = b"\x88\x0f" + (4401).to_bytes(2, "big") + b"token_revoked"
"""A Close frame."""
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Own: 1\r\n\r\n"


def echo(visit: Visit) -> None:
    """Switch, then send back whatever comes."""
    assert visit.head() is not None
    visit.send(SWITCHING)
    early = visit.recv_exactly(0)
    if early:
        visit.send(early)
    while data := visit.recv():
        visit.send(data)


def tunnel(fleet: Fleet, early: bytes = b"") -> Wire:
    """A client behind its 101."""
    fleet.upstream.script = echo
    wire = fleet.dial().send(fleet.get("/ws", *UPGRADE) + early)
    answer = wire.answer()
    assert answer.status == 101
    assert dict(answer.headers) == {"x-own": "1", "connection": "Upgrade", "upgrade": "websocket"}
    return wire


def test_an_upgrade_is_asked_for_as_the_client_did_with_who_it_is(fleet: Fleet) -> None:
    seen = []

    def looking(visit: Visit) -> None:
        seen.append(visit.head())
        visit.send(SWITCHING)
        visit.recv()

    fleet.upstream.script = looking
    wire = fleet.dial().send(fleet.get("/ws?room=1", *UPGRADE, "X-Authix-Subject: admin"))
    assert wire.answer().status == 101
    (head,) = seen
    assert head is not None
    assert (head.target, head.values("connection"), head.values("upgrade")) == (
        "/ws?room=1",
        ["Upgrade"],
        ["websocket"],
    )
    assert head.values("sec-websocket-key") == ["dGhlIHNhbXBsZSBub25jZQ=="]
    assert head.values("x-authix-subject") not in ([], ["admin"])


def test_bytes_pass_both_ways_unchanged(fleet: Fleet) -> None:
    wire = tunnel(fleet)
    sent = os.urandom(4 << 20)
    writer = threading.Thread(target=wire.send, args=(sent,))
    writer.start()
    received = wire.recv_exactly(len(sent))
    writer.join()
    assert received == sent


def test_bytes_that_come_before_the_yes_wait_for_it(fleet: Fleet) -> None:
    wire = tunnel(fleet, early=b"\x81\x05hello")
    assert wire.recv_exactly(7) == b"\x81\x05hello"


def test_bytes_right_behind_the_yes_are_the_tunnels(fleet: Fleet) -> None:
    fleet.upstream.script = lambda visit: visit.send(SWITCHING + b"first") if visit.head() else None
    wire = fleet.dial().send(fleet.get("/ws", *UPGRADE))
    assert wire.answer().status == 101
    assert wire.rest() == b"first"


def test_an_end_passes_in_each_direction(fleet: Fleet) -> None:
    wire = tunnel(fleet)
    wire.send(b"last words")
    wire.socket.shutdown(socket.SHUT_WR)
    assert wire.rest() == b"last words"


def test_an_end_that_comes_before_the_yes_passes_with_it(fleet: Fleet) -> None:
    asked, ended = threading.Event(), threading.Event()

    def slow(visit: Visit) -> None:
        visit.head()
        asked.set()
        assert ended.wait(20)
        visit.send(SWITCHING)
        assert visit.recv() == b""
        visit.send(b"last words")

    fleet.upstream.script = slow
    wire = fleet.dial().send(fleet.get("/ws", *UPGRADE))
    assert asked.wait(20)
    wire.socket.shutdown(socket.SHUT_WR)
    fleet.upstream.script = fleet.upstream.serve
    fleet.settle()
    ended.set()
    assert wire.answer().status == 101
    assert wire.rest() == b"last words"


def test_what_was_sent_before_the_end_arrives_though_the_other_side_has_ended_already(fleet: Fleet) -> None:
    received, may_read = [0], threading.Event()

    def ending_first(visit: Visit) -> None:
        visit.head()
        visit.send(SWITCHING)
        visit.socket.shutdown(socket.SHUT_WR)
        assert may_read.wait(20)
        while data := visit.recv():
            received[0] += len(data)

    fleet.upstream.script = ending_first
    wire = fleet.dial().send(fleet.get("/ws", *UPGRADE))
    assert wire.answer().status == 101
    assert wire.recv() == b""
    may_read.set()
    wire.send(os.urandom(32 << 20)).close()
    eventually(lambda: received[0] == 32 << 20, "everything arrives")


@pytest.mark.parametrize("status", ["200 OK", "403 Forbidden", "426 Upgrade Required", "500 No"])
def test_a_refused_upgrade_never_becomes_a_tunnel(fleet: Fleet, status: str) -> None:
    fleet.upstream.answer = lambda request: fleet.upstream.saying(
        request.target.encode(), "Upgrade: websocket", status=status
    )
    hidden = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
    wire = fleet.dial().send(fleet.get("/ws", *UPGRADE) + hidden)
    answer = wire.answer()
    assert (answer.status, answer.body) == (int(status[:3]), b"/ws")
    assert wire.answer().code == "token_missing"
    assert wire.send(fleet.get("/next")).answer().body == b"/next"
    assert [request.target for request in fleet.upstream.requests] == ["/ws", "/next"]


@pytest.mark.parametrize(
    ("lines", "version"),
    [
        (["Upgrade: websocket"], "HTTP/1.1"),
        (["Connection: Upgrade"], "HTTP/1.1"),
        ([*UPGRADE], "HTTP/1.0"),
        ([*UPGRADE, "Transfer-Encoding: chunked"], "HTTP/1.1"),
        (["Connection: Upgrade", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"], "HTTP/1.1"),
        (["Connection: Upgrade", "Upgrade: websocket, h2c"], "HTTP/1.1"),
        (["Connection: Upgrade", "Upgrade: TLS/1.2"], "HTTP/1.1"),
    ],
)
def test_what_is_no_upgrade_is_not_asked_for_and_a_yes_to_it_is_broken(
    fleet: Fleet, lines: list[str], version: str
) -> None:
    seen = []

    def saying_yes(visit: Visit) -> None:
        head = visit.head()
        assert head is not None
        seen.append(head)
        visit.send(SWITCHING)
        while visit.recv():
            pass

    fleet.upstream.script = saying_yes
    body = b"0\r\n\r\n" if "Transfer-Encoding: chunked" in lines else b""
    answer = fleet.call(fleet.get("/ws", *lines, version=version) + body)
    assert (answer.status, answer.code) == (502, "upstream_broken")
    assert (seen[0].values("upgrade"), seen[0].values("connection")) == ([], [])


def test_an_upgrade_without_a_token_is_refused(fleet: Fleet) -> None:
    request = fleet.get("/ws", *UPGRADE).replace(fleet.token.encode(), b"a.b.c")
    assert fleet.call(request).status == 401
    fleet.settle()
    assert fleet.upstream.requests == []


@pytest.fixture
def echo_url(fleet: Fleet, start_sidecar: StartSidecar) -> Iterator[str]:
    """A WebSocket server of another make, behind a sidecar, that sends back what it gets."""

    def echoing(server_side: ServerConnection) -> None:
        for message in server_side:
            server_side.send(message)

    with serve(echoing, "127.0.0.1", 0, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            upstream = f"http://127.0.0.1:{server.socket.getsockname()[1]}"
            sidecar = start_sidecar(fleet.issuer.url, upstream).ready()
            yield f"ws://127.0.0.1:{sidecar.proxy_port}/ws"
        finally:
            server.shutdown()
            thread.join()


def test_websockets_work_with_large_frames(fleet: Fleet, echo_url: str) -> None:
    with connect(echo_url, additional_headers=bearer(fleet.token), max_size=None, proxy=None) as websocket:
        for message in ("héllo", os.urandom(1 << 20), "", b"\x00"):
            websocket.send(message)
            assert websocket.recv(20) == message


def test_what_would_not_end_and_begins_while_the_program_ends_is_ended(start_fleet: Callable[..., Fleet]) -> None:
    fleet = start_fleet()
    asked, ending = threading.Semaphore(0), threading.Event()

    def late(visit: Visit) -> None:
        head = visit.head()
        asked.release()
        assert ending.wait(20)
        begun = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"
        visit.send(begun if head is not None and head.target == "/events" else SWITCHING)
        visit.recv()

    fleet.upstream.script = late
    events = fleet.dial().send(fleet.get("/events"))
    websocket = fleet.dial().send(fleet.get("/ws", *UPGRADE))
    for _ in range(2):
        assert asked.acquire(timeout=20)
    assert fleet.sidecar.process is not None
    fleet.sidecar.process.send_signal(signal.SIGTERM)
    eventually(lambda: "stopping" in fleet.sidecar.output(), "the end begins")
    ending.set()
    assert events.head().status == 200
    assert events.piece() == b"data: 1\n\n"
    assert events.rest().strip() == b""  # without the end of a whole answer
    assert websocket.answer().status == 101
    assert websocket.rest() == b"\x88\x0f" + (1001).to_bytes(2, "big") + b"shutting_down"
    events.close()
    websocket.close()
    assert fleet.sidecar.process.wait(20) == 0
    assert "did not end in time" not in fleet.sidecar.output()


class TestLogout:
    def test_cuts_the_users_tunnels_and_event_streams_and_nobody_elses(self, fleet: Fleet) -> None:
        client, _, token = fleet.new_user()
        ours: list[Wire] = []
        theirs: list[Wire] = []
        for user_token, wires in ((token, ours), (fleet.token, theirs)):
            for _ in range(3):
                fleet.upstream.script = echo
                wire = fleet.dial().send(fleet.get("/ws", *UPGRADE, token=user_token))
                assert wire.answer().status == 101
                wires.append(wire)
                fleet.upstream.script = events
                wire = fleet.dial().send(fleet.get("/events", token=user_token))
                assert wire.head().status == 200
                assert wire.piece() == b"data: 1\n\n"
                wires.append(wire)
        assert client.post("/logout", headers=bearer(token)).status_code == 204
        assert [wire.rest().strip() for wire in ours] == [FAREWELL, b""] * 3
        for wire in theirs[::2]:
            assert wire.send(b"still here").recv_exactly(10) == b"still here"
        for wire in theirs[1::2]:
            wire.socket.settimeout(0.1)
            with pytest.raises(TimeoutError):
                wire.piece()

    def test_of_one_session_cuts_that_sessions_streams_only(self, fleet: Fleet) -> None:
        client, _, token = fleet.new_user("two-devices@example.com")
        with fleet.issuer.client() as another_device:
            other_token = login(another_device, "two-devices@example.com")
        fleet.upstream.script = echo
        mine, others = (fleet.dial().send(fleet.get("/ws", *UPGRADE, token=each)) for each in (token, other_token))
        assert [wire.answer().status for wire in (mine, others)] == [101, 101]
        assert client.post("/logout?scope=session").status_code == 204
        assert mine.rest() == FAREWELL
        assert others.send(b"still here").recv_exactly(10) == b"still here"

    def test_while_the_upstream_thinks_refuses_the_stream_it_then_begins(self, fleet: Fleet) -> None:
        client, _, token = fleet.new_user()
        asked, logged_out = threading.Event(), threading.Event()

        def thinking(visit: Visit) -> None:
            visit.head()
            asked.set()
            assert logged_out.wait(20)
            visit.send(SWITCHING)

        fleet.upstream.script = thinking
        wire = fleet.dial().send(fleet.get("/ws", *UPGRADE, token=token))
        assert asked.wait(20)
        assert client.post("/logout").status_code == 204
        fleet.until_refused(token)
        logged_out.set()
        answer = wire.answer()
        assert (answer.status, answer.code) == (401, "token_revoked")

    def test_cuts_a_websocket(self, fleet: Fleet, echo_url: str) -> None:
        client, _, token = fleet.new_user()
        with connect(echo_url, additional_headers=bearer(token), proxy=None) as websocket:
            assert client.post("/logout").status_code == 204
            with pytest.raises(ConnectionClosed):
                websocket.recv(20)
            assert (websocket.close_code, websocket.close_reason) == (4401, "token_revoked")

    def test_never_puts_the_farewell_into_a_frame(self, fleet: Fleet) -> None:
        client, _, token = fleet.new_user()
        begun = b"\x81\x0ahalf"  # a text frame of ten bytes

        def half_a_frame(visit: Visit) -> None:
            visit.head()
            visit.send(SWITCHING + begun)
            visit.recv()

        fleet.upstream.script = half_a_frame
        wire = fleet.dial().send(fleet.get("/ws", *UPGRADE, token=token))
        assert wire.answer().status == 101
        assert wire.recv_exactly(len(begun)) == begun
        assert client.post("/logout").status_code == 204
        assert wire.rest() == b""

    def test_puts_no_frame_into_another_protocol(self, fleet: Fleet) -> None:
        client, _, token = fleet.new_user()

        def own_protocol(visit: Visit) -> None:
            visit.head()
            visit.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n")
            visit.recv()

        fleet.upstream.script = own_protocol
        wire = fleet.dial().send(fleet.get("/chat", "Connection: Upgrade", "Upgrade: chat", token=token))
        assert wire.answer().status == 101
        assert client.post("/logout").status_code == 204
        assert wire.rest() == b""

    def test_cuts_an_upload(self, fleet: Fleet) -> None:
        client, _, token = fleet.new_user()
        begun = threading.Event()

        def taking(visit: Visit) -> None:
            visit.head()
            begun.set()
            while visit.recv():
                pass

        fleet.upstream.script = taking
        wire = fleet.dial().send(fleet.get("/upload", "Content-Length: 1000000", method="POST", token=token) + b"part")
        assert begun.wait(20)
        assert client.post("/logout").status_code == 204
        answer = wire.answer("POST")
        assert (answer.status, answer.code) == (401, "token_revoked")

    def test_lets_a_request_that_is_here_whole_be_answered(self, fleet: Fleet) -> None:
        client, _, token = fleet.new_user()
        asked, logged_out = threading.Event(), threading.Event()

        def thinking(visit: Visit) -> None:
            visit.request()
            asked.set()
            assert logged_out.wait(20)
            visit.send(fleet.upstream.saying(b"done"))

        fleet.upstream.script = thinking
        wire = fleet.dial().send(fleet.get("/orders", "Content-Length: 8", method="POST", token=token) + b"1234")
        wire.send(b"5678")
        assert asked.wait(20)
        assert client.post("/logout").status_code == 204
        fleet.until_refused(token)
        logged_out.set()
        assert wire.answer("POST").status == 200


def events(visit: Visit) -> None:
    """Say one thing, then nothing."""
    visit.request()
    visit.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
    visit.recv()
