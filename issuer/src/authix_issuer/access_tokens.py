"""Sign access tokens (RFC 9068).

Rule: ``iat`` and ``exp`` are derived from the same moment ``iat_us`` of the session store's clock; no other clock is
asked.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from authix.keys import AlgorithmName, sign
from authix.tokens import base64url_encode
from authix_issuer.keys import Signer

_encoder = msgspec.json.Encoder()


class AccessTokens:
    """Issues tokens that live ``life`` seconds."""

    def __init__(self, keys: Signer, *, issuer: str, audience: str, life: int) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self.life = life

    def issue(
        self, *, subject: str, session: str, roles: Iterable[str], at_us: int, claims: Mapping[str, Any] = {}
    ) -> str:
        """A token of the moment ``at_us`` (µs since the epoch); ``claims`` are said besides ours, never instead."""
        issued_at = at_us // 1_000_000
        payload = {
            **claims,
            "iss": self._issuer,
            "sub": subject,
            "aud": self._audience,
            "iat": issued_at,
            "exp": issued_at + self.life,
            "iat_us": at_us,
            "jti": secrets.token_hex(16),
            "sid": session,
            "roles": list(roles),
        }
        key = self._keys.signing
        signing_input = _header(key.algorithm, key.id) + base64url_encode(_encoder.encode(payload)).encode("ascii")
        signature = sign(key.algorithm, key.private_key, signing_input)
        return f"{signing_input.decode('ascii')}.{base64url_encode(signature)}"


@lru_cache(maxsize=16)
def _header(algorithm: AlgorithmName, key_id: str) -> bytes:
    """A token's first segment and the dot behind it: the same for every token of a key."""
    header = _encoder.encode({"alg": algorithm, "kid": key_id, "typ": "at+jwt"})
    return base64url_encode(header).encode("ascii") + b"."
