"""Sign access tokens (RFC 9068).

Rule: ``iat`` and ``exp`` are derived from the same moment ``iat_us`` of the session store's clock; no other clock is
asked.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import jwt

from authix_issuer.keys import Signer


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
        return jwt.encode(payload, key.private_key, key.algorithm, {"kid": key.id, "typ": "at+jwt"})
