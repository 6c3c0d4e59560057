"""Clients that send a request a byte at a time: it must be there as a whole within 10 s, whatever trickles."""

from __future__ import annotations

import json
import selectors
import socket
import time

import httpx
import pytest

from tests.programs import HOST, IssuerProgram

WITHIN = 10.0
LOOK = 5.0
"""Seconds between two looks at the clock, with some more for a busy machine."""
SLACK = 5.0
BODY = b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
SLOW = {
    "a request line": (b"GET /li", b"v"),
    "header fields": (b"GET /livez HTTP/1.1\r\nHost: x\r\nX: ", b"a"),
    "a body": (BODY + b"Content-Length: 1000\r\n\r\n{", b" "),
    "chunks": (BODY + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", b"1\r\n \r\n"),
    "a chunk's size": (BODY + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "a body that nobody reads": (BODY.replace(b"/login", b"/nope") + b"Content-Length: 1000\r\n\r\n", b" "),
    "a body after a promise to wait": (BODY + b"Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n", b" "),
}


class Trickler:
    """Sends ``start``, then ``drop`` every half a second, until the issuer closes the connection."""

    def __init__(self, port: int, start: bytes, drop: bytes) -> None:
        self.connection = socket.create_connection((HOST, port))
        self.began = time.monotonic()
        self.connection.sendall(start)
        self.drop = drop
        self.received = b""
        self.lasted = 0.0

    def read(self) -> bool:
        """Whether it goes on."""
        try:
            data = self.connection.recv(65536)
        except ConnectionResetError:
            data = b""
        self.received += data
        self.lasted = time.monotonic() - self.began
        return bool(data)

    def send(self) -> None:
        try:
            self.connection.sendall(self.drop)
        except (BrokenPipeError, ConnectionResetError):
            return


@pytest.fixture(scope="module")
def ended(shared_issuer: IssuerProgram) -> dict[str, Trickler]:
    """All of them side by side, once they have ended."""
    everyone = {name: Trickler(shared_issuer.port, *how) for name, how in SLOW.items()}
    with selectors.DefaultSelector() as selector:
        for name, trickler in everyone.items():
            selector.register(trickler.connection, selectors.EVENT_READ, name)
        end = time.monotonic() + WITHIN + LOOK + SLACK
        while selector.get_map() and time.monotonic() < end:
            for key, _ in selector.select(0.5):
                if not everyone[key.data].read():
                    selector.unregister(key.fileobj)
            for key in list(selector.get_map().values()):
                everyone[key.data].send()
        alive = [key.data for key in selector.get_map().values()]
    for trickler in everyone.values():
        trickler.connection.close()
    assert alive == []
    return everyone


@pytest.mark.parametrize("name", SLOW)
def test_a_request_that_trickles_in_is_given_up(ended: dict[str, Trickler], name: str) -> None:
    assert WITHIN - 1 <= ended[name].lasted <= WITHIN + LOOK + SLACK


@pytest.mark.parametrize("name", [name for name in SLOW if "nobody" not in name])
def test_it_is_told_why(ended: dict[str, Trickler], name: str) -> None:
    head, _, body = ended[name].received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["code"] == "request_timeout"


def test_what_was_refused_already_is_told_but_once(ended: dict[str, Trickler]) -> None:
    assert ended["a body that nobody reads"].received.startswith(b"HTTP/1.1 404 ")
    assert ended["a body that nobody reads"].received.count(b"HTTP/1.1 ") == 1


def test_others_are_served_after_that(ended: dict[str, Trickler], client: httpx.Client) -> None:
    assert client.get("/livez").status_code == 200
