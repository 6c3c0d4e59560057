"""POST /access_token."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import jwt
import pytest

from tests.programs import IssuerProgram, login, register

AssertProblem = Callable[..., dict[str, Any]]
COOKIE = "authix_refresh"


def refresh(client: httpx.Client, token: str | None = None) -> httpx.Response:
    """By the token in the jar, or by this one."""
    headers = {} if token is None else {"Cookie": f"{COOKIE}={token}"}
    return client.post("/access_token", headers=headers)


def assert_cookie_cleared(answer: httpx.Response) -> None:
    (header,) = answer.headers.get_list("set-cookie")
    assert set(header.split("; ")) == {f'{COOKIE}=""', "Path=/", "Max-Age=0", "HttpOnly", "SameSite=Strict"}


def sid_of(answer: httpx.Response) -> str:
    sid: str = jwt.decode(answer.json()["access_token"], options={"verify_signature": False})["sid"]
    return sid


@pytest.fixture
def token(client: httpx.Client, access_token: str) -> str:
    """The refresh token of a new login; the client's jar is empty again."""
    value = client.cookies[COOKIE]
    client.cookies.clear()
    return value


def test_a_refresh_answers_as_a_login_does_and_rotates_the_token(client: httpx.Client, access_token: str) -> None:
    before = client.cookies[COOKIE]
    answer = refresh(client)
    assert answer.status_code == 200
    assert set(answer.json()) == {"access_token", "token_type", "expires_in"}
    assert answer.headers["authorization"] == f"Bearer {answer.json()['access_token']}"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["access_token"] != access_token
    assert client.cookies[COOKIE] != before
    (header,) = answer.headers.get_list("set-cookie")
    _, *attributes = header.split("; ")
    lives = [int(attribute.partition("=")[2]) for attribute in attributes if attribute.startswith("Max-Age=")]
    assert len(lives) == 1
    assert 2_419_200 - 600 < lives[0] <= 2_419_200
    assert {a for a in attributes if not a.startswith("Max-Age=")} == {"Path=/", "HttpOnly", "SameSite=Strict"}


def test_the_session_stays_the_same_over_refreshes(client: httpx.Client, access_token: str) -> None:
    sid = jwt.decode(access_token, options={"verify_signature": False})["sid"]
    assert [sid_of(refresh(client)) for _ in range(3)] == [sid] * 3


def test_a_lost_answer_can_be_asked_for_again(client: httpx.Client, token: str) -> None:
    first, again = refresh(client, token), refresh(client, token)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.cookies[COOKIE] == again.cookies[COOKIE]
    assert first.json()["access_token"] != again.json()["access_token"]


def test_twenty_uses_at_once_are_one_rotation(shared_issuer: IssuerProgram, client: httpx.Client, token: str) -> None:
    def once(_: int) -> httpx.Response:
        with shared_issuer.client() as another:
            return refresh(another, token)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(once, range(20)))
    assert {answer.status_code for answer in answers} == {200}
    (successor,) = {answer.cookies[COOKIE] for answer in answers}
    assert len({answer.json()["access_token"] for answer in answers}) == 20
    following = refresh(client, successor)
    assert following.status_code == 200
    assert following.cookies[COOKIE] not in {token, successor}


def test_an_old_token_is_theft_and_ends_the_session(
    client: httpx.Client, token: str, assert_problem: AssertProblem
) -> None:
    second = refresh(client, token).cookies[COOKIE]
    third = refresh(client, second).cookies[COOKIE]
    client.cookies.clear()
    stolen = refresh(client, token)
    assert_problem(stolen, 401, "refresh_token_reused")
    assert_cookie_cleared(stolen)
    for dead in (token, second, third):
        answer = refresh(client, dead)
        assert_problem(answer, 401, "refresh_token_invalid")
        assert_cookie_cleared(answer)


def test_after_the_grace_the_token_before_is_theft(unusual_client: httpx.Client, new_email: Callable[[], str]) -> None:
    """This issuer has no grace, and the cookie of the secure profile."""
    email, name = new_email(), f"__Host-{COOKIE}"
    register(unusual_client, email)
    login(unusual_client, email)
    token = unusual_client.cookies[name]

    def use(token: str) -> httpx.Response:
        return unusual_client.post("/access_token", headers={"Cookie": f"{name}={token}"})

    successor = use(token).cookies[name]
    assert use(token).json()["code"] == "refresh_token_reused"
    assert use(successor).json()["code"] == "refresh_token_invalid"


def test_no_token_is_said_to_be_missing(client: httpx.Client, assert_problem: AssertProblem) -> None:
    answer = refresh(client)
    assert_problem(answer, 401, "refresh_token_missing")
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("forge", ["", "x", "axr1.", "axr1.AAAA", '"axr1.AAAA"', "%41", "axr1." + "A" * 5000])
def test_what_is_no_token_of_ours_is_refused_and_cleared(
    client: httpx.Client, assert_problem: AssertProblem, forge: str
) -> None:
    answer = refresh(client, forge)
    assert_problem(answer, 401, "refresh_token_invalid")
    assert_cookie_cleared(answer)


def test_a_tampered_token_is_refused_and_harms_no_session(
    client: httpx.Client, token: str, assert_problem: AssertProblem
) -> None:
    for position in range(5, len(token), 7):
        forged = token[:position] + ("A" if token[position] != "A" else "B") + token[position + 1 :]
        assert_problem(refresh(client, forged), 401, "refresh_token_invalid")
    assert refresh(client, token).status_code == 200


def test_two_tokens_at_once_are_refused(client: httpx.Client, token: str, assert_problem: AssertProblem) -> None:
    answer = client.post("/access_token", headers={"Cookie": f"{COOKIE}={token}; {COOKIE}={token}"})
    assert_problem(answer, 401, "refresh_token_invalid")
    headers = [("Cookie", f"{COOKIE}={token}"), ("Cookie", f"{COOKIE}={token}")]
    assert_problem(client.post("/access_token", headers=headers), 401, "refresh_token_invalid")


def test_an_expired_session_is_not_refreshed(
    shared_issuer: IssuerProgram, client: httpx.Client, access_token: str, assert_problem: AssertProblem
) -> None:
    """Its expiry is set in the store, since a session lives at least a minute."""
    sid = jwt.decode(access_token, options={"verify_signature": False})["sid"]
    with closing(sqlite3.connect(shared_issuer.log.parent / "data" / "sessions.db", timeout=20)) as store:
        store.execute("UPDATE sessions SET expires_us = 1 WHERE id = ?", (sid,))
        store.commit()
    answer = refresh(client)
    assert_problem(answer, 401, "refresh_token_invalid")
    assert_cookie_cleared(answer)
