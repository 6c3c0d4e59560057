"""GET /public_key and /.well-known/jwks.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

AssertProblem = Callable[..., dict[str, Any]]

PEM, JWKS = "application/x-pem-file", "application/jwk-set+json"
PATHS = ["/public_key", "/.well-known/jwks.json"]


def get(client: httpx.Client, path: str, **headers: str) -> httpx.Response:
    return client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", PEM),
        ("", PEM),
        (PEM, PEM),
        ("text/html", PEM),
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", PEM),
        (JWKS, JWKS),
        ("application/json", JWKS),
        ("application/json; charset=utf-8", JWKS),
        (f"{JWKS};q=0.5, {PEM};q=0.4", JWKS),
        (f"{JWKS};q=0.4, {PEM};q=0.5", PEM),
        (f"{PEM};q=0, application/json", JWKS),
        ("text/html, application/json;q=0.1", JWKS),
        ("application/*", PEM),
    ],
)
def test_the_form_is_chosen_by_accept(client: httpx.Client, accept: str, kind: str) -> None:
    answer = get(client, "/public_key", accept=accept)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == kind
    assert answer.headers["vary"] == "Accept"


def test_pem_is_the_default(client: httpx.Client) -> None:
    del client.headers["accept"]
    assert client.get("/public_key").headers["content-type"] == PEM


def test_both_forms_hold_the_key_that_signs(client: httpx.Client, access_token: str) -> None:
    pem_key = load_pem_public_key(get(client, "/public_key").content)  # the first of them
    jwks = get(client, "/.well-known/jwks.json")
    assert jwks.headers["content-type"] == JWKS
    assert jwks.content == get(client, "/public_key", accept=JWKS).content
    jwk = jwks.json()["keys"][0]
    assert set(jwk) == {"kty", "crv", "x", "y", "kid", "alg", "use"}
    assert jwk["kid"] == jwt.get_unverified_header(access_token)["kid"]
    for key in (pem_key, jwt.PyJWK(jwk).key):
        jwt.decode(access_token, key, algorithms=["ES256"], audience="tests")  # type: ignore[arg-type]  # a PEM may hold any kind


@pytest.mark.parametrize("path", PATHS)
def test_a_copy_may_be_kept_and_asked_after(client: httpx.Client, path: str) -> None:
    first = get(client, path)
    etag = first.headers["etag"]
    assert first.headers["cache-control"] == "public, max-age=300"
    assert etag.startswith('"')
    assert etag.endswith('"')
    for wanted in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = get(client, path, if_none_match=wanted)
        assert (again.status_code, again.content) == (304, b""), wanted
        assert again.headers["etag"] == etag
        assert again.headers["cache-control"] == "public, max-age=300"
        assert again.headers.get("vary") == first.headers.get("vary")
    for unwanted in ('"other"', "", etag.strip('"'), f"{etag}x"):
        assert get(client, path, if_none_match=unwanted).status_code == 200, unwanted


def test_the_two_forms_have_two_tags(client: httpx.Client) -> None:
    pem, jwks = get(client, "/public_key", accept=PEM), get(client, "/public_key", accept=JWKS)
    assert pem.headers["etag"] != jwks.headers["etag"]
    answer = get(client, "/public_key", accept=JWKS, if_none_match=pem.headers["etag"])
    assert answer.status_code == 200


@pytest.mark.parametrize("accept", [";;;", "*", "a/b;q=zz"])
def test_an_accept_that_means_nothing_is_refused(
    client: httpx.Client, assert_problem: AssertProblem, accept: str
) -> None:
    assert_problem(get(client, "/public_key", accept=accept), 400, "request_malformed")
