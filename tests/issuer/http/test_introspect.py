"""POST /introspect (RFC 7662): a service asks whether a token is good now."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import Any
from urllib.parse import quote_plus

import httpx
import jwt
import pytest

from tests.issuer.http.refused_forms import FORM, REFUSED_FORMS
from tests.programs import IssuerProgram, bearer, login, register

AssertProblem = Callable[..., dict[str, Any]]

TOKEN = "introspection+token/of-at-least-32~characters=="
INACTIVE = {"active": False}


def basic(secret: str, name: str = "orders") -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"{name}:{secret}".encode()).decode()}


@pytest.fixture
def client(unusual_client: httpx.Client) -> httpx.Client:
    """A client of the issuer that has introspection."""
    return unusual_client


@pytest.fixture
def new_user(client: httpx.Client, new_email: Callable[[], str]) -> str:
    email = new_email()
    register(client, email)
    return email


def cookies(client: httpx.Client, email: str) -> tuple[str, str]:
    """An access token and the cookie of its session, which is for https."""
    token = login(client, email)
    cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    client.cookies.clear()
    return token, cookie


def introspect(client: httpx.Client, token: str, **more: str) -> dict[str, Any]:
    answer = client.post("/introspect", data={"token": token, **more}, headers=bearer(TOKEN))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    found: dict[str, Any] = answer.json()
    return found


def test_a_good_token_is_active_and_its_claims_are_told(client: httpx.Client, new_user: str) -> None:
    token = login(client, new_user)
    payload = jwt.decode(token, options={"verify_signature": False})
    assert introspect(client, token) == payload | {"active": True, "token_type": "Bearer"}


def test_roles_and_custom_claims_are_told_as_the_token_has_them(
    client: httpx.Client, unusual_issuer: IssuerProgram, new_user: str
) -> None:
    unusual_issuer.run("users", "roles", new_user, "writer", "editor")
    unusual_issuer.run("users", "claims", new_user, '{"tenant":{"id":7},"plan":"gold"}')
    token = login(client, new_user)
    payload = jwt.decode(token, options={"verify_signature": False})
    assert payload["tenant"] == {"id": 7}
    found = introspect(client, token)
    assert sorted(payload.pop("roles")) == found.pop("roles") == ["editor", "writer"]
    assert found == payload | {"active": True, "token_type": "Bearer"}


@pytest.mark.parametrize("hint", ["access_token", "refresh_token", "nonsense"])
def test_a_hint_changes_nothing(client: httpx.Client, new_user: str, hint: str) -> None:
    assert introspect(client, login(client, new_user), token_type_hint=hint)["active"] is True


@pytest.mark.parametrize("scope", ["user", "session", "all"])
def test_a_token_is_inactive_once_its_user_logged_out(client: httpx.Client, new_user: str, scope: str) -> None:
    token, cookie = cookies(client, new_user)
    assert client.post(f"/logout?scope={scope}", headers={"Cookie": cookie}).status_code == 204
    assert introspect(client, token) == INACTIVE


@pytest.mark.parametrize(("scope", "active"), [("user", False), ("session", True), ("all", False)])
def test_another_sessions_token_follows_the_scope_of_the_logout(
    client: httpx.Client, new_user: str, scope: str, *, active: bool
) -> None:
    token, _ = cookies(client, new_user)
    _, cookie = cookies(client, new_user)
    assert client.post(f"/logout?scope={scope}", headers={"Cookie": cookie}).status_code == 204
    assert introspect(client, token)["active"] is active
    assert introspect(client, login(client, new_user))["active"] is True


def test_what_is_no_good_access_token_of_this_issuer_is_inactive_and_nothing_more(
    client: httpx.Client, shared_issuer: IssuerProgram, new_user: str
) -> None:
    with shared_issuer.client() as elsewhere:
        register(elsewhere, new_user)
        foreign = login(elsewhere, new_user)
    token, cookie = cookies(client, new_user)
    head, payload, signature = token.split(".")
    strangers = {
        "of another issuer": foreign,
        "a refresh token": cookie.partition("=")[2],
        "a forged refresh token": "axr1.AAAA",
        "spoiled": f"{head}.{payload}.{signature[:-4]}AAAA",
        "unsigned": f"{head}.{payload}.",
        "too long": "a." * 5000,
        "no token": "hello",
        "not ASCII": "t\u00f6ken \u2603 \U0001f600",
        "control characters": "a\x00b\r\nc",
        "the feed's": "feed-token-of-at-least-32-characters",
    }
    for name, stranger in strangers.items():
        assert introspect(client, stranger) == INACTIVE, name
    assert introspect(client, token)["active"] is True


@pytest.mark.parametrize(
    "headers",
    [
        bearer(TOKEN),
        {"Authorization": f"bearer {TOKEN}"},
        basic(TOKEN),
        basic(quote_plus(TOKEN), "any name"),
        basic(TOKEN, ""),
        {"Authorization": basic(TOKEN)["Authorization"].replace("Basic", "bASIC")},
    ],
)
def test_its_token_comes_as_bearer_or_as_a_clients_secret(client: httpx.Client, headers: dict[str, str]) -> None:
    answer = client.post("/introspect", data={"token": "x"}, headers=headers)
    assert (answer.status_code, answer.json()) == (200, INACTIVE)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", f"Bearer {TOKEN}x")],
        [("Authorization", f"Bearer {quote_plus(TOKEN)}")],
        [("Authorization", f"Token {TOKEN}")],
        [("Authorization", f"Bearer {TOKEN}"), ("Authorization", f"Bearer {TOKEN}")],
        [("Authorization", "Bearer feed-token-of-at-least-32-characters")],
        [("Authorization", "Basic")],
        [("Authorization", f"Basic {TOKEN}")],
        [("Authorization", "Basic " + b64encode(TOKEN.encode()).decode())],
        [("Authorization", "Basic " + b64encode(f"{TOKEN}:x".encode()).decode())],
        [("Authorization", "Basic " + b64encode(b"a:\xff\xfe").decode())],
        [("Authorization", "Basic " + b64encode(b"a:").decode())],
        list(basic("wrong").items()),
    ],
)
def test_nobody_else_is_answered(
    client: httpx.Client, assert_problem: AssertProblem, headers: list[tuple[str, str]]
) -> None:
    for data in ({"token": "x"}, {}):
        answer = client.post("/introspect", data=data, headers=headers)
        assert assert_problem(answer, 401, "introspection_token_wrong")["error"] == "invalid_client"
        assert answer.headers["www-authenticate"] == 'Basic realm="authix", Bearer realm="authix"'
        assert TOKEN not in answer.text


@pytest.mark.parametrize("name", REFUSED_FORMS)
def test_a_form_that_gives_no_token_once_is_refused(
    client: httpx.Client, assert_problem: AssertProblem, name: str
) -> None:
    kind, body = REFUSED_FORMS[name]
    headers = bearer(TOKEN) | ({} if kind is None else {"Content-Type": kind})
    problem = assert_problem(client.post("/introspect?token=x", content=body, headers=headers), 400, "form_malformed")
    assert problem["error"] == "invalid_request"


@pytest.mark.parametrize("kind", [FORM.upper(), f"{FORM};charset=UTF-8", f"{FORM} ; x"])
def test_a_form_may_be_declared_in_any_spelling(client: httpx.Client, kind: str) -> None:
    headers = bearer(TOKEN) | {"Content-Type": kind}
    assert client.post("/introspect", content=b"a=b&&token=x&c=", headers=headers).json() == INACTIVE


def test_a_form_that_is_too_large_is_refused(client: httpx.Client, assert_problem: AssertProblem) -> None:
    answer = client.post("/introspect", data={"token": "x" * 20000}, headers=bearer(TOKEN))
    assert_problem(answer, 413, "body_too_large")


def test_without_a_setting_there_is_none(shared_issuer: IssuerProgram, assert_problem: AssertProblem) -> None:
    with shared_issuer.client() as client:
        assert_problem(client.post("/introspect", data={"token": "x"}, headers=bearer(TOKEN)), 404, "introspection_off")
