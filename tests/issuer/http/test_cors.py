"""A browser app of another origin: what CORS lets it send and read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.programs import IssuerProgram, login, register

AssertProblem = Callable[..., dict[str, Any]]

APP, EVIL = "https://app.example.com", "https://evil.example"
METHODS = {
    "/login": {"POST"},
    "/register": {"POST"},
    "/access_token": {"POST"},
    "/logout": {"POST", "DELETE"},
    "/sessions/x": {"DELETE"},
    "/admin/users/x": {"GET", "HEAD", "PATCH", "DELETE"},
    "/public_key": {"GET", "HEAD"},
}
PUBLIC = ("/public_key", "/.well-known/jwks.json")


@pytest.fixture
def client(listing_issuer: IssuerProgram) -> Iterator[httpx.Client]:
    with listing_issuer.client() as client:
        yield client


def listed(field: str) -> set[str]:
    return {part.strip().lower() for part in field.split(",")}


def preflight(client: httpx.Client, path: str, origin: str, method: str = "POST") -> httpx.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    return client.options(path, headers=headers)


def cors(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


@pytest.mark.parametrize("path", METHODS)
def test_a_listed_origin_may_send_what_the_route_takes(client: httpx.Client, path: str) -> None:
    answer = preflight(client, path, APP)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == APP
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert set(answer.headers["access-control-allow-methods"].split(", ")) == METHODS[path]
    assert listed(answer.headers["access-control-allow-headers"]) == {"authorization", "content-type"}
    assert int(answer.headers["access-control-max-age"]) > 0
    assert "origin" in listed(answer.headers["vary"])


@pytest.mark.parametrize("origin", [EVIL, "null", "*", f"{APP}.evil.example", APP.upper(), f"{APP}/"])
def test_another_origin_gets_no_leave(client: httpx.Client, assert_problem: AssertProblem, origin: str) -> None:
    for path in ("/login", "/access_token", "/public_key"):
        answer = preflight(client, path, origin)
        assert_problem(answer, 405, "method_not_allowed")
        assert "access-control-allow-credentials" not in answer.headers
        assert "access-control-allow-methods" not in answer.headers
    assert cors(client.get("/livez", headers={"Origin": origin})) == {}
    assert cors(client.post("/access_token", headers={"Origin": origin})) == {}


def test_options_that_are_no_preflight_are_refused_as_ever(client: httpx.Client, assert_problem: AssertProblem) -> None:
    assert_problem(client.options("/login", headers={"Origin": APP}), 405, "method_not_allowed")
    assert_problem(
        client.options("/login", headers={"Access-Control-Request-Method": "POST"}), 405, "method_not_allowed"
    )
    assert_problem(preflight(client, "/nope", APP), 404, "not_found")


def test_a_listed_origin_may_read_every_answer(client: httpx.Client, new_email: Callable[[], str]) -> None:
    client.headers["Origin"] = APP
    email = new_email()
    register(client, email)
    login(client, email)
    client.headers["Sec-Fetch-Site"] = "same-site"
    answers = [
        client.post("/access_token"),
        client.post("/login", content=b"x"),
        client.post("/login", json={"email": email, "password": "x"}),
        client.get("/nope"),
        client.get("/login"),
        client.get("/public_key"),
        client.post("/logout"),
    ]
    assert [answer.status_code for answer in answers] == [200, 415, 401, 404, 405, 200, 204]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == APP
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert listed(answer.headers["access-control-expose-headers"]) == {"authorization", "retry-after"}
        assert "origin" in listed(answer.headers["vary"])


@pytest.mark.parametrize("path", PUBLIC)
@pytest.mark.parametrize("origin", [EVIL, "null", None])
def test_the_keys_are_for_every_page_but_without_credentials(
    client: httpx.Client, path: str, origin: str | None
) -> None:
    answer = client.get(path, headers={} if origin is None else {"Origin": origin})
    assert cors(answer) == {"access-control-allow-origin": "*"}
    assert "origin" in listed(answer.headers["vary"])


def test_without_a_list_nothing_but_the_keys_is_for_other_pages(
    shared_issuer: IssuerProgram, assert_problem: AssertProblem
) -> None:
    with shared_issuer.client() as client:
        assert_problem(preflight(client, "/login", APP), 405, "method_not_allowed")
        for path in ("/livez", "/nope", "/openapi.json"):
            answer = client.get(path, headers={"Origin": APP})
            assert cors(answer) == {}
            assert "vary" not in answer.headers
        assert cors(client.get("/public_key", headers={"Origin": APP})) == {"access-control-allow-origin": "*"}
