"""The issuer's signing keys.

Rule: private parts are stored encrypted (AES-256-GCM under a derived key, bound to the key id) and are held ready as
objects; every stored key is published.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from authix.errors import SettingsError
from authix.keys import AlgorithmName, KeySet, PrivateKey, VerificationKey, new_private_key
from authix_issuer.master_secret import MasterSecret
from authix_issuer.ports import KeyStore, StoredKey

SIGNING = "signing"
_NONCE_BYTES = 12


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


class SigningKeys:
    """The keys in use: ``signing`` signs, ``published`` are for verifiers, the signing key first."""

    def __init__(self, signing: SigningKey, published: KeySet) -> None:
        self.signing = signing
        self.published = published
        self.jwks = _document("application/jwk-set+json", published.to_json())
        """As a JWK Set (RFC 7517)."""
        self.pem = _document("application/x-pem-file", "".join(key.pem() for key in published).encode("ascii"))
        """As PEM, one block a key."""


async def open_keys(store: KeyStore, master: MasterSecret, algorithm: AlgorithmName) -> SigningKeys:
    """Load the keys, making the first one of ``algorithm`` if there is none.

    Raises ``SettingsError`` when the master secret is not the one that sealed them.
    """
    sealing_key = AESGCM(master.derive("signing-keys"))
    stored = await store.all()
    if not any(_signs(key, algorithm) for key in stored):
        await store.add_if_none_signs(_seal(new_private_key(algorithm), sealing_key))
        stored = await store.all()
    keys = [_unseal(key, sealing_key) for key in stored]
    signing = next(key for key, kept in zip(keys, stored, strict=True) if _signs(kept, algorithm))
    others = [key for key in keys if key.id != signing.id]
    return SigningKeys(signing, KeySet(VerificationKey(key.private_key.public_key()) for key in (signing, *others)))


def _document(content_type: str, body: bytes) -> Document:
    return Document(content_type, body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def _signs(key: StoredKey, algorithm: AlgorithmName) -> bool:
    return key.algorithm == algorithm and key.state == SIGNING


def _seal(key: PrivateKey, sealing_key: AESGCM) -> StoredKey:
    public = VerificationKey(key.public_key())
    encoding, form = serialization.Encoding.DER, serialization.PrivateFormat.PKCS8
    private = key.private_bytes(encoding, form, serialization.NoEncryption())
    nonce = secrets.token_bytes(_NONCE_BYTES)
    sealed = nonce + sealing_key.encrypt(nonce, private, public.key_id.encode("ascii"))
    return StoredKey(public.key_id, public.algorithm, SIGNING, sealed)


def _unseal(stored: StoredKey, sealing_key: AESGCM) -> SigningKey:
    nonce, sealed = stored.sealed[:_NONCE_BYTES], stored.sealed[_NONCE_BYTES:]
    try:
        private = sealing_key.decrypt(nonce, sealed, stored.id.encode("ascii"))
    except InvalidTag:
        raise SettingsError(
            "AUTHIX_SECRET is not the secret that the stored signing keys were sealed with: set it to that one again."
        ) from None
    key = serialization.load_der_private_key(private, None)
    if not isinstance(key, PrivateKey):
        raise SettingsError(f"The stored signing key {stored.id} is of no known kind: restore the store from a backup.")
    return SigningKey(stored.id, stored.algorithm, key)
