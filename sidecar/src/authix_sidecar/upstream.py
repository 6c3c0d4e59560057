"""The connections to the upstream, and the pool of those that wait for the next request.

Rule: a connection carries one request at a time. It goes back to the pool only when both messages are complete, nothing
came behind the answer, and the upstream keeps it open; anything else ends it, so no answer can reach the wrong request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from time import monotonic
from typing import Protocol, cast

import httptools

from authix_sidecar.answers import AnswerHead, read_answer
from authix_sidecar.errors import UpstreamBroken, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from authix_sidecar.fields import Field

# Times in seconds
CONNECT_TIME = 5.0
ANSWER_TIME = 60.0
"""From the last byte of the request to the answer's head, and between two pieces of the answer."""
POOL_TIME = 4.0
"""In the pool. Shorter than the keep-alive time of common servers (5 s), so that few connections go stale in it."""
MAX_IDLE = 256
MAX_HEAD = 64 * 1024


class Receiver(Protocol):
    """Whoever waits for an answer."""

    def interim(self, status: int, found: list[Field]) -> None:
        """An answer of class 1xx, before the real one."""

    def answer(self, head: AnswerHead, content: list[bytes], *, complete: bool) -> None:
        """The answer's head, with what is here of its body."""

    def answer_more(self, content: list[bytes], *, complete: bool) -> None:
        """More of the answer's body."""

    def upgraded(self, head: AnswerHead, behind: bytes) -> None:
        """The upstream switches protocols; ``behind`` came after the head. From now on bytes are passed unread."""

    def tunnelled_back(self, data: bytes) -> None:
        """Bytes from the upstream, since it switched protocols."""

    def upstream_ended(self) -> None:
        """The upstream will send no more through the tunnel."""

    def upstream_slow(self) -> None:
        """Too much is waiting to be sent to the upstream."""

    def upstream_ready(self) -> None:
        """The upstream has taken what was waiting."""

    def upstream_lost(self, error: UpstreamError, *, stale: bool) -> None:
        """There will be no answer, or no more of it. ``stale``: the connection may have died before the request."""


