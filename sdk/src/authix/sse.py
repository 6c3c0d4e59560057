"""Server-sent events, as far as the feed needs them (WHATWG HTML, 9.2).

Rule: one event is one JSON document on one ``data`` line; ``id`` is the cursor from which a reader may resume. How the
bytes were cut up on their way changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from authix.errors import SourceError

CONTENT_TYPE = "text/event-stream"
MAX_EVENT = 64 * 1024
_BOM = b"\xef\xbb\xbf"
_CURSOR = re.compile(rb"[\x21-\x7e]{0,256}")  # what a Last-Event-ID header can carry


class ServerSentEvent(NamedTuple):
    cursor: str | None
    """The last ``id`` so far."""
    data: bytes


def encode(data: bytes, cursor: str | None = None) -> bytes:
    """One event on the wire."""
    head = b"" if cursor is None else b"id: %b\n" % cursor.encode("ascii")
    return b"%bdata: %b\n\n" % (head, data)


class Decoder:
    """Turns received bytes into events."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._at_start = True
        self._after_return = False
        self._cursor: str | None = None
        self._data: list[bytes] = []
        self._held = 0

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """The events that ``chunk`` completes. Raises ``SourceError`` for an event over 64 KiB or a bad cursor."""
        if self._after_return:
            self._after_return = not chunk
            chunk = chunk.removeprefix(b"\n")
        for part in chunk.splitlines(keepends=True):
            self._after_return = part.endswith(b"\r")
            content = part.rstrip(b"\r\n")
            self._line += content
            if self._held + len(self._line) > MAX_EVENT:
                raise SourceError("the feed sent an event over 64 KiB")
            if len(content) < len(part):
                line = bytes(self._line)
                self._line.clear()
                if line:
                    self._read(line.removeprefix(_BOM) if self._at_start else line)
                elif self._data:
                    yield ServerSentEvent(self._cursor, b"\n".join(self._data))
                    self._data, self._held = [], 0
                self._at_start = False

    def _read(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._held += len(line) + 1
        elif name == b"id" and b"\0" not in value:
            if _CURSOR.fullmatch(value) is None:
                raise SourceError("the feed sent a cursor that can't be sent back")
            self._cursor = value.decode("ascii")
