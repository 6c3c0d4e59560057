"""From a logout's answer to the close of the user's open WebSocket, seen by the client, on each server.

A negative figure is a socket that was closed before the logout's answer was read. Goal: p99 <= 100 ms.
"""

from __future__ import annotations

import argparse
import secrets
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from websockets import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from authix.bearer import CLOSE_CODE
from benchmarks.report import machine, spread
from tests.programs import DEADLINE, HOST, IssuerProgram, Program, bearer, free_port, login, register

ROOT = Path(__file__).parents[1]
SERVICES = "tests.sdk.frameworks.services"
SERVERS = {
    "uvicorn, middleware": (
        "uvicorn",
        [f"{SERVICES}.starlette_service:app", "--timeout-graceful-shutdown=1", "--port"],
    ),
    "uvicorn, FastAPI": ("uvicorn", [f"{SERVICES}.fastapi_service:app", "--timeout-graceful-shutdown=1", "--port"]),
    "Sanic": (f"{SERVICES}.sanic_service", []),
    "aiohttp": (f"{SERVICES}.aiohttp_service", []),
}


def when_closed(socket: ClientConnection) -> tuple[float, int]:
    """When the service closed it, and with which code."""
    try:
        socket.recv(DEADLINE)
    except ConnectionClosed as end:
        return time.perf_counter(), end.rcvd.code if end.rcvd else 0
    raise AssertionError("the service said something more")


def measure(issuer: IssuerProgram, url: str, logouts: int) -> list[float]:
    """Milliseconds from each logout's answer to the close."""
    delays = []
    with issuer.client() as client, ThreadPoolExecutor(1) as waiting:
        email = f"{secrets.token_hex(8)}@example.com"
        subject = register(client, email)
        for _ in range(logouts):
            with connect(url, additional_headers=bearer(login(client, email)), proxy=None) as socket:
                assert socket.recv(DEADLINE) == subject
                closed = waiting.submit(when_closed, socket)
                assert client.post("/logout").status_code == 204
                answered = time.perf_counter()
                at, code = closed.result()
            assert code == CLOSE_CODE
            delays.append((at - answered) * 1000)
    return delays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logouts", type=int, default=500)
    logouts = parser.parse_args().logouts
    print(f"cut_on_logout: {machine()}; {logouts} logouts on each server; goal: p99 <= 100 ms")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        issuer = IssuerProgram(folder / "issuer").start().ready()
        try:
            for server, (module, arguments) in SERVERS.items():
                port = free_port()
                env = {"AUTHIX_ISSUER": issuer.url, "AUTHIX_AUDIENCE": "tests", "PYTHONPATH": str(ROOT)}
                command = [*arguments, str(port), *([] if arguments else ["1"])]
                service = Program(module, command, env, folder / f"{port}.log").start()
                try:
                    service.wait_for(f"http://{HOST}:{port}/open", within=60)
                    print(f"  {server:20} {spread(measure(issuer, f'ws://{HOST}:{port}/ws', logouts))}")
                finally:
                    service.stop()
        finally:
            issuer.stop()


if __name__ == "__main__":
    main()