class UpstreamConnection(asyncio.Protocol):
    """Sends requests and reads answers."""

    def __init__(self, pool: Pool) -> None:
        self.deadline = inf
        self.reused = False
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._receiver: Receiver | None = None
        self._reading = True
        self._prepare(b"", b"")

    def _prepare(self, method: bytes, asked: bytes) -> None:
        self._method = method
        self._asked = asked
        self._patience = ANSWER_TIME
        self._tunnel = False
        self._head: AnswerHead | None = None
        self._head_bytes = 0
        self._read_head = False
        self._reason = b""
        self._fields: list[Field] = []
        self._content: list[bytes] = []
        self._interims: list[tuple[int, list[Field]]] = []
        self._in_interim = False
        self._keep_alive = False
        self._complete = False
        self._surplus = False

    # --- what the exchange calls

    @property
    def closing(self) -> bool:
        return self._transport.is_closing()

    def begin(self, receiver: Receiver, data: bytes, *, method: bytes, asked: bytes) -> None:
        """Send a request's head and what is here of its body; ``asked`` are the protocols it would upgrade to."""
        if self._method == b"HEAD":
            self._parser = httptools.HttpResponseParser(self)  # the old one still waits for the body
        self._prepare(method, asked)
        self._receiver = receiver
        self.write(data)

    def write(self, data: bytes) -> None:
        self.deadline = monotonic() + self._patience
        self._transport.write(data)

    def write_end(self) -> None:
        """Nothing more will be sent; the other direction goes on."""
        self._transport.write_eof()

    def pause(self) -> None:
        if self._reading:
            self._reading = False
            self.deadline = inf
            self._transport.pause_reading()

    def resume(self) -> None:
        if not self._reading:
            self._reading = True
            self.deadline = monotonic() + self._patience
            self._transport.resume_reading()

    def be_patient(self) -> None:
        """The answer may be silent for as long as it likes."""
        self._patience = self.deadline = inf

    def leave(self, *, done: bool) -> None:
        """Whatever comes is of no interest any more; ``done``: request and answer are complete."""
        self._receiver = None
        if done and self._keep_alive and not self._surplus and not self.closing and not self._tunnel:
            self.resume()
            self.reused = True
            self.deadline = monotonic() + POOL_TIME
            self._pool.put(self)
        else:
            self.deadline = monotonic() + ANSWER_TIME  # for what was already given to it
            self._transport.close()

    def abort(self) -> None:
        """End now, whatever waits to be sent."""
        self._receiver = None
        self._transport.abort()

    def expire(self) -> None:
        """The deadline has passed."""
        if self._receiver is None:
            self.abort()
        else:
            self._fail(UpstreamTimeout("the upstream did not answer in time"))

    # --- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._pool.connections.add(self)

    def data_received(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None:
            self._transport.abort()  # nobody asked
            return
        self.deadline = monotonic() + self._patience
        if self._tunnel:
            receiver.tunnelled_back(data)
            return
        if self._head is None:
            self._head_bytes += len(data)
        behind = b""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            behind = data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            if not self._complete:
                self._fail(UpstreamBroken(f"the upstream's answer is not HTTP/1.1: {error}"))
                return
            self._surplus = True
        self._deliver(receiver, behind)

    def eof_received(self) -> bool:
        receiver = self._receiver
        if receiver is not None and self._tunnel:
            receiver.upstream_ended()
            return True
        if receiver is not None and self._head is not None and self._head.until_close:
            self._surplus = True
            receiver.answer_more([], complete=True)
        return False

    def pause_writing(self) -> None:
        if self._receiver is not None:
            self._receiver.upstream_slow()

    def resume_writing(self) -> None:
        if self._receiver is not None:
            self._receiver.upstream_ready()

    def connection_lost(self, _: Exception | None) -> None:
        self._pool.connections.discard(self)
        self._fail(UpstreamBroken("the upstream closed the connection before its answer was complete"))

    # --- what llhttp calls

    def on_message_begin(self) -> None:
        if self._complete:
            self._surplus = True

    def on_status(self, reason: bytes) -> None:
        if not self._complete:
            self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        # once the head has been read, these are trailers: dropped
        if not self._read_head:
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        status = self._parser.get_status_code()
        if status < 200 and status != 101:
            self._interims.append((status, self._fields))
            self._reason, self._fields, self._in_interim = b"", [], True
            return
        self._read_head = True
        self._status = status
        self._keep_alive = self._parser.should_keep_alive()
        self._complete = self._method == b"HEAD"

    def on_body(self, data: bytes) -> None:
        if self._complete:
            self._surplus = True
        else:
            self._content.append(data)

    def on_message_complete(self) -> None:
        if self._in_interim:
            self._in_interim = False
        else:
            self._complete = True

    # --- telling the receiver, after llhttp has had its bytes: what it calls must not begin the next request inside it

    def _deliver(self, receiver: Receiver, behind: bytes) -> None:
        if self._head is None:
            interims, self._interims = self._interims, []
            for status, found in interims:
                receiver.interim(status, found)
            if not self._read_head:
                if self._head_bytes > MAX_HEAD:
                    self._fail(UpstreamBroken(f"the upstream's answer has a head longer than {MAX_HEAD} bytes"))
                return
            try:
                head = self._head = read_answer(
                    status=self._status,
                    reason=self._reason,
                    found=self._fields,
                    method=self._method,
                    asked=self._asked,
                )
            except UpstreamBroken as error:
                self._fail(error)
                return
            if head.upgrade:
                self._tunnel = True
                self.be_patient()
                receiver.upgraded(head, behind)
                return
            content, self._content = self._content, []
            receiver.answer(head, content, complete=self._complete)
        else:
            content, self._content = self._content, []
            receiver.answer_more(content, complete=self._complete)

    def _fail(self, error: UpstreamError) -> None:
        receiver, self._receiver = self._receiver, None
        self._transport.abort()
        if receiver is not None:
            receiver.upstream_lost(error, stale=self.reused and not self._head_bytes)


class Pool:
    """Connections to one upstream."""

    def __init__(self, host: str, port: int) -> None:
        self.connections: set[UpstreamConnection] = set()
        """All of them, at work or waiting."""
        self._host = host
        self._port = port
        self._idle: deque[UpstreamConnection] = deque(maxlen=MAX_IDLE)

    def take(self) -> UpstreamConnection | None:
        """A connection that waits, the last one used first."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closing:
                return connection
        return None

    def put(self, connection: UpstreamConnection) -> None:
        if len(self._idle) == MAX_IDLE:
            self._idle.popleft().abort()
        self._idle.append(connection)

    async def connect(self) -> UpstreamConnection:
        """A new connection. Raises ``UpstreamUnreachable``."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIME):
                _, protocol = await loop.create_connection(lambda: UpstreamConnection(self), self._host, self._port)
        except TimeoutError:
            raise UpstreamUnreachable("the upstream did not take the connection in time") from None
        except OSError as error:
            raise UpstreamUnreachable(f"the upstream can't be reached ({type(error).__name__})") from None
        return protocol

    def sweep(self, now: float) -> None:
        """End what is past its deadline; ``now`` on the monotonic clock."""
        for connection in tuple(self.connections):
            if connection.deadline < now:
                connection.expire()

    def close(self) -> None:
        for connection in tuple(self.connections):
            connection.abort()
