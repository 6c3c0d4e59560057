"""Tokens of a real issuer verify in other people's libraries, with the keys fetched from it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import joserfc.jwk
import joserfc.jwt
import jwt
import pytest

from authix.keys import ALGORITHMS
from authix.tokens import base64url_decode, base64url_encode
from tests.interop.programs import LIBRARIES, Library
from tests.programs import IssuerProgram, login, register
from tests.servers.fixtures import require

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
    with warnings.catch_warnings(record=True, action="ignore"):  # it points at joserfc, which is tried too
        from authlib.jose import JsonWebKey, JsonWebToken  # type: ignore[import-untyped]  # it ships no types

    options = {"iss": {"essential": True, "value": issuer}, "aud": {"value": "tests"}}
    claims = JsonWebToken([algorithm]).decode(token, JsonWebKey.import_key_set(jwks), claims_options=options)
    claims.validate()
    return dict(claims)


class Issued(NamedTuple):
    """A real issuer's token, and the same one spoiled: another subject under the same signature."""

    issuer: IssuerProgram
    subject: str
    token: str
    spoiled: str


@pytest.fixture(scope="module", params=ALGORITHMS)
def issued(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issued]:
    issuer = IssuerProgram(tmp_path_factory.mktemp("issuer"), AUTHIX_ALGORITHM=request.param)
    try:
        with issuer.start().ready().client() as client:
            subject = register(client, "ada@example.com")
            token = login(client, "ada@example.com")
        assert jwt.get_unverified_header(token)["alg"] == request.param
        header, payload, signature = token.split(".")
        forged = base64url_encode(base64url_decode(payload).replace(subject.encode(), b"admin"))
        yield Issued(issuer, subject, token, f"{header}.{forged}.{signature}")
    finally:
        issuer.stop()


def algorithm_of(issued: Issued) -> str:
    return str(jwt.get_unverified_header(issued.token)["alg"])


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated via RFC 9864")  # joserfc would have it named Ed25519
@pytest.mark.parametrize("verify", [by_pyjwt, by_joserfc, by_authlib])
def test_an_issuers_token_verifies_in_pythons_libraries(issued: Issued, verify: Verify) -> None:
    with issued.issuer.client() as client:
        jwks: dict[str, Any] = client.get("/.well-known/jwks.json").json()
    claims = verify(issued.token, jwks, algorithm_of(issued), issued.issuer.url)
    assert (claims["iss"], claims["sub"], claims["aud"]) == (issued.issuer.url, issued.subject, "tests")
    assert claims["exp"] - claims["iat"] == 300
    with pytest.raises(Exception, match=r"(?i)signature"):
        verify(issued.spoiled, jwks, algorithm_of(issued), issued.issuer.url)


def test_an_issuers_token_verifies_by_its_pem(issued: Issued) -> None:
    with issued.issuer.client() as client:
        pem = client.get("/public_key").text
    algorithms, issuer = [algorithm_of(issued)], issued.issuer.url
    assert (
        jwt.decode(issued.token, pem, algorithms=algorithms, audience="tests", issuer=issuer)["sub"] == issued.subject
    )
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(issued.spoiled, pem, algorithms=algorithms, audience="tests", issuer=issuer)


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: type(library).__name__)
def test_an_issuers_token_verifies_in_other_languages(issued: Issued, library: Library) -> None:
    require(library.missing())
    url = issued.issuer.url
    accepted, refused = library.verify(
        [issued.token, issued.spoiled],
        keys=f"{url}/.well-known/jwks.json",
        issuer=url,
        audience="tests",
        algorithm=algorithm_of(issued),
    )
    assert "claims" in accepted, accepted
    claims = accepted["claims"]
    assert (claims["iss"], claims["sub"]) == (url, issued.subject)
    assert claims["aud"] in ("tests", ["tests"])
    assert claims["exp"] - claims["iat"] == 300
    assert re.search("signature", refused.get("refused", ""), re.IGNORECASE), refused
