"""Refresh and logout on Redis: issuer CPU per request, beside the embedded default in the same run.

Prints CPU µs per request (user + system time of the issuer's process, engines not counted), requests a second, and the
ratio. Goals: refresh and logout on Redis at most 250 µs.
"""

from __future__ import annotations

import argparse
import http.client
import secrets
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.report import cpu_seconds, machine
from tests.programs import PASSWORD, IssuerProgram, login, register
from tests.servers.redis import RedisServer

CLIENTS = 16


class Device:
    """A session on a connection of its own."""

    def __init__(self, issuer: IssuerProgram, email: str) -> None:
        with issuer.client() as client:
            login(client, email)
            self.cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        self.connection = http.client.HTTPConnection("127.0.0.1", issuer.port, timeout=20)

    def refresh(self) -> None:
        self._post("/access_token", 200)

    def log_out(self) -> None:
        self._post("/logout?scope=session", 204)

    def _post(self, path: str, status: int) -> None:
        self.connection.request("POST", path, headers={"Cookie": self.cookie})
        answer = self.connection.getresponse()
        answer.read()
        assert answer.status == status, answer.status
        if status == 200:
            self.cookie = answer.headers["set-cookie"].partition(";")[0]


def measure(issuer: IssuerProgram, work: list[Callable[[], None]]) -> tuple[float, float]:
    """CPU µs per request and requests a second, by CLIENTS clients."""
    assert issuer.process is not None
    turns = iter(work)
    lock = threading.Lock()

    def client() -> None:
        while True:
            with lock:
                turn = next(turns, None)
            if turn is None:
                return
            turn()

    began, used = time.perf_counter(), cpu_seconds(issuer.process.pid)
    with ThreadPoolExecutor(CLIENTS) as pool:
        for done in [pool.submit(client) for _ in range(CLIENTS)]:
            done.result()
    spent = time.perf_counter() - began
    return (cpu_seconds(issuer.process.pid) - used) / len(work) * 1e6, len(work) / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=400)
    parser.add_argument("--refreshes", type=int, default=10, help="per session")
    options = parser.parse_args()
    print(f"redis_issuer: {machine()}; {options.sessions} sessions, {CLIENTS} clients")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with RedisServer(folder / "redis") as redis:
            shared = {"AUTHIX_SECRET": secrets.token_urlsafe(32), "AUTHIX_LOG": "json"}
            issuers = {
                "SQLite": IssuerProgram(folder / "sqlite", **shared),
                "Redis": IssuerProgram(folder / "on-redis", AUTHIX_SESSIONS_URL=redis.url, **shared),
            }
            results: dict[str, dict[str, float]] = {}
            for engine, issuer in issuers.items():
                issuer.start().ready()
                try:
                    results[engine] = run(issuer, engine, options.sessions, options.refreshes)
                finally:
                    issuer.stop()
            for what in results["Redis"]:
                ratio = results["Redis"][what] / results["SQLite"][what]
                print(f"  {what:8} Redis / SQLite, CPU of the issuer: {ratio:.2f}   (goal on Redis: <= 250 µs)")


def run(issuer: IssuerProgram, engine: str, sessions: int, refreshes: int) -> dict[str, float]:
    emails = [f"{secrets.token_hex(8)}@example.com" for _ in range(16)]
    with issuer.client() as client:
        for email in emails:
            register(client, email, PASSWORD)
    devices = [Device(issuer, emails[n % len(emails)]) for n in range(sessions)]
    found = {}
    # a device's refreshes must not overlap: round by round
    for what, work in (
        ("refresh", [device.refresh for _ in range(refreshes) for device in devices]),
        ("logout", [device.log_out for device in devices]),
    ):
        cpu, rate = measure(issuer, work)
        print(f"  {what:8} {engine:7} {cpu:6.0f} µs CPU   {rate:7.0f}/s")
        found[what] = cpu
    return found


if __name__ == "__main__":
    main()
