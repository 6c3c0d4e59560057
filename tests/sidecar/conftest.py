"""Fixtures of the sidecar's tests: an upstream that records every byte, clients of raw bytes, and a running fleet.

Rule: what reaches the upstream is read by h11, a strict reader that is not ours; what h11 can't read fails the test.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import h11
import httpx
import pytest

from tests.programs import (
    DEADLINE,
    IssuerProgram,
    Program,
    SidecarProgram,
    eventually,
    free_port,
    login,
    register,
)

if TYPE_CHECKING:
    from tests.conftest import StartSidecar

# a busy machine's pauses are no failures
KEPT = 1 << 20
"""Bytes of a visit that are kept."""


class Received(NamedTuple):
    """A request as h11 read it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name.lower()]


class Answer(NamedTuple):
    """An answer as h11 read it."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    interims: list[int]

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name.lower()]

    @property
    def code(self) -> str:
        """The problem's code."""
        code: str = json.loads(self.body)["code"]
        return code


def _decoded(headers: object) -> list[tuple[str, str]]:
    return [(name.decode().lower(), value.decode("latin-1")) for name, value in headers]  # type: ignore[attr-defined] # h11's own list type


class Visit:
    """One connection that the sidecar made to the upstream."""

    def __init__(self, upstream: Upstream, connection: socket.socket) -> None:
        self.socket = connection
        self.received = b""
        """Every byte, up to a limit."""
        self.ended = False
        self._upstream = upstream
        self._reader = h11.Connection(h11.SERVER)

    def request(self) -> Received | None:
        """The next whole request; None when the connection ends before there is one."""
        head = self.head()
        if head is None:
            return None
        body = b""
        while isinstance(piece := self.event(), h11.Data):
            body += piece.data
        if not isinstance(piece, h11.EndOfMessage):
            return None
        request = head._replace(body=body)
        self._upstream.requests.append(request)
        self._reader = _next(self._reader, h11.SERVER)
        return request

    def head(self) -> Received | None:
        """The next request's head."""
        event = self.event()
        if not isinstance(event, h11.Request):
            return None
        return Received(event.method.decode(), event.target.decode("latin-1"), _decoded(event.headers), b"")

    def event(self) -> object:
        """h11's next event; None when a request breaks off."""
        while (event := self._next_event()) is h11.NEED_DATA:
            self._reader.receive_data(self.recv())
        return event

    def _next_event(self) -> object:
        try:
            return self._reader.next_event()
        except h11.RemoteProtocolError:
            if not self.ended:
                raise
            self._upstream.incomplete += 1
            return None

    def recv(self) -> bytes:
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        if len(self.received) < KEPT:
            self.received += data
        self.ended = not data
        return data

    def recv_exactly(self, count: int) -> bytes:
        data = self._reader.trailing_data[0]
        while len(data) < count and (more := self.recv()):
            data += more
        return data

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reset(self) -> None:
        """Close as a crash does: by RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


Script = Callable[[Visit], None]


class Upstream:
    """A service that records what it gets and answers as told."""

    def __init__(self, *, port: int = 0, path: str = "", tls: ssl.SSLContext | None = None) -> None:
        """At ``port`` or one of its own, or at ``path``; over TLS with ``tls``."""
        self._tls = tls
        self.forget()
        if path:
            self.url = f"unix:{path}"
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path)
            self._listener.listen(512)
        else:
            self.port = port or free_port()
            self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=512)
        threading.Thread(target=self._accept, daemon=True).start()

    def forget(self) -> None:
        self.visits: list[Visit] = []
        self.requests: list[Received] = []
        self.incomplete = 0
        """Requests that broke off."""
        self.problems: list[str] = []
        """What h11 could not read, and scripts that failed."""
        self.script: Script = self.serve
        self.answer: Callable[[Received], bytes] = lambda request: self.saying(request.target.encode())

    @staticmethod
    def saying(body: bytes = b"", *headers: str, status: str = "200 OK") -> bytes:
        """An answer on the wire."""
        lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]
        return "\r\n".join(lines).encode() + body

    def serve(self, visit: Visit) -> None:
        """The default script: answer every request, with its own target as the body."""
        while (request := visit.request()) is not None:
            visit.send(self.answer(request))

    def begin_anew(self) -> None:
        """End every connection, and forget all that was before; one that comes meanwhile is ended the next time."""
        before = self.visits
        self.forget()
        self._end(before)

    def close_idle(self) -> None:
        """End every connection, as a restart does."""
        self._end(self.visits)

    @staticmethod
    def _end(visits: list[Visit]) -> None:
        for visit in visits:
            with contextlib.suppress(OSError):
                visit.socket.shutdown(socket.SHUT_RDWR)

    def received(self) -> bytes:
        return b"".join(visit.received for visit in self.visits)

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # closing it would not end an accept under way
        self._listener.close()
        self.close_idle()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self._tls is not None:
                    connection = self._tls.wrap_socket(connection, server_side=True)
            except OSError:
                continue  # the other side did not like it
            visit = Visit(self, connection)
            self.visits.append(visit)
            threading.Thread(target=self._play, args=(self.script, visit), daemon=True).start()

    def _play(self, script: Script, visit: Visit) -> None:
        with visit.socket:
            try:
                script(visit)
            except OSError:
                return  # the sidecar hung up
            except h11.RemoteProtocolError as error:
                self.problems.append(f"{error}: {visit.received[-2000:]!r}")
            except Exception as error:  # noqa: BLE001 - told by the fixture's end, in the test's own thread
                self.problems.append(repr(error))


class Wire:
    """A client that sends the bytes it is given and reads answers by h11."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
        self._reader: h11.Connection | None = None

    def send(self, data: bytes) -> Self:
        self.socket.sendall(data)
        return self

    def try_send(self, data: bytes) -> None:
        """As ``send``; the other side may have hung up already."""
        with contextlib.suppress(OSError):
            self.socket.sendall(data)

    def answer(self, method: str = "GET") -> Answer:
        """The next answer. Raises ``h11.RemoteProtocolError`` when it breaks off."""
        reader = self._begin(method)
        interims: list[int] = []
        while not isinstance(event := self._event(reader), h11.Response):
            assert isinstance(event, h11.InformationalResponse), event
            interims.append(event.status_code)
            if event.status_code == 101:
                return Answer(101, _decoded(event.headers), b"", interims)
        body = b""
        while isinstance(piece := self._event(reader), h11.Data):
            body += piece.data
        return Answer(event.status_code, _decoded(event.headers), body, interims)

    def head(self, method: str = "GET") -> Answer:
        """The next answer's head; its body is read by ``piece``."""
        event = self._event(self._begin(method))
        assert isinstance(event, h11.Response)
        return Answer(event.status_code, _decoded(event.headers), b"", [])

    def piece(self) -> bytes:
        """More of the body; empty at its end."""
        assert self._reader is not None
        event = self._event(self._reader)
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    def recv(self, count: int = 65536) -> bytes:
        early = self._reader.trailing_data[0] if self._reader is not None else b""
        self._reader = None
        return early or self.socket.recv(count)

    def recv_exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count and (more := self.recv(count - len(data))):
            data += more
        return data

    def rest(self) -> bytes:
        """Everything until the connection ends."""
        data = b""
        try:
            while more := self.recv():
                data += more
        except ConnectionResetError:
            return data
        return data

    def close(self) -> None:
        self.socket.close()

    def _begin(self, method: str) -> h11.Connection:
        reader = h11.Connection(h11.CLIENT) if self._reader is None else _next(self._reader, h11.CLIENT)
        # h11 must know what was asked to know where the answer ends; the bytes were sent as the test wanted them
        asked = [("Host", "x"), ("Connection", "Upgrade"), ("Upgrade", "x")]
        reader.send(h11.Request(method=method, target="/", headers=asked))
        reader.send(h11.EndOfMessage())
        self._reader = reader
        return reader

    def _event(self, reader: h11.Connection) -> object:
        while (event := reader.next_event()) is h11.NEED_DATA:
            reader.receive_data(self.socket.recv(65536))
        return event


