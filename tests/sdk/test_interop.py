"""Tokens of a real issuer verify in other people's libraries, with the keys fetched from it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, cast

import joserfc.jwk
import joserfc.jwt
import jwt
import pytest

from authix.keys import ALGORITHMS
from authix.tokens import base64url_decode, base64url_encode
from tests.programs import IssuerProgram, login, register

StartIssuer = Callable[..., IssuerProgram]
Verify = Callable[[str, dict[str, Any], str, str], dict[str, Any]]


def by_pyjwt(token: str, jwks: dict[str, Any], algorithm: str, issuer: str) -> dict[str, Any]:
    keys = jwt.PyJWKSet.from_dict(jwks)
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims: dict[str, Any] = jwt.decode(token, key, algorithms=[algorithm], audience="tests", issuer=issuer)
    return claims


def by_joserfc(token: str, jwks: dict[str, Any], algorithm: str, issuer: str) -> dict[str, Any]:
    document = cast("joserfc.jwk.KeySetSerialization", jwks)
    decoded = joserfc.jwt.decode(token, joserfc.jwk.KeySet.import_key_set(document), algorithms=[algorithm])
    rules = joserfc.jwt.JWTClaimsRegistry(iss={"essential": True, "value": issuer}, aud={"value": "tests"})
    rules.validate(decoded.claims)
    return decoded.claims


def by_authlib(token: str, jwks: dict[str, Any], algorithm: str, issuer: str) -> dict[str, Any]:
    with warnings.catch_warnings(record=True):  # it points at joserfc, which is tried too
        from authlib.jose import JsonWebKey, JsonWebToken  # type: ignore[import-untyped]  # it ships no types

    options = {"iss": {"essential": True, "value": issuer}, "aud": {"value": "tests"}}
    claims = JsonWebToken([algorithm]).decode(token, JsonWebKey.import_key_set(jwks), claims_options=options)
    claims.validate()
    return dict(claims)


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated via RFC 9864")  # joserfc would have it named Ed25519
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_issuers_token_verifies_elsewhere(start_issuer: StartIssuer, algorithm: str) -> None:
    issuer = start_issuer(AUTHIX_ALGORITHM=algorithm)
    with issuer.client() as client:
        subject = register(client, "ada@example.com")
        token = login(client, "ada@example.com")
        jwks: dict[str, Any] = client.get("/.well-known/jwks.json").json()
        pem = client.get("/public_key").text
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    header, payload, signature = token.split(".")
    spoiled = f"{header}.{base64url_encode(base64url_decode(payload).replace(subject.encode(), b'admin'))}.{signature}"

    verifiers: tuple[Verify, ...] = (by_pyjwt, by_joserfc, by_authlib)
    for verify in verifiers:
        claims = verify(token, jwks, algorithm, issuer.url)
        assert (claims["iss"], claims["sub"], claims["aud"]) == (issuer.url, subject, "tests")
        assert claims["exp"] - claims["iat"] == 300
        with pytest.raises(Exception, match=r"(?i)signature"):
            verify(spoiled, jwks, algorithm, issuer.url)
    assert jwt.decode(token, pem, algorithms=[algorithm], audience="tests", issuer=issuer.url)["sub"] == subject
