"""What goes on to the upstream and back to the client.

Rule: hop-by-hop fields and every spelling of a field of ours go first, framing is written anew from what was read, and
the identity fields are set last. The target is the one that was judged, byte for byte.

A subject is visible ASCII already. A role may hold anything, so each byte of it that is not visible ASCII, and ``,``
and ``%``, is percent-encoded: splitting ``X-Authix-Roles`` at the commas and decoding gives the roles back. All three
identity fields are always set, empty where there is nothing to say, so that none can be missing and taken from
elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from functools import lru_cache
from http.client import responses
from urllib.parse import quote

from authix.claims import Claims
from authix.recent import Recent
from authix.verifier import CACHE_ENTRIES
from authix_sidecar import forwarded
from authix_sidecar.answers import AnswerHead
from authix_sidecar.fields import Field, downstream_lines
from authix_sidecar.requests import RequestHead

_NOTHING: frozenset[bytes] = frozenset()
LAST_CHUNK = b"0\r\n\r\n"
_ROLE_SAFE = "".join(map(chr, range(0x21, 0x7F))).translate({ord(","): None, ord("%"): None})


class Framing(Enum):
    """How a client learns where an answer's body ends."""

    NONE = auto()
    LENGTH = auto()
    CHUNKED = auto()
    CLOSE = auto()


def identity(claims: Claims | None) -> tuple[tuple[str, str], ...]:
    """The identity fields for ``claims``; empty ones for nobody."""
    if claims is None:
        return _identity("", "", frozenset())
    return _identity(claims.subject, claims.session or "", claims.roles)


@lru_cache(maxsize=1024)
def _role(role: str) -> str:
    return quote(role, safe=_ROLE_SAFE, errors="surrogatepass")


def _identity(subject: str, session: str, roles: frozenset[str]) -> tuple[tuple[str, str], ...]:
    encoded = ",".join(sorted(map(_role, roles)))
    return ("X-Authix-Subject", subject), ("X-Authix-Session", session), ("X-Authix-Roles", encoded)


_lines: Recent[int, tuple[Claims, bytes]] = Recent(CACHE_ENTRIES)
"""The identity fields as lines, by the ``id`` of claims that are kept here and so can't be other ones. A verifier gives
the same object for a token that it remembers."""


def _identity_lines(claims: Claims) -> bytes:
    found = _lines.get(id(claims))
    if found is not None:
        return found[1]
    lines = "".join([f"{name}: {value}\r\n" for name, value in identity(claims)]).encode("ascii")
    _lines.keep(id(claims), (claims, lines))
    return lines


def request_head(
    request: RequestHead,
    claims: Claims | None,
    *,
    peer: bytes,
    scheme: bytes,
    upstream: bytes,
    is_listed: forwarded.IsListed | None = None,
    proof: bytes = b"",
    request_id: bytes = b"",
) -> bytes:
    """The head that goes upstream.

    ``peer`` is the client's address, ``upstream`` the host where it named none, ``is_listed`` says which peers are
    believed about whom they forward for, ``proof`` is the line of the signed identity, and ``request_id`` is what the
    request is called in all logs.
    """
    host = request.host or upstream
    lines = [b"%b %b HTTP/1.1\r\nHost: %b\r\n%b" % (request.method, request.target, host, request.passed)]
    if request.chunked:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    elif request.length is not None:
        lines.append(b"Content-Length: %d\r\n" % request.length)
    if request.expects_continue:
        lines.append(b"Expect: 100-continue\r\n")
    if request.upgrade:
        lines.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % request.upgrade)
    if is_listed is not None and is_listed(peer):
        lines.append(forwarded.lines(request, peer=peer, scheme=scheme, host=host))
    else:
        lines.append(b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\n" % (peer, scheme, host))
    if request_id:
        lines.append(b"X-Request-Id: %b\r\n" % request_id)
    if claims is not None:
        lines += (_identity_lines(claims), proof)
    lines.append(b"\r\n")
    return b"".join(lines)


def framing(answer: AnswerHead, minor: int) -> Framing:
    """How ``answer`` is framed for a client of HTTP/1.``minor``."""
    if not answer.has_body:
        return Framing.NONE
    if answer.length is not None:
        return Framing.LENGTH
    return Framing.CHUNKED if minor else Framing.CLOSE


def answer_head(answer: AnswerHead, how: Framing, *, minor: int, keep_alive: bool) -> bytes:
    """The head that goes to a client of HTTP/1.``minor``."""
    lines = [status_line(answer.status, answer.reason), answer.passed]
    if answer.length is not None and answer.status >= 200 and answer.status != 204:
        lines.append(b"Content-Length: %d\r\n" % answer.length)
    elif how is Framing.CHUNKED:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    if answer.upgrade:
        lines.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % answer.upgrade)
    elif answer.status >= 200:
        lines.append(connection_line(minor=minor, keep_alive=keep_alive))
    lines.append(b"\r\n")
    return b"".join(lines)


def interim_head(status: int, found: list[Field]) -> bytes:
    """An interim answer (class 1xx)."""
    return b"%b%b\r\n" % (status_line(status), downstream_lines(found, _NOTHING))


@lru_cache(maxsize=256)
def status_line(status: int, reason: bytes = b"") -> bytes:
    if not reason:
        reason = responses.get(status, "").encode("ascii")
    return b"HTTP/1.1 %d %b\r\n" % (status, reason)


def connection_line(*, minor: int, keep_alive: bool) -> bytes:
    """The ``Connection`` field, where the version's default says something else."""
    if keep_alive:
        return b"" if minor else b"Connection: keep-alive\r\n"
    return b"Connection: close\r\n"


def whole_answer(
    status: int,
    headers: Iterable[tuple[str, str]],
    body: bytes,
    *,
    request: RequestHead | None,
    keep_alive: bool,
) -> bytes:
    """An answer of our own to ``request``; None: it could not be read."""
    minor = request.minor if request is not None else 1
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    head = f"{lines}Content-Length: {len(body)}\r\n".encode("latin-1")
    ending = connection_line(minor=minor, keep_alive=keep_alive)
    shown = b"" if request is not None and request.method == b"HEAD" else body
    return b"%b%b%b\r\n%b" % (status_line(status), head, ending, shown)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
