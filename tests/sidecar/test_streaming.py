"""Bodies of any size, both ways: nothing piles up, and what is sent arrives."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import h11
import pytest

from tests.programs import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sidecar.conftest import Fleet, Visit

MIB = 1 << 20
SIZE = 64
"""MiB"""
BLOCK = bytes(range(256)) * (MIB // 256)
MOST_GROWTH = 16 * MIB
"""By which a sidecar's memory may grow: some buffers and its allocator's moods, far less than the body."""


class Memory(threading.Thread):
    """Watches the sidecar's resident memory; ``growth`` is the most it grew, in bytes."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__()
        assert fleet.sidecar.process is not None
        self._status = Path(f"/proc/{fleet.sidecar.process.pid}/statm")
        if not self._status.exists():
            pytest.skip("this system tells no process's memory")
        self._ended = threading.Event()
        self.growth = 0
        self._before = self._now()

    def _now(self) -> int:
        return int(self._status.read_text().split()[1]) * 4096

    def run(self) -> None:
        while not self._ended.wait(0.01):
            self.growth = max(self.growth, self._now() - self._before)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


@pytest.mark.parametrize("framing", [f"Content-Length: {SIZE * MIB}", "Transfer-Encoding: chunked"])
def test_a_large_upload_arrives_whole_and_is_not_held_in_memory(fleet: Fleet, framing: str) -> None:
    digest = hashlib.sha256()

    def taking(visit: Visit) -> None:
        visit.head()
        while isinstance(piece := visit.event(), h11.Data):
            digest.update(piece.data)
        assert isinstance(piece, h11.EndOfMessage)
        visit.send(fleet.upstream.saying(b"taken"))

    fleet.upstream.script = taking
    wire = fleet.dial().send(fleet.get("/", framing, method="POST"))
    with Memory(fleet) as memory:
        for _ in range(SIZE):
            wire.send(BLOCK if "Length" in framing else b"100000\r\n" + BLOCK + b"\r\n")
        if "chunked" in framing:
            wire.send(b"0\r\n\r\n")
        assert wire.answer().body == b"taken"
    assert digest.digest() == hashlib.sha256(BLOCK * SIZE).digest()
    assert memory.growth < MOST_GROWTH


@pytest.mark.parametrize(
    "framing", [f"Content-Length: {SIZE * MIB}", "Transfer-Encoding: chunked", "Connection: close"]
)
def test_a_large_download_arrives_whole_and_is_not_held_in_memory(fleet: Fleet, framing: str) -> None:
    def giving(visit: Visit) -> None:
        visit.request()
        visit.send(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode())
        for _ in range(SIZE):
            visit.send(b"100000\r\n" + BLOCK + b"\r\n" if "chunked" in framing else BLOCK)
        if "chunked" in framing:
            visit.send(b"0\r\n\r\n")

    fleet.upstream.script = giving
    digest = hashlib.sha256()
    with Memory(fleet) as memory:
        wire = fleet.dial().send(fleet.get("/"))
        assert wire.head().status == 200
        while piece := wire.piece():
            digest.update(piece)
    assert digest.digest() == hashlib.sha256(BLOCK * SIZE).digest()
    assert memory.growth < MOST_GROWTH


