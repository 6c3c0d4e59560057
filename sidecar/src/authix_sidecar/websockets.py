"""WebSocket frames, as far as a tunnel must know them to end with a word.

Rule: nothing is unpacked or changed; of what passes only the frames' ends are followed (RFC 6455, 5.2), because a frame
of ours may stand between two others and nowhere else.
"""

from __future__ import annotations

from authix.bearer import CLOSE_CODE

GOING_AWAY = 1001
"""The close code of a server that ends (RFC 6455, 7.4.1)."""
_MASK = 4


class FrameEnds:
    """Follows one direction of a WebSocket connection."""

    __slots__ = ("_head", "_left")

    def __init__(self) -> None:
        self._head = b""
        self._left = 0

    @property
    def between(self) -> bool:
        """Whether all that passed were whole frames."""
        return not self._head and not self._left

    def feed(self, data: bytes) -> None:
        """Take what passes."""
        at, end = 0, len(data)
        while at < end:
            if self._left:
                passed = min(self._left, end - at)
                self._left -= passed
                at += passed
                continue
            wanted = _head_size(self._head) - len(self._head)
            self._head += data[at : at + wanted]
            at += wanted
            if len(self._head) == _head_size(self._head):
                self._left = _payload_size(self._head)
                self._head = b""


def close_frame(reason: str, code: int = CLOSE_CODE) -> bytes:
    """A server's Close frame with ``code`` and ``reason`` (ASCII, 123 bytes at most)."""
    payload = code.to_bytes(2, "big") + reason.encode("ascii")
    return bytes((0x88, len(payload))) + payload


def is_websocket(protocols: bytes) -> bool:
    """Whether ``Upgrade`` names WebSocket alone."""
    return protocols.strip().lower() == b"websocket"


def _head_size(head: bytes) -> int:
    """How long the head that begins with ``head`` is, as far as that can be told yet."""
    if len(head) < 2:
        return 2
    size = 2 + {126: 2, 127: 8}.get(head[1] & 0x7F, 0)
    return size + _MASK if head[1] & 0x80 else size


def _payload_size(head: bytes) -> int:
    short = head[1] & 0x7F
    if short == 126:
        return int.from_bytes(head[2:4], "big")
    if short == 127:
        return int.from_bytes(head[2:10], "big")
    return short
