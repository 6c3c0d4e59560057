"""GET /livez and /readyz."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import httpx
import pytest

from tests.programs import PASSWORD, IssuerProgram, bearer, login, register

AssertProblem = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(("path", "status"), [("/livez", "alive"), ("/readyz", "ready")])
def test_a_probe_says_yes(client: httpx.Client, path: str, status: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.json()["status"] == status
    assert answer.headers["cache-control"] == "no-store"


def test_a_store_that_fails_is_told_by_readiness_answers_and_log(
    start_issuer: Callable[..., IssuerProgram], assert_problem: AssertProblem
) -> None:
    introspection_token = "introspection-token-of-at-least-32-characters"
    issuer = start_issuer(AUTHIX_INTROSPECTION_TOKEN=introspection_token)
    with issuer.client() as client, closing(sqlite3.connect(issuer.log.parent / "data" / "sessions.db")) as store:
        register(client, "ann@example.com")
        token = login(client, "ann@example.com")
        store.execute("ALTER TABLE clock RENAME TO hidden")
        problem = assert_problem(client.get("/readyz"), 503, "not_ready")
        assert problem["engines"] == {"sessions": "store_unavailable"}
        answers = [
            client.post("/login", json={"email": "ann@example.com", "password": PASSWORD}),
            client.post("/access_token"),
            client.post("/logout"),
            client.delete("/logout", headers=bearer(token)),
            client.post("/introspect", data={"token": token}, headers=bearer(introspection_token)),
            client.post("/revoke", data={"token": token}),
            client.post("/revoke", data={"token": client.cookies["authix_refresh"]}),
            client.get("/revocations"),
            client.get("/revocations", headers={"Accept": "text/event-stream"}),
        ]
        for answer in answers:
            assert "clock" not in str(assert_problem(answer, 503, "store_unavailable"))
        assert client.get("/livez").status_code == client.get("/public_key").status_code == 200
        store.execute("ALTER TABLE hidden RENAME TO clock")
        issuer.ready()
        assert client.post("/access_token").status_code == 200
        assert client.post("/logout").status_code == 204
    assert "store sessions does not answer: the database failed: no such table: clock" in issuer.output()
    assert "a store does not answer: the database failed: no such table: clock" in issuer.output()


def test_a_store_of_users_that_fails_is_told(
    start_issuer: Callable[..., IssuerProgram], assert_problem: AssertProblem
) -> None:
    issuer = start_issuer()
    body = {"email": "ann@example.com", "password": PASSWORD}
    with issuer.client() as client, closing(sqlite3.connect(issuer.log.parent / "data" / "users.db")) as store:
        register(client, "ann@example.com")
        store.execute("ALTER TABLE users RENAME TO hidden")
        for path in ("/register", "/login"):
            assert_problem(client.post(path, json=body), 503, "store_unavailable")
        store.execute("ALTER TABLE hidden RENAME TO users")
        assert client.post("/login", json=body).status_code == 200
