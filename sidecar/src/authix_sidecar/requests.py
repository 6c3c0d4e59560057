"""Read a request head, strictly.

Rule: a head is read in exactly one way or refused before anything is forwarded. llhttp takes it apart (its strict mode
refuses obs-fold, spaces before a colon and names that are no tokens); around it we refuse what it lets pass: bare CR,
LF and control bytes, blank lines before the request line, doubled spaces, other versions and forms, a ``Host`` that is
missing, repeated or no host, and every framing but one ``Content-Length`` of digits or exactly ``chunked``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import httptools
import msgspec

from authix.request_ids import accepted
from authix_sidecar import fields
from authix_sidecar.errors import (
    ExpectationRefused,
    FramingRefused,
    HeadTooLarge,
    HostRefused,
    MethodRefused,
    RequestRefused,
    VersionRefused,
)
from authix_sidecar.fields import TEXT, Field
from authix_sidecar.shapes import Shape, shape_of
from authix_sidecar.targets import path_of

MAX_HEAD = 16 * 1024
"""Longest head in bytes, request line and blank line included."""
MAX_FIELDS = 100

_START = re.compile(rb"([A-Z][A-Z-]{0,31}) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])\r\n")
_HOST = re.compile(rb"(?:(?!\.|[^:]*\.\.)[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_REFUSED_METHODS = frozenset({b"CONNECT", b"TRACE"})
_NOTED = frozenset(
    {
        b"authorization",
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"traceparent",
        b"transfer-encoding",
        b"upgrade",
        b"x-request-id",
    }
)
_VARYING = frozenset({b"authorization", b"content-length", b"cookie", b"traceparent", b"x-request-id"})
# Protocols that carry requests of their own, which nobody would judge inside a tunnel
_CARRIES_REQUESTS = (b"h2", b"http", b"tls")


class RequestHead(msgspec.Struct, frozen=True, kw_only=True):
    """A request's head, as it was clearly meant."""

    method: bytes
    target: bytes
    """Path and query, byte for byte as they came."""
    path: bytes
    minor: int
    """1 for HTTP/1.1, 0 for HTTP/1.0."""
    fields: list[Field]
    """All fields in their order; framing and hop-by-hop ones too."""
    host: bytes | None
    """None where HTTP/1.0 leaves it out."""
    length: int | None
    """The body's length; None when there is none, or it is chunked."""
    chunked: bool
    keep_alive: bool
    expects_continue: bool
    hop_by_hop: frozenset[bytes]
    """Names that ``Connection`` lists, in lower case."""
    upgrade: bytes
    """The protocols asked for by ``Upgrade``; empty when this is no upgrade that we pass on."""
    authorization: list[bytes]
    request_id: bytes
    """Under which the request is known already; empty where it is not."""
    block: bytes
    """What stands behind the request line, as it came."""
    passed: bytes
    """The fields that go upstream as they are."""

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.length)


