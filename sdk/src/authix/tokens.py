"""Take a compact JWS apart, strictly.

Rule: a token has exactly one spelling. Three non-empty base64url segments without padding or stray bits, each of the
first two a UTF-8 JSON object without duplicate names (RFC 7515, RFC 8725). Nothing here is verified yet.
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, NamedTuple, NoReturn

from authix.errors import HeaderRefused, TokenMalformed, TokenTooLarge, TokenTypeWrong

MAX_BYTES = 8192
"""Longest token that is looked at, in bytes."""
TYPES = frozenset({"at+jwt", "application/at+jwt"})
MAX_KEY_ID = 256

_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)


class Parsed(NamedTuple):
    """A token taken apart: ``header`` and ``payload`` are unverified."""

    algorithm: str
    key_id: str
    payload: dict[str, Any]
    signing_input: bytes
    signature: bytes


def parse(token: str) -> Parsed:
    """Take ``token`` apart.

    Raises ``TokenTooLarge``, ``TokenMalformed``, ``HeaderRefused`` or ``TokenTypeWrong``.
    """
    if len(token) > MAX_BYTES:
        raise TokenTooLarge(f"the token is longer than {MAX_BYTES} bytes")
    match = _COMPACT.fullmatch(token)
    if match is None:
        raise TokenMalformed("the token is not three base64url segments")
    head, body, tail = match.groups()
    header = json_object(base64url_decode(head))
    if "crit" in header or "b64" in header:
        raise HeaderRefused("the header asks for an extension (crit, b64)")
    algorithm, kind, key_id = header.get("alg"), header.get("typ"), header.get("kid")
    if not isinstance(algorithm, str):
        raise TokenMalformed("the header names no algorithm")
    if not isinstance(kind, str) or kind not in TYPES:
        raise TokenTypeWrong("the token is not an access token (typ at+jwt)")
    if not isinstance(key_id, str) or not 0 < len(key_id) <= MAX_KEY_ID:
        raise TokenMalformed("the header names no key (kid)")
    payload = json_object(base64url_decode(body))
    return Parsed(algorithm, key_id, payload, token[: match.end(2)].encode("ascii"), base64url_decode(tail))


def base64url_encode(data: bytes) -> str:
    """Base64url without padding (RFC 7515, 2)."""
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def base64url_decode(text: str) -> bytes:
    """The bytes of ``text``; raises ``TokenMalformed`` unless it is their one canonical spelling."""
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise TokenMalformed("a segment is not base64url") from None
    if base64url_encode(data) != text:
        raise TokenMalformed("a segment is not canonical base64url")
    return data


def json_object(data: bytes) -> dict[str, Any]:
    """The JSON object in ``data``.

    Raises ``TokenMalformed`` for anything else: duplicate names at any depth, NaN and infinity, a BOM, other encodings,
    half a surrogate pair.
    """
    try:
        text = data.decode("utf-8")
        value = _DECODER.decode(text)
        if "\\u" in text:  # only an escape can spell half a pair
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        raise TokenMalformed("a segment is not a JSON object") from None
    if not isinstance(value, dict):
        raise TokenMalformed("a segment is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate name")
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
