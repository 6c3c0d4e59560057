"""A client's connection, on the proxy port and on the auth port alike.

Rule: requests are read strictly and one at a time; bytes behind the one being answered wait unread. A request's first
piece of body is read before anything is begun, so that what is malformed in the first packet reaches nobody. After a
refused reading the connection ends, gently: the answer goes out, then a bounded amount is read and dropped, because
closing over unread bytes would take the answer back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from enum import Enum, auto
from math import inf
from time import monotonic
from typing import cast

from authix.errors import AuthixError
from authix.request_ids import HEADER, new_id
from authix_sidecar.decide import ALLOWED
from authix_sidecar.errors import RequestRefused, RequestTooSlow, SidecarError, refusal_of
from authix_sidecar.exchanges import Exchange
from authix_sidecar.half_close import write_end
from authix_sidecar.ports import Ended, Port
from authix_sidecar.request_reader import RequestReader
from authix_sidecar.requests import RequestHead
from authix_sidecar.rewrite import whole_answer
from authix_sidecar.taking import limit_unsent, taken_of

# Times in seconds
HEAD_TIME = 10.0
"""From a head's first byte to its last, however it trickles; also from connecting to the first head."""
IDLE_TIME = 75.0
"""Between two requests."""
BODY_TIME = 30.0
"""Between two pieces of a body, and for a body without a byte."""
BODY_RATE = 500.0
"""Bytes a second that a body must bring on average beyond that; time for which we did not read does not count."""
SEND_TIME = 60.0
"""Between two looks at whether a client takes what is already waiting for it."""
SEND_RATE = 500.0
"""Bytes a second that it must take of that; what its system acknowledges, it has taken."""
LAST_CALL = 1.5
"""Of silence, before a connection is closed because the program ends: its client may be sending the next request. Not
whole seconds, since many clients ask by those."""
LINGER_TIME = 2.0
"""For a client to notice that the connection has ended."""
LINGER_BYTES = 1024 * 1024
DISCARDABLE = 64 * 1024
"""Rest of a body nobody wants that is read and dropped to keep the connection, in bytes."""

CLIENT_GONE = "client_gone"
CLIENT_TOO_SLOW = "client_too_slow"
CLIENT_CLOSED = 499
"""Logged when the client went away before its answer began, as nginx does."""

_CONTINUE = b"HTTP/1.1 100 "


class _State(Enum):
    HEAD = auto()
    """Waiting for a request, or amid its head."""
    BODY = auto()
    """The request is being answered and its body is still coming."""
    ANSWER = auto()
    """The request is here whole and is being answered."""
    DISCARD = auto()
    """It is answered; the rest of its body is dropped."""
    TUNNEL = auto()
    """Bytes are passed both ways, unread."""
    ENDING = auto()
    """Nothing more is answered; what comes is dropped until the client closes."""