def _next(reader: h11.Connection, role: type[h11.CLIENT | h11.SERVER]) -> h11.Connection:
    """A reader for the message behind the one just read."""
    fresh = h11.Connection(role)
    if behind := reader.trailing_data[0]:  # nothing would mean the connection's end
        fresh.receive_data(behind)
    return fresh


@dataclass
class Fleet:
    """Issuer, sidecar and upstream at work, and a user with a token."""

    issuer: IssuerProgram
    sidecar: SidecarProgram
    upstream: Upstream
    token: str = ""
    wires: list[Wire] = field(default_factory=list)
    """Every client so far."""
    users: list[httpx.Client] = field(default_factory=list)

    def hang_up(self) -> None:
        while self.wires:
            self.wires.pop().close()
        while self.users:
            self.users.pop().close()

    def new_user(self, email: str = "") -> tuple[httpx.Client, str, str]:
        """A client of a new user, the user's id and an access token."""
        client = self.issuer.client()
        self.users.append(client)
        email = email or f"{uuid.uuid4().hex}@example.com"
        return client, register(client, email), login(client, email)

    def until_refused(self, token: str) -> None:
        """Wait until the sidecar refuses ``token``."""
        request = self.get("/verify", token=token)
        eventually(lambda: self.call(request, self.sidecar.auth_port).status == 401, "the token is refused")

    def dial(self, port: int = 0) -> Wire:
        """A client of the proxy, or of another port."""
        wire = Wire(port or self.sidecar.proxy_port)
        self.wires.append(wire)
        return wire

    def call(self, request: bytes, port: int = 0) -> Answer:
        """Send one request on a connection of its own."""
        return self.dial(port).send(request).answer(request.split(b" ", 1)[0].decode())

    def get(
        self, target: str = "/", *headers: str, method: str = "GET", version: str = "HTTP/1.1", token: str = ""
    ) -> bytes:
        """A request without body on the wire, by default the user's."""
        lines = [f"{method} {target} {version}", "Host: orders.example", f"Authorization: Bearer {token or self.token}"]
        return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1")

    def settle(self) -> None:
        """Wait until everything that the sidecar was going to send has been seen by the upstream."""
        mark = f"/settled-{uuid.uuid4().hex}"
        assert self.call(self.get(mark)).status == 200
        eventually(lambda: any(request.target == mark for request in self.upstream.requests), "the upstream sees all")
        self.upstream.requests[:] = [
            request for request in self.upstream.requests if not request.target.startswith("/settled-")
        ]