class _Collector:
    """Receives llhttp's fields."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: list[Field] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.found.append((name, value.strip(b" \t")))


def check_beginning(beginning: bytes) -> None:
    """Refuse a head that is not yet complete as soon as it can't become a good one.

    Raises ``RequestRefused``; so no one waits for the deadline over bare line feeds or a TLS handshake.
    """
    if len(beginning) >= MAX_HEAD:
        raise HeadTooLarge(f"the head is longer than {MAX_HEAD} bytes")
    if not beginning[:1].isupper():
        raise RequestRefused("the connection does not begin with an HTTP/1 request")
    ends = beginning.count(b"\r\n")
    if beginning.count(b"\n") != ends or beginning.removesuffix(b"\r").count(b"\r") != ends:
        raise RequestRefused("a line does not end with CR LF")
    if b"\r\n " in beginning or b"\r\n\t" in beginning:
        raise RequestRefused("a line begins with a space")


class Line(NamedTuple):
    """A request line that is good, and what stands behind it."""

    method: bytes
    target: bytes
    path: bytes
    newest: bool
    """HTTP/1.1."""
    block: bytes


def read_request(head: bytes) -> RequestHead:
    """The request in ``head``, which ends with its blank line. Raises ``RequestRefused``."""
    return read_fields(head, read_line(head))


def read_line(head: bytes) -> Line:
    """The request line of ``head``. Raises ``RequestRefused``."""
    if len(head) > MAX_HEAD:
        raise HeadTooLarge(f"the head is longer than {MAX_HEAD} bytes")
    start = _START.match(head)
    if start is None:
        raise RequestRefused("the request line is not 'METHOD target HTTP/1.1'")
    method, target, major, minor = start.groups()
    if major != b"1" or minor not in b"01":
        raise VersionRefused("only HTTP/1.0 and HTTP/1.1 are spoken here")
    if method in _REFUSED_METHODS:
        raise MethodRefused("the method is not allowed through a proxy")
    return Line(method, target, path_of(target), minor == b"1", head[start.end() :])


def read_again(line: Line, before: RequestHead, shape: Shape | None) -> RequestHead | None:
    """The request behind ``line`` where its fields are those of ``before``, or fit its ``shape``.

    None: they must be read in full.
    """
    if before.method != line.method or before.minor != line.newest:
        return None
    if before.block == line.block:
        return msgspec.structs.replace(before, target=line.target, path=line.path)
    values = shape.values(line.block) if shape is not None else None
    if shape is None or values is None:
        return None
    noted = {name: [value] for name, value in zip(shape.names, values, strict=True)}
    length = before.length
    if b"content-length" in noted:
        length = fields.length_in(noted[b"content-length"][0])
        if length is None or bool(length) != before.has_body:
            return None  # more depends on that
    found = before.fields.copy()
    for place, value in zip(shape.places, values, strict=True):
        found[place] = found[place][0], value
    return msgspec.structs.replace(
        before,
        target=line.target,
        path=line.path,
        fields=found,
        length=length,
        authorization=noted.get(b"authorization", before.authorization),
        request_id=_request_id(noted) if b"x-request-id" in noted or b"traceparent" in noted else b"",
        block=line.block,
        passed=shape.passed(values),
    )


def shape_of_request(request: RequestHead) -> Shape | None:
    """What other heads may have in common with that of ``request``."""
    return shape_of(request.block, request.fields, _VARYING, fields.goes_upstream, request.hop_by_hop)


def read_fields(head: bytes, line: Line) -> RequestHead:
    """The request in ``head``, whose first line is ``line``. Raises ``RequestRefused``."""
    method, target, path, newest, block = line
    found = _take_apart(head)
    if head.translate(None, TEXT) != b"\r\n" * (len(found) + 2):  # a line for each, and the first and the last
        raise RequestRefused("the head holds a control character, or a CR or LF alone")
    if len(found) > MAX_FIELDS:
        raise HeadTooLarge(f"the head has more than {MAX_FIELDS} fields")
    noted = fields.noted(found, _NOTED)
    connection = fields.tokens(noted.get(b"connection"))
    length, chunked = _framing(noted, newest=newest)
    has_body = chunked or bool(length)
    return RequestHead(
        method=method,
        target=target,
        path=path,
        minor=int(newest),
        fields=found,
        host=_host(noted.get(b"host", []), newest=newest),
        length=length,
        chunked=chunked,
        keep_alive=b"close" not in connection and (newest or b"keep-alive" in connection),
        expects_continue=_expects_continue(noted.get(b"expect")) and newest and has_body,
        hop_by_hop=connection,
        upgrade=_upgrade(noted) if newest and not has_body and b"upgrade" in connection else b"",
        authorization=noted.get(b"authorization", []),
        request_id=_request_id(noted) if b"x-request-id" in noted or b"traceparent" in noted else b"",
        block=block,
        passed=fields.upstream_lines(found, connection),
    )


def _request_id(noted: dict[bytes, list[bytes]]) -> bytes:
    ids, traces = (
        [value.decode("latin-1") for value in noted.get(name, ())] for name in (b"x-request-id", b"traceparent")
    )
    return accepted(ids, traces).encode("ascii")


def _take_apart(head: bytes) -> list[Field]:
    collector = _Collector()
    try:
        httptools.HttpRequestParser(collector).feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # it only says that the head asks for one
    except httptools.HttpParserInvalidMethodError:
        raise MethodRefused("the method is not one of HTTP's") from None
    except httptools.HttpParserError as error:
        raise RequestRefused(f"the head is not HTTP/1.1: {error}") from None
    return collector.found


def _framing(noted: dict[bytes, list[bytes]], *, newest: bool) -> tuple[int | None, bool]:
    lengths, codings = noted.get(b"content-length"), noted.get(b"transfer-encoding")
    if codings is not None:
        if lengths is not None or codings != [b"chunked"] or not newest:
            raise FramingRefused("Transfer-Encoding is not exactly one 'chunked' of HTTP/1.1 without Content-Length")
        return None, True
    if lengths is None:
        return None, False
    length = fields.length_in(lengths[0])
    if len(lengths) > 1 or length is None:
        raise FramingRefused("Content-Length is not one whole number")
    return length, False


def _host(values: list[bytes], *, newest: bool) -> bytes | None:
    if not values and not newest:
        return None
    if len(values) != 1 or not is_host(values[0]):
        raise HostRefused("there is not exactly one Host that names a host")
    return values[0]


@lru_cache(maxsize=256)
def is_host(value: bytes) -> bool:
    """Whether ``value`` names a host, with or without a port."""
    return _HOST.fullmatch(value) is not None


def _expects_continue(values: list[bytes] | None) -> bool:
    if values is None:
        return False
    if len(values) > 1 or values[0].lower() != b"100-continue":
        raise ExpectationRefused("only the expectation 100-continue is known")
    return True


def _upgrade(noted: dict[bytes, list[bytes]]) -> bytes:
    protocols = fields.tokens(noted.get(b"upgrade"))
    if not protocols or any(protocol.startswith(_CARRIES_REQUESTS) for protocol in protocols):
        return b""
    return b", ".join(noted[b"upgrade"])
