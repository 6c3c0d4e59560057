"""The refresh token: opaque to clients, authentic before any store is asked.

Rule: subject, session id, counter, a random secret of the session and an HMAC over all of it. The store only knows the
secret's SHA-256, so neither a leaked store nor a leaked master secret nor both yield a usable token; and because the
token follows from its parts, the same successor can be given twice.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from typing import NamedTuple

from authix.errors import TokenMalformed
from authix.tokens import base64url_decode, base64url_encode
from authix_issuer.errors import RefreshTokenInvalid
from authix_issuer.master_secret import MasterSecret

_PREFIX = "axr1."  # lets secret scanners recognise a leaked token
_HEAD = struct.Struct(">Q32sB")
_MAC_BYTES = 32
_MAX_LENGTH = 1024


class RefreshToken(NamedTuple):
    subject: str
    session: str
    counter: int
    secret: bytes

    def __repr__(self) -> str:
        return f"RefreshToken(session={self.session!r}, counter={self.counter})"

    @property
    def secret_hash(self) -> bytes:
        """What the store knows of the secret."""
        return hashlib.sha256(self.secret).digest()


def new_secret() -> bytes:
    """256 random bits."""
    return secrets.token_bytes(32)


class RefreshTokens:
    """Writes refresh tokens under one derived key, and reads those of the other master secret too."""

    def __init__(self, master: MasterSecret) -> None:
        # begun, because to begin one takes longer than to end it
        self._macs = [hmac.new(key, _PREFIX.encode("ascii"), "sha256") for key in master.derive_all("refresh-token")]

    def write(self, token: RefreshToken) -> str:
        session = token.session.encode("ascii")
        body = _HEAD.pack(token.counter, token.secret, len(session)) + session + token.subject.encode("ascii")
        return _PREFIX + base64url_encode(body + _mac(self._macs[0], body))

    def read(self, text: str) -> RefreshToken:
        """The parts of an authentic token. Raises ``RefreshTokenInvalid``."""
        if not text.startswith(_PREFIX) or len(text) > _MAX_LENGTH or not text.isascii():
            raise RefreshTokenInvalid("the refresh token is not one of ours")
        try:
            data = base64url_decode(text.removeprefix(_PREFIX))
        except TokenMalformed:
            raise RefreshTokenInvalid("the refresh token is not one of ours") from None
        body, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
        if not any(hmac.compare_digest(mac, _mac(begun, body)) for begun in self._macs):
            raise RefreshTokenInvalid("the refresh token is not one of ours")
        counter, secret, session_length = _HEAD.unpack_from(body)
        names = body[_HEAD.size :].decode("ascii")
        return RefreshToken(names[session_length:], names[:session_length], counter, secret)


def _mac(begun: hmac.HMAC, body: bytes) -> bytes:
    mac = begun.copy()
    mac.update(body)
    return mac.digest()