TIMES = {
    "downstream.HEAD_TIME": 1.0,
    "downstream.BODY_TIME": 0.5,
    "downstream.IDLE_TIME": 1.0,
    "downstream.SEND_TIME": 1.0,
}
"""An impatient sidecar's times, in seconds."""


class Fleets(NamedTuple):
    patient: Fleet
    impatient: Fleet


@pytest.fixture(scope="session")
def _fleets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleets]:
    """Started once for all tests of this folder that end nothing."""
    folder = tmp_path_factory.mktemp("fleet")
    upstream = Upstream()
    issuer = IssuerProgram(folder / "issuer", AUTHIX_ACCESS_TTL="3600")
    patient = SidecarProgram(folder / "sidecar", issuer.url, upstream.url)
    impatient = SidecarProgram(folder / "sidecar", issuer.url, upstream.url, AUTHIX_UPSTREAM_TIMEOUT="2")
    changes = "; ".join(f"authix_sidecar.{name} = {value}" for name, value in TIMES.items())
    script = f"import sys, authix_sidecar.cli; {changes}; sys.exit(authix_sidecar.cli.main(['serve']))"
    impatient.command = [sys.executable, "-c", script]
    programs: tuple[Program, ...] = (issuer, patient, impatient)
    try:
        for program in programs:
            program.start()
        issuer.ready()
        fleets = Fleets(*(Fleet(issuer, sidecar.ready(), upstream) for sidecar in (patient, impatient)))
        _, _, fleets.patient.token = fleets.patient.new_user()
        fleets.impatient.token = fleets.patient.token
        fleets.patient.hang_up()
        yield fleets
    finally:
        for program in reversed(programs):
            program.stop()
        upstream.end()


@pytest.fixture
def fleet(_fleets: Fleets) -> Iterator[Fleet]:
    """A running fleet whose upstream has forgotten all that was before."""
    yield from _lend(_fleets.patient)


@pytest.fixture
def impatient(_fleets: Fleets) -> Iterator[Fleet]:
    """The same, behind a sidecar whose times are short enough to wait for."""
    yield from _lend(_fleets.impatient)


def _lend(fleet: Fleet) -> Iterator[Fleet]:
    fleet.upstream.begin_anew()
    yield fleet
    fleet.hang_up()
    problems = fleet.upstream.problems
    fleet.upstream.begin_anew()  # what was still under way may come back once more, and is gone before the next test
    assert problems == []
    assert "Traceback" not in fleet.sidecar.output()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """An upstream of the test's own."""
    yield from _serving()


@pytest.fixture
def new_upstream() -> Iterator[Callable[..., Upstream]]:
    """``new_upstream()``: one more; ``path=`` at a Unix socket, ``tls=`` over TLS."""
    with contextlib.ExitStack() as stack:

        def new(**how: Any) -> Upstream:
            upstream = Upstream(**how)
            stack.callback(upstream.end)
            return upstream

        yield new


@pytest.fixture
def key_server() -> Iterator[Upstream]:
    """Serves key sets, as an issuer does."""
    yield from _serving()


def _serving() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.end()
    assert upstream.problems == []


@pytest.fixture
def start_fleet(_fleets: Fleets, start_sidecar: StartSidecar, upstream: Upstream) -> Iterator[Callable[..., Fleet]]:
    """``start_fleet(AUTHIX_…="…")``: a sidecar of the test's own, in front of an upstream of its own.

    Its issuer is everyone's, unless ``issuer=`` is another.
    """
    fleets: list[Fleet] = []

    def start(issuer: IssuerProgram | None = None, **env: str) -> Fleet:
        issuer = issuer or _fleets.patient.issuer
        fleet = Fleet(issuer, start_sidecar(issuer.url, upstream.url, **env), upstream)
        fleets.append(fleet)
        fleet.sidecar.ready()
        _, _, fleet.token = fleet.new_user()
        return fleet

    yield start
    for fleet in fleets:
        fleet.hang_up()
