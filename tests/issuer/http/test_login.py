"""POST /login."""

from __future__ import annotations

from collections.abc import Callable
from http.cookies import SimpleCookie
from typing import Any

import httpx
import jwt
import pytest

from tests.programs import PASSWORD, IssuerProgram, login, register

AssertProblem = Callable[..., dict[str, Any]]
FOUR_WEEKS = 2_419_200


def post(client: httpx.Client, email: str, password: str) -> httpx.Response:
    return client.post("/login", json={"email": email, "password": password})


def set_cookie(answer: httpx.Response) -> tuple[str, str, set[str]]:
    """Name, value and attributes of the one cookie that is set."""
    (header,) = answer.headers.get_list("set-cookie")
    pair, *attributes = header.split("; ")
    name, _, value = pair.partition("=")
    assert SimpleCookie(header)[name].value == value
    return name, value, set(attributes)


def test_a_login_hands_out_an_access_token_and_a_refresh_token(client: httpx.Client, user: str) -> None:
    answer = post(client, user, PASSWORD)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert set(body) == {"access_token", "token_type", "expires_in"}
    assert (body["token_type"], body["expires_in"]) == ("Bearer", 300)
    assert answer.headers["authorization"] == f"Bearer {body['access_token']}"
    name, value, attributes = set_cookie(answer)
    assert value not in answer.text
    assert (name, attributes) == (
        "authix_refresh",
        {"Path=/", f"Max-Age={FOUR_WEEKS}", "HttpOnly", "SameSite=Strict"},
    )


def test_the_access_token_says_what_the_design_says(
    client: httpx.Client, user: str, shared_issuer: IssuerProgram
) -> None:
    token = login(client, user)
    header = jwt.get_unverified_header(token)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert header["typ"] == "at+jwt"
    assert header["alg"] == "ES256"
    assert set(claims) == {"iss", "sub", "aud", "iat", "exp", "iat_us", "jti", "sid", "roles"}
    assert (claims["iss"], claims["aud"]) == (shared_issuer.url, "tests")
    assert claims["exp"] - claims["iat"] == 300
    assert claims["iat_us"] // 1_000_000 == claims["iat"]
    assert user not in str(claims)


def test_two_logins_are_two_sessions_of_one_subject(client: httpx.Client, user: str) -> None:
    one, other = (jwt.decode(login(client, user), options={"verify_signature": False}) for _ in range(2))
    assert one["sub"] == other["sub"]
    assert one["sid"] != other["sid"]
    assert one["iat_us"] < other["iat_us"]


@pytest.mark.parametrize(
    ("email", "password"),
    [
        ("", "wrong horse battery staple"),
        ("nobody@example.com", PASSWORD),
        ("no address", PASSWORD),
        ("", ""),
        ("", PASSWORD + " "),
        ("", "x" * 1025),
        ("nobody@example.com", "x" * 1025),
        ("x" * 8000 + "@example.com", PASSWORD),
    ],
)
def test_unknown_email_and_wrong_password_are_answered_alike(
    client: httpx.Client, user: str, assert_problem: AssertProblem, email: str, password: str
) -> None:
    answer = post(client, email or user, password)
    assert_problem(answer, 401, "credentials_wrong")
    reference = post(client, user, "another wrong password")
    assert answer.content == reference.content
    ignored = {"date", "x-request-id"}
    assert {k: v for k, v in answer.headers.items() if k not in ignored} == {
        k: v for k, v in reference.headers.items() if k not in ignored
    }
    assert "set-cookie" not in answer.headers


def test_the_secure_profile_binds_the_cookie_to_the_host_over_https(
    unusual_client: httpx.Client, new_email: Callable[[], str]
) -> None:
    email = new_email()
    register(unusual_client, email)
    name, _, attributes = set_cookie(post(unusual_client, email, PASSWORD))
    assert (name, attributes) == (
        "__Host-authix_refresh",
        {"Path=/", "Max-Age=3600", "HttpOnly", "SameSite=Strict", "Secure"},
    )


@pytest.mark.parametrize(
    "planted",
    ["authix_refresh", "__Secure-authix_refresh", "__Secure-__Host-authix_refresh", "__Host-__Host-authix_refresh"],
)
def test_a_cookie_that_another_host_could_plant_is_not_taken_for_ours(
    unusual_client: httpx.Client, new_email: Callable[[], str], assert_problem: AssertProblem, planted: str
) -> None:
    email = new_email()
    register(unusual_client, email)
    name, value, _ = set_cookie(post(unusual_client, email, PASSWORD))

    def ask(path: str, cookie: str) -> httpx.Response:
        return unusual_client.post(path, headers={"Cookie": cookie})

    for path in ("/access_token", "/logout"):
        assert_problem(ask(path, f"{planted}={value}"), 401, "refresh_token_missing")
    assert ask("/access_token", f"{planted}=planted; {name}={value}").status_code == 200


def test_lives_and_algorithm_are_settings(unusual_client: httpx.Client, new_email: Callable[[], str]) -> None:
    email = new_email()
    register(unusual_client, email)
    answer = post(unusual_client, email, PASSWORD)
    assert answer.json()["expires_in"] == 60
    token = answer.json()["access_token"]
    assert jwt.get_unverified_header(token)["alg"] == "EdDSA"
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 60
