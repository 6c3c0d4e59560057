"""Fixtures for every test: the programs, started for one test and never left behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, settings

from tests.programs import IssuerProgram, Program, SidecarProgram

# A busy machine is no finding; and what a test's verifier or mint has seen before changes none of its verdicts
settings.register_profile(
    "authix", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("authix")

# else every program that a test starts would compile all that it imports, which takes longer than to run it
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

pytest_plugins = ["tests.servers.fixtures", "pytester"]

StartIssuer = Callable[..., IssuerProgram]
StartSidecar = Callable[..., SidecarProgram]


@pytest.fixture(scope="session", autouse=True)
def _authorities_read_once() -> Iterator[None]:
    """httpx reads the public authorities for each client anew, which takes longer than most of what tests ask."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", cache(httpx.create_ssl_context))
        yield


@pytest.fixture
def programs() -> Iterator[Callable[[Program], Program]]:
    """Gives a program to this fixture's care: whatever the test does, it ends with the test."""
    with ExitStack() as stack:

        def care(program: Program) -> Program:
            stack.callback(program.kill)
            stack.callback(lambda: program.process and program.process.poll() is None and program.stop())
            return program

        yield care


@pytest.fixture
def start_issuer(tmp_path: Path, programs: Callable[[Program], Program]) -> StartIssuer:
    """``start_issuer(AUTHIX_…="…")``: a ready issuer."""

    def start(**env: str) -> IssuerProgram:
        issuer = IssuerProgram(tmp_path / "issuer", **env)
        programs(issuer)
        issuer.start()
        return issuer.ready()

    return start


@pytest.fixture
def start_sidecar(tmp_path: Path, programs: Callable[[Program], Program]) -> StartSidecar:
    """``start_sidecar(issuer_url, upstream, AUTHIX_…="…")``: a started sidecar; ``.ready()`` waits for it."""

    def start(issuer_url: str, upstream: str, **env: str) -> SidecarProgram:
        sidecar = SidecarProgram(tmp_path / "sidecar", issuer_url, upstream, **env)
        programs(sidecar)
        sidecar.start()
        return sidecar

    return start


@pytest.fixture
def issuer(start_issuer: StartIssuer) -> IssuerProgram:
    """A ready issuer with an empty store."""
    return start_issuer()
