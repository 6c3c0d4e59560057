"""Read the requests of one connection out of its bytes.

Rule: no I/O; bytes in, heads and content out, one request at a time. Bytes behind a request wait until the next one is
asked for.
"""

from __future__ import annotations

from authix_sidecar.bodies import NO_BODY, Body, body_of
from authix_sidecar.fields import END_OF_HEAD
from authix_sidecar.requests import (
    RequestHead,
    check_beginning,
    read_again,
    read_fields,
    read_line,
    shape_of_request,
)
from authix_sidecar.shapes import Known


class RequestReader:
    """``feed`` it, then ask for a ``head``, then for its ``content`` until ``complete``, then for the next head."""

    def __init__(self) -> None:
        self._buffer = b""
        self._searched = 0
        self._body: Body = NO_BODY
        self._known: Known[RequestHead] = Known()

    def feed(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data

    @property
    def waiting(self) -> bool:
        """Whether there are bytes that nobody has asked for yet."""
        return bool(self._buffer)

    @property
    def complete(self) -> bool:
        """Whether the request is here whole."""
        return self._body.complete

    @property
    def left(self) -> int | None:
        """Bytes of the body still to come; None when nobody knows."""
        return self._body.left

    def head(self) -> RequestHead | None:
        """The next request's head; None when it is not here whole. Raises ``RequestRefused``."""
        end = self._buffer.find(END_OF_HEAD, self._searched)
        if end < 0:
            check_beginning(self._buffer)
            self._searched = max(0, len(self._buffer) - len(END_OF_HEAD) + 1)
            return None
        end += len(END_OF_HEAD)
        head, self._buffer, self._searched = self._buffer[:end], self._buffer[end:], 0
        known = self._known
        request = known.read if head == known.head and known.read is not None else self._read(head)
        self._body = body_of(request)
        return request

    def _read(self, head: bytes) -> RequestHead:
        line, known = read_line(head), self._known
        request = read_again(line, known.read, known.shape) if known.read is not None else None
        if request is not None:
            known.fitted(head, request)
            return request
        request = read_fields(head, line)
        if known.worth_learning(head):
            known.learn(head, request, shape_of_request(request))
        elif known.read is None:
            known.fitted(head, request)
        return request

    def content(self) -> bytes:
        """What is here of the body. Raises ``BodyMalformed``."""
        content, self._buffer = self._body.feed(self._buffer)
        return content

    def take(self) -> bytes:
        """All bytes that nobody has asked for, because they are no request."""
        taken, self._buffer = self._buffer, b""
        return taken
