"""What an upstream's answer head says, checked.

Rule: llhttp has read it; on top, an answer whose body could end in two places, or that switches to a protocol nobody
asked for, is broken. An answer to HEAD and one of status 204 or 304 has no body whatever its fields say.
"""

from __future__ import annotations

import msgspec

from authix_sidecar import fields
from authix_sidecar.errors import UpstreamBroken
from authix_sidecar.fields import Field
from authix_sidecar.shapes import Shape, shape_of

EVENT_STREAM = b"text/event-stream"
_WITHOUT_BODY = frozenset({204, 304})
_VARYING = frozenset({b"content-length", b"date", b"etag", b"last-modified", b"x-request-id"})
_NOTED = frozenset({b"connection", b"content-length", b"content-type", b"transfer-encoding", b"upgrade"})


class AnswerHead(msgspec.Struct, frozen=True, kw_only=True):
    """An answer's head."""

    status: int
    reason: bytes
    length: int | None
    """``Content-Length``; for an answer without a body, the one it would have."""
    chunked: bool
    has_body: bool
    hop_by_hop: frozenset[bytes]
    """Names that ``Connection`` lists, in lower case."""
    upgrade: bytes
    """The protocol of a 101."""
    event_stream: bool
    passed: bytes
    """The fields that go to the client as they are."""

    @property
    def until_close(self) -> bool:
        """Whether only the end of the connection ends the body."""
        return self.has_body and self.length is None and not self.chunked


def read_answer(*, status: int, reason: bytes, found: list[Field], method: bytes, asked: bytes = b"") -> AnswerHead:
    """The answer to a request of ``method`` that ``asked`` for an upgrade to these protocols.

    Raises ``UpstreamBroken``.
    """
    noted = fields.noted(found, _NOTED)
    lengths, codings = noted.get(b"content-length"), noted.get(b"transfer-encoding")
    if codings is not None and (lengths is not None or [coding.lower() for coding in codings] != [b"chunked"]):
        raise UpstreamBroken("the upstream's Transfer-Encoding is not exactly 'chunked'")
    length = None
    if lengths is not None:
        length = fields.length_in(lengths[0])
        if len(lengths) > 1 or length is None:
            raise UpstreamBroken("the upstream's Content-Length is not one whole number")
    upgrade = b""
    if status == 101:
        upgrade = b", ".join(noted.get(b"upgrade", ()))
        if not upgrade or not fields.tokens((upgrade,)) <= fields.tokens((asked,)):
            raise UpstreamBroken("the upstream switched to a protocol that was not asked for")
    kinds = noted.get(b"content-type")
    hop_by_hop = fields.tokens(noted.get(b"connection"))
    return AnswerHead(
        status=status,
        reason=reason,
        length=length,
        chunked=codings is not None,
        has_body=status >= 200 and method != b"HEAD" and length != 0 and status not in _WITHOUT_BODY,
        hop_by_hop=hop_by_hop,
        upgrade=upgrade,
        event_stream=kinds is not None and kinds[0].lower().startswith(EVENT_STREAM),
        passed=fields.downstream_lines(found, hop_by_hop),
    )


def shape_of_answer(head: bytes, found: list[Field], answer: AnswerHead) -> Shape | None:
    """What other heads may have in common with ``head``, which was read as ``found`` and ``answer``.

    None where its body ends by more than a length: that is llhttp's to follow.
    """
    if answer.chunked:
        return None
    return shape_of(head, found, _VARYING, fields.goes_downstream, answer.hop_by_hop)


def read_again(head: bytes, before: AnswerHead, shape: Shape) -> AnswerHead | None:
    """The answer of ``head`` where it fits the ``shape`` of ``before``; None: it must be read in full."""
    values = shape.values(head)
    if values is None:
        return None
    length = before.length
    for name, value in zip(shape.names, values, strict=True):
        if name == b"content-length":
            length = fields.length_in(value)
            if length is None:
                return None
    if (length == 0) != (before.length == 0):
        return None  # whether there is a body depends on that
    return msgspec.structs.replace(before, length=length, passed=shape.passed(values))
