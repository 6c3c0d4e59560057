"""What goes upstream is read by h11, a strict reader that is not ours, as what the client sent by h11's own reading.

Rule: the data plane is the real one from the client's bytes to the upstream's; only the sockets are missing. Requests
are made well and then damaged, because noise alone never gets past the first line.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authix import Authix
from authix_sidecar.decide import NOTHING
from authix_sidecar.downstream import ClientConnection
from authix_sidecar.judged import Judge
from authix_sidecar.metrics import Metrics
from authix_sidecar.origins import origins
from authix_sidecar.pool import Pool
from authix_sidecar.ports import Port
from authix_sidecar.proxy import Proxy
from authix_sidecar.settings import SidecarSettings
from authix_sidecar.upstream import Patience, UpstreamConnection

PATIENCE = Patience(answer=60, total=60)
SETTINGS = SidecarSettings(issuer="http://127.0.0.1:1", audience="tests", upstream=origins("http://127.0.0.1:2"))
AUTH = Authix(settings=SETTINGS)  # never asked: every path is public
METRICS = Metrics()
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@dataclass
class Message:
    """A request as h11 read it, as far as it came."""

    method: bytes
    target: bytes
    body: bytes = b""
    complete: bool = False


def next_message(wire: bytes) -> tuple[Message | None, bytes]:
    """The request that ``wire`` begins with, and what lies behind it; None when there is no head that can be read."""
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(wire)
    message = None
    try:
        event = reader.next_event()
        if not isinstance(event, h11.Request):
            return None, wire
        message = Message(event.method, event.target)
        while isinstance(event := reader.next_event(), h11.Data):
            message.body += event.data
    except h11.RemoteProtocolError:
        return message, b""
    message.complete = isinstance(event, h11.EndOfMessage)
    return message, reader.trailing_data[0]


def messages(wire: bytes) -> list[Message]:
    """The requests in ``wire`` up to the first that is incomplete or can't be read."""
    found = []
    while wire:
        message, wire = next_message(wire)
        if message is None:
            break
        found.append(message)
        if not message.complete:
            break
    return found


class Pipe(asyncio.Transport):
    """One end of a connection; what it is given goes to ``taken``, and its end is told later, as by a loop."""

    def __init__(self, later: list[Callable[[], None]], ended: Callable[[], None]) -> None:
        super().__init__()
        self.taken = bytearray()
        self.reading = True
        self._closing = False
        self._later = later
        self._ended = ended

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing:
            self.taken += data

    def write_eof(self) -> None:
        pass

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._later.append(self._ended)

    abort = close


class Service(Pipe):
    """The upstream's end of a connection: h11 reads every byte, and each request is answered."""

    def __init__(self, harness: Harness) -> None:
        super().__init__(harness.later, lambda: self.connection.connection_lost(None))
        self.connection = UpstreamConnection(harness.pool._servers[0], PATIENCE)
        self.connection.connection_made(self)
        self._harness = harness
        self._message: Message | None = None
        self._place = 0
        self._answered = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        super().write(data)
        if self._closing or not data:
            return
        message, behind = next_message(bytes(self.taken))
        assert message is not None, f"h11 can't read {bytes(self.taken)!r}"
        assert behind == b""
        if self._message is None:
            self._place = len(self._harness.forwarded)
            self._harness.forwarded.append(message)
        else:
            assert not self._message.complete, "a second request before the answer"
            self._harness.forwarded[self._place] = message
        self._message = message
        if not self._answered and (message.complete or self._harness.hasty):
            self._answered = True
            self._harness.later.append(self._answer)

    def _answer(self) -> None:
        if self._closing:
            return
        self._answered, self._message = False, None
        self.taken.clear()
        self.connection.data_received(ANSWER)


class Services(Pool):
    """Connects to ``Service``."""

    harness: Harness

    def take(self) -> UpstreamConnection:
        return super().take() or Service(self.harness).connection


