"""Public keys by their id.

Rule: a key set only ever holds public signature keys of the three algorithms; each key serves one algorithm, and key
objects are made once, never per verification.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, cast, get_args

import jwt
import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import Algorithm, ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from authix.errors import SourceError
from authix.tokens import base64url_encode

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
AlgorithmName = Literal["ES256", "EdDSA", "RS256"]
ALGORITHMS: tuple[AlgorithmName, ...] = get_args(AlgorithmName)
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
MAX_DOCUMENT = 256 * 1024
"""Largest key set that is read, in bytes."""

_SHA256 = ec.ECDSA(hashes.SHA256())
_P256_BYTES = 32


class _Es256(ECAlgorithm):
    """ES256 as PyJWT has it, without making its parameters anew and writing numbers in hexadecimal on the way."""

    def __init__(self) -> None:
        super().__init__(ECAlgorithm.SHA256, ec.SECP256R1)

    def sign(self, msg: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
        # RFC 7518, 3.4: both numbers side by side, not in DER
        r, s = decode_dss_signature(key.sign(msg, _SHA256))
        return r.to_bytes(_P256_BYTES, "big") + s.to_bytes(_P256_BYTES, "big")

    def verify(self, msg: bytes, key: ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey, sig: bytes) -> bool:
        if len(sig) != 2 * _P256_BYTES:
            return False
        r, s = int.from_bytes(sig[:_P256_BYTES], "big"), int.from_bytes(sig[_P256_BYTES:], "big")
        public_key = key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key
        try:
            public_key.verify(encode_dss_signature(r, s), msg, _SHA256)
        except InvalidSignature:
            return False
        return True


_IMPLEMENTATIONS: Mapping[AlgorithmName, Algorithm] = {
    "ES256": _Es256(),
    "EdDSA": OKPAlgorithm(),
    "RS256": RSAAlgorithm(RSAAlgorithm.SHA256),
}
_PEM = re.compile(r"-----BEGIN [^-]+-----[^-]*-----END [^-]+-----", re.ASCII)
_THUMBPRINT_MEMBERS = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}


class VerificationKey:
    """One public key, ready to verify."""

    __slots__ = ("_check", "algorithm", "key_id", "public_key")

    def __init__(self, public_key: PublicKey, *, key_id: str | None = None) -> None:
        """``key_id`` defaults to the RFC 7638 thumbprint. Raises ``SourceError`` for a key of another kind."""
        self.public_key = public_key
        self.algorithm: AlgorithmName = _algorithm_of(public_key)
        self._check = _IMPLEMENTATIONS[self.algorithm].verify
        self.key_id = key_id or thumbprint(_members(public_key))

    def verify(self, signing_input: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is this key's over ``signing_input``."""
        return bool(self._check(signing_input, self.public_key, signature))

    def jwk(self) -> dict[str, str]:
        """This key as a JSON Web Key (RFC 7517)."""
        return {**_members(self.public_key), "kid": self.key_id, "alg": self.algorithm, "use": "sig"}

    def pem(self) -> str:
        """This key as a PEM ``SubjectPublicKeyInfo``."""
        encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        return self.public_key.public_bytes(encoding, form).decode("ascii")


class KeySet:
    """Verification keys by key id; immutable."""

    def __init__(self, keys: Iterable[VerificationKey] = ()) -> None:
        self._keys = {key.key_id: key for key in keys}

    @classmethod
    def from_json(cls, document: bytes) -> KeySet:
        """Read a JWK Set (RFC 7517). Keys that are not ours to use are passed over, as the RFC asks.

        Raises ``SourceError`` when the document is no JWK Set or holds no usable key.
        """
        try:
            jwks = msgspec.json.decode(document, type=dict[str, Any]).get("keys")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise SourceError("the key set is not JSON") from None
        if not isinstance(jwks, list):
            raise SourceError("the key set has no list of keys")
        keys = [key for key in map(_from_jwk, jwks) if key is not None]
        if not keys:
            raise SourceError("the key set holds no usable key")
        return cls(keys)

    @classmethod
    def from_pem(cls, document: bytes) -> KeySet:
        """Read public keys one after the other in PEM; their key ids are their thumbprints.

        Raises ``SourceError`` when one can't be read or used.
        """
        try:
            blocks = _PEM.findall(document.decode("ascii"))
            keys = [VerificationKey(cast(PublicKey, load_pem_public_key(block.encode()))) for block in blocks]
        except (ValueError, UnsupportedAlgorithm):
            raise SourceError("the keys in PEM can't be read") from None
        if not keys:
            raise SourceError("the key set holds no usable key")
        return cls(keys)

    def to_json(self) -> bytes:
        """This set as a JWK Set document."""
        return msgspec.json.encode({"keys": [key.jwk() for key in self]})

    def get(self, key_id: str) -> VerificationKey | None:
        return self._keys.get(key_id)

    def __contains__(self, key_id: object) -> bool:
        return key_id in self._keys

    def __iter__(self) -> Iterator[VerificationKey]:
        return iter(self._keys.values())

    def __len__(self) -> int:
        return len(self._keys)


def new_private_key(algorithm: AlgorithmName) -> PrivateKey:
    """A key to sign with by ``algorithm``."""
    match algorithm:
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()
        case "RS256":
            return rsa.generate_private_key(public_exponent=65537, key_size=MIN_RSA_BITS)


def sign(algorithm: AlgorithmName, private_key: PrivateKey, signing_input: bytes) -> bytes:
    """The signature of ``private_key`` over ``signing_input`` (RFC 7518, 3)."""
    return _IMPLEMENTATIONS[algorithm].sign(signing_input, private_key)


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """The RFC 7638 SHA-256 thumbprint of a JWK."""
    required = {name: jwk[name] for name in _THUMBPRINT_MEMBERS[jwk["kty"]]}
    return base64url_encode(hashlib.sha256(msgspec.json.encode(required, order="sorted")).digest())


def _algorithm_of(key: object) -> AlgorithmName:
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return "ES256"
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "EdDSA"
    if isinstance(key, rsa.RSAPublicKey) and MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        return "RS256"
    raise SourceError("a key is neither P-256, Ed25519 nor RSA of 2048 to 8192 bits")


def _members(key: PublicKey) -> dict[str, str]:
    implementation = _IMPLEMENTATIONS[_algorithm_of(key)]
    jwk = implementation.to_jwk(key, as_dict=True)
    return {name: jwk[name] for name in _THUMBPRINT_MEMBERS[jwk["kty"]]}


def _from_jwk(jwk: object) -> VerificationKey | None:
    """The key, or None where it is of a kind, use or algorithm that is not ours."""
    if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig":
        return None
    key_id = jwk.get("kid")
    if not isinstance(key_id, str) or not key_id:
        return None
    try:
        key = jwt.PyJWK(jwk, algorithm=_algorithm_for(jwk)).key
        found = VerificationKey(key, key_id=key_id)
    except (jwt.PyJWTError, SourceError, ValueError, KeyError, TypeError):
        return None
    return found if jwk.get("alg", found.algorithm) == found.algorithm else None


def _algorithm_for(jwk: Mapping[str, Any]) -> AlgorithmName:
    match jwk.get("kty"), jwk.get("crv"):
        case "EC", "P-256":
            return "ES256"
        case "OKP", "Ed25519":
            return "EdDSA"
        case "RSA", _:
            return "RS256"
    raise SourceError("a key of another kind")
