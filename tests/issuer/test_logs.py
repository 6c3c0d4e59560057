"""What the issuer logs, in both forms, and what it never logs."""

from __future__ import annotations

import base64
import json
import re
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import httpx
import pytest

from authix_issuer.master_secret import MasterSecret
from tests.programs import DEADLINE, PASSWORD, IssuerProgram, bearer, eventually

CONSOLE_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z \[[a-z]+ *\] .+ \[[\w.]+\](?: request_id=[\w.-]+)?")


@pytest.fixture(params=["console", "json"])
def issuer(request: pytest.FixtureRequest) -> IssuerProgram:
    """The shared issuers log in one form each."""
    found: IssuerProgram = request.getfixturevalue("shared_issuer" if request.param == "console" else "unusual_issuer")
    return found


@pytest.fixture
def entries(issuer: IssuerProgram) -> Callable[[], list[dict[str, Any]]]:
    """``entries()``: the log so far as dictionaries; lines of a console's stack trace are left out."""

    def read() -> list[dict[str, Any]]:
        lines = issuer.output().splitlines()
        if issuer.env.get("AUTHIX_LOG") == "json":
            return [told(json.loads(line)) for line in lines]
        return [{"event": line} for line in lines if CONSOLE_LINE.fullmatch(line)]

    return read


Entries = Callable[[], list[dict[str, Any]]]


def told(entry: dict[str, Any]) -> dict[str, Any]:
    """A request's line says its parts by their names; put together they are what a console shows."""
    if entry["event"] == "request":
        entry["event"] = "{method} {path} {status} {ms} ms {code}".format(**entry)
    return entry


def log_in(client: httpx.Client, email: str, password: str = PASSWORD) -> httpx.Response:
    return client.post("/login", json={"email": email, "password": password})


def test_each_request_is_a_line_with_its_route_status_and_time(issuer: IssuerProgram, entries: Entries) -> None:
    with issuer.client() as client:
        client.get("/livez?who=ann")
        client.get("/nowhere/secret-path")
    eventually(lambda: any("GET /- 404" in entry["event"] for entry in entries()), "the last request is logged")
    told = [entry["event"] for entry in entries()]
    assert any(re.search(r"GET /livez 200 \d+\.\d ms", line) for line in told)
    assert "who=ann" not in issuer.output()
    assert "secret-path" not in issuer.output()


def test_what_a_client_takes_for_a_request_forges_no_line(issuer: IssuerProgram, entries: Entries) -> None:
    lines = ("GET\nforged-line /", "\x1b[2JGET /", "GET\u2028forged-line /", "GET forged-line", "GET /\x1b[2J")
    before = len(entries())
    for line in lines:
        with socket.create_connection(("127.0.0.1", issuer.port), timeout=DEADLINE) as connection:
            connection.sendall(f"{line} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert connection.recv(12) == b"HTTP/1.1 400"
    eventually(lambda: len(entries()) >= before + len(lines), "all are logged")
    assert "forged-line" not in issuer.output()
    assert "\x1b" not in issuer.output()


def test_a_line_of_json_says_when_what_and_how_grave(unusual_issuer: IssuerProgram) -> None:
    for line in unusual_issuer.output().splitlines():
        entry = json.loads(line)
        assert {"event", "level", "logger", "timestamp"} <= set(entry)
        assert entry["level"] in {"info", "warning", "error", "critical"}


def test_a_line_for_people_says_when_what_and_how_grave(shared_issuer: IssuerProgram) -> None:
    first, *_ = shared_issuer.output().splitlines()
    assert CONSOLE_LINE.fullmatch(first)
    assert f"listens on {shared_issuer.url}" in first


def test_a_failure_nobody_foresaw_is_answered_without_its_trace_and_logged_with_it(
    issuer: IssuerProgram, entries: Entries, new_email: Callable[[], str]
) -> None:
    email = new_email()
    with issuer.client() as client:
        client.post("/register", json={"email": email, "password": PASSWORD})
        with closing(sqlite3.connect(issuer.log.parent / "data" / "users.db", timeout=20)) as store:
            store.execute("UPDATE users SET roles = 'torn' WHERE email = ?", (email,))
            store.commit()
        answer = log_in(client, email)
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "title": "Internal Server Error",
        "status": 500,
        "code": "internal_error",
        "detail": "the issuer failed; the log says why",
    }
    eventually(lambda: any("POST /login 500" in entry["event"] for entry in entries()), "the request is logged")
    assert any("a request failed" in entry["event"] for entry in entries())
    assert "Traceback (most recent call last)" in issuer.output()
    assert "msgspec.DecodeError" in issuer.output()
    assert "Warning" not in issuer.output()


