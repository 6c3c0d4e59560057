"""SIGTERM while there is much to do: every request that was accepted is answered, and nobody new is kept waiting.

Rule: nothing is waited for between the last byte of the requests and the signal, so that the end meets requests in
every state: in the queue of connections, being read, waiting for a thread, being answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tests.conftest import StartSidecar
from tests.programs import DEADLINE, HOST, PASSWORD, IssuerProgram, bearer, eventually, login, register

IN_FLIGHT = 200
PATIENT = {"AUTHIX_DRAIN_TIME": "60"}
"""A busy machine is no finding."""

StartIssuer = Callable[..., IssuerProgram]


class Wire(NamedTuple):
    """A client's connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self) -> tuple[int, bool]:
        """The status, and whether the answer says that it was the connection's last; what follows must be the end."""
        try:
            data = await asyncio.wait_for(self.reader.read(), 60)
        except ConnectionResetError:
            return 0, False
        head, _, _ = data.partition(b"\r\n\r\n")
        return (int(head[9:12]) if head else 0), b"connection: close" in head.lower()


Dial = Callable[[int, int], Awaitable[list[Wire]]]


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    """``await dial(port, count)``: as many connections, closed when the test ends."""
    wires: list[Wire] = []

    async def connect_all(port: int, count: int) -> list[Wire]:
        new = [Wire(*await asyncio.open_connection(HOST, port)) for _ in range(count)]
        wires.extend(new)
        return new

    yield connect_all
    for wire in wires:
        wire.writer.close()
        with contextlib.suppress(ConnectionError):
            await wire.writer.wait_closed()


def login_request() -> bytes:
    body = json.dumps({"email": "ann@example.com", "password": PASSWORD}).encode()
    head = b"POST /login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


def send_signal(program: IssuerProgram, which: signal.Signals = signal.SIGTERM) -> None:
    assert program.process is not None
    program.process.send_signal(which)


async def ended(program: IssuerProgram) -> int:
    assert program.process is not None
    return await asyncio.to_thread(program.process.wait, 60)


async def refuses(port: int) -> None:
    """Wait until nobody listens there; a connection that is taken must be answered."""
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                _, writer = await asyncio.open_connection(HOST, port)
            except ConnectionRefusedError:
                return
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            await asyncio.sleep(0.01)


