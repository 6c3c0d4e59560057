"""Clients of an issuer, and what its processes use meanwhile.

Rule: a talk is what one user does, one request after the other; each connection carries one talk at a time and is kept.
The clients share the machine's cores with what they measure, so CPU time is the figure to go by: of the server's
processes and their children, by the kernel's own account, with none of the clients' and none of the engines'.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import select
import socket
import statistics
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.report import cpu_seconds
from tests.programs import HOST

CONNECTIONS = 16
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_TICKS = os.sysconf("SC_CLK_TCK")


class Answer(NamedTuple):
    status: int
    head: bytes
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def expect(self, status: int) -> Answer:
        assert self.status == status, (self.head + b"\r\n\r\n" + self.body).decode("utf-8", "replace")
        return self


Talk = Generator[bytes, Answer, None]
"""Yields requests, is sent their answers."""


class Load(NamedTuple):
    requests: int
    seconds: float
    milliseconds: list[float]
    """Of each request, as the client sees it."""


class Measured(NamedTuple):
    micros: float
    """CPU time of a request, in the server."""
    engine_micros: float
    """And in its engines."""
    rate: float
    """Requests a second."""
    p50: float
    p99: float


def request(method: str, path: str, body: bytes = b"", /, **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: auth.example", "User-Agent: benchmark", "Accept: */*"]
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join((*lines, "", "")).encode("ascii") + body


def drive(port: int, talks: Iterable[Talk], connections: int = CONNECTIONS) -> Load:
    """Have all ``talks``."""
    waiting = iter(talks)
    milliseconds: list[float] = []
    began = time.perf_counter()
    with select.epoll() as poll, contextlib.ExitStack() as stack:
        clients: dict[int, _Client] = {}
        for talk in itertools.islice(waiting, connections):
            client = _Client(stack.enter_context(socket.create_connection((HOST, port), timeout=60)), talk)
            clients[client.number] = client
            poll.register(client.number, select.EPOLLIN)
        while clients:
            events = poll.poll(60)
            assert events, "no answer within 60 s"
            for number, _ in events:
                client = clients[number]
                if (answer := client.read()) is None:
                    continue
                milliseconds.append((time.perf_counter() - client.asked) * 1000)
                if not client.go_on(answer) and not client.take(waiting):
                    poll.unregister(number)
                    del clients[number]
    return Load(len(milliseconds), time.perf_counter() - began, milliseconds)


class _Client:
    """A connection and the talk that it carries."""

    def __init__(self, connection: socket.socket, talk: Talk) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._talk = talk
        self._data = b""
        self.number = connection.fileno()
        self._ask(next(talk))

    def read(self) -> Answer | None:
        data = self._connection.recv(65536)
        assert data, f"the server closed a connection after {self._data!r}"
        self._data += data
        answer = parse(self._data)
        if answer is not None:
            self._data = b""
        return answer

    def go_on(self, answer: Answer) -> bool:
        """Whether there is more to say in the talk."""
        try:
            self._ask(self._talk.send(answer))
        except StopIteration:
            return False
        return True

    def take(self, waiting: Iterator[Talk]) -> bool:
        """Whether there was another talk."""
        for talk in waiting:
            self._talk = talk
            self._ask(next(talk))
            return True
        return False

    def _ask(self, asked: bytes) -> None:
        self._connection.sendall(asked)
        self.asked = time.perf_counter()


def parse(data: bytes) -> Answer | None:
    """The answer, once it is whole."""
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return None
    status = int(head[9:12])
    if status not in {204, 304}:
        if length := _LENGTH.search(head):
            if len(body) < int(length[1]):
                return None
        elif _CHUNKED.search(head):
            if not body.endswith(b"0\r\n\r\n"):
                return None
            body = _joined(body)
    return Answer(status, head, body)


def _joined(chunks: bytes) -> bytes:
    body = b""
    while chunks:
        size, _, chunks = chunks.partition(b"\r\n")
        body, chunks = body + chunks[: int(size, 16)], chunks[int(size, 16) + 2 :]
    return body


def measure(
    port: int,
    processes: Sequence[int],
    talks: Iterable[Talk],
    *,
    engines: Sequence[int] = (),
    connections: int = CONNECTIONS,
) -> Measured:
    used, engines_used = cpu_of_trees(processes), cpu_of_trees(engines)
    load = drive(port, talks, connections)
    used, engines_used = cpu_of_trees(processes) - used, cpu_of_trees(engines) - engines_used
    cuts = statistics.quantiles(load.milliseconds, n=100)
    each = 1e6 / load.requests
    return Measured(
        round(used * each, 3), round(engines_used * each, 3), load.requests / load.seconds, cuts[49], cuts[98]
    )


def middle(rounds: Sequence[Measured]) -> Measured:
    """The median of each figure."""
    return Measured(*map(statistics.median, zip(*rounds, strict=True)))


def trees(roots: Sequence[int]) -> dict[int, list[str]]:
    """The processes and all their descendants, with what procfs says of each from its state on."""
    states = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended
                stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
                states[int(folder.name)] = stat.rpartition(")")[2].split()
    found = set(roots)
    while more := {pid for pid, state in states.items() if int(state[1]) in found} - found:
        found |= more
    return {pid: states[pid] for pid in found}


def cpu_of_trees(roots: Sequence[int]) -> float:
    """Seconds of user and system time, of those too that have ended: their parents keep the account."""
    used = 0.0
    for pid, state in trees(roots).items() if roots else ():
        with contextlib.suppress(OSError):  # it has ended since
            used += cpu_seconds(pid) + sum(map(int, state[13:15])) / _TICKS
    return used


def memory_mb(pid: int) -> float:
    """Resident memory of one process."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / 1e6