class ClientConnection(asyncio.Protocol):
    """Reads requests and writes what it is given."""

    def __init__(self, port: Port[ClientConnection]) -> None:
        self.request: RequestHead | None = None
        self.status = 0
        """The answer's status once it has begun."""
        self.code = ""
        """Why the request ended otherwise than by being allowed and answered."""
        self.request_id = b""
        """What the request is called in all logs; there from its beginning on."""
        self.deadline = inf
        self.peer = b""
        self.scheme = b"http"
        self._port = port
        self._state = _State.HEAD
        self._exchange: Exchange | None = None
        self._reader = RequestReader()
        self._advancing = False
        self._begun = False
        self._started = 0.0
        self._waited = 0.0
        self._idle_since = 0.0
        self._keep = False
        self._last = False
        self._held = False
        self._body_until = 0.0
        self._waits = False
        """Whether the client waits to be told to send its body."""
        self._body_left = 0.0
        self._slow = False
        self._taken = 0
        self._looked_at = 0.0
        self._reading = True
        self._ended = False
        self._lingered = 0

    # --- what the exchange calls

    @property
    def body_complete(self) -> bool:
        return self._reader.complete

    @property
    def draining(self) -> bool:
        """Whether the program wants to end."""
        return self._port.draining

    def attend(self, exchange: Exchange) -> None:
        """Tell ``exchange`` what happens to this client until ``finish``."""
        self._exchange = exchange

    def hold(self) -> None:
        """Read no more for now."""
        if not self._held:
            self._held = True
            self._body_left = self._body_until - monotonic()
        self._restart_clock()
        self._update_reading()

    def release(self) -> None:
        if self._held:
            self._held = False
            self._body_until = monotonic() + self._body_left
            self._restart_clock()
            self._update_reading()

    def begin_answer(self, status: int) -> None:
        """The answer's head is about to be written."""
        self.status = status
        self._waited = monotonic() - self._started

    def keep_alive(self, *, possible: bool = True) -> bool:
        """Decide whether the connection goes on after this answer, whose head is about to be written."""
        request, left = self.request, self._reader.left
        self._keep = (
            possible
            and request is not None
            and request.keep_alive
            and not self._last
            and not self._port.draining
            and left is not None
            and (left == 0 or (left <= DISCARDABLE and not request.expects_continue))
        )
        return self._keep

    def send(self, data: bytes) -> None:
        self._transport.write(data)
        if self._waits:  # while answers of another kind go on to it, it need not send any
            self._waits = not data.startswith(_CONTINUE)
            self._body_left = BODY_TIME
            self._body_until = monotonic() + BODY_TIME
            self._restart_clock()

    def finish(self) -> None:
        """The answer is complete."""
        now = monotonic()
        self._report(ALLOWED, now)
        self._held = False
        if not self._keep or self._ended:
            self._end_gently()
            return
        if self._reader.complete:
            self._await_request(now)
        else:
            self._state = _State.DISCARD
            self._restart_clock()
        self._advance()

    def answer(self, status: int, headers: Iterable[tuple[str, str]], body: bytes, code: str) -> None:
        """Answer the whole request at once."""
        self.begin_answer(status)
        self.code = code
        self.send(whole_answer(status, headers, body, request=self.request, keep_alive=self.keep_alive()))
        self.finish()

    def refuse(self, error: AuthixError | SidecarError) -> None:
        status, headers, body = refusal_of(error)
        if not self.request_id:  # it could not be read
            self.request_id = new_id().encode()
        self.answer(status, (*headers, (HEADER, self.request_id.decode("ascii"))), body, error.code)

    def start_tunnel(self) -> bytes:
        """From now on bytes are passed on unread; returns those that came early."""
        self._state = _State.TUNNEL
        early = self._reader.take()
        self._restart_clock()
        self._update_reading()
        return early

    def send_end(self) -> None:
        """Nothing more will be sent; the other direction goes on, except over TLS, which has no half."""
        write_end(self._transport)

    @property
    def behind(self) -> bool:
        """Whether something still waits to be sent."""
        return self._transport.get_write_buffer_size() > 0

    def end_tunnel(self, farewell: bytes) -> None:
        """Send a last word; what still comes is dropped."""
        self.send(farewell)
        self._exchange_ends()
        self._end_gently()

    def break_off(self) -> None:
        """Close after what was sent, in the middle of the answer."""
        self._exchange_ends()
        self._begin_ending()
        self._transport.close()

    def abort(self) -> None:
        """Close now, whatever waits to be sent."""
        self._exchange_ends()
        self._state = _State.ENDING
        self._transport.abort()

    # --- what the port calls

    def expire(self) -> None:
        """The deadline has passed."""
        if self._idle:
            self._transport.close()
        elif (self._slow or self._state is _State.ENDING) and self._takes:
            self._await_taking()
        elif self._slow or self._state in {_State.ENDING, _State.DISCARD}:
            if self._slow:
                self.code = CLIENT_TOO_SLOW
            self.abort()
        elif self._state in {_State.HEAD, _State.BODY}:
            self._refuse_reading(RequestTooSlow("the request did not arrive in time"))

    def drain(self) -> None:
        if self._exchange is not None:
            self._exchange.drain()
        elif self._idle:
            self.deadline = min(self.deadline, self._idle_since + LAST_CALL)

    # --- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self.peer = str(peer[0]).partition("%")[0].encode("ascii") if peer else b"unknown"
        if transport.get_extra_info("sslcontext") is not None:
            self.scheme = b"https"
        limit_unsent(transport)
        self._idle_since = monotonic()
        self.deadline = self._idle_since + HEAD_TIME
        self._port.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._state is _State.TUNNEL:
            if self._exchange is not None:
                self._exchange.tunnelled(data)
        elif self._state is _State.ENDING:
            self._lingered += len(data)
            if self._lingered > LINGER_BYTES:
                self.abort()
        else:
            self._reader.feed(data)
            self._advance()

    def eof_received(self) -> bool:
        self._ended = True
        if self._state is _State.TUNNEL or (self._state is _State.ANSWER and self._exchange is not None):
            goes_on = self._exchange is not None and self._exchange.client_ended()
            return goes_on and self._transport.can_write_eof()  # over TLS the connection has ended whatever is said
        return False

    def pause_writing(self) -> None:
        self._slow = True
        self._restart_clock()
        if self._exchange is not None:
            self._exchange.client_slow()

    def resume_writing(self) -> None:
        self._slow = False
        self._restart_clock()
        if self._exchange is not None:
            self._exchange.client_ready()
        else:
            self._advance()

    def connection_lost(self, _: Exception | None) -> None:
        self._port.connections.discard(self)
        self._state = _State.ENDING
        self._exchange_ends()

    # --- reading

    def _advance(self) -> None:
        """Read on as far as the bytes and the state allow."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._reader.waiting and self._step():
                pass
        except RequestRefused as error:
            self._refuse_reading(error)
        finally:
            self._advancing = False
        self._update_reading()

    def _step(self) -> bool:
        if self._state is _State.HEAD:
            return not self._slow and self._read_head()
        if self._state is _State.BODY:
            self._read_body()
            return True
        if self._state is _State.DISCARD:
            self._reader.content()
            if self._reader.complete:
                self._await_request(monotonic())
            return True
        return False

    def _read_head(self) -> bool:
        if not self._begun:
            self._begun = True
            self._started = monotonic()
        request = self._reader.head()
        if request is None:
            self.deadline = min(self.deadline, self._started + HEAD_TIME)
            return False
        self._begun = False
        self.request = request
        self.request_id = request.request_id or new_id().encode()
        self._state = _State.BODY
        self._waits = request.expects_continue and not self._reader.waiting
        content = self._reader.content()
        if self._reader.complete:
            self._state = _State.ANSWER
            self.deadline = inf
        else:
            # how long it has to wait is the upstream's doing, which has a time of its own
            self._body_until = inf if self._waits else monotonic() + BODY_TIME
            self._restart_clock()
        self._port.begin(self, request, content)
        return True

    def _read_body(self) -> None:
        exchange = self._exchange
        self._waits = False
        content = self._reader.content()
        self._body_until = min(monotonic() + BODY_TIME, self._body_until + len(content) / BODY_RATE)
        if self._reader.complete:
            self._state = _State.ANSWER
        self._restart_clock()
        if exchange is not None and content:
            exchange.body(content)
        # the exchange may have ended over that piece
        if exchange is not None and self._exchange is exchange and self._reader.complete:
            exchange.body_end()

    def _refuse_reading(self, error: RequestRefused) -> None:
        if self._state is _State.DISCARD:
            self.abort()
        elif self.status:
            self.code = error.code
            self.abort()
        else:
            exchange, self._exchange = self._exchange, None
            if exchange is not None:
                exchange.client_lost()
            self._last = True
            self.refuse(error)

    def _await_request(self, now: float) -> None:
        self._state = _State.HEAD
        self._idle_since = now
        if self._slow:
            self._await_taking()
        else:
            self.deadline = now + self._idle_time

    def _restart_clock(self) -> None:
        if self._state is _State.ENDING or (self._state is _State.HEAD and not self._slow and self._begun):
            return
        if self._slow:
            self._await_taking()
        elif self._state is _State.HEAD:
            self.deadline = monotonic() + self._idle_time
        elif self._state is _State.DISCARD:
            self.deadline = monotonic() + BODY_TIME
        elif self._state is _State.BODY and not self._held:
            self.deadline = self._body_until
        else:
            self.deadline = inf

    def _await_taking(self) -> None:
        """Give the client time to take some of what waits for it."""
        self._taken, _ = taken_of(self._transport)
        self._looked_at = monotonic()
        self.deadline = self._looked_at + SEND_TIME

    @property
    def _takes(self) -> bool:
        """Whether something still waits for the client and it has taken enough of it since the last look."""
        taken, left = taken_of(self._transport)
        return left and taken - self._taken >= SEND_RATE * (monotonic() - self._looked_at)

    def _update_reading(self) -> None:
        waiting = self._reader.waiting and (self._state is _State.ANSWER or (self._state is _State.HEAD and self._slow))
        reading = not self._held and not waiting
        if reading != self._reading:
            self._reading = reading
            if reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # --- ending

    @property
    def _idle(self) -> bool:
        return self._state is _State.HEAD and not self._reader.waiting and not self._slow

    @property
    def _idle_time(self) -> float:
        return LAST_CALL if self._port.draining else IDLE_TIME

    def _end_gently(self) -> None:
        self._begin_ending()
        self._reader.take()
        self._held = False
        if self._ended or not self._transport.can_write_eof():
            self._transport.close()
        elif not self._transport.is_closing():
            write_end(self._transport)
            self._update_reading()

    def _begin_ending(self) -> None:
        self._state = _State.ENDING
        if self.behind:
            self._await_taking()
        else:
            self._looked_at = inf  # so soon after, all that counts is whether anything is left
            self.deadline = monotonic() + LINGER_TIME

    def _exchange_ends(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_lost()
            self._report(CLIENT_GONE, monotonic())

    def _report(self, code: str, now: float) -> None:
        seconds = now - self._started
        name = self.request_id.decode("ascii")
        waited = self._waited if self.status else seconds
        self._port.report(Ended(self.request, self.status or CLIENT_CLOSED, waited, seconds, self.code or code, name))
        self._exchange, self.request, self.status, self.code, self.request_id = None, None, 0, "", b""
