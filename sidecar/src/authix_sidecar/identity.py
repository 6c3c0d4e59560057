"""The signed identity: a JWT by which an upstream can prove who a request is from.

Rule: it says nothing but what a verified token says, to one audience, for 60 s at most and never past that token's own
end. It is signed once per token and 20 s and used again in between, so whoever gets one has at least 40 s of it left
unless the token itself ends sooner. The private key is read once, at the start, and never shown.

Header: ``alg`` (ES256, EdDSA or RS256, by the key), ``kid`` (the key's RFC 7638 thumbprint), ``typ``
``authix-identity+jwt``, so that it can never pass for an access token. Claims: ``iss`` (``authix-sidecar``), ``aud``,
``sub``, ``sid`` where there is one, ``roles``, ``iat`` and ``exp``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from authix.claims import Claims
from authix.errors import SourceError
from authix.keys import KeySet, PrivateKey, VerificationKey
from authix.recent import Recent

FIELD = "X-Authix-Identity"
ISSUER = "authix-sidecar"
TYPE = "authix-identity+jwt"
LIFE = 60
"""Longest life in seconds."""
REUSE = 20
"""How long one is used again, in seconds."""
CACHED = 4096
"""How many are remembered."""
KEYS_AGE = 300
"""How long the public key may be kept before it is asked for again, in seconds."""


class _Signed(NamedTuple):
    claims: Claims
    """Held, so that no other claims can have their ``id``."""
    at: int
    text: str


class Identities:
    """Signs identities for one audience."""

    def __init__(self, key: PrivateKey, *, audience: str, now: Callable[[], float]) -> None:
        """``now`` gives epoch seconds."""
        public = VerificationKey(key.public_key())
        self.jwks = KeySet([public]).to_json()
        """The public key as a JWK Set."""
        self._key = key
        self._algorithm = public.algorithm
        self._header = {"kid": public.key_id, "typ": TYPE}
        self._audience = audience
        self._now = now
        self._kept: Recent[int, _Signed] = Recent(CACHED)

    def of(self, claims: Claims) -> str:
        """The identity JWT for ``claims``."""
        now = self._now()
        found = self._kept.get(id(claims))
        if found is not None and found.claims is claims and 0 <= now - found.at < REUSE:
            return found.text
        at = int(now)
        text = self._sign(claims, at)
        self._kept.keep(id(claims), _Signed(claims, at, text))
        return text

    def line(self, claims: Claims) -> bytes:
        """The field for the upstream."""
        return f"{FIELD}: {self.of(claims)}\r\n".encode("ascii")

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._kept)

    def _sign(self, claims: Claims, at: int) -> str:
        said: dict[str, object] = {
            "iss": ISSUER,
            "aud": self._audience,
            "sub": claims.subject,
            "roles": sorted(claims.roles),
            "iat": at,
            "exp": int(min(at + LIFE, claims.expires_at)),
        }
        if claims.session is not None:
            said["sid"] = claims.session
        return jwt.encode(said, self._key, self._algorithm, self._header)


def private_key(path: str) -> PrivateKey:
    """The key in the file at ``path``. Raises ``ValueError``, whose text goes on after a setting's name."""
    try:
        key = load_pem_private_key(Path(path).read_bytes(), None)
    except OSError as error:
        raise ValueError(f"must name a file that can be read, not {path!r} ({type(error).__name__})") from None
    except TypeError:  # a password is needed
        raise ValueError(f"must name a private key that is not encrypted, not {path!r}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"must name a file with one private key in PEM, not {path!r}") from None
    if isinstance(key, PrivateKey):
        try:
            VerificationKey(key.public_key())
        except SourceError:
            pass
        else:
            return key
    raise ValueError(f"must name a private key of P-256, Ed25519 or RSA of 2048 to 8192 bits, not {path!r}")


def private_key_file(value: str) -> str:
    """The path ``value`` as a setting, once it is known to hold a key."""
    private_key(value)
    return value
