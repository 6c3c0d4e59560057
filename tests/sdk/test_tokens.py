"""Whatever comes in, a verifier answers with claims or with an error that has a code; and what is signed comes back."""

from __future__ import annotations

import json
import string
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from authix import AuthixError, Claims, Verifier
from authix.keys import ALGORITHMS
from authix.tokens import base64url_decode, base64url_encode, json_object, parse

if TYPE_CHECKING:
    from tests.sdk.conftest import Mint

visible = st.text(string.digits + string.ascii_letters + string.punctuation, min_size=1, max_size=128)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)
plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)


def claims_or_code(verifier: Verifier, token: str, now: float) -> Claims | str:
    """What comes out; any other error fails the test by itself."""
    try:
        return verifier.verify(token, now=now, monotonic=0)
    except AuthixError as error:
        return error.code


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
@example("\ud800.\ud800.\ud800")
def test_any_text_is_refused_with_a_code(mint: Mint, verifier: Verifier, text: str) -> None:
    assert isinstance(claims_or_code(verifier, text, mint.now), str)


@given(st.binary(min_size=1), st.binary(min_size=1), st.binary(min_size=1))
def test_any_three_segments_are_refused_with_a_code(
    mint: Mint, verifier: Verifier, header: bytes, payload: bytes, signature: bytes
) -> None:
    token = ".".join(map(base64url_encode, (header, payload, signature)))
    assert isinstance(claims_or_code(verifier, token, mint.now), str)


@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "jku", "x"]), json_values))
def test_any_signed_header_yields_claims_or_a_code(mint: Mint, verifier: Verifier, changes: dict[str, Any]) -> None:
    claims_or_code(verifier, mint.sign(mint.header() | changes, mint.payload()), mint.now)


@given(
    st.dictionaries(
        st.sampled_from(["iss", "sub", "aud", "exp", "nbf", "iat", "iat_us", "jti", "sid", "roles", "x"]), json_values
    )
)
def test_any_signed_payload_yields_claims_or_a_code(mint: Mint, verifier: Verifier, changes: dict[str, Any]) -> None:
    claims_or_code(verifier, mint.sign(mint.header(), mint.payload() | changes), mint.now)


@given(st.data())
def test_a_token_with_one_character_changed_is_refused(mint: Mint, verifier: Verifier, data: st.DataObject) -> None:
    algorithm = data.draw(st.sampled_from(ALGORITHMS))
    token = mint(algorithm)
    at = data.draw(st.integers(0, len(token) - 1))
    character = data.draw(st.sampled_from(string.ascii_letters + string.digits + "-_.=+/ \n").filter(token[at].__ne__))
    assert isinstance(claims_or_code(verifier, token[:at] + character + token[at + 1 :], mint.now), str)


@given(
    algorithm=st.sampled_from(ALGORITHMS),
    subject=visible,
    session=st.none() | visible,
    token_id=st.none() | visible,
    roles=st.lists(st.text(max_size=20), max_size=5),
    audience=st.lists(st.text(max_size=20), max_size=3),
    at_us=st.integers(1_699_999_900_000_000, 1_700_000_000_000_000),
    extra=st.dictionaries(st.text(min_size=8, max_size=12), plain_values, max_size=3),
)
def test_what_is_signed_comes_back_as_claims(
    mint: Mint,
    verifier: Verifier,
    *,
    algorithm: str,
    subject: str,
    session: str | None,
    token_id: str | None,
    roles: list[str],
    audience: list[str],
    at_us: int,
    extra: dict[str, Any],
) -> None:
    optional = {name: value for name, value in (("sid", session), ("jti", token_id)) if value is not None}
    payload = {
        **extra,
        **optional,
        "iss": mint.issuer,
        "sub": subject,
        "aud": [*audience, mint.audience],
        "roles": roles,
        "iat": at_us // 1_000_000,
        "exp": at_us // 1_000_000 + 300,
        "iat_us": at_us,
    }
    claims = verifier.verify(mint.sign(mint.header(algorithm), payload, algorithm), now=mint.now, monotonic=0)
    assert claims == Claims(
        subject=subject,
        session=session,
        roles=frozenset(roles),
        issuer=mint.issuer,
        audience=(*audience, mint.audience),
        issued_at_us=at_us,
        expires_at=at_us // 1_000_000 + 300,
        token_id=token_id,
        key_id=mint.public(algorithm).key_id,
        extra=extra,
    )


@given(st.binary())
def test_base64url_decodes_what_it_encoded(data: bytes) -> None:
    assert base64url_decode(base64url_encode(data)) == data


@given(st.text(string.ascii_letters + string.digits + "-_", max_size=12))
def test_bytes_have_one_spelling_in_base64url(text: str) -> None:
    try:
        data = base64url_decode(text)
    except AuthixError:
        return
    assert base64url_encode(data) == text


@given(st.dictionaries(st.text(), plain_values))
def test_a_json_object_is_read_as_it_is(value: dict[str, Any]) -> None:
    assert (
        json_object(json.dumps(value).encode()) == json_object(json.dumps(value, ensure_ascii=False).encode()) == value
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_taken_apart_holds_what_was_signed(mint: Mint, algorithm: str) -> None:
    token = mint(algorithm)
    parsed = parse(token)
    assert (parsed.algorithm, parsed.key_id) == (algorithm, mint.public(algorithm).key_id)
    assert parsed.payload == mint.payload()
    assert f"{parsed.signing_input.decode()}.{base64url_encode(parsed.signature)}" == token