class Harness:
    """A client's connection and all behind it. A ``hasty`` upstream answers before it has the body."""

    def __init__(self, *, hasty: bool) -> None:
        self.hasty = hasty
        self.later: list[Callable[[], None]] = []
        self.forwarded: list[Message] = []
        self.pool = Services(SETTINGS.upstream, PATIENCE)
        self.pool.harness = self
        proxy = Proxy(
            Judge(AUTH, METRICS, lambda _: NOTHING), self.pool, AUTH.streams, upstream=SETTINGS.upstream[0].authority
        )
        port: Port[ClientConnection] = Port(begin=proxy.begin, report=lambda *_: None)
        self._client = ClientConnection(port)
        self._pipe = Pipe(self.later, lambda: self._client.connection_lost(None))
        self._client.connection_made(self._pipe)

    def send(self, pieces: list[bytes]) -> list[int]:
        """The statuses of the answers."""
        for piece in pieces:
            if self._pipe.is_closing() or not self._pipe.reading:
                break
            self._client.data_received(piece)
            while self.later:
                self.later.pop(0)()
        return [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", bytes(self._pipe.taken))]


class Made(NamedTuple):
    """A request as it should be."""

    wire: bytes
    message: Message
    goes_on: bool
    """Whether the connection does."""


@st.composite
def requests(draw: st.DrawFn) -> Made:
    method = draw(st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"PATCH", b"OPTIONS"]))
    target = draw(st.sampled_from([b"/", b"/a/b?x=1&y", b"/caf%C3%A9", b"/a?b=%2F/../", b"/" + b"a" * 300]))
    extra = draw(st.sampled_from([b"", b"", b"X: y\r\n", b"Expect: 100-continue\r\n", b"Connection: X\r\nX: y\r\n"]))
    extra += draw(st.sampled_from([b"", b"", b"", b"Content_Length: 9\r\nX-Forwarded-For: h\r\n", b"TE: chunked\r\n"]))
    goes_on = draw(st.sampled_from([True, True, True, False]))
    body = draw(
        st.sampled_from([b"", b"hello", HIDDEN, b"0\r\n\r\n", b"\r\n", b"5\r\nhello\r\n"]) | st.binary(max_size=40)
    )
    framing = draw(st.sampled_from([b"length", b"chunked", b"none"]))
    if framing == b"chunked":
        size = draw(st.integers(1, 20))
        chunks = [body[at : at + size] for at in range(0, len(body), size)]
        form = draw(st.sampled_from([b"%x", b"%X", b"0%x"]))
        wire = b"".join(form % len(chunk) + b"\r\n" + chunk + b"\r\n" for chunk in chunks)
        wire += draw(st.sampled_from([b"0\r\n\r\n", b"00\r\n\r\n", b"0\r\nT: y\r\n\r\n"]))
        extra += b"Transfer-Encoding: chunked\r\n"
    else:
        wire = body = body if framing == b"length" else b""
        extra += b"Content-Length: %d\r\n" % len(body) if framing == b"length" else b""
    extra += b"" if goes_on else b"Connection: close\r\n"
    head = b"%b %b HTTP/1.1\r\nHost: a:80\r\n%b\r\n" % (method, target, extra)
    return Made(head + wire, Message(method, target, body, complete=True), goes_on)


