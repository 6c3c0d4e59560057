"""Headers that keep a browser from making more of an answer than it is."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from tests.programs import IssuerProgram

SendRaw = Callable[[bytes], httpx.Response]

ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
API_POLICY = "default-src 'none'; frame-ancestors 'none'"
REQUESTS = [
    ("GET", "/livez", 200),
    ("HEAD", "/livez", 200),
    ("GET", "/public_key", 200),
    ("GET", "/openapi.json", 200),
    ("GET", "/revocations", 200),
    ("GET", "/docs/swagger-ui.css", 200),
    ("GET", "/nope", 404),
    ("GET", "/login", 405),
    ("POST", "/access_token", 401),
    ("POST", "/login", 415),
]


@pytest.mark.parametrize(("method", "path", "status"), REQUESTS)
def test_every_answer_carries_them(client: httpx.Client, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert {name: answer.headers[name] for name in ALWAYS} == ALWAYS
    assert answer.headers["content-security-policy"] == API_POLICY
    assert "strict-transport-security" not in answer.headers


def test_so_does_the_live_feed(client: httpx.Client) -> None:
    with client.stream("GET", "/revocations", headers={"Accept": "text/event-stream"}) as answer:
        assert {name: answer.headers[name] for name in ALWAYS} == ALWAYS


@pytest.mark.parametrize("data", [b"nonsense\r\n\r\n", b"GET /livez HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n"])
def test_so_does_the_refusal_of_what_is_no_request(send_raw: SendRaw, data: bytes) -> None:
    answer = send_raw(data)
    assert {name: answer.headers[name] for name in ALWAYS} == ALWAYS


def test_the_page_of_the_api_has_a_policy_of_its_own_and_can_not_be_framed(client: httpx.Client) -> None:
    policy = client.get("/docs").headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy


def test_an_issuer_on_https_says_that_it_stays_there(listing_issuer: IssuerProgram) -> None:
    with listing_issuer.client() as client:
        for path in ("/livez", "/nope"):
            assert client.get(path).headers["strict-transport-security"] == "max-age=31536000"


def test_headers_that_are_too_large_are_refused_by_name(send_raw: SendRaw) -> None:
    answer = send_raw(b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n")
    assert (answer.status_code, answer.json()["code"]) == (431, "headers_too_large")
