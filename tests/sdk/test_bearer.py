"""Errors and how they look over HTTP: codes and statuses that programs rely on."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from authix import errors
from authix.bearer import apart, bearer_token, challenge, refusal
from authix.errors import AuthixError, ClaimError, RoleMissing, TokenError, TokenMalformed, TokenMissing, Unavailable

# A release may only add to this table
CODES = {
    "authix_error": 500,
    "settings_invalid": 500,
    "source_error": 500,
    "token_invalid": 401,
    "token_missing": 401,
    "token_malformed": 401,
    "token_too_large": 401,
    "algorithm_refused": 401,
    "header_refused": 401,
    "token_type_wrong": 401,
    "key_unknown": 401,
    "key_revoked": 401,
    "signature_invalid": 401,
    "claim_invalid": 401,
    "claim_missing": 401,
    "issuer_wrong": 401,
    "audience_wrong": 401,
    "token_expired": 401,
    "token_not_yet_valid": 401,
    "token_revoked": 401,
    "role_missing": 403,
    "unavailable": 503,
    "not_ready": 503,
    "feed_stale": 503,
}


def all_errors() -> Iterator[type[AuthixError]]:
    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, AuthixError):
            yield value


def an(error: type[AuthixError]) -> AuthixError:
    if error is ClaimError:
        return ClaimError("sub", "is odd")
    if error.code in {"claim_missing", "token_not_yet_valid"}:
        return error("sub")
    return error()


def test_codes_and_statuses_are_those_that_programs_rely_on() -> None:
    found = list(all_errors())
    assert {error.code: error.status for error in found} == CODES
    assert len(found) == len(CODES), "each error has a code of its own"


@pytest.mark.parametrize("error", list(all_errors()), ids=lambda error: error.code)
def test_an_error_is_answered_as_a_problem_with_its_code(error: type[AuthixError]) -> None:
    answer = refusal(an(error))
    body, headers = json.loads(answer.body), dict(answer.headers)
    assert answer.status == body["status"] == error.status
    assert body["code"] == error.code
    assert body["detail"]
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["Cache-Control"] == "no-store"
    assert ("WWW-Authenticate" in headers) == (error.status in {401, 403})
    assert ("Retry-After" in headers) == issubclass(error, Unavailable)
    assert all(value.isascii() and value.isprintable() for value in headers.values())


def test_a_challenge_has_an_error_only_when_a_token_was_sent() -> None:
    assert challenge(TokenMissing()) == 'Bearer realm="authix"'
    assert challenge(TokenError("it is bad")) == (
        'Bearer realm="authix", error="invalid_token", error_description="it is bad"'
    )
    assert 'error="insufficient_scope"' in challenge(RoleMissing())


def test_a_reason_can_not_break_out_of_its_quotes() -> None:
    assert challenge(TokenError('a "quoted\\" reason')).endswith("error_description=\"a 'quoted' reason\"")


def test_an_error_of_a_claim_names_it() -> None:
    error = ClaimError("sub", "is odd")
    assert (error.claim, str(error)) == ("sub", "claim 'sub' is odd")


@pytest.mark.parametrize("joined", ["Bearer a,Bearer b", "bearer a, bearer b", "Basic a,Bearer b", "Bearer a,Bearer a"])
def test_headers_that_a_server_has_joined_are_several(joined: str) -> None:
    with pytest.raises(TokenMalformed, match="more than one"):
        bearer_token(apart(joined))


def test_one_header_is_one_where_servers_join_them() -> None:
    assert bearer_token(apart("Bearer a")) == "a"
    for header in (None, 'Digest username="a", realm="b"', "Basic a"):
        with pytest.raises(TokenMissing):
            bearer_token(apart(header))
    with pytest.raises(TokenMalformed):
        bearer_token(apart("Bearer a,b"))
