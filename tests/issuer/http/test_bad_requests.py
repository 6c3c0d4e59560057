"""Requests that no honest client sends: each is refused with a problem document, none with a 5xx."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.programs import DEADLINE, PASSWORD, IssuerProgram

AssertProblem = Callable[..., dict[str, Any]]
SendRaw = Callable[[bytes], httpx.Response]

GOOD = json.dumps({"email": "nobody@example.com", "password": PASSWORD}).encode()


@pytest.mark.parametrize("path", ["/register", "/login"])
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"email": "a@example.com"},
        {"password": PASSWORD},
        {"Email": "a", "PASSWORD": "b"},
        {"email": [], "password": {}},
    ],
)
def test_a_missing_field_is_named(
    client: httpx.Client, assert_problem: AssertProblem, path: str, body: dict[str, object]
) -> None:
    problem = assert_problem(client.post(path, json=body), 422, "input_invalid")
    assert problem["reasons"]
    assert {reason["code"] for reason in problem["reasons"]} <= {"email_missing", "password_missing"}


@pytest.mark.parametrize("path", ["/register", "/login"])
@pytest.mark.parametrize(
    "kind",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonx",
        "application/problem+json",
        "text/json",
        "json",
    ],
)
def test_a_body_that_is_not_declared_as_json_is_refused(
    client: httpx.Client, assert_problem: AssertProblem, path: str, kind: str | None
) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    assert_problem(client.post(path, content=GOOD, headers=headers), 415, "content_type_wrong")


@pytest.mark.parametrize("kind", ["APPLICATION/JSON", "application/json;", "application/json ; charset=utf-8"])
def test_json_may_be_declared_in_any_spelling(client: httpx.Client, kind: str) -> None:
    assert client.post("/login", content=GOOD, headers={"Content-Type": kind}).status_code == 401


def test_fields_that_mean_nothing_are_ignored(client: httpx.Client) -> None:
    body = {"email": "nobody@example.com", "password": PASSWORD, "roles": ["admin"], "more": {"a": [1, None]}}
    assert client.post("/login", json=body).status_code == 401


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def head(path: str = "/login", *lines: bytes, method: bytes = b"POST") -> bytes:
    start = b"%b %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" % (method, path.encode())
    return start + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def test_a_chunked_body_is_read(send_raw: SendRaw, assert_problem: AssertProblem) -> None:
    data = head("/login", b"Transfer-Encoding: chunked") + chunked(GOOD[:10], GOOD[10:])
    assert_problem(send_raw(data), 401, "credentials_wrong")


@pytest.mark.parametrize("size", [16 * 1024 + 1, 100_000])
def test_a_body_that_is_too_large_is_refused(send_raw: SendRaw, assert_problem: AssertProblem, size: int) -> None:
    declared = head("/register", b"Content-Length: %d" % size)
    assert_problem(send_raw(declared), 413, "body_too_large")
    parts = chunked(*[b"x" * 1000] * (size // 1000 + 1))
    assert_problem(send_raw(head("/register", b"Transfer-Encoding: chunked") + parts), 413, "body_too_large")


def test_a_body_of_the_largest_size_is_read(client: httpx.Client, assert_problem: AssertProblem) -> None:
    body = GOOD + b" " * (16 * 1024 - len(GOOD))
    answer = client.post("/login", content=body, headers={"Content-Type": "application/json"})
    assert_problem(answer, 401, "credentials_wrong")


REQUESTS = {
    "no HTTP": b"\x16\x03\x01 garbage\r\n\r\n",
    "an unknown version": b"GET /livez HTTP/9.9\r\n\r\n",
    "a path that is no text": b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    "a negative length": head("/login", b"Content-Length: -1"),
    "a length that is no number": head("/login", b"Content-Length: abc"),
    "two lengths": head("/login", b"Content-Length: 4", b"Content-Length: 5") + b"12345",
    "a length and chunks": head("/login", b"Content-Length: 4", b"Transfer-Encoding: chunked") + chunked(GOOD),
    "an unknown coding": head("/login", b"Transfer-Encoding: gzip") + chunked(GOOD),
    "chunks that are none": head("/login", b"Transfer-Encoding: chunked") + b"zz\r\nabc\r\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two hosts": head("/livez", b"Host: y", method=b"GET"),
    "two hosts, as of old": b"GET /livez HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n",
    "a header without a colon": head("/login", b"nonsense"),
    "an accept that is no text": head("/public_key", b"Accept: \xff", method=b"GET"),
    "an unmet expectation": head("/login", b"Expect: miracles", b"Content-Length: 0"),
    "a huge header": head("/livez", b"X: " + b"a" * 20000, method=b"GET"),
    "a huge path": b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a cookie that is no text": head("/access_token", b"Cookie: authix_refresh=\xff\xfe"),
    "a token that is no text": head("/logout", b"Authorization: Bearer \xff\xfe"),
    "a content type that is no text": head("/login", b"Content-Length: 2").replace(b"application/json", b"\xff")
    + b"{}",
    "a query that is no text": head("/logout?scope=%ff%fe"),
    "a path with escapes that are no text": head("/%ff%00%2e%2e", method=b"GET"),
    "a way out of the folder": head("/docs/../../secret", method=b"GET"),
    "an escaped way out of the folder": head("/docs/%2e%2e/%2e%2e/secret", method=b"GET"),
    "a path without a slash": head("livez", method=b"GET"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_that_makes_no_sense_is_refused_with_a_problem(send_raw: SendRaw, name: str) -> None:
    answer = send_raw(REQUESTS[name])
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == answer.status_code
    assert answer.json()["code"]


SMUGGLED = b"GET /livez HTTP/1.1\r\nHost: xxxxx\r\n\r\n"


def assert_refused_and_closed(issuer: IssuerProgram, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", issuer.port), timeout=DEADLINE) as connection:
        connection.sendall(sent)
        answers = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answers.startswith(b"HTTP/1.1 400 ")
    assert answers.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "line",
    [
        b"Content-Length : 37",
        b"Content-Length\t: 37",
        b" Content-Length: 37",
        b"X: a\nContent-Length: 37",
        b"X: a\rContent-Length: 37",
        b"X: a\0",
        b"Content-Length: \xd9\xa1",
        b": 37",
    ],
)
def test_a_head_that_can_be_read_in_two_ways_ends_its_connection(shared_issuer: IssuerProgram, line: bytes) -> None:
    assert_refused_and_closed(shared_issuer, head("/login", line) + SMUGGLED)


@pytest.mark.parametrize("kept", [b"", b"Connection: keep-alive"])
def test_chunks_of_a_version_that_has_none_end_their_connection(shared_issuer: IssuerProgram, kept: bytes) -> None:
    lines = (b"Transfer-Encoding: chunked", *filter(None, [kept]))
    old = head("/login", *lines).replace(b"HTTP/1.1", b"HTTP/1.0")
    assert_refused_and_closed(shared_issuer, old + chunked(GOOD) + SMUGGLED)


PART = b"%x\r\n%b" % (len(GOOD), GOOD)


@pytest.mark.parametrize(
    "chunks",
    [
        b"0x" + PART + b"\r\n0\r\n\r\n",
        b"+" + PART + b"\r\n0\r\n\r\n",
        b" " + PART + b"\r\n0\r\n\r\n",
        PART.replace(b"\r", b" \r", 1) + b"\r\n0\r\n\r\n",
        PART.replace(b"\r", b"\n\r", 1) + b"\r\n0\r\n\r\n",
        PART.replace(b"\r", b";\nx\r", 1) + b"\r\n0\r\n\r\n",
        PART.replace(b"\r", b";" + b"x" * 100 + b"\r", 1) + b"\r\n0\r\n\r\n",
        PART + b"XX0\r\n\r\n",
        PART + b"\n\n0\r\n\r\n",
        PART + b"\r\n0x0\r\n\r\n",
        PART + b"\r\n-1\r\n\r\n",
        PART + b"\r\n\r\n\r\n",
        PART + b"\r\n0_0\r\n\r\n",
    ],
)
@pytest.mark.parametrize("path", ["/login", "/nowhere"])
def test_chunks_that_can_be_read_in_two_ways_end_their_connection(
    shared_issuer: IssuerProgram, path: str, chunks: bytes
) -> None:
    sent = head(path, b"Transfer-Encoding: chunked") + chunks + SMUGGLED
    with socket.create_connection(("127.0.0.1", shared_issuer.port), timeout=DEADLINE) as connection:
        connection.sendall(sent)
        answers = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answers.startswith(b"HTTP/1.1 404 " if path == "/nowhere" else b"HTTP/1.1 400 ")
    assert answers.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("extension", [b"", b";x", b';x="a b"'])
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_chunks_are_read_however_they_come(shared_issuer: IssuerProgram, extension: bytes, size: int) -> None:
    whole = head("/login", b"Transfer-Encoding: chunked", b"Expect: 100-continue")
    body = b"".join(b"%X%b\r\n%c\r\n" % (1, extension, byte) for byte in GOOD) + b"000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", shared_issuer.port), timeout=DEADLINE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):
            connection.sendall(whole)
            assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            for start in range(0, len(body), size):
                connection.sendall(body[start : start + size])
            assert connection.recv(10_000).startswith(b"HTTP/1.1 401 ")


def test_the_issuer_is_well_after_all_that(client: httpx.Client) -> None:
    assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/nope", "/login/x", "/logouts", "/.well-known/", "/docs/nope.js", "//livez", "/revocations/x"]
)
def test_an_unknown_path_is_not_found(client: httpx.Client, assert_problem: AssertProblem, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        assert_problem(client.request(method, f"{client.base_url}{path}"), 404, "not_found")


ALLOWED = {
    "/register": {"POST"},
    "/login": {"POST"},
    "/access_token": {"POST"},
    "/logout": {"POST", "DELETE"},
    "/public_key": {"GET", "HEAD"},
    "/.well-known/jwks.json": {"GET", "HEAD"},
    "/.well-known/oauth-authorization-server": {"GET", "HEAD"},
    "/.well-known/openid-configuration": {"GET", "HEAD"},
    "/introspect": {"POST"},
    "/revoke": {"POST"},
    "/revocations": {"GET"},
    "/livez": {"GET", "HEAD"},
    "/readyz": {"GET", "HEAD"},
    "/openapi.json": {"GET", "HEAD"},
    "/docs": {"GET", "HEAD"},
    "/docs/start.js": {"GET", "HEAD"},
    "/docs/swagger-ui.css": {"GET", "HEAD"},
    "/docs/swagger-ui-bundle.js": {"GET", "HEAD"},
}
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FOO"}


@pytest.mark.parametrize("path", ALLOWED)
def test_another_method_is_refused_and_told_which_are_allowed(
    client: httpx.Client, assert_problem: AssertProblem, path: str
) -> None:
    for method in METHODS - ALLOWED[path]:
        answer = client.request(method, path)
        assert set(answer.headers["allow"].split(", ")) == ALLOWED[path], method
        if method == "HEAD":
            assert (answer.status_code, answer.content) == (405, b"")
        else:
            assert_problem(answer, 405, "method_not_allowed")


@pytest.mark.parametrize(
    "path", [path for path, methods in ALLOWED.items() if "HEAD" in methods and "swagger" not in path]
)
def test_head_answers_as_get_does_without_the_body(client: httpx.Client, path: str) -> None:
    get, answer = client.get(path), client.head(path)
    assert answer.status_code == 200
    assert answer.content == b""
    ignored = {"date", "x-request-id"}
    assert {k: v for k, v in answer.headers.items() if k not in ignored} == {
        k: v for k, v in get.headers.items() if k not in ignored
    }
