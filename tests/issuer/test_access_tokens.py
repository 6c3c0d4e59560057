"""Access tokens as the issuer signs them."""

from __future__ import annotations

from typing import get_args

import jwt
import pytest

from authix.keys import AlgorithmName
from authix_issuer.access_tokens import AccessTokens
from authix_issuer.key_ring import Policy, Ring, advance
from authix_issuer.key_seal import new_key
from authix_issuer.keys import SigningKeys, in_use

ALGORITHMS: tuple[AlgorithmName, ...] = get_args(AlgorithmName)
ISSUER, AUDIENCE = "https://auth.example.com", "services"


@pytest.fixture(params=ALGORITHMS)
def keys(request: pytest.FixtureRequest) -> SigningKeys:
    return in_use(advance(Ring(), 1, Policy(request.param, 3_600_000_000, 900_000_000), new_key))


@pytest.fixture
def tokens(keys: SigningKeys) -> AccessTokens:
    return AccessTokens(keys, issuer=ISSUER, audience=AUDIENCE, life=300)


@pytest.mark.parametrize("at_us", [1_800_000_000_000_000, 1_800_000_000_000_001, 1_800_000_000_999_999])
def test_all_times_come_from_the_one_moment(tokens: AccessTokens, at_us: int) -> None:
    token = tokens.issue(subject="ann", session="one", roles=("reader",), at_us=at_us)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert {name: claims[name] for name in ("iat", "exp", "iat_us")} == {
        "iat": 1_800_000_000,
        "exp": 1_800_000_300,
        "iat_us": at_us,
    }


def test_a_token_is_signed_by_the_signing_key_and_says_so(tokens: AccessTokens, keys: SigningKeys) -> None:
    token = tokens.issue(subject="ann", session="one", roles=("reader", "writer"), at_us=4_000_000_000_000_000)
    key = keys.signing
    assert jwt.get_unverified_header(token) == {"alg": key.algorithm, "kid": key.id, "typ": "at+jwt"}
    claims = jwt.decode(
        token,
        key.private_key.public_key(),
        algorithms=[key.algorithm],
        audience=AUDIENCE,
        issuer=ISSUER,
        options={"verify_iat": False},
    )
    assert set(claims) == {"iss", "sub", "aud", "iat", "exp", "iat_us", "jti", "sid", "roles"}
    assert (claims["sub"], claims["sid"], claims["roles"]) == ("ann", "one", ["reader", "writer"])


def test_each_token_has_an_id_of_its_own(tokens: AccessTokens) -> None:
    made = [tokens.issue(subject="ann", session="one", roles=(), at_us=1_800_000_000_000_000) for _ in range(3)]
    assert len({jwt.decode(token, options={"verify_signature": False})["jti"] for token in made}) == 3