def test_a_client_that_does_not_read_stops_the_upstreams_writing(fleet: Fleet) -> None:
    written = [0]

    def giving(visit: Visit) -> None:
        visit.request()
        visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (SIZE * MIB))
        for _ in range(SIZE * 16):
            visit.send(BLOCK[: MIB // 16])
            written[0] += MIB // 16

    fleet.upstream.script = giving
    wire = fleet.dial().send(fleet.get("/"))
    with Memory(fleet) as memory:
        assert wire.head().status == 200
        assert _wait_until_it_stands_still(lambda: written[0]) < SIZE * MIB // 2
        assert memory.growth < MOST_GROWTH
        received = 0
        while piece := wire.piece():
            received += len(piece)
    assert received == SIZE * MIB


def test_an_upstream_that_does_not_read_stops_the_clients_writing(fleet: Fleet) -> None:
    read = threading.Event()

    def waiting(visit: Visit) -> None:
        visit.head()
        assert read.wait(60)
        while isinstance(visit.event(), h11.Data):
            pass
        visit.send(fleet.upstream.saying(b"taken"))

    fleet.upstream.script = waiting
    wire = fleet.dial().send(fleet.get("/", f"Content-Length: {SIZE * MIB}", method="POST"))
    written = [0]

    def write() -> None:
        for _ in range(SIZE * 16):
            wire.send(BLOCK[: MIB // 16])
            written[0] += MIB // 16

    writer = threading.Thread(target=write)
    writer.start()
    with Memory(fleet) as memory:
        assert _wait_until_it_stands_still(lambda: written[0]) < SIZE * MIB // 2
        read.set()
        writer.join()
        assert wire.answer().body == b"taken"
    assert memory.growth < MOST_GROWTH


def test_a_client_that_never_reads_is_given_up(impatient: Fleet) -> None:
    given_up = threading.Event()

    def giving(visit: Visit) -> None:
        visit.request()
        visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (SIZE * MIB))
        try:
            for _ in range(SIZE):
                visit.send(BLOCK)
        except OSError:
            given_up.set()

    impatient.upstream.script = giving
    impatient.dial().send(impatient.get("/"))
    assert given_up.wait(20)


def test_a_client_that_does_not_read_while_it_uploads_breaks_no_answer(start_fleet: Callable[..., Fleet]) -> None:
    fleet = start_fleet(AUTHIX_UPSTREAM_TIMEOUT="1")
    written = [0]

    def giving(visit: Visit) -> None:
        visit.head()
        visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (SIZE * MIB))
        for _ in range(SIZE * 16):
            visit.send(BLOCK[: MIB // 16])
            written[0] += MIB // 16
        while isinstance(visit.event(), h11.Data):
            pass

    fleet.upstream.script = giving
    wire = fleet.dial().send(fleet.get("/", "Content-Length: 10", method="POST") + b"hello")
    assert wire.head("POST").status == 200
    assert _wait_until_it_stands_still(lambda: written[0]) < SIZE * MIB // 2
    for more in (b"am", b"id "):
        wire.send(more)
        time.sleep(2)  # longer than an upstream may be silent
    received = 0
    while piece := wire.piece():
        received += len(piece)
    assert received == SIZE * MIB


def test_events_arrive_as_they_are_sent_and_silence_between_them_is_no_fault(impatient: Fleet) -> None:
    said = threading.Semaphore(0)

    def saying(visit: Visit) -> None:
        visit.request()
        visit.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n")
        while said.acquire(timeout=20):
            visit.send(b"data: event\n\n")

    impatient.upstream.script = saying
    wire = impatient.dial().send(impatient.get("/events"))
    assert wire.head().values("content-type") == ["text/event-stream; charset=utf-8"]
    for _ in range(3):
        said.release()
        assert wire.piece() == b"data: event\n\n"
    wire.socket.settimeout(2.5)  # longer than an answer of another kind may be silent
    with pytest.raises(TimeoutError):
        wire.piece()
    said.release()
    assert wire.piece() == b"data: event\n\n"


def test_an_event_streams_client_that_goes_away_ends_it_though_nothing_is_said(fleet: Fleet) -> None:
    ended = threading.Event()

    def silent(visit: Visit) -> None:
        visit.request()
        visit.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        assert visit.recv() == b""
        ended.set()

    fleet.upstream.script = silent
    wire = fleet.dial().send(fleet.get("/events"))
    assert wire.head().status == 200
    wire.close()
    assert ended.wait(20)


def test_a_client_that_pipelines_and_does_not_read_is_not_answered_into_memory(fleet: Fleet) -> None:
    fleet.upstream.answer = lambda request: fleet.upstream.saying(request.target.encode() + BLOCK[: MIB // 8])
    count = SIZE * 8
    wire = fleet.dial().send(b"".join(fleet.get(f"/{number:03}") for number in range(count)))
    with Memory(fleet) as memory:
        assert 0 < _wait_until_it_stands_still(lambda: len(fleet.upstream.requests)) < count // 2
        assert [wire.answer().body[:4] for _ in range(count)] == [f"/{number:03}".encode() for number in range(count)]
    assert memory.growth < MOST_GROWTH


def _wait_until_it_stands_still(count: Callable[[], int]) -> int:
    last, since = -1, 0

    def stands_still() -> bool:
        nonlocal last, since
        now = count()
        since = since + 1 if now == last else 0
        last = now
        return since >= 30  # looks, 10 ms apart

    eventually(stands_still, "it goes on no more")
    return last
