"""Read a request's body and find its end, to the byte.

Rule: pure; bytes in, the content and what lies behind its end out. Chunk sizes are hexadecimal digits and nothing else:
an extension is refused, because readers disagree over where it ends. Trailers are checked and dropped.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Protocol

from authix_sidecar.errors import BodyMalformed
from authix_sidecar.fields import is_token
from authix_sidecar.requests import RequestHead

MAX_TRAILERS = 8 * 1024
_MAX_SIZE = 15  # hexadecimal digits
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,%d}" % _MAX_SIZE)
_SIZE_SO_FAR = re.compile(rb"(?:[0-9A-Fa-f]{1,%d}\r?)?" % _MAX_SIZE)
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


class Body(Protocol):
    """A body that is being read."""

    complete: bool

    @property
    def left(self) -> int | None:
        """Bytes still to come; None when nobody knows."""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """The content in ``data`` and what lies behind the body's end. Raises ``BodyMalformed``."""


class LengthBody:
    """A body of known length."""

    __slots__ = ("complete", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        self.complete = length == 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        content, behind = data[: self.left], data[self.left :]
        self.left -= len(content)
        self.complete = self.left == 0
        return content, behind


class _Part(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()


class ChunkedBody:
    """A chunked body (RFC 9112, 7.1)."""

    __slots__ = ("_chunk_left", "_part", "_partial", "_trailers", "complete")

    def __init__(self) -> None:
        self.complete = False
        self._part = _Part.SIZE
        self._chunk_left = 0
        self._partial = b""
        self._trailers = 0

    @property
    def left(self) -> int | None:
        return 0 if self.complete else None

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        data = self._partial + data
        content: list[bytes] = []
        at: int | None = 0
        position = 0
        while at is not None and not self.complete:
            position = at
            match self._part:
                case _Part.SIZE:
                    at = self._size(data, at)
                case _Part.DATA:
                    content.append(data[at : at + self._chunk_left])
                    at = self._data(at, len(content[-1]))
                    position = len(data) if at is None else at
                case _Part.DATA_END:
                    at = self._data_end(data, at)
                case _Part.TRAILER:
                    at = self._trailer(data, at)
        if self.complete:
            self._partial = b""
            return b"".join(content), data[at:]
        self._partial = data[position:]
        return b"".join(content), b""

    # Each of these reads one thing at ``at`` and says where the next begins; None: not all of it is here yet.

    def _size(self, data: bytes, at: int) -> int | None:
        end = data.find(b"\r\n", at, at + _MAX_SIZE + 2)
        if end < 0:
            if not _SIZE_SO_FAR.fullmatch(data, at):
                raise BodyMalformed("a chunk size is not a hexadecimal number alone on its line")
            return None
        if not _SIZE.fullmatch(data, at, end):
            raise BodyMalformed("a chunk size is not a hexadecimal number alone on its line")
        self._chunk_left = int(data[at:end], 16)
        self._part = _Part.DATA if self._chunk_left else _Part.TRAILER
        return end + 2

    def _data(self, at: int, taken: int) -> int | None:
        self._chunk_left -= taken
        if self._chunk_left:
            return None
        self._part = _Part.DATA_END
        return at + taken

    def _data_end(self, data: bytes, at: int) -> int | None:
        if not b"\r\n".startswith(data[at : at + 2]):
            raise BodyMalformed("a chunk is longer than its size")
        if len(data) < at + 2:
            return None
        self._part = _Part.SIZE
        return at + 2

    def _trailer(self, data: bytes, at: int) -> int | None:
        end = data.find(b"\r\n", at)
        line = data[at:end] if end >= 0 else data[at:].removesuffix(b"\r")
        if self._trailers + len(line) > MAX_TRAILERS:
            raise BodyMalformed("the trailers are too large")
        if not _VALUE.fullmatch(line):
            raise BodyMalformed("a trailer holds a control character")
        if end < 0:
            return None
        if not line:
            self.complete = True
            return end + 2
        name, colon, _ = line.partition(b":")
        if not colon or not is_token(name):
            raise BodyMalformed("a trailer is not 'name: value'")
        if name.lower() in _FRAMING:
            raise BodyMalformed("a trailer speaks of the body's framing")
        self._trailers += len(line) + 2
        return end + 2


NO_BODY = LengthBody(0)


def body_of(request: RequestHead) -> Body:
    if request.chunked:
        return ChunkedBody()
    return LengthBody(request.length) if request.length else NO_BODY
