"""The programs as real processes.

Rule: a test starts what a user starts, with settings from the environment, and waits for what a probe sees.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import httpx
import pytest

PASSWORD = "correct horse battery staple"
DEADLINE = 20.0
"""Seconds that anything expected may take on a busy machine."""


HOST = "127.0.0.1"
SIDECAR_PYTHON = os.environ.get("AUTHIX_TEST_SIDECAR_PYTHON") or sys.executable
"""What the sidecars under test are run by: this environment, or the one of `make compiled`, as their image has it."""
_given: set[int] = set()
# each process of a parallel run has ports of its own
_SLICE = 12_000 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_PORTS = range(20_000, 20_000 + _SLICE)
if _worker := os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw"):
    _PORTS = range(20_000 + int(_worker) * _SLICE, 20_000 + (int(_worker) + 1) * _SLICE)


def free_ports(count: int) -> int:
    """The first of ``count`` free ports in a row, which stay free while their program is down.

    One that the kernel gives out (32768 and up, on Linux) it also gives to any connection that goes out, and then the
    program can't come back.
    """
    for first in random.sample(range(_PORTS.start, _PORTS.stop - count), 1000):
        ports = range(first, first + count)
        if _given.isdisjoint(ports) and all(map(is_free, ports)):
            _given.update(ports)
            return first
    raise OSError("there is no free port")


def free_port() -> int:
    return free_ports(1)


def is_free(port: int) -> bool:
    try:
        with socket.create_server((HOST, port)):
            return True
    except OSError:
        return False


def eventually(condition: Callable[[], bool], what: str | Callable[[], str], within: float = DEADLINE) -> None:
    """Wait until ``condition`` holds; fail with ``what`` when it does not in time."""
    end = time.monotonic() + within
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not within {within} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.01)  # between two looks at another process


class Program:
    """A program under test: ``module`` is run as ``python -m module``, or a path as a script."""

    def __init__(self, module: str, arguments: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        run = [module] if module.endswith(".py") else ["-m", module]
        self.command = [sys.executable, *run, *arguments]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AUTHIX_")}
        self.env = {**inherited, "PYTHONUNBUFFERED": "1", **env}
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.log.parent
            )
        return self

    def wait_for(self, url: str, status: int = 200, within: float = DEADLINE) -> Self:
        """Wait until ``url`` answers ``status``."""

        def answers() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"{self.command} ended:\n{self.output()}"
            try:
                return httpx.get(url, timeout=2, trust_env=False).status_code == status
            except httpx.TransportError:
                return False

        eventually(answers, lambda: f"{url} answers {status}; the log says:\n{self.output()}", within)
        return self

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def kill(self) -> None:
        """As a crash does it: kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def stop(self, how: signal.Signals = signal.SIGTERM, within: float = DEADLINE) -> int:
        """Ask it to end; returns its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(within)


class IssuerProgram(Program):
    """``authix-issuer serve`` on a port and a folder of its own, on the cheapest hash."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "AUTHIX_ISSUER": self.url,
            "AUTHIX_AUDIENCE": "tests",
            "AUTHIX_PORT": str(self.port),
            "AUTHIX_DATA_DIR": str(folder / "data"),
            "AUTHIX_COOKIE_PROFILE": "development",
            "AUTHIX_HASH_PROFILE": "cheapest",
            # everything comes from one address; the tests of the limits set them
            "AUTHIX_LIMIT_LOGINS": "off",
            "AUTHIX_LIMIT_REGISTRATIONS": "off",
            "AUTHIX_LOGIN_MAX_DELAY": "0",
            "AUTHIX_AUDIT": str(folder / "audit.log"),
        }
        super().__init__("authix_issuer", ["serve"], settings | env, folder / "issuer.log")

    def ready(self) -> Self:
        return self.wait_for(f"{self.url}/readyz")

    @contextmanager
    def serving(self) -> Iterator[Self]:
        """It serves within the block, and ends by itself when it is told to."""
        try:
            yield self.start().ready()
            assert self.stop() == 0
        finally:
            self.kill()

    def run(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """A command of ``authix-issuer`` beside it, with its settings; ``given`` comes through a pipe."""
        return subprocess.run(
            [sys.executable, "-m", "authix_issuer", *arguments],
            env=self.env,
            input=given,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    def client(self) -> httpx.Client:
        """A user's client, with a cookie jar of its own."""
        return httpx.Client(base_url=self.url, timeout=DEADLINE, trust_env=False)


class SkewedIssuer(IssuerProgram):
    """An issuer on a host whose clock is off."""

    def __init__(self, folder: Path, skew: int, **env: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._skew = folder / "skew"
        self.set_clock(skew)
        super().__init__(folder, SKEW=str(self._skew), PYTHONPATH=str(Path(__file__).parents[1]), **env)
        self.command = [sys.executable, "-m", "tests.skewed_issuer", "serve"]

    def set_clock(self, skew: int) -> None:
        """Let it be off by ``skew`` seconds from now on."""
        new = self._skew.with_suffix(".new")
        new.write_text(str(skew), encoding="ascii")
        new.replace(self._skew)


class SidecarProgram(Program):
    """``authix-sidecar serve`` on ports of its own, in front of ``upstream``."""

    def __init__(self, folder: Path, issuer_url: str, upstream: str, **env: str) -> None:
        self.proxy_port, self.auth_port = free_port(), free_port()
        self.proxy_url = f"http://127.0.0.1:{self.proxy_port}"
        self.auth_url = f"http://127.0.0.1:{self.auth_port}"
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "AUTHIX_ISSUER": issuer_url,
            "AUTHIX_AUDIENCE": "tests",
            "AUTHIX_UPSTREAM": upstream,
            "AUTHIX_PROXY_PORT": str(self.proxy_port),
            "AUTHIX_AUTH_PORT": str(self.auth_port),
        }
        super().__init__("authix_sidecar", ["serve"], settings | env, folder / f"sidecar-{self.proxy_port}.log")
        self.command[0] = SIDECAR_PYTHON

    def ready(self) -> Self:
        return self.wait_for(f"{self.auth_url}/readyz")


def register(client: httpx.Client, email: str, password: str = PASSWORD) -> str:
    """The id of a new user."""
    answer = client.post("/register", json={"email": email, "password": password})
    assert answer.status_code == 201, answer.text
    user_id: str = answer.json()["id"]
    return user_id


def login(client: httpx.Client, email: str, password: str = PASSWORD) -> str:
    """An access token; the refresh token is in the client's jar."""
    answer = client.post("/login", json={"email": email, "password": password})
    assert answer.status_code == 200, answer.text
    token: str = answer.json()["access_token"]
    return token


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
