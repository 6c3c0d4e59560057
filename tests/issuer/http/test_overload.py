"""More passwords than can be hashed."""

from __future__ import annotations

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
