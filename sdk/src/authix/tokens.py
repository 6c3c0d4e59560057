"""Take a compact JWS apart, strictly.

Rule: a token has exactly one spelling. Three non-empty base64url segments without padding or stray bits, each of the
first two a UTF-8 JSON object without duplicate names (RFC 7515, RFC 8725). Nothing here is verified yet.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from functools import lru_cache
from typing import Any, NoReturn

import msgspec

from authix.errors import HeaderRefused, TokenMalformed, TokenTooLarge, TokenTypeWrong

MAX_BYTES = 8192
"""Longest token that is looked at, in bytes."""
TYPES = frozenset({"at+jwt", "application/at+jwt"})
NO_TYPE = "none"
"""Stands for a header without ``typ``."""
MAX_KEY_ID = 256
MAX_DEPTH = 100
"""How many objects and lists may stand inside one another: the same on every Python, however large its stack."""

_CLOSING = (b'"', b'!"', b'=="', b'="')
"""Padding and a quotation mark, by how many letters go beyond a segment's last whole four; one alone is nothing."""
_ENDS = (b"", b"", b"AQgw", b"AEIMQUYcgkosw048")
"""Letters that leave no bit over at a segment's end, likewise."""
_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_PLAIN = bytes({ord("-"): ord("+"), ord("_"): ord("/")}.get(n, n if n in _LETTERS else ord("!")) for n in range(256))
"""Base64url to base64, which msgspec reads; all else to what is neither."""


class Parts(msgspec.Struct, frozen=True, gc=False):
    """A token taken apart: what its header asks for, and the payload as it stands there; all unverified."""

    algorithm: str
    key_id: str
    payload: bytes
    signing_input: bytes
    signature: bytes


def take_apart(token: str, types: frozenset[str] = TYPES) -> Parts:
    """Take ``token``, of one of these types, apart; its payload is left to ``json_object``.

    Raises ``TokenTooLarge``, ``TokenMalformed``, ``HeaderRefused`` or ``TokenTypeWrong``.
    """
    if not isinstance(token, str):  # a program may pass on whatever it was given
        raise TokenMalformed("the token is no text")
    if len(token) > MAX_BYTES:
        raise TokenTooLarge(f"the token is longer than {MAX_BYTES} bytes")
    signed, _, tail = _octets(token).rpartition(b".")
    head, _, body = signed.partition(b".")
    if b"." in body:
        raise TokenMalformed("the token is not three base64url segments")
    payload, signature = _decode(body), _decode(tail)
    algorithm, key_id = _read_header(head, types)
    return Parts(algorithm, key_id, payload, signed, signature)


def base64url_encode(data: bytes) -> str:
    """Base64url without padding (RFC 7515, 2)."""
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def base64url_decode(text: str) -> bytes:
    """The bytes of ``text``; raises ``TokenMalformed`` unless it is their one canonical spelling."""
    return _decode(_octets(text)) if text else b""


def json_object(data: bytes) -> dict[str, Any]:
    """The JSON object in ``data``.

    Raises ``TokenMalformed`` for anything else: duplicate names at any depth, NaN and infinity, a BOM, other encodings,
    half a surrogate pair, more than ``MAX_DEPTH`` containers in one another.
    """
    try:
        value = _FAST.decode(data)
        if _SPELL.encode(value) != data:  # the shortest spelling has no name twice; any other is read with care
            value = _read_with_care(data)
    except (ValueError, RecursionError):
        value = _read_with_care(data)
    if not isinstance(value, dict) or (len(data) > 2 * MAX_DEPTH and _is_deep(value, data)):
        raise TokenMalformed("a segment is not a JSON object")
    return value


@lru_cache(maxsize=64)
def _read_header(head: bytes, types: frozenset[str]) -> tuple[str, str]:
    """Algorithm and key id; remembered, since all tokens of one key have one header."""
    header = json_object(_decode(head))
    if "crit" in header or "b64" in header:
        raise HeaderRefused("the header asks for an extension (crit, b64)")
    algorithm, kind, key_id = header.get("alg"), header.get("typ", NO_TYPE), header.get("kid")
    if not isinstance(algorithm, str):
        raise TokenMalformed("the header names no algorithm")
    if not isinstance(kind, str) or kind not in types:
        raise TokenTypeWrong("the token is not an access token (typ)")
    if not isinstance(key_id, str) or not 0 < len(key_id) <= MAX_KEY_ID:
        raise TokenMalformed("the header names no key (kid)")
    return algorithm, key_id


def _octets(text: str) -> bytes:
    try:
        return text.encode("ascii")
    except UnicodeEncodeError:
        raise TokenMalformed("a segment is not base64url") from None


def _decode(segment: bytes) -> bytes:
    """As ``base64url_decode``, of a segment that must not be empty."""
    beyond = len(segment) & 3
    try:
        data = _BYTES.decode(b'"' + segment.translate(_PLAIN) + _CLOSING[beyond])  # binascii takes three times as long
    except ValueError:
        raise TokenMalformed("a segment is not base64url") from None
    if not data or (beyond and segment[-1] not in _ENDS[beyond]):
        raise TokenMalformed("a segment is not canonical base64url")
    return data


def _read_with_care(data: bytes) -> object:
    try:
        text = data.decode("utf-8")
        value = _STRICT.decode(text)
        if "\\u" in text:  # only an escape can spell half a pair
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        raise TokenMalformed("a segment is not a JSON object") from None
    return value


def _is_deep(value: dict[str, Any], data: bytes) -> bool:
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return False
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        members = [container.values() if isinstance(container, dict) else container for container in level]
        level = [member for part in members for member in part if isinstance(member, dict | list)]
    return bool(level)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate name")
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
_FAST, _SPELL = msgspec.json.Decoder(), msgspec.json.Encoder()
_BYTES = msgspec.json.Decoder(bytes)
