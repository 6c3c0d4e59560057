"""The issuer's metadata: programs configure themselves from the issuer's URL alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from authix.runtime import Authix
from tests.programs import IssuerProgram

AssertProblem = Callable[..., dict[str, Any]]

PATHS = ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"]


@pytest.mark.parametrize("path", PATHS)
def test_it_says_what_is_true_of_this_issuer(client: httpx.Client, shared_issuer: IssuerProgram, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    url = shared_issuer.url
    assert answer.json() == {
        "issuer": url,
        "jwks_uri": f"{url}/.well-known/jwks.json",
        "revocation_endpoint": f"{url}/revoke",
        "revocation_endpoint_auth_methods_supported": ["none"],
        "response_types_supported": [],
        "grant_types_supported": [],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "service_documentation": f"{url}/docs",
        "authix_feed_endpoint": f"{url}/revocations",
    }


@pytest.mark.parametrize("path", PATHS)
def test_introspection_is_told_where_there_is_one(
    unusual_client: httpx.Client, unusual_issuer: IssuerProgram, path: str
) -> None:
    found = unusual_client.get(path).json()
    assert found["introspection_endpoint"] == f"{unusual_issuer.url}/introspect"
    assert found["introspection_endpoint_auth_methods_supported"] == ["client_secret_basic", "Bearer"]
    assert found["id_token_signing_alg_values_supported"] == ["EdDSA"]


def test_while_the_algorithm_is_changed_both_are_told(start_issuer: Callable[..., IssuerProgram]) -> None:
    first = start_issuer()
    assert first.stop() == 0
    with start_issuer(AUTHIX_ALGORITHM="EdDSA").client() as client:
        found = client.get(PATHS[0]).json()
        keys = client.get(urlsplit(found["jwks_uri"]).path).json()["keys"]
    assert {key["alg"] for key in keys} == {"ES256", "EdDSA"}
    assert found["id_token_signing_alg_values_supported"] == ["EdDSA", "ES256"]


@pytest.mark.parametrize("path", PATHS)
def test_everything_that_it_names_is_there(client: httpx.Client, unusual_client: httpx.Client, path: str) -> None:
    for issuer in (client, unusual_client):
        for name, url in issuer.get(path).json().items():
            if name.endswith(("_endpoint", "_uri", "_documentation")):
                assert issuer.get(url, headers={"Accept": "application/json"}).status_code in {200, 401, 405}, name


@pytest.mark.parametrize("path", PATHS)
def test_it_may_be_kept_as_long_as_the_keys(client: httpx.Client, path: str) -> None:
    first = client.get(path)
    assert first.headers["cache-control"] == client.get("/.well-known/jwks.json").headers["cache-control"]
    again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(path, headers={"If-None-Match": '"other"'}).content == first.content


@pytest.mark.parametrize("path", [f"{path}/auth" for path in PATHS])
def test_an_issuer_without_a_path_has_it_at_no_other_place(
    client: httpx.Client, assert_problem: AssertProblem, path: str
) -> None:
    assert_problem(client.get(path), 404, "not_found")


async def test_an_issuer_with_a_path_has_it_where_either_standard_looks(tmp_path: Path) -> None:
    issuer = IssuerProgram(tmp_path)
    # as behind a proxy that takes /t%C3%A9st/auth off, but for the well-known paths of RFC 8414
    name = issuer.env["AUTHIX_ISSUER"] = f"{issuer.url}/t%C3%A9st/auth"
    try:
        issuer.start().ready()
        with issuer.client() as client:
            for path in PATHS:
                for place in (path, f"{path}/t%C3%A9st/auth"):
                    found = client.get(place).json()
                    assert found["issuer"] == name, place
                    assert found["jwks_uri"] == f"{name}/.well-known/jwks.json"
                assert client.get(f"{path}/t%C3%A9st").status_code == 404
            documented = client.get("/openapi.json").json()["paths"]
            assert {path for path in documented if path.startswith("/.well-known/o")} == {
                *PATHS,
                *(f"{path}/t%C3%A9st/auth" for path in PATHS),
            }
        assert issuer.stop() == 0
    finally:
        issuer.kill()


@pytest.mark.parametrize("path", PATHS)
async def test_a_verifier_of_ours_takes_its_keys_from_it(
    client: httpx.Client, shared_issuer: IssuerProgram, access_token: str, path: str
) -> None:
    auth = Authix(issuer=shared_issuer.url, audience="tests", keys=f"{shared_issuer.url}{path}")
    async with auth:
        await auth.wait_ready()
        assert auth.verify(access_token).issuer == shared_issuer.url
