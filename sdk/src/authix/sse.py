"""Server-sent events, as far as the feed needs them (WHATWG HTML, 9.2).

Rule: one event is one JSON document on one ``data`` line; ``id`` is the cursor from which a reader may resume.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from authix.errors import SourceError

CONTENT_TYPE = "text/event-stream"
MAX_EVENT = 64 * 1024


class ServerSentEvent(NamedTuple):
    cursor: str | None
    data: bytes


def encode(data: bytes, cursor: str | None = None) -> bytes:
    """One event on the wire."""
    head = b"" if cursor is None else b"id: %b\n" % cursor.encode("ascii")
    return b"%bdata: %b\n\n" % (head, data)


class Decoder:
    """Turns received bytes into events."""

    def __init__(self) -> None:
        self._buffer = b""
        self._cursor: str | None = None
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """The events that ``chunk`` completes. Raises ``SourceError`` for an event over 64 KiB."""
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        for raw in lines:
            line = raw.removesuffix(b"\r")
            if not line:
                if self._data:
                    yield ServerSentEvent(self._cursor, b"\n".join(self._data))
                self._cursor, self._data = None, []
                continue
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                self._data.append(value)
            elif name == b"id":
                self._cursor = value.decode("ascii", "replace")
        if len(self._buffer) + sum(map(len, self._data)) > MAX_EVENT:
            raise SourceError("the feed sent an event over 64 KiB")
