"""Proxies that verify the issuer's tokens themselves let its users through, and nobody else."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from authix.tokens import base64url_decode, base64url_encode
from tests.programs import DEADLINE, HOST, IssuerProgram, bearer, login, register
from tests.servers.fixtures import require
from tests.servers.token_proxies import TOKEN_PROXIES, TokenProxy


class Service(BaseHTTPRequestHandler):
    """Answers with the headers that it got."""

    def do_GET(self) -> None:
        body = json.dumps(self.headers.items()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service_port() -> Iterator[int]:
    with ThreadingHTTPServer((HOST, 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture(params=TOKEN_PROXIES, ids=lambda kind: kind.__name__)
def start_proxy(
    request: pytest.FixtureRequest,
    shared_issuer: IssuerProgram,
    service_port: int,
    tmp_path: Path,
) -> Iterator[Callable[[str], httpx.Client]]:
    """``start_proxy(audience)``: a client of a proxy that takes tokens for it."""
    kind: type[TokenProxy] = request.param
    require(kind.missing())
    started: list[TokenProxy] = []

    def start(audience: str) -> httpx.Client:
        proxy = kind(tmp_path / audience, issuer=shared_issuer.url, audience=audience, service_port=service_port)
        started.append(proxy.start())
        return httpx.Client(base_url=f"http://{HOST}:{proxy.port}", timeout=DEADLINE, trust_env=False)

    yield start
    for proxy in started:
        proxy.kill()


def test_a_users_token_passes_and_no_other(
    start_proxy: Callable[[str], httpx.Client], client: httpx.Client, new_email: Callable[[], str]
) -> None:
    email = new_email()
    subject = register(client, email)
    token = login(client, email)
    head, payload, signature = token.split(".")
    forged = base64url_encode(base64url_decode(payload).replace(subject.encode(), b"admin"))
    unsigned = base64url_encode(base64url_decode(head).replace(b"ES256", b"none"))
    with start_proxy("tests") as proxied:
        passed = proxied.get("/orders", headers=bearer(token) | {"X-Forwarded-User": "admin"})
        assert passed.status_code == 200, passed.text
        received = httpx.Headers(passed.json())
        assert received["X-Forwarded-User"] == subject
        assert received["Authorization"] == f"Bearer {token}"
        assert proxied.get("/orders").status_code == 401
        for bad in (f"{head}.{forged}.{signature}", f"{unsigned}.{payload}.", f"{unsigned}.{forged}.{signature}"):
            assert proxied.get("/orders", headers=bearer(bad)).status_code in {401, 403}
    with start_proxy("another") as other:
        assert other.get("/orders", headers=bearer(token)).status_code in {401, 403}