FRAMINGS = [b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n"]
LINES = [
    *(b"Transfer-Encoding : chunked\r\n", b"Transfer-Encoding:\r\n chunked\r\n", b"Connection: close\r\n"),
    *(b"Connection: content-length, host\r\n", b"Connection: upgrade\r\n", b"Upgrade: websocket\r\n", b"Host: h\r\n"),
    *(b"\r\n", HIDDEN, b"\r\n" + HIDDEN, b"0\r\n\r\n", b"5;x=y\r\n", b"ffffffffffffffff\r\n", b" "),
]
BYTES = [b";x", b";", b" ", b"\t", b"\x00", b"\x0b", b"0", b"5", b",", b":", b"\x85", b", chunked", b"\r"]
ENDS = [b"\n", b"\r", b"", b"xx", b"\r\r", b"\n\n", b"\n\r", b"\r\n\r\n", b"\r\n "]
HOWS = {"framing": FRAMINGS, "line": LINES, "behind": BYTES, "end": ENDS, "byte": BYTES + LINES}
CHANGES = st.lists(
    st.sampled_from([*HOWS, "framing", "end", "delete", "flip", "repeat"]).flatmap(
        lambda how: st.tuples(
            st.just(how),
            st.integers(0, 2000),
            st.sampled_from(HOWS.get(how, [b""])),
            st.integers(1, 30),
        )
    ),
    max_size=2,  # with more, a request is refused for something duller
)


def changed(wire: bytes, changes: list[tuple[str, int, bytes, int]]) -> bytes:
    for how, place, trick, count in changes:
        ends = [found.start() for found in re.finditer(rb"\r\n", wire)] or [0]
        end, at = ends[place % len(ends)], place % (len(wire) + 1)
        match how:
            case "framing" | "line":
                wire = wire[: end + 2] + trick + wire[end + 2 :]
            case "behind":
                wire = wire[:end] + trick + wire[end:]
            case "end":
                wire = wire[:end] + trick + wire[end + 2 :]
            case "byte":
                wire = wire[:at] + trick + wire[at + count % 3 :]
            case "delete":
                wire = wire[:at] + wire[at + count :]
            case "flip":
                wire = wire[:at] + bytes(byte ^ (1 << count % 8) for byte in wire[at : at + 1]) + wire[at + 1 :]
            case "repeat":
                wire = wire[: at + count] + wire[at:]
    return wire


def split(wire: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({0, len(wire), *(place % (len(wire) + 1) for place in places)})
    return [wire[begin:end] for begin, end in pairwise(ends)]


def check(made: list[Made], changes: list[tuple[str, int, bytes, int]], places: list[int], *, hasty: bool) -> None:
    wire = changed(b"".join(request.wire for request in made), changes)
    harness = Harness(hasty=hasty)
    statuses = harness.send(split(wire, places))
    forwarded, reference = harness.forwarded, messages(wire)
    assert len(forwarded) <= len(reference)
    for ours, theirs in zip(forwarded, reference, strict=False):
        assert (ours.method, ours.target) == (theirs.method, theirs.target)
        if ours.complete:
            assert (ours.body, True) == (theirs.body, theirs.complete)
        else:
            assert theirs.body.startswith(ours.body)
    passed = [status for status in statuses if status == 200]
    refused = statuses[len(passed) :]
    assert statuses == passed + refused  # a refusal is the last word
    assert len(refused) <= 1
    if hasty:
        assert len(passed) == len(forwarded)
    else:
        assert [message.complete for message in forwarded] == [True] * len(passed) + [False] * (
            len(forwarded) - len(passed)
        )
        assert len(forwarded) - len(passed) <= 1
    if not changes:
        last = next((at for at, request in enumerate(made) if not request.goes_on), len(made))
        sent = [request.message for request in made[: last + 1]]
        if hasty:
            sent = sent[: len(forwarded)]  # what expects a 100 may end by the answer
            assert [(each.method, each.target) for each in forwarded] == [(each.method, each.target) for each in sent]
            assert forwarded
        else:
            assert forwarded == sent


TIMES = st.integers(3, 5)
EXAMPLES = given(
    # also the same again and again, of which the changes make almost the same
    made=st.lists(requests(), min_size=1, max_size=4) | st.builds(lambda one, times: [one] * times, requests(), TIMES),
    changes=CHANGES,
    places=st.lists(st.integers(0, 2000), max_size=5),
    hasty=st.booleans(),
)


@settings(max_examples=300)
@EXAMPLES
def test_what_is_forwarded_is_exactly_what_a_strict_reader_reads(
    made: list[Made], changes: list[tuple[str, int, bytes, int]], places: list[int], *, hasty: bool
) -> None:
    check(made, changes, places, hasty=hasty)


@pytest.mark.soak
@settings(max_examples=50_000, suppress_health_check=list(HealthCheck))
@EXAMPLES
def test_what_is_forwarded_is_what_a_strict_reader_reads_over_a_long_search(
    made: list[Made], changes: list[tuple[str, int, bytes, int]], places: list[int], *, hasty: bool
) -> None:
    check(made, changes, places, hasty=hasty)
