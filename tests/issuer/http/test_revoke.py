"""POST /revoke (RFC 7009): whoever has a token can end its session."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.issuer.http.refused_forms import REFUSED_FORMS
from tests.programs import IssuerProgram, bearer, login, register

AssertProblem = Callable[..., dict[str, Any]]
COOKIE = "authix_refresh"


def is_live(client: httpx.Client, access_token: str) -> bool:
    return client.get("/sessions", headers=bearer(access_token)).status_code == 200


def revoke(client: httpx.Client, token: str, **more: str) -> httpx.Response:
    """Without any cookie."""
    answer = httpx.post(f"{client.base_url}/revoke", data={"token": token, **more}, trust_env=False)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] != "None"
    return answer


def refresh_token(client: httpx.Client) -> str:
    return client.cookies[COOKIE]


@pytest.mark.parametrize("hint", [{}, {"token_type_hint": "access_token"}, {"token_type_hint": "nonsense"}])
def test_a_refresh_token_ends_its_session_alone(
    client: httpx.Client, user: str, assert_problem: AssertProblem, hint: dict[str, str]
) -> None:
    other = login(client, user)
    client.cookies.clear()
    token = login(client, user)
    answer = revoke(client, refresh_token(client), **hint)
    assert (answer.status_code, answer.content) == (200, b"")
    assert "set-cookie" not in answer.headers
    assert not is_live(client, token)
    assert is_live(client, other)
    assert_problem(client.post("/access_token"), 401, "refresh_token_invalid")


@pytest.mark.parametrize("hint", [{}, {"token_type_hint": "refresh_token"}])
def test_an_access_token_ends_its_session_too(
    client: httpx.Client, access_token: str, assert_problem: AssertProblem, hint: dict[str, str]
) -> None:
    assert revoke(client, access_token, **hint).status_code == 200
    assert not is_live(client, access_token)
    assert_problem(client.post("/access_token"), 401, "refresh_token_invalid")


def test_a_refresh_token_that_was_exchanged_ends_its_session(client: httpx.Client, access_token: str) -> None:
    old = refresh_token(client)
    assert client.post("/access_token").status_code == 200
    assert revoke(client, old).status_code == 200
    assert client.post("/access_token").status_code == 401
    assert not is_live(client, access_token)


def test_the_feed_tells_it_as_a_sessions_end(client: httpx.Client, access_token: str) -> None:
    session = client.get("/sessions", headers=bearer(access_token)).json()["sessions"][0]["id"]
    revoke(client, access_token)
    (told,) = [event for event in client.get("/revocations").json()["revocations"] if event.get("sid") == session]
    assert told["type"] == "session"


def test_again_is_no_error_and_tells_nothing_more(client: httpx.Client, access_token: str) -> None:
    refresh = refresh_token(client)
    revoke(client, refresh)
    before = client.get("/revocations").json()["revocations"]
    assert [revoke(client, token).status_code for token in (refresh, access_token)] == [200, 200]
    assert client.get("/revocations").json()["revocations"] == before


def test_it_is_put_on_record_without_the_token(
    client: httpx.Client, shared_issuer: IssuerProgram, access_token: str
) -> None:
    session = client.get("/sessions", headers=bearer(access_token)).json()["sessions"][0]["id"]
    refresh = refresh_token(client)
    revoke(client, refresh)
    with open(shared_issuer.env["AUTHIX_AUDIT"], encoding="utf-8") as file:  # noqa: PTH123 - read at once
        text = file.read()
    events = [entry for entry in map(json.loads, text.splitlines()) if entry["session"] == session]
    assert [(entry["event"], entry["outcome"]) for entry in events] == [("login", "ok"), ("token.revoked", "ok")]
    assert refresh not in text


def test_what_is_no_token_of_ours_is_as_good_as_revoked(
    client: httpx.Client, unusual_client: httpx.Client, access_token: str, new_email: Callable[[], str]
) -> None:
    email = new_email()
    register(unusual_client, email)
    strange = login(unusual_client, email)
    head, payload, signature = access_token.split(".")
    refresh = refresh_token(client)
    for token in (
        strange,
        "hello",
        "a." * 5000,
        "t\u00f6ken \x00 \U0001f600",
        f"{head}.{payload}.{signature[:-4]}AAAA",
        refresh[:-4] + "AAAA",
        refresh + "=",
        refresh + " ",
        "axr1.",
        "axr1.AAAA",
    ):
        answer = revoke(client, token)
        assert (answer.status_code, answer.content) == (200, b""), token
    assert is_live(client, access_token)
    assert client.post("/access_token").status_code == 200


@pytest.mark.parametrize("name", REFUSED_FORMS)
def test_a_form_that_gives_no_token_once_is_refused_and_ends_nothing(
    client: httpx.Client, access_token: str, assert_problem: AssertProblem, name: str
) -> None:
    kind, body = REFUSED_FORMS[name]
    refresh = refresh_token(client).encode()
    headers = {} if kind is None else {"Content-Type": kind}
    answer = client.post(f"/revoke?token={access_token}", content=body.replace(b"=x", b"=" + refresh), headers=headers)
    assert assert_problem(answer, 400, "form_malformed")["error"] == "invalid_request"
    assert is_live(client, access_token)


def test_a_form_that_is_too_large_is_refused(client: httpx.Client, assert_problem: AssertProblem) -> None:
    assert_problem(client.post("/revoke", data={"token": "x" * 20000}), 413, "body_too_large")


def test_the_cookie_alone_revokes_nothing(
    client: httpx.Client, access_token: str, assert_problem: AssertProblem
) -> None:
    assert_problem(client.post("/revoke"), 400, "form_malformed")
    assert is_live(client, access_token)
