"""Pages of other origins: what a browser sends for them is refused before it does anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.programs import PASSWORD, IssuerProgram, login, register

AssertProblem = Callable[..., dict[str, Any]]

APP, EVIL = "https://app.example.com", "https://evil.example"


@pytest.fixture
def client(listing_issuer: IssuerProgram) -> Iterator[httpx.Client]:
    with listing_issuer.client() as client:
        yield client


def fetched(origin: str | None = None, site: str | None = None) -> dict[str, str]:
    return {name: value for name, value in (("Origin", origin), ("Sec-Fetch-Site", site)) if value is not None}


GOOD = [
    fetched(),
    fetched(site="same-origin"),
    fetched(site="none"),
    fetched("http://localhost:8000", "same-origin"),
    fetched(APP),
    fetched(APP, "same-site"),
    fetched(APP, "cross-site"),
    fetched("http://localhost:5173", "cross-site"),
]
BAD = [
    fetched(EVIL),
    fetched(EVIL, "cross-site"),
    fetched(EVIL, "same-site"),
    fetched(site="cross-site"),
    fetched(site="same-site"),
    fetched(site="nonsense"),
    fetched(site=""),
    fetched("null"),
    fetched("null", "cross-site"),
    fetched("null", "same-origin"),
    fetched(""),
    fetched("*"),
    fetched("https://app.example.com.evil.example"),
    fetched("https://app.example.com:8443"),
    fetched("http://app.example.com"),
    fetched("https://APP.example.com"),
    fetched(f"{APP}/"),
    fetched(f"{APP} {EVIL}"),
]


@pytest.mark.parametrize("headers", GOOD)
def test_the_own_and_the_listed_origins_and_no_browser_may_write(
    client: httpx.Client, new_email: Callable[[], str], headers: dict[str, str]
) -> None:
    client.headers.update(headers)
    email = new_email()
    register(client, email)
    login(client, email)
    assert client.post("/access_token").status_code == 200
    assert client.post("/logout").status_code == 204


def test_the_own_origin_is_that_of_the_issuers_url(client: httpx.Client) -> None:
    answer = client.post("/access_token", headers=fetched("https://auth.example.com"))
    assert answer.json()["code"] == "refresh_token_missing"


@pytest.mark.parametrize("headers", BAD)
def test_another_origin_changes_nothing(
    client: httpx.Client, assert_problem: AssertProblem, new_email: Callable[[], str], headers: dict[str, str]
) -> None:
    email = new_email()
    register(client, email)
    login(client, email)
    for method, path in (("POST", "/access_token"), ("POST", "/logout"), ("DELETE", "/logout")):
        answer = client.request(method, path, headers=headers)
        assert_problem(answer, 403, "origin_forbidden")
        assert "set-cookie" not in answer.headers
    for path in ("/login", "/register"):
        answer = client.post(path, json={"email": email, "password": PASSWORD}, headers=headers)
        assert_problem(answer, 403, "origin_forbidden")
        assert "set-cookie" not in answer.headers
    assert client.post("/access_token").status_code == 200


@pytest.mark.parametrize("twice", ["Origin", "Sec-Fetch-Site"])
def test_a_field_that_comes_twice_is_not_believed(
    client: httpx.Client, assert_problem: AssertProblem, twice: str
) -> None:
    value = APP if twice == "Origin" else "same-origin"
    answer = client.post("/logout", headers=[(twice, value), (twice, value)])
    assert_problem(answer, 403, "origin_forbidden")


def test_every_route_that_may_change_something_is_checked(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    checked = 0
    for path, item in paths.items():
        for method in {"post", "put", "patch", "delete"} & set(item):
            answer = client.request(method, path, headers=fetched(EVIL, "cross-site"))
            assert (answer.status_code, answer.json()["code"]) == (403, "origin_forbidden"), (method, path)
            assert "403" in item[method]["responses"], (method, path)
            checked += 1
    assert checked >= 5


def test_reading_is_for_everybody(client: httpx.Client) -> None:
    for path in ("/public_key", "/livez", "/openapi.json"):
        assert client.get(path, headers=fetched(EVIL, "cross-site")).status_code == 200


def test_without_a_list_no_other_origin_may_write(shared_issuer: IssuerProgram, assert_problem: AssertProblem) -> None:
    with shared_issuer.client() as client:
        assert_problem(client.post("/logout", headers=fetched(APP)), 403, "origin_forbidden")
        assert client.post("/logout", headers=fetched(shared_issuer.url)).json()["code"] == "refresh_token_missing"
