"""What users do to their own account: password, email, deletion."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from tests.conftest import StartIssuer
from tests.issuer.http.conftest import AssertProblem
from tests.programs import PASSWORD, IssuerProgram, bearer, login, register

NEW = "fjords and glaciers rarely quarrel"
WRONG = "wrong horse battery staple"


def password_of(client: httpx.Client, token: str, old: str, new: str) -> httpx.Response:
    return client.post("/account/password", json={"current_password": old, "new_password": new}, headers=bearer(token))


def is_refused(client: httpx.Client, token: str) -> bool:
    return client.get("/account", headers=bearer(token)).status_code == 401


def test_an_account_shows_itself(client: httpx.Client, user: str, access_token: str) -> None:
    answer = client.get("/account", headers=bearer(access_token))
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    found = answer.json()
    assert (found["email"], found["roles"], found["claims"]) == (user, [], {})
    assert "password" not in answer.text
    assert found["created"].endswith("Z")


def test_a_new_password_replaces_the_old_one_and_ends_the_other_sessions(
    shared_issuer: IssuerProgram, client: httpx.Client, user: str, access_token: str, assert_problem: AssertProblem
) -> None:
    with shared_issuer.client() as elsewhere:
        other = login(elsewhere, user)
        assert password_of(client, access_token, PASSWORD, NEW).status_code == 204
        assert is_refused(client, access_token)
        assert is_refused(client, other)
        assert_problem(elsewhere.post("/access_token"), 401, "refresh_token_invalid")
        refreshed = client.post("/access_token")
        assert refreshed.status_code == 200
        assert not is_refused(client, refreshed.json()["access_token"])
        assert_problem(elsewhere.post("/login", json={"email": user, "password": PASSWORD}), 401, "credentials_wrong")
        login(elsewhere, user, NEW)


def test_a_wrong_password_changes_nothing(
    client: httpx.Client, user: str, access_token: str, assert_problem: AssertProblem
) -> None:
    assert_problem(password_of(client, access_token, WRONG, NEW), 403, "password_wrong")
    for path, body in (("/account/email", {"email": "other@example.com"}), ("/account/delete", {})):
        answer = client.post(path, json=body | {"password": WRONG}, headers=bearer(access_token))
        assert_problem(answer, 403, "password_wrong")
    assert client.get("/account", headers=bearer(access_token)).json()["email"] == user
    login(client, user)


@pytest.mark.parametrize(
    ("new", "code"),
    [("short", "password_too_short"), ("password" * 3, "password_common"), ("x" * 2000, "password_too_long")],
)
def test_a_new_password_must_be_a_good_one(
    client: httpx.Client, access_token: str, assert_problem: AssertProblem, new: str, code: str
) -> None:
    problem = assert_problem(password_of(client, access_token, PASSWORD, new), 422, "input_invalid")
    assert [reason["code"] for reason in problem["reasons"]] == [code]
    assert not is_refused(client, access_token)


def test_a_new_email_is_the_one_to_log_in_with(
    client: httpx.Client, user: str, access_token: str, new_email: Callable[[], str], assert_problem: AssertProblem
) -> None:
    email = new_email()
    body = {"password": PASSWORD, "email": email.upper()}
    answer = client.post("/account/email", json=body, headers=bearer(access_token))
    assert answer.status_code == 200
    assert answer.json()["email"].casefold() == email
    assert is_refused(client, access_token)
    assert client.post("/access_token").status_code == 200
    assert_problem(client.post("/login", json={"email": user, "password": PASSWORD}), 401, "credentials_wrong")
    login(client, email)
    register(client, user)


def test_an_email_that_is_taken_or_is_none_changes_nothing(
    client: httpx.Client, user: str, access_token: str, new_email: Callable[[], str], assert_problem: AssertProblem
) -> None:
    taken = new_email()
    register(client, taken)
    for email, status, code in ((taken, 409, "email_taken"), ("nobody", 422, "input_invalid")):
        body = {"password": PASSWORD, "email": email}
        answer = client.post("/account/email", json=body, headers=bearer(access_token))
        assert_problem(answer, status, code)
    assert not is_refused(client, access_token)
    login(client, user)


def test_a_deleted_account_is_gone_everywhere_and_its_email_is_free(
    shared_issuer: IssuerProgram, client: httpx.Client, user: str, access_token: str, assert_problem: AssertProblem
) -> None:
    with shared_issuer.client() as elsewhere:
        other = login(elsewhere, user)
        answer = client.post("/account/delete", json={"password": PASSWORD}, headers=bearer(access_token))
        assert answer.status_code == 204
        assert 'authix_refresh=""' in answer.headers["set-cookie"]
        assert is_refused(client, access_token)
        assert is_refused(client, other)
        assert_problem(elsewhere.post("/access_token"), 401, "refresh_token_invalid")
        assert_problem(elsewhere.post("/login", json={"email": user, "password": PASSWORD}), 401, "credentials_wrong")
        register(elsewhere, user)
        assert is_refused(elsewhere, other)


def test_who_guesses_the_password_of_an_open_session_is_slowed_down_as_at_a_login(
    start_issuer: StartIssuer, assert_problem: AssertProblem
) -> None:
    with start_issuer(AUTHIX_LOGIN_MAX_DELAY="60").client() as client:
        register(client, "ann@example.com")
        token = login(client, "ann@example.com")
        answers = [password_of(client, token, WRONG, NEW) for _ in range(7)]
        assert answers[0].json()["code"] == "password_wrong"
        assert_problem(answers[-1], 429, "too_many_attempts")
        assert_problem(password_of(client, token, PASSWORD, NEW), 429, "too_many_attempts")


@pytest.mark.parametrize("path", ["/account/password", "/account/email", "/account/delete"])
@pytest.mark.parametrize(
    "refused",
    [
        (b"", 400, "body_malformed"),
        (b"[]", 400, "body_malformed"),
        (b'{"password": "\xff"}', 400, "body_malformed"),
        (b'{"password": 1, "password": 2}', 400, "body_malformed"),
        (b"[" * 9000, 400, "body_malformed"),
        (b'{"password": null, "email": 7, "current_password": {}, "new_password": []}', 422, "input_invalid"),
        (b" " * 17_000, 413, "body_too_large"),
    ],
)
def test_what_can_not_be_read_changes_nothing(
    client: httpx.Client, access_token: str, assert_problem: AssertProblem, path: str, refused: tuple[bytes, int, str]
) -> None:
    body, status, code = refused
    headers = bearer(access_token) | {"Content-Type": "application/json"}
    assert_problem(client.post(path, content=body, headers=headers), status, code)
    assert not is_refused(client, access_token)


def test_a_refresh_cookie_alone_opens_nothing(client: httpx.Client, user: str, assert_problem: AssertProblem) -> None:
    login(client, user)
    assert_problem(client.get("/account"), 401, "token_missing")
    assert_problem(client.post("/account/delete", json={"password": PASSWORD}), 401, "token_missing")
    login(client, user)


def test_what_users_do_is_on_record_without_their_secrets(
    shared_issuer: IssuerProgram, client: httpx.Client, user: str, access_token: str, new_email: Callable[[], str]
) -> None:
    account = client.get("/account", headers=bearer(access_token)).json()["id"]
    password_of(client, access_token, WRONG, NEW)
    password_of(client, access_token, PASSWORD, NEW)
    headers = bearer(client.post("/access_token").json()["access_token"])
    client.post("/account/email", json={"password": NEW, "email": new_email()}, headers=headers)
    headers = bearer(client.post("/access_token").json()["access_token"])
    client.post("/account/delete", json={"password": NEW}, headers=headers)
    record = (shared_issuer.log.parent / "audit.log").read_text(encoding="utf-8")
    entries = [entry for entry in map(json.loads, record.splitlines()) if entry["subject"] == account]
    assert [(entry["event"], entry["outcome"]) for entry in entries] == [
        ("user.registered", "ok"),
        ("login", "ok"),
        ("password.changed", "password_wrong"),
        ("password.changed", "ok"),
        ("email.changed", "ok"),
        ("user.deleted", "ok"),
    ]
    assert all(entry["address"] == "127.0.0.1" for entry in entries)
    for secret in (WRONG, NEW, PASSWORD, access_token, user):
        assert secret not in record
