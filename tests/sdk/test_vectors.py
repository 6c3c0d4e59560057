"""Examples of the RFCs and Project Wycheproof's test vectors: every signature is judged right, and none is a token."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from authix import AuthixError, Verifier
from authix.events import Heartbeat
from authix.keys import ALGORITHMS, KeySet, PublicKey, VerificationKey
from authix.tokens import base64url_decode
from tests.interop.programs import VECTORS
from tests.servers.fixtures import require

# RFC 7515, A.2 and A.3; RFC 8037, A.2 and A.4
RFC_KEYS: dict[str, dict[str, str]] = {
    "RS256": {
        "kty": "RSA",
        "e": "AQAB",
        "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SF"
        "d2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEM"
        "a2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcD"
        "TW9gb54h4FRWyuXpoQ",
    },
    "ES256": {
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    },
    "EdDSA": {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
}
CLAIMS = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
RFC_SIGNED = {
    "RS256": f"eyJhbGciOiJSUzI1NiJ9.{CLAIMS}."
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1d"
    "nZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwu"
    "sC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
    "ES256": f"eyJhbGciOiJFUzI1NiJ9.{CLAIMS}."
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
    "EdDSA": "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
    "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
}
# RFC 7515, A.1 and A.5 (as RFC 7519, 3.1 and 6.1)
RFC_UNTRUSTED = (
    f"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{CLAIMS}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
    f"eyJhbGciOiJub25lIn0.{CLAIMS}.",
)
SIGNATURES = (
    "ecdsa_secp256r1_sha256_p1363",
    "ed25519",
    "rsa_signature_2048_sha256",
    "rsa_signature_3072_sha256",
    "rsa_signature_4096_sha256",
    "rsa_signature_8192_sha256",
)


def key_of(jwk: dict[str, Any]) -> VerificationKey:
    (key,) = KeySet.from_json(json.dumps({"keys": [jwk | {"kid": jwk.get("kid") or "vector"}]}).encode())
    return key


def from_pem(pem: str) -> PublicKey:
    return cast("PublicKey", load_pem_public_key(pem.encode()))


def good_signature(key: VerificationKey, jws: str) -> bool:
    """Whether a compact JWS, of whatever payload, has this key's signature."""
    signed, _, signature = jws.rpartition(".")
    try:
        return key.verify(signed.encode(), base64url_decode(signature))
    except AuthixError:
        return False


def judge(keys: KeySet, token: str) -> str:
    verifier = Verifier(issuer="joe", audience="anyone", algorithms=frozenset(ALGORITHMS))
    verifier.use_keys(keys)
    verifier.apply(Heartbeat(at_us=0, complete_until_us=0), monotonic=0)
    try:
        verifier.verify(token, now=1300819379, monotonic=0)
    except AuthixError as error:
        return error.code
    return "accepted"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_rfcs_signatures_are_good_and_no_other_keys(algorithm: str) -> None:
    for name, jwk in RFC_KEYS.items():
        assert good_signature(key_of(jwk), RFC_SIGNED[algorithm]) == (name == algorithm)


def test_the_rfcs_examples_are_no_access_tokens() -> None:
    keys = KeySet(map(key_of, RFC_KEYS.values()))
    verdicts = {token: judge(keys, token) for token in (*RFC_SIGNED.values(), *RFC_UNTRUSTED)}
    assert set(verdicts.values()) == {"token_type_wrong", "token_malformed"}


@pytest.mark.parametrize("name", SIGNATURES)
def test_wycheproofs_signatures_are_each_judged_right(name: str) -> None:
    require(VECTORS.missing())
    wrong, judged = [], 0
    for group in VECTORS.groups(name):
        jwk = group.get("publicKeyJwk") or group.get("keyJwk")
        key = key_of(jwk) if jwk else VerificationKey(from_pem(group["publicKeyPem"]))
        for vector in group["tests"]:
            judged += 1
            good = key.verify(bytes.fromhex(vector["msg"]), bytes.fromhex(vector["sig"]))
            if good != (vector["result"] == "valid"):
                wrong.append((vector["tcId"], vector["comment"], vector["result"]))
    assert wrong == []
    assert judged > 100


def test_wycheproofs_jws_are_each_judged_right() -> None:
    """Where the vector's key is of one of our algorithms; the rest of them must not even make a key."""
    require(VECTORS.missing())
    wrong, judged = [], 0
    for group in VECTORS.groups("json_web_signature"):
        jwk = group.get("public", {})
        if jwk.get("alg") not in ALGORITHMS:
            continue
        key = key_of(jwk)
        for vector in group["tests"]:
            judged += 1
            jws = vector["jws"]
            if good_signature(key, jws) != (vector["result"] == "valid"):
                wrong.append((vector["tcId"], vector["comment"], vector["result"]))
    assert wrong == []
    assert judged > 50


@pytest.mark.parametrize("name", ["json_web_signature", "json_web_key"])
def test_none_of_wycheproofs_jws_is_an_access_token(name: str) -> None:
    require(VECTORS.missing())
    accepted, judged = [], 0
    for group in VECTORS.groups(name):
        document = group.get("public") or group["private"]
        try:
            keys = KeySet.from_json(json.dumps(document if "keys" in document else {"keys": [document]}).encode())
        except AuthixError:
            keys = KeySet()
        for vector in group["tests"]:
            judged += 1
            jws = vector["jws"] if isinstance(vector["jws"], str) else json.dumps(vector["jws"])
            if judge(keys, jws) == "accepted":
                accepted.append((vector["tcId"], vector["comment"]))
    assert accepted == []
    assert judged > 20
