"""Too many logins, wrong passwords and registrations: 429 with the exact wait, before anything is hashed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.programs import PASSWORD, IssuerProgram, bearer, login, register
from tests.servers.redis import RedisServer

AssertProblem = Callable[..., dict[str, Any]]
StartIssuer = Callable[..., IssuerProgram]

FREE = 5


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IssuerProgram]:
    """An issuer with growing delays, behind a proxy on this machine that may name any client."""
    issuer = IssuerProgram(
        tmp_path_factory.mktemp("guarded"), AUTHIX_LOGIN_MAX_DELAY="900", AUTHIX_TRUSTED_PROXIES="127.0.0.0/8"
    )
    with issuer.serving():
        yield issuer


@pytest.fixture
def client(guarded: IssuerProgram) -> Iterator[httpx.Client]:
    with guarded.client() as client:
        yield client


def attempt(client: httpx.Client, email: str, password: str = "wrong", **headers: str) -> httpx.Response:
    return client.post("/login", json={"email": email, "password": password}, headers=headers)


def spend(client: httpx.Client, email: str) -> None:
    for _ in range(FREE):
        assert attempt(client, email).status_code == 401


def test_after_some_wrong_passwords_the_next_attempt_has_to_wait_and_then_may(
    client: httpx.Client, assert_problem: AssertProblem, new_email: Callable[[], str]
) -> None:
    email = new_email()
    register(client, email)
    spend(client, email)
    refused = attempt(client, email, PASSWORD)
    assert_problem(refused, 429, "too_many_attempts")
    assert refused.headers["retry-after"] == "1"
    time.sleep(int(refused.headers["retry-after"]))  # what the client is told to do
    assert login(client, email)
    spend(client, email)


def test_whether_the_account_exists_does_not_show(client: httpx.Client, new_email: Callable[[], str]) -> None:
    known, unknown = new_email(), new_email()
    register(client, known)
    answers = []
    for email in (known, unknown):
        spend(client, email)
        answer = attempt(client, email, PASSWORD)
        headers = {name: value for name, value in answer.headers.items() if name not in {"date", "x-request-id"}}
        answers.append((answer.status_code, headers, answer.text))
    assert answers[0] == answers[1]


def test_of_many_guesses_side_by_side_only_a_handful_is_looked_at(
    guarded: IssuerProgram, new_email: Callable[[], str]
) -> None:
    email = new_email()

    def guess(_: int) -> int:
        with guarded.client() as client:
            return attempt(client, email).status_code

    with ThreadPoolExecutor(50) as pool:
        statuses = list(pool.map(guess, range(50)))
    assert set(statuses) == {401, 429}
    assert statuses.count(401) <= FREE + 1  # one more if this takes longer than the first delay


def test_guesses_from_elsewhere_do_not_keep_the_owner_out(client: httpx.Client, new_email: Callable[[], str]) -> None:
    email = new_email()
    register(client, email)
    for _ in range(FREE):
        attempt(client, email, **{"X-Forwarded-For": "203.0.113.1"})
    assert attempt(client, email, PASSWORD, **{"X-Forwarded-For": "203.0.113.1"}).status_code == 429
    assert attempt(client, email, PASSWORD, **{"X-Forwarded-For": "203.0.113.2"}).status_code == 200


def test_a_client_that_is_logged_in_is_not_touched(client: httpx.Client, new_email: Callable[[], str]) -> None:
    email = new_email()
    register(client, email)
    login(client, email)
    for _ in range(2 * FREE):
        attempt(client, email)
    assert client.post("/access_token").status_code == 200


def test_requests_of_one_address_are_limited_by_the_setting(
    start_issuer: StartIssuer, assert_problem: AssertProblem
) -> None:
    issuer = start_issuer(
        AUTHIX_LIMIT_LOGINS="3/hour",
        AUTHIX_LIMIT_REGISTRATIONS="2 per 2 seconds",
        AUTHIX_TRUSTED_PROXIES="127.0.0.1",
        AUTHIX_FORWARDED_BY="forwarded",
    )
    with issuer.client() as client:

        def registered(n: int) -> httpx.Response:
            return client.post("/register", json={"email": f"user-{n}@example.com", "password": PASSWORD})

        assert [registered(n).status_code for n in range(2)] == [201, 201]
        refused = registered(2)
        assert_problem(refused, 429, "too_many_requests")
        assert refused.headers["retry-after"] in {"1", "2"}
        time.sleep(int(refused.headers["retry-after"]))  # what the client is told to do
        assert registered(3).status_code == 201

        one = {"Forwarded": 'for="[2001:db8::1]"', "X-Forwarded-For": "203.0.113.77"}
        same_network = {"Forwarded": 'for="[2001:db8::2]:4711"'}
        another = {"Forwarded": 'for="[2001:db8:0:1::1]"'}
        for n in range(3):
            assert attempt(client, f"user-{n}@example.com", **(one if n else same_network)).status_code == 401
        for headers in (one, same_network):
            refused = attempt(client, "user-0@example.com", PASSWORD, **headers)
            assert_problem(refused, 429, "too_many_requests")
            assert 3500 < int(refused.headers["retry-after"]) <= 3600
        assert attempt(client, "user-0@example.com", PASSWORD, **another).status_code == 200


def test_whoever_tries_emails_at_an_account_is_limited_as_at_a_registration(
    start_issuer: StartIssuer, assert_problem: AssertProblem
) -> None:
    with start_issuer(AUTHIX_LIMIT_REGISTRATIONS="3/hour").client() as client:
        register(client, "ann@example.com")
        register(client, "bob@example.com")
        body = {"password": PASSWORD, "email": "bob@example.com"}
        headers = bearer(login(client, "ann@example.com"))
        assert_problem(client.post("/account/email", json=body, headers=headers), 409, "email_taken")
        assert_problem(client.post("/account/email", json=body, headers=headers), 429, "too_many_requests")


def test_issuers_on_one_redis_count_together(start_issuer: StartIssuer, redis_server: RedisServer) -> None:
    shared = {
        "AUTHIX_SESSIONS_URL": redis_server.url,
        "AUTHIX_SECRET": "master-secret-of-at-least-32-characters",
        "AUTHIX_LOGIN_MAX_DELAY": "900",
    }
    one, other = start_issuer(**shared), start_issuer(**shared)
    with one.client() as here, other.client() as there:
        for n in range(FREE):
            written = {"X-Forwarded-For": f"203.0.113.{n}"}  # by default nobody is believed about it
            assert attempt((here, there)[n % 2], "ann@example.com", **written).status_code == 401
        assert attempt(here, "ann@example.com").status_code == 429
        assert attempt(there, "ann@example.com").status_code == 429
        assert attempt(there, "bob@example.com").status_code == 401