async def test_an_issuer_answers_all_that_wait_for_their_hash_and_ends_its_streams(
    start_issuer: StartIssuer, dial: Dial
) -> None:
    issuer = start_issuer(AUTHIX_HASH_PROFILE="owasp", AUTHIX_HASH_QUEUE="256", **PATIENT)
    with issuer.client() as client:
        register(client, "ann@example.com")
    wires = await dial(issuer.port, IN_FLIGHT)
    (stream,) = await dial(issuer.port, 1)
    stream.writer.write(b"GET /revocations HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
    await stream.reader.readuntil(b'"heartbeat"')
    used, unused = await dial(issuer.port, 2)
    used.writer.write(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
    await used.reader.readuntil(b"alive")
    for wire in wires:
        wire.writer.write(login_request())
    send_signal(issuer)
    answers = Counter(await asyncio.gather(*(wire.answer() for wire in wires)))
    assert answers[200, False] + answers[200, True] == IN_FLIGHT, answers
    assert answers[200, True] >= IN_FLIGHT / 2, "those that were answered after the signal say that they are the last"
    assert (await asyncio.wait_for(stream.reader.read(), DEADLINE)).endswith(b"\r\n0\r\n\r\n"), "a stream ends whole"
    assert await unused.answer() == (0, False)
    await refuses(issuer.port)
    assert await ended(issuer) == 0
    assert "Traceback" not in issuer.output()
    audit = (issuer.log.parent / "audit.log").read_text().splitlines()
    assert sum('"event":"login","outcome":"ok"' in line for line in audit) == IN_FLIGHT


async def test_the_workers_of_an_issuer_do_so_together_and_their_port_is_closed_at_once(
    start_issuer: StartIssuer, dial: Dial, mongodb_url: str, redis_url: str, tmp_path: Path
) -> None:
    level = tmp_path / "level"
    level.write_text("info")
    issuer = start_issuer(
        AUTHIX_USERS_URL=f"{mongodb_url.rstrip('/')}/{secrets.token_hex(6)}",
        AUTHIX_SESSIONS_URL=redis_url,
        AUTHIX_SECRET=secrets.token_urlsafe(32),
        AUTHIX_WORKERS="2",
        AUTHIX_LOG_LEVEL_FILE=str(level),
        AUTHIX_HASH_PROFILE="owasp",
        AUTHIX_HASH_THREADS="2",
        AUTHIX_HASH_QUEUE="256",
        **PATIENT,
    )
    with issuer.client() as client:
        register(client, "ann@example.com")
    level.write_text("debug")
    send_signal(issuer, signal.SIGHUP)
    told = "the log level is debug now"
    await asyncio.to_thread(eventually, lambda: issuer.output().count(told) == 3, "the parent and both workers tell it")
    wires = await dial(issuer.port, 50)
    for wire in wires:
        wire.writer.write(login_request())
    send_signal(issuer)
    answering = asyncio.gather(*(wire.answer() for wire in wires))
    await refuses(issuer.port)
    assert not answering.done(), "whoever comes now is refused while others are still answered"
    answers = Counter(await answering)
    assert answers[200, False] + answers[200, True] == len(wires), answers
    assert await ended(issuer) == 0
    assert "Traceback" not in issuer.output()


@pytest.mark.parametrize("hurry", ["second signal", "limit"])
async def test_what_an_issuer_does_not_finish_in_time_is_cut(start_issuer: StartIssuer, dial: Dial, hurry: str) -> None:
    limit = "1" if hurry == "limit" else "60"
    slow = {"AUTHIX_HASH_PROFILE": "m=65536,t=20,p=1", "AUTHIX_HASH_THREADS": "1"}
    issuer = start_issuer(AUTHIX_DRAIN_TIME=limit, **slow)
    (wire, *others) = await dial(issuer.port, 30)  # seconds of work, on a busy machine too
    for each in (wire, *others):
        each.writer.write(login_request())
    await wire.reader.readuntil(b"\r\n\r\n")  # nobody of that name: 401, and the others wait
    send_signal(issuer)
    if hurry == "second signal":
        await refuses(issuer.port)
        send_signal(issuer)
    statuses = Counter([status for status, _ in await asyncio.gather(*(each.answer() for each in others))])
    assert statuses[0] > 0, statuses
    code = await asyncio.wait_for(ended(issuer), 10)
    assert code == (0 if hurry == "limit" else -signal.SIGTERM)
    assert "Traceback" not in issuer.output()


class SlowService:
    """Answers when it is told to, and echoes WebSockets."""

    def __init__(self) -> None:
        self.waiting = 0
        self.may_answer = asyncio.Event()
        self.port = 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[SlowService]:
        async with serve(self._echo, HOST, 0, process_request=self._request) as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            yield self

    async def _request(self, connection: ServerConnection, request: Request) -> Response | None:
        if "Upgrade" in request.headers:
            return None
        self.waiting += 1
        await self.may_answer.wait()
        return connection.respond(200, "done\n")

    async def _echo(self, connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                await connection.send(message)


async def closed_with(socket: ClientConnection) -> int | None:
    await asyncio.wait_for(socket.wait_closed(), DEADLINE)
    return socket.close_code


async def test_a_sidecar_that_had_no_time_answers_all_that_had_connected_before_its_end(
    issuer: IssuerProgram, start_sidecar: StartSidecar, dial: Dial
) -> None:
    sidecar = start_sidecar(issuer.url, f"http://{HOST}:9", **PATIENT)
    await asyncio.to_thread(sidecar.ready)
    assert sidecar.process is not None
    sidecar.process.send_signal(signal.SIGSTOP)
    wires = await dial(sidecar.proxy_port, IN_FLIGHT)
    for wire in wires:
        wire.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    sidecar.process.send_signal(signal.SIGTERM)
    sidecar.process.send_signal(signal.SIGCONT)
    async with asyncio.timeout(DEADLINE):
        assert {await wire.reader.readline() for wire in wires} == {b"HTTP/1.1 401 Unauthorized\r\n"}


async def test_an_issuer_that_had_no_time_answers_all_that_had_connected_before_its_end(
    start_issuer: StartIssuer, dial: Dial
) -> None:
    issuer = start_issuer(**PATIENT)
    send_signal(issuer, signal.SIGSTOP)
    wires = await dial(issuer.port, 80)
    for wire in wires:
        wire.writer.write(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
    send_signal(issuer)
    send_signal(issuer, signal.SIGCONT)
    async with asyncio.timeout(DEADLINE):
        assert {await wire.reader.readline() for wire in wires} == {b"HTTP/1.1 200 OK\r\n"}


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_sidecar_answers_all_that_wait_for_the_service_and_says_goodbye_to_websockets(
    workers: str, issuer: IssuerProgram, start_sidecar: StartSidecar, dial: Dial
) -> None:
    with issuer.client() as client:
        register(client, "ann@example.com")
        token = login(client, "ann@example.com")
    async with SlowService().serving() as service:
        sidecar = start_sidecar(
            issuer.url,
            f"http://{HOST}:{service.port}",
            AUTHIX_WORKERS=workers,
            AUTHIX_LOG_LEVEL="warning",
            **PATIENT,
        )
        await asyncio.to_thread(sidecar.ready)
        url = f"ws://{HOST}:{sidecar.proxy_port}/talk"
        sockets = [await connect(url, additional_headers=bearer(token), proxy=None) for _ in range(20)]
        for socket in sockets:
            await socket.send("hello")
            assert await socket.recv() == "hello"
        wires = await dial(sidecar.proxy_port, IN_FLIGHT)
        for number, wire in enumerate(wires):
            wire.writer.write(f"GET /{number} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        assert sidecar.process is not None
        sidecar.process.send_signal(signal.SIGTERM)
        assert [await closed_with(socket) for socket in sockets] == [1001] * len(sockets)
        await refuses(sidecar.proxy_port)
        async with asyncio.timeout(DEADLINE):
            while service.waiting < IN_FLIGHT:
                await asyncio.sleep(0.01)
        service.may_answer.set()
        answers = Counter(await asyncio.gather(*(wire.answer() for wire in wires)))
        assert answers == {(200, True): IN_FLIGHT}
    assert await asyncio.to_thread(sidecar.process.wait, DEADLINE) == 0
    assert sidecar.output() == ""