def test_a_client_that_goes_away_is_no_failure(start_issuer: Callable[..., IssuerProgram]) -> None:
    import socket

    issuer = start_issuer(AUTHIX_HASH_PROFILE="rfc9106-low-memory")
    body = json.dumps({"email": "ann@example.com", "password": PASSWORD}).encode()
    head = b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", issuer.port)) as connection:
            connection.sendall(head % len(body) + body)
    eventually(lambda: issuer.output().count("POST /login") == 3, "the requests are logged")
    assert issuer.output().count("POST /login 499") + issuer.output().count("POST /login 401") == 3
    assert "[error" not in issuer.output()


def spellings(secret: bytes) -> set[str]:
    return {secret.hex(), base64.b64encode(secret).decode(), base64.urlsafe_b64encode(secret).decode().rstrip("=")}


def test_no_secret_is_ever_logged(issuer: IssuerProgram, new_email: Callable[[], str], entries: Entries) -> None:
    email, wrong = new_email(), "wrong horse battery staple"
    cookie = "authix_refresh" if issuer.env["AUTHIX_COOKIE_PROFILE"] == "development" else "__Host-authix_refresh"
    secrets = {PASSWORD, wrong, email}
    with issuer.client() as client:

        def post(path: str, refresh: str = "", **kwargs: Any) -> httpx.Response:
            headers = {"Cookie": f"{cookie}={refresh}"} if refresh else {}
            return client.post(path, headers=headers | kwargs.pop("headers", {}), **kwargs)

        for password in (PASSWORD, PASSWORD, "short-pass", "x" * 2000):
            post("/register", json={"email": email, "password": password})
            secrets.add(password)
        log_in(client, email, wrong)
        answers = [log_in(client, email)]
        for _ in range(3):
            answers.append(post("/access_token", answers[-1].cookies[cookie]))
        refresh_tokens = [answer.cookies[cookie] for answer in answers]
        access_tokens = [answer.json()["access_token"] for answer in answers]
        assert post("/access_token", refresh_tokens[0]).json()["code"] == "refresh_token_reused"
        forged = refresh_tokens[0][:-3] + "AAA"
        post("/access_token", forged)
        post("/logout", forged)
        post("/logout", headers=bearer(access_tokens[0] + "x"))
        post("/logout", headers={"Authorization": f"Bearer {access_tokens[0]} {access_tokens[1]}"})
        post("/logout?scope=nonsense", refresh_tokens[1])
        post("/logout", refresh_tokens[1], headers=bearer(access_tokens[1]))
        post(
            "/login",
            content=json.dumps({"email": email, "password": PASSWORD}) + "x",
            headers={"Content-Type": "application/json"},
        )
        post("/login", data={"email": email, "password": PASSWORD})
        client.get(f"/{refresh_tokens[0]}", params={"token": access_tokens[0], "password": wrong})
        client.get("/revocations", headers=bearer(wrong.replace(" ", "-") * 2))
        client.get("/revocations", headers={"Accept": access_tokens[0]})
        client.get("/public_key", headers={"Accept": f"{access_tokens[0]};;"})
    data = issuer.log.parent / "data"
    master = issuer.env.get("AUTHIX_SECRET") or (data / "secret").read_text()
    with closing(sqlite3.connect(data / "users.db", timeout=20)) as store:
        (password_hash,) = store.execute("SELECT password_hash FROM users WHERE email = ?", (email,)).fetchone()
    secrets |= {master, password_hash, *refresh_tokens, *access_tokens, forged, wrong.replace(" ", "-")}
    secrets |= {token.rpartition(".")[2] for token in access_tokens}
    secrets |= {issuer.env.get("AUTHIX_FEED_TOKEN", master)}
    for token in refresh_tokens:
        parts = base64.urlsafe_b64decode(token.removeprefix("axr1.") + "==")
        secrets |= spellings(parts[8:40]) | spellings(parts[-32:])
    for purpose in ("refresh-token", "key-ring"):
        secrets |= spellings(MasterSecret(master).derive(purpose))
    eventually(lambda: any("POST /access_token 401" in entry["event"] for entry in entries()), "all is logged")
    logged = issuer.output()
    assert [secret for secret in secrets if secret in logged] == []
