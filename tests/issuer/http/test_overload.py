"""More passwords than can be hashed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from tests.programs import PASSWORD, IssuerProgram, login, register

AssertProblem = Callable[..., dict[str, Any]]


def test_a_full_queue_answers_503_while_all_else_goes_on(
    start_issuer: Callable[..., IssuerProgram], assert_problem: AssertProblem
) -> None:
    issuer = start_issuer(AUTHIX_HASH_PROFILE="rfc9106-low-memory", AUTHIX_HASH_THREADS="1", AUTHIX_HASH_QUEUE="1")
    with issuer.client() as client, ThreadPoolExecutor(24) as pool:
        register(client, "ann@example.com")
        login(client, "ann@example.com")

        def attempt(_: int) -> httpx.Response:
            with issuer.client() as another:
                return another.post("/login", json={"email": "ann@example.com", "password": PASSWORD})

        for _ in range(5):
            logins = pool.map(attempt, range(24))
            others = [client.get("/public_key"), client.post("/access_token"), client.get("/readyz")]
            answers = list(logins)
            assert [answer.status_code for answer in others] == [200, 200, 200]
            assert {answer.status_code for answer in answers} <= {200, 503}
            refused = [answer for answer in answers if answer.status_code == 503]
            if refused:
                break
        assert refused
        assert len(refused) < len(answers)
        for answer in refused:
            assert_problem(answer, 503, "overloaded")
            assert answer.headers["retry-after"] == "1"
        assert login(client, "ann@example.com")


async def test_in_a_storm_of_logins_every_one_is_answered_and_so_is_all_else(
    start_issuer: Callable[..., IssuerProgram], assert_problem: AssertProblem
) -> None:
    """64 clients: right and wrong passwords, with every limit on."""
    issuer = start_issuer(
        AUTHIX_HASH_PROFILE="owasp",
        AUTHIX_HASH_THREADS="1",
        AUTHIX_HASH_QUEUE="4",
        AUTHIX_LIMIT_LOGINS="150/minute",
        AUTHIX_LOGIN_MAX_DELAY="900",
    )
    with issuer.client() as client:
        register(client, "ann@example.com")
        login(client, "ann@example.com")
        jar = client.cookies
    async with httpx.AsyncClient(base_url=issuer.url, trust_env=False, timeout=20) as storm:

        async def attempt(n: int) -> list[httpx.Response]:
            email, password = ("ann@example.com", PASSWORD) if n % 2 else (f"user-{n % 8}@example.com", "wrong")
            return [await storm.post("/login", json={"email": email, "password": password}) for _ in range(3)]

        logins = asyncio.gather(*(attempt(n) for n in range(64)))
        async with httpx.AsyncClient(base_url=issuer.url, trust_env=False, timeout=20, cookies=jar) as calm:
            others = []
            while not logins.done():
                others += [await calm.get("/public_key"), await calm.post("/access_token"), await calm.get("/livez")]
        answers = [answer for of_one in await logins for answer in of_one]
    assert {answer.status_code for answer in others} == {200}
    assert {answer.status_code for answer in answers} <= {200, 401, 429, 503}
    codes = {answer.json()["code"] for answer in answers if answer.status_code in {429, 503}}
    assert codes == {"overloaded", "too_many_attempts", "too_many_requests"}
    for answer in answers:
        if answer.status_code in {429, 503}:
            assert_problem(answer, answer.status_code, answer.json()["code"])
            assert int(answer.headers["retry-after"]) >= 1
