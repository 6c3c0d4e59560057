"""The signing keys as they are used: one signs, all of these are published.

Rule: an immutable picture of a ring, ready as objects and as documents, so that nothing has to be computed for a
request, and nobody ever sees a key that signs and is not published.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple, Protocol

from authix.keys import AlgorithmName, KeySet, PrivateKey
from authix_issuer.errors import StoreUnavailable
from authix_issuer.key_ring import KeyState, Ring
from authix_issuer.key_seal import private_key_of, verification_key_of


class SigningKey(NamedTuple):
    id: str
    algorithm: AlgorithmName
    private_key: PrivateKey

    def __repr__(self) -> str:
        return f"SigningKey(id={self.id!r}, algorithm={self.algorithm!r})"


class Document(NamedTuple):
    """The published keys in one form."""

    content_type: str
    body: bytes
    etag: str


class Signer(Protocol):
    """Whoever has the key that signs now."""

    @property
    def signing(self) -> SigningKey: ...


class SigningKeys:
    """``signing`` signs, ``published`` are for verifiers, the signing key first."""

    def __init__(self, signing: SigningKey | None, published: KeySet) -> None:
        self._signing = signing
        self.published = published
        self.jwks = _document("application/jwk-set+json", published.to_json())
        """As a JWK Set (RFC 7517)."""
        self.pem = _document("application/x-pem-file", "".join(key.pem() for key in published).encode("ascii"))
        """As PEM, one block a key."""

    @property
    def signing(self) -> SigningKey:
        """Raises ``StoreUnavailable`` when there is none, since it was revoked and its successor is still unknown."""
        if self._signing is None:
            raise StoreUnavailable("the signing key was revoked and the next one can't be had from the key store")
        return self._signing


def in_use(ring: Ring) -> SigningKeys:
    """The keys of ``ring``."""
    signs = ring.signing
    signing = None if signs is None else SigningKey(signs.id, signs.algorithm, private_key_of(signs))
    others = [key for key in ring.keys if key.state in {KeyState.NEXT, KeyState.RETIRED}]
    published = others if signs is None else [signs, *others]
    return SigningKeys(signing, KeySet(map(verification_key_of, published)))


def _document(content_type: str, body: bytes) -> Document:
    return Document(content_type, body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
