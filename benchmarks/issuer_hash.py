"""Registrations and logins beside the bare rate of the same Argon2, on the installed build and on a fast one.

Rule: bare and served take turns, with the same library, parameters and number of threads; what is told is the ratio of
the two within a round, so a machine that is slower for a minute is slower for both.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import argon2

from authix_issuer.argon2_build import fastest, installed
from authix_issuer.hashing import PROFILES
from benchmarks.issuer_load import Measured, Talk, measure, middle, request
from benchmarks.results import Figure, Results
from tests.deploy.dockerfiles import LEVELS
from tests.programs import PASSWORD, IssuerProgram
from tests.servers.packages import CACHE, NotInstallable, install_once
from tests.servers.packages import run as run_command

ROOT = Path(__file__).parents[1]
LEVEL = LEVELS.get(fastest(), "")
FAST = CACHE / f"argon2-{LEVEL}-{version('argon2-cffi-bindings')}"
CORES = os.cpu_count() or 1
CLIENTS = 16 * CORES
"""So many that no core waits for one."""


class Bare(NamedTuple):
    """Hashing on all cores with nothing else to do."""

    rate: float
    micros: float
    """CPU time of a hash."""


def hash_bare(profile: str, seconds: float) -> Bare:
    hasher = argon2.PasswordHasher.from_parameters(PROFILES[profile])
    began, used = time.perf_counter(), time.process_time()
    end = began + seconds

    def work(_: int) -> int:
        count = 0
        while time.perf_counter() < end:
            hasher.hash(PASSWORD)
            count += 1
        return count

    with ThreadPoolExecutor(CORES) as pool:
        count = sum(pool.map(work, range(CORES)))
    return Bare(count / (time.perf_counter() - began), (time.process_time() - used) / count * 1e6)


def install_fast() -> None:
    """Argon2 by AVX-512 or AVX2, whichever the issuer's image would take here."""
    if not LEVEL:
        raise NotInstallable("this processor has no x86-64-v3")
    install_once(FAST, _build)


def _build(folder: Path) -> None:
    uv, tools = [sys.executable, "-m", "uv"], folder.parent / "tools"
    run_command([*uv, "venv", "--quiet", "--python", sys.executable, str(tools)], "A venv")
    lock = str(ROOT / "deploy" / "docker" / "argon2.lock")
    into_tools = [*uv, "pip", "install", "--python", str(tools)]
    run_command([*into_tools, "--require-hashes", "--requirement", lock], "The installation of what builds Argon2")
    source = ["--no-deps", "--no-build-isolation", "--no-binary", "argon2-cffi-bindings", "--reinstall", "--no-cache"]
    constraint = ["--constraint", str(ROOT / "requirements.lock")]
    build = [*into_tools, "--target", str(folder), *source, *constraint, "argon2-cffi-bindings"]
    path = f"PATH={tools / 'bin'}{os.pathsep}{os.environ['PATH']}"
    run_command(["env", f"CFLAGS=-O3 -march={LEVEL}", path, *build], "Argon2's build", "It needs a C compiler.")


def _register(email: str) -> Talk:
    answer = yield request("POST", "/register", _body(email), Content_Type="application/json")
    answer.expect(201)


def _login(email: str) -> Talk:
    answer = yield request("POST", "/login", _body(email), Content_Type="application/json")
    answer.expect(200)


def _body(email: str) -> bytes:
    return f'{{"email":"{email}","password":"{PASSWORD}"}}'.encode("ascii")


class Setting:
    """An Argon2 build and a profile; the issuer on its embedded stores."""

    def __init__(self, name: str, profile: str, path: Path | None) -> None:
        self.name, self.profile = name, profile
        self.env = {"PYTHONPATH": os.pathsep.join([*([str(path)] if path else []), str(ROOT)])}
        self.bare: list[Bare] = []
        self.found: dict[str, list[Measured]] = {"register": [], "login": []}

    def start(self, stack: contextlib.ExitStack, folder: Path) -> None:
        queue = {"AUTHIX_HASH_QUEUE": str(CLIENTS)}
        self.issuer = IssuerProgram(
            folder / secrets.token_hex(4), AUTHIX_HASH_PROFILE=self.profile, **queue, **self.env
        )
        stack.callback(self.issuer.kill)
        self.issuer.start().ready()

    def turn(self, users: int, seconds: float) -> None:
        assert self.issuer.process is not None
        emails = [f"{secrets.token_hex(8)}@example.com" for _ in range(users)]
        for kind, talk in (("register", _register), ("login", _login)):
            measured = measure(
                self.issuer.port, [self.issuer.process.pid], map(talk, emails), connections=min(CLIENTS, users)
            )
            self.found[kind].append(measured)
        command = [sys.executable, "-m", "benchmarks.issuer_hash", self.profile, str(seconds)]
        rate, micros, self.build = subprocess.check_output(command, env=os.environ | self.env, text=True).split(" ", 2)
        self.bare.append(Bare(float(rate), float(micros)))


def run(results: Results, folder: Path, *, rounds: int, users: int) -> None:
    settings = [Setting("owasp", "owasp", None), Setting("original", "original", None)]
    try:
        install_fast()
        settings.append(Setting("original, fast Argon2", "original", FAST))
    except NotInstallable as reason:
        results.note(f"The fast build of Argon2 is not measured: {reason}")
    with contextlib.ExitStack() as stack:
        for setting in settings:
            setting.start(stack, folder)
        for _ in range(rounds):
            for setting in settings:
                setting.turn(users, 2)
    for setting in settings:
        rate, micros = (statistics.median(each) for each in zip(*setting.bare, strict=True))
        results.note(
            f"{setting.name}: Argon2 built with {setting.build.strip()}; bare {rate:.1f} hashes/s on {CORES} cores, "
            f"{micros:,.0f} µs of CPU each."
        )
        for kind, those in setting.found.items():
            found = middle(those)
            results.figure(Figure(kind, setting.name, found.micros, found.rate, found.p50, found.p99))
            shares = [each.rate / bare.rate * 100 for each, bare in zip(those, setting.bare, strict=True)]
            by_cpu = [bare.micros / each.micros * 100 for each, bare in zip(those, setting.bare, strict=True)]
            what = f"{kind}, {setting.name}"
            results.goal(f"{what}: rate, of bare Argon2's", statistics.median(shares), "%", 95, at_most=False)
            results.goal(f"{what}: CPU that is the hash", statistics.median(by_cpu), "%", 95, at_most=False)
    if settings[-1].name != "original":
        found = middle(settings[-1].found["register"])
        results.goal("register, original on fast Argon2, a core", found.rate / CORES, "/s", 180, at_most=False)


if __name__ == "__main__":
    print(*hash_bare(sys.argv[1], float(sys.argv[2])), installed(), sep=" ")
