"""Requests that no honest client sends: each is refused with a problem document, none with a 5xx."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.programs import PASSWORD

AssertProblem = Callable[..., dict[str, Any]]
SendRaw = Callable[[bytes], httpx.Response]

GOOD = json.dumps({"email": "nobody@example.com", "password": PASSWORD}).encode()

MALFORMED = {
    "nothing": b"",
    "spaces": b"   ",
    "no JSON": b"email=a",
    "a list": b"[]",
    "a string": b'"x"',
    "null": b"null",
    "a number": b"1",
    "deep lists": b"[" * 16000,
    "deep objects": b'{"a":' * 3000,
    "closed deep objects": b'{"a":' * 2000 + b"1" + b"}" * 2000,
    "a name twice": b'{"email":"a@example.com","email":"b@example.com","password":"x"}',
    "a name twice, deep down": b'{"email":"a@example.com","password":"x","more":{"a":1,"a":2}}',
    "a name twice, once escaped": b'{"email":"a@example.com","em\\u0061il":"b@example.com","password":"x"}',
    "bytes that are no text": b'{"email":"\xff\xfe","password":"x"}',
    "text of too many bytes": b'{"email":"\xc0\xaf","password":"x"}',
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16"),
    "UTF-32": GOOD.decode().encode("utf-32"),
    "half a surrogate pair": b'{"email":"a\\ud800@example.com","password":"x"}',
    "half a surrogate pair as a name": b'{"\\udc00":1}',
    "a surrogate pair in UTF-8": b'{"email":"\xed\xa0\x80\xed\xb0\x80","password":"x"}',
    "NaN": b'{"email":NaN,"password":Infinity}',
    "a huge number": b'{"email":' + b"9" * 10000 + b"}",
    "something after it": GOOD + b" x",
    "two objects": GOOD + GOOD,
    "a bare line break": b'{"email":"a\nb","password":"x"}',
    "a comma too many": b'{"email":"a@example.com","password":"x",}',
    "a comment": b'{"email":"a@example.com"/**/,"password":"x"}',
    "single quotes": b"{'email':'a@example.com'}",
}


@pytest.mark.parametrize("path", ["/register", "/login"])
@pytest.mark.parametrize("name", MALFORMED)
def test_a_body_that_is_not_one_json_object_is_refused(
    client: httpx.Client, assert_problem: AssertProblem, path: str, name: str
) -> None:
    answer = client.post(path, content=MALFORMED[name], headers={"Content-Type": "application/json"})
    assert_problem(answer, 400, "body_malformed")


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
    "a header without a colon": head("/login", b"nonsense"),
    "an accept that is no text": head("/public_key", b"Accept: \xff", method=b"GET"),
    "an unmet expectation": head("/login", b"Expect: miracles", b"Content-Length: 0"),
    "a huge header": head("/livez", b"X: " + b"a" * 20000, method=b"GET"),
    "a huge path": b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a cookie that is no text": head("/access_token", b"Cookie: authix_refresh=\xff\xfe"),
    "a token that is no text": head("/logout", b"Authorization: Bearer \xff\xfe"),
    "a content type that is no text": b"POST /login HTTP/1.1\r\nContent-Type: \xff\r\nContent-Length: 2\r\n\r\n{}",
    "a query that is no text": head("/logout?scope=%ff%fe"),
    "a path with escapes that are no text": head("/%ff%00%2e%2e", method=b"GET"),
    "a way out of the folder": head("/docs/../../secret", method=b"GET"),
    "an escaped way out of the folder": head("/docs/%2e%2e/%2e%2e/secret", method=b"GET"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_that_makes_no_sense_is_refused_with_a_problem(send_raw: SendRaw, name: str) -> None:
    answer = send_raw(REQUESTS[name])
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == answer.status_code
    assert answer.json()["code"]


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
    ignored = {"date"}
    assert {k: v for k, v in answer.headers.items() if k not in ignored} == {
        k: v for k, v in get.headers.items() if k not in ignored
    }
