"""Read the answers of one upstream connection out of its bytes.

Rule: no I/O; llhttp takes the bytes apart, and what it calls only notes what was found, so that nobody can begin the
next request inside of it. A head that fits the shape of one before is not taken apart again; the length of its body is
counted here then. What comes behind an answer is surplus, and belongs to nobody.
"""

from __future__ import annotations

import httptools

from authix_sidecar.answers import AnswerHead, read_again, read_answer, shape_of_answer
from authix_sidecar.errors import UpstreamBroken
from authix_sidecar.fields import END_OF_HEAD, Field, noted
from authix_sidecar.shapes import Known

MAX_HEAD = 64 * 1024
"""Longest head in bytes, with the interim answers before it."""
_UNCOUNTED = -1
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


class AnswerReader:
    """Say what was asked by ``expect``, then ``feed`` it."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._known: Known[AnswerHead] = Known()
        self.expect(b"", b"")

    def expect(self, method: bytes, asked: bytes) -> None:
        """A request of ``method`` was sent, which ``asked`` for an upgrade to these protocols."""
        self._method = method
        self._asked = asked
        self._reason = b""
        self._fields: list[Field] = []
        self._in_interim = False
        self._broken = ""
        self._status = 0
        self._left = _UNCOUNTED
        self.head_bytes = 0
        """Received so far without a whole head."""
        self.interims: list[tuple[int, list[Field]]] = []
        self.head: AnswerHead | None = None
        self.content: list[bytes] = []
        self.complete = False
        self.keep_alive = False
        """Whether the upstream keeps the connection open."""
        self.surplus = False
        self.behind = b""
        """What came behind the head of a 101."""

    def feed(self, data: bytes) -> None:
        """Take bytes of the connection. Raises ``UpstreamBroken``."""
        if self._left != _UNCOUNTED:
            self._count(data)
            return
        first = not self.head_bytes
        if self.head is None:
            if first and self._known.shape is not None and self._method != b"HEAD" and self._read_again(data):
                return
            self.head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.behind = data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            if not self.complete:
                raise UpstreamBroken(f"the upstream's answer is not HTTP/1.1: {error}") from None
            self.surplus = True
        if self._broken:
            raise UpstreamBroken(self._broken)
        if self.head is None:
            self._read_head(data if first else b"")

    def _read_again(self, data: bytes) -> bool:
        """Whether the whole head is in ``data`` and fits; then it is read."""
        known, end = self._known, data.find(END_OF_HEAD) + len(END_OF_HEAD)
        if known.read is None or known.shape is None or end < len(END_OF_HEAD):
            return False
        block = data[:end]
        head = known.read if block == known.head else read_again(block, known.read, known.shape)
        if head is None:
            return False
        known.fitted(block, head)
        self.head = head
        self.head_bytes = len(data)
        self.keep_alive = True
        self._left = (head.length or 0) if head.has_body else 0
        self._count(data[end:])
        return True

    def _count(self, data: bytes) -> None:
        """Take ``data`` of a body of known length."""
        content = data if len(data) <= self._left else data[: self._left]
        if content:
            self.content.append(content)
            self._left -= len(content)
        self.complete = self._left == 0
        if len(content) < len(data) and data[len(content) :].strip(b"\r\n"):  # which llhttp passes over too
            self.surplus = True

    def _remember(self, data: bytes, answer: AnswerHead) -> None:
        """Learn the head in ``data`` where that is worth it."""
        end = data.find(END_OF_HEAD) + len(END_OF_HEAD)
        if not self.keep_alive or self._method == b"HEAD" or self.interims or end < len(END_OF_HEAD):
            return
        block = data[:end]
        if self._known.worth_learning(block):
            self._known.learn(block, answer, shape_of_answer(block, self._fields, answer))

    def _read_head(self, whole: bytes) -> None:
        if self._status:
            self.head = head = read_answer(
                status=self._status, reason=self._reason, found=self._fields, method=self._method, asked=self._asked
            )
            if whole:
                self._remember(whole, head)
            if self._method == b"HEAD":
                self._parser = httptools.HttpResponseParser(self)  # the old one waits for the body that will not come
        elif self.head_bytes > MAX_HEAD:
            raise UpstreamBroken(f"the upstream's answer has a head longer than {MAX_HEAD} bytes")

    # --- what llhttp calls

    def on_message_begin(self) -> None:
        if self.complete:
            self.surplus = True

    def on_status(self, reason: bytes) -> None:
        if not self._status:
            self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        # behind the head these are trailers, or of a surplus answer
        if not self._status:
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        if self._status:
            return
        status = self._parser.get_status_code()
        if status < 200 and status != 101:
            if status < 100:
                self._broken = "the upstream's answer has a status below 100"
            elif _says_body(self._fields):
                self._broken = "the upstream's interim answer has a body"
            self.interims.append((status, self._fields))
            self._reason, self._fields, self._in_interim = b"", [], True
            return
        self._status = status
        self.keep_alive = self._parser.should_keep_alive()
        self.complete = self._method == b"HEAD"

    def on_body(self, data: bytes) -> None:
        if self.complete or self._in_interim:
            self.surplus = True
        else:
            self.content.append(data)

    def on_message_complete(self) -> None:
        if self._in_interim:
            self._in_interim = False
        else:
            self.complete = True


def _says_body(found: list[Field]) -> bool:
    """Whether ``found`` say that a body follows; ``Content-Length: 0``, which some servers send, does not."""
    return any(values != [b"0"] for values in noted(found, _FRAMING).values())
