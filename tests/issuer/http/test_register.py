"""POST /register."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.programs import PASSWORD, IssuerProgram, login

AssertProblem = Callable[..., dict[str, Any]]


def register(client: httpx.Client, email: object, password: object = PASSWORD) -> httpx.Response:
    return client.post("/register", json={"email": email, "password": password})


def test_a_new_user_gets_an_id_and_can_log_in(client: httpx.Client, new_email: Callable[[], str]) -> None:
    email = new_email()
    answer = register(client, email)
    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert set(answer.json()) == {"id", "email"}
    assert answer.json()["email"] == email
    assert "set-cookie" not in answer.headers
    assert login(client, email)


def test_a_taken_email_is_refused(client: httpx.Client, user: str, assert_problem: AssertProblem) -> None:
    for spelling in (user, user.upper(), user.title()):
        assert_problem(register(client, spelling), 409, "email_taken")
    assert login(client, user)


@pytest.mark.parametrize(
    ("email", "password", "reasons"),
    [
        ("nobody", PASSWORD, {"email_invalid"}),
        ("", PASSWORD, {"email_invalid"}),
        ("a@localhost", PASSWORD, {"email_invalid"}),
        ("nul\0@example.com", PASSWORD, {"email_invalid"}),
        ("fine@example.com", "fourteen chars", {"password_too_short"}),
        ("fine@example.com", "x" * 1025, {"password_too_long"}),
        ("fine@example.com", "passwordpassword", {"password_common"}),
        ("dorothea.brooke@example.com", "dorothea.brooke1", {"password_derived"}),
        ("nobody", "short", {"email_invalid", "password_too_short"}),
        (None, PASSWORD, {"email_missing"}),
        ("fine@example.com", None, {"password_missing"}),
        (1, 2, {"email_missing", "password_missing"}),
        (["fine@example.com"], {"a": 1}, {"email_missing", "password_missing"}),
        (True, 1.5, {"email_missing", "password_missing"}),
    ],
)
def test_what_is_not_acceptable_is_refused_with_every_reason(
    client: httpx.Client, assert_problem: AssertProblem, email: object, password: object, reasons: set[str]
) -> None:
    problem = assert_problem(register(client, email, password), 422, "input_invalid")
    assert {reason["code"] for reason in problem["reasons"]} == reasons
    for reason in problem["reasons"]:
        assert set(reason) == {"field", "code", "detail"}
        assert reason["field"] in {"email", "password"}


def test_a_password_in_any_of_unicode_is_taken(client: httpx.Client, new_email: Callable[[], str]) -> None:
    email = new_email()
    assert register(client, email, "🐴 Ångström\0 密码 ½ and on").status_code == 201
    assert login(client, email, "🐴 Ångström\0 密码 1\u20442 and on")


def test_the_shortest_password_is_a_setting(unusual_client: httpx.Client, new_email: Callable[[], str]) -> None:
    assert register(unusual_client, new_email(), "sevench").status_code == 422
    assert register(unusual_client, new_email(), "fjordqui").status_code == 201


def test_of_eight_who_register_one_email_at_once_one_wins(
    shared_issuer: IssuerProgram, new_email: Callable[[], str]
) -> None:
    spellings = [str.lower, str.upper, str.title, str.swapcase, str.capitalize, str.lower, str.upper, str.title]
    with ThreadPoolExecutor(8) as pool:
        clients = [shared_issuer.client() for _ in spellings]
        for _ in range(10):
            email = new_email()
            answers = list(pool.map(lambda c, s, e=email: register(c, s(e)), clients, spellings))
            assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7
            assert {answer.json().get("code", "-") for answer in answers} == {"-", "email_taken"}
        for client in clients:
            client.close()
