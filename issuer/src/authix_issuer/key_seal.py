"""The key ring at rest.

Rule: the whole ring is sealed as one (AES-256-GCM under a derived key, bound to its version): who can write the store
can neither read a private part nor slip in a key of theirs, and an old ring does not pass for a new one. What the
previous master secret sealed is still read.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple, cast

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from authix.errors import SettingsError
from authix.keys import AlgorithmName, PrivateKey, PublicKey, VerificationKey, new_private_key
from authix_issuer.key_ring import KeyState, Ring, RingKey
from authix_issuer.master_secret import MasterSecret
from authix_issuer.ports import KeptRing

_PURPOSE = "key-ring"
_NONCE_BYTES = 12


class Unsealed(NamedTuple):
    ring: Ring
    by_previous: bool
    """Sealed under the previous master secret, so it has to be sealed anew."""


class KeySeal:
    """Seals rings under the present master secret."""

    def __init__(self, master: MasterSecret) -> None:
        self._ciphers = [AESGCM(key) for key in master.derive_all(_PURPOSE)]

    def seal(self, ring: Ring, version: int) -> KeptRing:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        body = self._ciphers[0].encrypt(nonce, msgspec.json.encode(ring), _bound_to(version))
        return KeptRing(version, nonce + body)

    def unseal(self, kept: KeptRing) -> Unsealed:
        """Raises ``SettingsError`` when it was sealed under another secret, or changed."""
        if not kept.version:
            return Unsealed(Ring(), by_previous=False)
        nonce, body = kept.sealed[:_NONCE_BYTES], kept.sealed[_NONCE_BYTES:]
        for number, cipher in enumerate(self._ciphers):
            try:
                ring = cipher.decrypt(nonce, body, _bound_to(kept.version))
            except (InvalidTag, ValueError):  # the latter for what is too short to be one
                continue
            return Unsealed(msgspec.json.decode(ring, type=Ring), by_previous=number > 0)
        raise SettingsError(
            "AUTHIX_SECRET is not the secret that the stored signing keys were sealed with: set it to that one again, "
            "or set AUTHIX_SECRET_PREVIOUS to it."
        )


def new_key(algorithm: AlgorithmName) -> RingKey:
    """A key for a ring, which waits for its turn."""
    key = new_private_key(algorithm)
    public = VerificationKey(key.public_key())
    while public.key_id.startswith("-"):  # on a command line it would be taken for an option
        key = new_private_key(algorithm)
        public = VerificationKey(key.public_key())
    encoding = serialization.Encoding.DER
    return RingKey(
        id=public.key_id,
        algorithm=public.algorithm,
        state=KeyState.NEXT,
        public=key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo),
        private=key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def private_key_of(key: RingKey) -> PrivateKey:
    return cast(PrivateKey, serialization.load_der_private_key(key.private, None))


def verification_key_of(key: RingKey) -> VerificationKey:
    return VerificationKey(cast(PublicKey, serialization.load_der_public_key(key.public)), key_id=key.id)


def _bound_to(version: int) -> bytes:
    return b"authix key ring %d" % version
