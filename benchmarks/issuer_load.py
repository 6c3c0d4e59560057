"""Clients of an issuer, and what its processes use meanwhile.

Rule: a talk is what one user does, one request after the other; each connection carries one talk at a time and is kept.
The clients share the machine's cores with what they measure, so CPU time is the figure to go by: of the server's
processes and their children, by the kernel's own account, with none of the clients' and none of the engines'.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import statistics
import time
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: auth.example", "User-Agent: benchmark", "Accept: */*"]
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join((*lines, "", "")).encode("ascii") + body


def drive(port: int, talks: Iterable[Talk], connections: int = CONNECTIONS) -> Load:
    """Have all ``talks``."""
    waiting = iter(talks)
    milliseconds: list[float] = []
    open_talks: dict[int, tuple[socket.socket, Talk]] = {}
    asked: dict[int, float] = {}
    partly: dict[int, bytes] = {}
    began = time.perf_counter()
    with select.epoll() as poll:
        for talk in waiting:
            connection = socket.create_connection((HOST, port), timeout=60)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            number = connection.fileno()
            open_talks[number], partly[number] = (connection, talk), b""
            poll.register(number, select.EPOLLIN)
            connection.sendall(next(talk))
            asked[number] = time.perf_counter()
            if len(open_talks) == connections:
                break
        while open_talks:
            events = poll.poll(60)
            assert events, "no answer within 60 s"
            for number, _ in events:
                connection, talk = open_talks[number]
                data = connection.recv(65536)
                assert data, f"the server closed a connection after {partly[number]!r}"
                partly[number] += data
                answer = parse(partly[number])
                if answer is None:
                    continue
                partly[number] = b""
                milliseconds.append((time.perf_counter() - asked[number]) * 1000)
                following = _turn(talk, answer)
                if following is None:
                    talk = next(waiting, None)  # type: ignore[assignment]  # looked at right below
                    if talk is None:
                        poll.unregister(number)
                        del open_talks[number]
                        connection.close()
                        continue
                    open_talks[number] = connection, talk
                    following = next(talk)
                connection.sendall(following)
                asked[number] = time.perf_counter()
    return Load(len(milliseconds), time.perf_counter() - began, milliseconds)


def _turn(talk: Talk, answer: Answer) -> bytes | None:
    try:
        return talk.send(answer)
    except StopIteration:
        return None


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
    return Measured(used * each, engines_used * each, load.requests / load.seconds, cuts[49], cuts[98])


def middle(rounds: Sequence[Measured]) -> Measured:
    """The median of each figure."""
    return Measured(*map(statistics.median, zip(*rounds, strict=True)))


def trees(roots: Sequence[int]) -> set[int]:
    """The processes and all their descendants."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int(_stat(int(folder.name))[1])
            except OSError:  # it has ended
                continue
    found = set(roots)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def cpu_of_trees(roots: Sequence[int]) -> float:
    """Seconds of user and system time."""
    return sum(sum(map(int, _stat(pid)[11:13])) for pid in trees(roots)) / _TICKS if roots else 0.0


def memory_mb(pid: int) -> float:
    """Resident memory of one process."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def _stat(pid: int) -> list[str]:
    """Fields of procfs, from the state on."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
