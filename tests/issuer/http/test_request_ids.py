"""A request has one id: in its answer, in every line of the log that it leads to, and in the audit log."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from tests.programs import PASSWORD, IssuerProgram, eventually, login, register

TRACE = "0af7651916cd43dd8448eb211c80319c"
MADE = re.compile(r"[0-9a-f]{32}")


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IssuerProgram]:
    issuer = IssuerProgram(tmp_path_factory.mktemp("issuer"), AUTHIX_LOG="json", AUTHIX_LOG_LEVEL="debug")
    with issuer.serving():
        yield issuer


@pytest.fixture
def client(issuer: IssuerProgram) -> Iterator[httpx.Client]:
    with issuer.client() as client:
        yield client


Lines = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def lines(issuer: IssuerProgram) -> Lines:
    """``lines(id)``: what the log says of that request, once it is over."""

    def read(request_id: str) -> list[dict[str, Any]]:
        def found() -> list[dict[str, Any]]:
            entries = map(json.loads, issuer.output().splitlines())
            return [entry for entry in entries if entry.get("request_id") == request_id]

        eventually(lambda: any(entry["event"] == "request" for entry in found()), "the request's line is written")
        return found()

    return read


def test_it_is_made_where_there_is_none_and_never_twice(client: httpx.Client, lines: Lines) -> None:
    ids = [client.get("/livez").headers["x-request-id"] for _ in range(3)]
    assert len(set(ids)) == 3
    for request_id in ids:
        assert MADE.fullmatch(request_id)
        (entry,) = [entry for entry in lines(request_id) if entry["event"] == "request"]
        assert (entry["method"], entry["path"], entry["status"], entry["code"]) == ("GET", "/livez", 200, "ok")


def test_one_that_came_is_kept(client: httpx.Client, lines: Lines) -> None:
    answer = client.get(
        "/livez", headers={"X-Request-Id": "Ingress.7f-1_a", "traceparent": f"00-{TRACE}-{'b' * 16}-01"}
    )
    assert answer.headers["x-request-id"] == "Ingress.7f-1_a"
    assert lines("Ingress.7f-1_a")


@pytest.mark.parametrize(
    "headers",
    [
        [("X-Request-Id", "a b")],
        [("X-Request-Id", "")],
        [("X-Request-Id", "a" * 65)],
        [("X-Request-Id", 'a"b')],
        [("X-Request-Id", "r\xe9")],
        [("X-Request-Id", "one"), ("X-Request-Id", "two")],
        [("traceparent", f"ff-{TRACE}-{'b' * 16}-01")],
        [("traceparent", f"00-{TRACE}-{'b' * 16}-01-more")],
        [("traceparent", f"00-{TRACE.upper()}-{'b' * 16}-01")],
        [("traceparent", f"00-{'0' * 32}-{'b' * 16}-01")],
        [("traceparent", f"00-{TRACE}-{'0' * 16}-01")],
        [("traceparent", f"00-{TRACE}-{'b' * 16}-01"), ("traceparent", f"00-{TRACE}-{'b' * 16}-01")],
    ],
)
def test_one_that_could_forge_a_line_or_means_nothing_is_replaced(
    client: httpx.Client, headers: list[tuple[str, str]]
) -> None:
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    answer = client.get("/livez", headers=encoded)
    assert MADE.fullmatch(answer.headers["x-request-id"])
    assert answer.headers["x-request-id"] != TRACE


@pytest.mark.parametrize("traceparent", [f"00-{TRACE}-{'b' * 16}-01", f"cc-{TRACE}-{'b' * 16}-00-what-comes-later"])
def test_else_it_is_the_trace_that_the_request_belongs_to(client: httpx.Client, traceparent: str) -> None:
    assert client.get("/livez", headers={"traceparent": traceparent}).headers["x-request-id"] == TRACE


def test_refusals_and_what_could_not_be_read_have_one_too(issuer: IssuerProgram, lines: Lines) -> None:
    import socket

    with issuer.client() as client:
        refused = client.post("/login", json={"email": "nobody@example.com", "password": PASSWORD})
    assert any(entry["event"] == "POST /login: credentials_wrong" for entry in lines(refused.headers["x-request-id"]))
    with socket.create_connection(("127.0.0.1", issuer.port), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/9.9\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    found = re.search(rb"(?i)x-request-id: ([0-9a-f]{32})\r\n", answer)
    assert found
    assert lines(found[1].decode())


def test_the_lines_of_a_failure_and_of_the_audit_log_have_it(
    issuer: IssuerProgram, client: httpx.Client, lines: Lines
) -> None:
    email = "torn@example.com"
    register(client, email)
    answer = client.post("/login", json={"email": email, "password": PASSWORD}, headers={"X-Request-Id": "login-1"})
    assert answer.status_code == 200
    audit = [json.loads(line) for line in (issuer.log.parent / "audit.log").read_text().splitlines()]
    assert [entry["event"] for entry in audit if entry["request_id"] == "login-1"] == ["login"]
    assert any(entry["event"] == "POST /login: ok" for entry in lines("login-1"))
    with closing(sqlite3.connect(issuer.log.parent / "data" / "users.db", timeout=20)) as store:
        store.execute("UPDATE users SET roles = 'torn' WHERE email = ?", (email,))
        store.commit()
    failed = client.post("/login", json={"email": email, "password": PASSWORD})
    assert failed.status_code == 500
    (failure,) = [entry for entry in lines(failed.headers["x-request-id"]) if entry["event"] == "a request failed"]
    assert "Traceback" in failure["exception"]


def test_the_level_debug_tells_of_decisions_and_of_no_secret(issuer: IssuerProgram, client: httpx.Client) -> None:
    register(client, "debug@example.com")
    token = login(client, "debug@example.com")
    client.post("/access_token")
    client.post("/logout", headers={"Authorization": f"Bearer {token}"})
    eventually(lambda: "POST /logout: ok" in issuer.output(), "the decision is logged")
    for secret in (PASSWORD, "debug@example.com", token, token.split(".")[2]):
        assert secret not in issuer.output()
