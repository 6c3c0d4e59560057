"""The Sanic decorator in a real Sanic process beside a real issuer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import websockets
from websockets.sync.client import connect

from tests.programs import DEADLINE, IssuerProgram, Program, bearer, eventually, free_port, login, register

Care = Callable[[Program], Program]
StartService = Callable[..., httpx.Client]

SERVICE = Path(__file__).with_name("sanic_service.py")


@pytest.fixture
def start_service(tmp_path: Path, programs: Care) -> Iterator[StartService]:
    """``start_service(issuer_url)``: a client of the service, once it listens."""
    clients = ExitStack()

    def start(issuer_url: str) -> httpx.Client:
        port = free_port()
        env = {"AUTHIX_ISSUER": issuer_url, "AUTHIX_AUDIENCE": "tests", "PORT": str(port)}
        service = programs(Program(str(SERVICE), [], env, tmp_path / "service.log")).start()
        url = f"http://127.0.0.1:{port}"
        client = clients.enter_context(httpx.Client(base_url=url, trust_env=False, timeout=DEADLINE))

        def listens() -> bool:
            assert service.process is not None
            assert service.process.poll() is None, service.output()
            try:
                return client.get("/open").status_code in {200, 503}
            except httpx.TransportError:
                return False

        eventually(listens, "the service listens")
        return client

    with clients:
        yield start


def test_it_judges_every_request_and_hears_of_logouts(issuer: IssuerProgram, start_service: StartService) -> None:
    with issuer.client() as ada:
        subject = register(ada, "ada@example.com")
        token = login(ada, "ada@example.com")

        issuer.pause()
        try:
            service = start_service(issuer.url)
            answer = service.get("/me/x", headers=bearer(token))
            assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
            assert answer.headers["retry-after"] == "1"
            assert "www-authenticate" not in answer.headers
        finally:
            issuer.resume()
        eventually(lambda: service.get("/open").status_code == 200, "the service is ready")

        for path in ("/me/x", "/plain", "/admin"):
            answer = service.get(path)
            assert (answer.status_code, answer.json()["code"]) == (401, "token_missing")
            assert answer.headers["www-authenticate"] == 'Bearer realm="authix"'
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["cache-control"] == "no-store"

        answer = service.get("/me/x", headers=bearer(token))
        assert (answer.status_code, answer.json()) == (
            200,
            {"subject": subject, "name": "x", "route": "tests-sanic-service.me"},
        )
        assert service.post("/me/x", headers=bearer(token), content=b"x" * 1000).status_code == 200
        assert service.get("/plain", headers=bearer(token)).json() == {"subject": subject}

        answer = service.get("/admin", headers=bearer(token))
        assert (answer.status_code, answer.json()["code"]) == (403, "role_missing")
        assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]

        answer = service.get("/me/x", headers=bearer(token + "AAAA"))
        assert (answer.status_code, answer.json()["code"]) == (401, "signature_invalid")
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        twice = [("Authorization", f"Bearer {token}"), ("Authorization", f"Bearer {token}")]
        answer = service.get("/me/x", headers=twice)
        assert (answer.status_code, answer.json()["code"]) == (401, "token_malformed")

        url = str(service.base_url.copy_with(scheme="ws", path="/ws"))
        with connect(url, additional_headers=bearer(token), proxy=None) as socket:
            assert socket.recv() == subject
        with pytest.raises(websockets.ConnectionClosed), connect(url, proxy=None) as socket:
            socket.recv()

        assert ada.post("/logout").status_code == 204
        end = time.monotonic() + DEADLINE
        while (answer := service.get("/me/x", headers=bearer(token))).status_code == 200:
            assert time.monotonic() < end
        assert (answer.status_code, answer.json()["code"]) == (401, "token_revoked")
        assert service.get("/plain", headers=bearer(token)).json()["code"] == "token_revoked"
        assert service.get("/me/x", headers=bearer(login(ada, "ada@example.com"))).status_code == 200
