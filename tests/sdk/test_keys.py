"""Key sets: what is read from a JWK Set, what is passed over, and what makes a document none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa, x25519
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from hypothesis import given
from hypothesis import strategies as st

from authix.errors import SourceError
from authix.keys import ALGORITHMS, KeySet, VerificationKey, thumbprint
from authix.tokens import base64url_encode, take_apart

if TYPE_CHECKING:
    from tests.sdk.conftest import Mint

# RFC 8037, A.1 and A.2
ED25519_JWK = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}


def document(*jwks: object) -> bytes:
    return json.dumps({"keys": jwks}).encode()


def jwk_of(key: Any, **changes: object) -> dict[str, object]:
    return {**VerificationKey(key.public_key()).jwk(), **changes}


def test_the_thumbprint_of_the_key_in_rfc_8037_is_the_one_it_gives() -> None:
    assert thumbprint(ED25519_JWK) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_id_is_the_thumbprint_of_the_key(mint: Mint, algorithm: str) -> None:
    key = mint.public(algorithm)
    assert key.key_id == thumbprint(key.jwk())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_set_reads_what_it_wrote_and_verifies_with_it(mint: Mint, algorithm: str) -> None:
    keys = KeySet.from_json(mint.key_set().to_json())
    parsed = take_apart(mint(algorithm))
    key = keys.get(parsed.key_id)
    assert key is not None
    assert key.verify(parsed.signing_input, parsed.signature)
    assert {k.key_id for k in keys} == {k.key_id for k in mint.key_set()}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_pem_holds_the_same_key(mint: Mint, algorithm: str) -> None:
    key = mint.public(algorithm)
    assert load_pem_public_key(key.pem().encode()) == key.public_key


def test_a_private_key_is_never_part_of_what_is_published(mint: Mint) -> None:
    for jwk in json.loads(mint.key_set().to_json())["keys"]:
        assert not {"d", "p", "q", "k"} & jwk.keys()


PASSED_OVER = {
    "no key id": {"kid": None},
    "an empty key id": {"kid": ""},
    "a key id that is a number": {"kid": 1},
    "another use": {"use": "enc"},
    "a shared secret": {"kty": "oct", "k": "AAAA"},
    "another algorithm": {"alg": "ES512"},
    "the algorithm of another kind": {"alg": "RS256"},
    "an algorithm that is no text": {"alg": ["ES256"]},
    "an unknown kind": {"kty": "PQC"},
    "a kind that is no text": {"kty": ["EC"]},
    "another curve": {"crv": "P-521"},
    "no curve": {"crv": None},
    "a point off the curve": {"x": base64url_encode(bytes(32))},
    "half a point": {"y": None},
    "a coordinate too short": {"x": "AAAA"},
    "a coordinate that is a number": {"x": 7},
    "a coordinate that is no base64url": {"x": "\u00e9" * 43},
}


@pytest.mark.parametrize("changes", PASSED_OVER.values(), ids=PASSED_OVER.keys())
def test_a_key_that_is_not_ours_to_use_is_passed_over(mint: Mint, changes: dict[str, object]) -> None:
    good = mint.public("EdDSA")
    spoiled = {**mint.public().jwk(), "kid": "spoiled", **changes}
    keys = KeySet.from_json(document(spoiled, good.jwk()))
    assert [key.key_id for key in keys] == [good.key_id]


def test_a_private_key_is_passed_over(mint: Mint) -> None:
    """Whoever publishes one has lost it."""
    private = {**ED25519_JWK, "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A", "kid": "private"}
    good = mint.public()
    assert [key.key_id for key in KeySet.from_json(document(private, good.jwk()))] == [good.key_id]


@pytest.mark.parametrize(
    "jwk",
    [
        {"kty": "OKP", "crv": "Ed25519", "x": "AAAA", "kid": "short"},
        {"kty": "OKP", "crv": "Ed25519", "kid": "nothing"},
        {"kty": "OKP", "crv": "X25519", "x": base64url_encode(bytes(range(32))), "kid": "for key agreement"},
        {"kty": "OKP", "crv": "Ed448", "x": base64url_encode(bytes(57)), "kid": "ed448"},
        {"kty": "RSA", "n": base64url_encode(b"\xff" * 128), "e": "AQAB", "kid": "1024 bits"},
        {"kty": "RSA", "n": base64url_encode(b"\xff" * 256), "e": "AQ", "kid": "exponent 1"},
        {"kty": "RSA", "n": base64url_encode(b"\xff" * 256), "e": "AAAA", "kid": "exponent 0"},
        {"kty": "RSA", "n": base64url_encode(b"\xff" * 256), "e": base64url_encode(b"\xff" * 300), "kid": "exponent"},
        {"kty": "RSA", "n": base64url_encode(b"\xff" * 4096), "e": "AQAB", "kid": "32768 bits"},
        {"kty": "RSA", "n": [], "e": {}, "kid": "no numbers"},
        *(None, 1, "key", [], [{}], {}, True),
    ],
    ids=lambda jwk: str(jwk.get("kid", jwk) if isinstance(jwk, dict) else jwk),
)
def test_what_is_no_key_is_passed_over(mint: Mint, jwk: object) -> None:
    good = mint.public()
    assert [key.key_id for key in KeySet.from_json(document(jwk, good.jwk()))] == [good.key_id]


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{}", b"[]", b"null", b"<html>", b'{"keys":null}', b'{"keys":{}}', b'{"keys":[]}', b'{"keys":[{}]}'),
        b'{"keys":["\xff"]}',
        '{"keys":[]}'.encode("utf-16"),
        b'{"keys":' + b"[" * 100_000,
        b'{"keys":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"keys":[' + b"9" * 10_000 + b"]}",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_a_document_without_a_usable_key_is_refused(data: bytes) -> None:
    with pytest.raises(SourceError):
        KeySet.from_json(data)


@given(st.binary())
def test_any_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(SourceError):
        KeySet.from_json(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)


@given(
    st.sampled_from(ALGORITHMS), st.sampled_from(["kty", "crv", "x", "y", "n", "e", "alg", "use", "kid"]), json_values
)
def test_any_change_to_a_key_leaves_a_usable_set_or_is_refused(
    mint: Mint, algorithm: str, member: str, value: object
) -> None:
    try:
        keys = KeySet.from_json(document({**mint.public(algorithm).jwk(), member: value}))
    except SourceError:
        return
    (key,) = keys
    key.verify(b"header.payload", bytes(64))


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256K1()),
        rsa.generate_private_key(65537, 1024),
        ed448.Ed448PrivateKey.generate(),
        x25519.X25519PrivateKey.generate(),
    ],
    ids=lambda key: type(key).__name__,
)
def test_a_key_of_another_kind_is_no_verification_key(key: Any) -> None:
    with pytest.raises(SourceError):
        VerificationKey(key.public_key())
