r"""The request target, judged as it stands on the wire.

Rule: a path is accepted only in the one spelling that every reader takes the same way, because a policy and the
upstream must not read two paths out of one. What is accepted is forwarded byte for byte. Refused are other forms than
origin form, dot segments, empty segments, ``;`` and ``\``, bytes outside RFC 3986, octets that are encoded without
need or that hide a delimiter or a control, a second layer of encoding, and octets that are not UTF-8 (an overlong dot).
Hexadecimal digits may be of either case; the query is the upstream's own matter and only has to be visible ASCII.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from authix_sidecar.errors import PathNotCanonical, TargetRefused

# The everyday path: no encoded octet and no segment that begins with a dot, so nothing is left to judge.
_PLAIN = re.compile(rb"((?:/[\w~!$&'()*+,=:@-][\w.~!$&'()*+,=:@-]*)*/?)(?:\?[\x21\x22\x24-\x7e]*)?", re.ASCII)
_QUERY = re.compile(rb"[\x21\x22\x24-\x7e]*")
_SEGMENT = re.compile(rb"(?:[\w.~!$&'()*+,=:@-]|%[0-9A-Fa-f]{2})*", re.ASCII)
_ENCODED = re.compile(rb"%([0-9A-Fa-f]{2})")
_TWICE_ENCODED = re.compile(rb"%25[0-9A-Fa-f]{2}")
_NEVER_ENCODED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/\\;\x7f") | set(
    range(32)
)


def path_of(target: bytes) -> bytes:
    """The raw path of ``target``. Raises ``TargetRefused`` or ``PathNotCanonical``."""
    plain = _PLAIN.fullmatch(target)
    if plain is not None and plain[1]:
        return plain[1]
    if not target.startswith(b"/"):
        raise TargetRefused("the request target is not a path")
    path, _, query = target.partition(b"?")
    if not _QUERY.fullmatch(query):
        raise TargetRefused("the query holds a character that belongs nowhere in a request target")
    _check_path(path)
    return path


def _check_path(path: bytes) -> None:
    *inner, last = path.split(b"/")[1:]
    if b"" in inner:
        raise PathNotCanonical("the path has an empty segment")
    for segment in (*inner, last):
        if segment in {b".", b".."}:
            raise PathNotCanonical("the path has a dot segment")
        if not _SEGMENT.fullmatch(segment):
            raise PathNotCanonical("the path holds a character that must be encoded or is never allowed")
    if any(int(octet, 16) in _NEVER_ENCODED for octet in _ENCODED.findall(path)):
        raise PathNotCanonical("the path encodes an octet that must not be encoded")
    if _TWICE_ENCODED.search(path):
        raise PathNotCanonical("the path is encoded twice")
    try:
        unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        raise PathNotCanonical("the path's encoded octets are not UTF-8") from None
