"""Clients that take their time.

Rule: a request must be there as a whole within the request time-out, counted from its first byte. Sanic counts from the
last byte, so a client that sends one now and then would hold its connection as long as it likes; and while a body comes
in it waits as long as for an answer. A request that is not there in time is answered 408 where an answer is possible.

At the end a connection between two requests is closed, but not before it was silent for a moment: the next request, or
the first of a new connection, may be on its way, and a client does not send it again by itself. It is answered, and the
answer says that it was the last.

What ``known_requests`` can answer is not read at all, but only where nothing else is under way on its connection.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from sanic.exceptions import RequestTimeout
from sanic.http import Http, Stage
from sanic.server.protocols.http_protocol import HttpProtocol

from authix_issuer.chunks import StrictHttp

_FAREWELL = 1.0
"""Seconds for the refusal to be written."""
_LAST_CALL = 1.5
"""Seconds of silence after which a connection is closed at the end; not whole ones, since many clients ask by those."""


class PromptHttpProtocol(HttpProtocol):
    """Sanic's protocol, with the rule above. ``_time`` is the moment from which Sanic counts."""

    __slots__ = ("_is_between_requests",)
    HTTP_CLASS = StrictHttp

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self._is_between_requests = False
        """All that came is answered, and all answers are written; Sanic's stage says so too early."""

    def data_received(self, data: bytes) -> None:
        # a client that reads no answers is left to Sanic, which then stops reading
        if self._is_between_requests and self._can_write.is_set() and self.app.config.KEEP_ALIVE:
            answer = self.app.ctx.known_requests.answer(data)
            if answer is not None and self.transport is not None:
                self._time = monotonic()
                self.transport.write(answer)
                return
        self._is_between_requests = False
        began, http = self._time, self.http
        super().data_received(data)
        if isinstance(http, Http) and (http.stage is not Stage.IDLE or _is_reading_body(http)):
            self._time = began

    async def receive_more(self) -> None:
        http = self.http
        # Sanic is idle, too, while it waits for the rest of a body that nobody wanted; but then there is a request.
        self._is_between_requests = isinstance(http, Http) and http.stage is Stage.IDLE and http.request is None
        try:
            await super().receive_more()  # type: ignore[no-untyped-call]  # Sanic has no type for it
        finally:
            self._is_between_requests = False

    async def send(self, data: bytes) -> None:
        await super().send(data)  # type: ignore[no-untyped-call]  # Sanic has no type for it
        request = self.http.request if isinstance(self.http, Http) else None
        if request is not None and (document := getattr(request.ctx, "document", None)) is not None:
            self.app.ctx.known_requests.keep(request, document, data)

    def close_if_idle(self) -> bool:
        silent = monotonic() - self._time if self._time else 0.0
        if silent < _LAST_CALL:
            self.loop.call_later(_LAST_CALL - silent, super().close_if_idle)
            return False
        return super().close_if_idle()

    def check_timeouts(self) -> None:
        http = self.http
        if (
            isinstance(http, Http)
            and self._task is not None
            and _is_reading_body(http)
            and monotonic() - self._time > self.request_timeout
        ):
            http.exception = RequestTimeout("the request was not complete in time")
            self._task.cancel()
            self.loop.call_later(_FAREWELL, self.close)  # Sanic would read on to the end of the body
            return
        super().check_timeouts()  # type: ignore[no-untyped-call]  # Sanic has no type for it


def _is_reading_body(http: Http) -> bool:
    return bool(getattr(http, "request_body", None))  # not there before the first request
