"""HTTP as a client sees it, down to its bytes."""

from __future__ import annotations

import http.client
import io
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.programs import DEADLINE, IssuerProgram

SendRaw = Callable[[bytes], httpx.Response]
AssertProblem = Callable[..., dict[str, Any]]


class _Received:
    """What ``http.client`` needs of a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._file = connection.makefile("rb")

    def makefile(self, _: str) -> io.BufferedReader:
        return self._file


@pytest.fixture
def send_raw(shared_issuer: IssuerProgram) -> SendRaw:
    """``send_raw(bytes)``: the answer to these bytes, whatever they are."""

    def send(data: bytes) -> httpx.Response:
        with socket.create_connection(("127.0.0.1", shared_issuer.port), timeout=DEADLINE) as connection:
            connection.sendall(data)
            answer = http.client.HTTPResponse(_Received(connection), method=data.partition(b" ")[0].decode("latin-1"))  # type: ignore[arg-type]  # it only calls makefile
            answer.begin()
            return httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())

    return send


@pytest.fixture(scope="session")
def listing_issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IssuerProgram]:
    """An issuer on https, as it believes, that lists the origins of two apps."""
    issuer = IssuerProgram(
        tmp_path_factory.mktemp("listing-issuer"),
        AUTHIX_ISSUER="https://auth.example.com",
        AUTHIX_ORIGINS="https://App.Example.com:443, http://localhost:5173",
    )
    with issuer.serving():
        yield issuer


@pytest.fixture
def assert_problem() -> AssertProblem:
    """``assert_problem(answer, status, code)``: it is that problem document (RFC 9457); returns it."""

    def check(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["cache-control"] == "no-store"
        document: dict[str, Any] = answer.json()
        assert document["status"] == status
        assert document["code"] == code
        assert document["title"]
        assert document["detail"]
        assert "Traceback" not in answer.text
        assert ("www-authenticate" in answer.headers) is (status == 401)
        assert ("retry-after" in answer.headers) is (status in {429, 503})
        return document

    return check
