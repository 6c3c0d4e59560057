"""What a verified token says.

Rule: ``Claims`` exist only behind a checked signature; what was merely parsed is called payload.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """The verified claims of an access token (RFC 9068, plus ``sid``, ``roles`` and ``iat_us``)."""

    subject: str
    """``sub``: the user's id."""
    session: str | None
    """``sid``: the session that the token belongs to."""
    roles: frozenset[str]
    """``roles``: what the user may do, as of the issue moment."""
    issuer: str
    """``iss``"""
    audience: tuple[str, ...]
    """``aud``"""
    issued_at_us: int
    """``iat_us``: the issue moment in microseconds on the session store's clock; ``iat`` where a token lacks it."""
    expires_at: float
    """``exp``, in seconds since the epoch."""
    token_id: str | None
    """``jti``"""
    key_id: str
    """``kid`` of the header: the key that signed."""
    extra: Mapping[str, Any]
    """Every other claim, as it stood in the token; shared by all who present this token, so it is read-only."""
