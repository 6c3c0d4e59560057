"""What does a request cost at the sidecar, and at the proxies that others would put there? CPU time in one run.

A row is the CPU time (user and system) of the row's proxy for each request; behind nginx's ``auth_request`` that of
nginx and the sidecar together. The proxy is alone on one core; the service behind (nginx, 1 KiB) and the clients, 16
connections that are kept and send one request at a time, share another. All rows take turns in each round; a figure is
the median of the rounds, with the least and the greatest beside it.

The sidecar is the one of its image, with the data plane compiled (`make compiled`); one row is the same from its
source.

Every proxy writes an access log, because the sidecar has no way to leave its own out: one line a request into a file,
written many at once, but by HAProxy one by one. One more row is nginx without it; nothing is compared with that.

Goals: with tokens cached at most 2.2x plain nginx and no more than Envoy with its cache; nginx and ``/verify`` at
most 2.2x plain nginx; a token never seen before at most 130 µs; a bad signature seen before at most 40 µs, a new one at
most 110 µs; at most 45 MB of memory when idle.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple, cast

from cryptography.hazmat.primitives.asymmetric import ec

from authix.keys import KeySet, VerificationKey
from authix.tokens import base64url_encode
from authix_issuer.access_tokens import AccessTokens
from authix_issuer.keys import SigningKeys
from benchmarks.proxy_load import CONNECTIONS, Clients, request
from benchmarks.proxy_peers import ENVOY, HAPROXY, PLAIN, SERVICE, Settled, Silent, versions, written
from benchmarks.report import compiled_python, cpu_seconds
from benchmarks.results import Results, bars
from tests.programs import HOST, IssuerProgram, SidecarProgram
from tests.servers.proxies import EXAMPLES, Envoy, HAProxy, Nginx, Proxy

MANY = 5000
"""Tokens in use at once."""
AUDIENCE = "tests"


class Tokens:
    """Made as the issuer named ``issuer`` does it, but by a key of its own."""

    def __init__(self, issuer: str) -> None:
        private = ec.generate_private_key(ec.SECP256R1())
        self.key = VerificationKey(private.public_key())
        signing = SimpleNamespace(private_key=private, algorithm="ES256", id=self.key.key_id)
        keys = cast("SigningKeys", SimpleNamespace(signing=signing))
        self._tokens = AccessTokens(keys, issuer=issuer, audience=AUDIENCE, life=3600)

    def make(self, number: int) -> list[str]:
        at_us = time.time_ns() // 1000
        return [
            self._tokens.issue(
                subject=secrets.token_hex(16), session=secrets.token_urlsafe(16), roles=["reader"], at_us=at_us
            )
            for _ in range(number)
        ]

    def forge(self, number: int) -> list[str]:
        """Tokens that are right in all but the signature, each in another way."""
        signed = self.make(1)[0].rpartition(".")[0]
        return [f"{signed}.{base64url_encode(secrets.token_bytes(64))}" for _ in range(number)]


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """What is started meanwhile runs on ``core``."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Row(NamedTuple):
    """One of those that take turns."""

    name: str
    port: int
    processes: Sequence[int]
    requests: Callable[[], list[bytes]]
    status: int = 200
    warm: Sequence[bytes] = ()
    """Sent beforehand, unmeasured."""


class Found(NamedTuple):
    micros: float
    """CPU time of a request."""
    busy: float
    """The proxy's share of its core."""


def measure(row: Row) -> Found:
    requests = row.requests()
    with contextlib.closing(Clients(row.port)) as clients:
        clients.send([*row.warm, *requests[:CONNECTIONS]] if row.warm else [], row.status)
        began, used = time.perf_counter(), sum(map(cpu_seconds, row.processes))
        clients.send(requests, row.status)
        spent = sum(map(cpu_seconds, row.processes)) - used
        return Found(spent / len(requests) * 1e6, spent / (time.perf_counter() - began))


def resident_mb(pid: int) -> float:
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def pid_of(program: Proxy | SidecarProgram) -> int:
    assert program.process is not None
    return program.process.pid


def rows_of(stack: contextlib.ExitStack, folder: Path, count: int, cores: tuple[int, int]) -> tuple[list[Row], int]:
    """Start everything; the rows and the sidecar's process."""
    proxy_core, other_core = cores
    issuer = IssuerProgram(folder / "issuer")
    tokens = Tokens(issuer.url)
    keys = KeySet([tokens.key]).to_json().decode("ascii")
    told = {"issuer": issuer.url, "audience": AUDIENCE, "keys": keys}

    def start(kind: type[Proxy], name: str, *, auth: int = 9, service: int = 9) -> Proxy:
        return stack.enter_context(kind(folder / name, auth_port=auth, service_port=service))

    with pinned(other_core):
        stack.callback(issuer.kill)
        issuer.start().ready()
        body = f'{{"answer":"{"x" * 1011}"}}'
        service = start(written(Silent, "nginx.conf", SERVICE, body=body, **told), "service").port
    with pinned(proxy_core):
        sidecar, from_source = (
            started(stack, folder / name, python, issuer.url, f"http://{HOST}:{service}")
            for name, python in (("sidecar", compiled_python()), ("source", sys.executable))
        )
        silent = start(written(Silent, "nginx.conf", PLAIN), "silent", service=service)
        plain = start(written(Settled, "nginx.conf", PLAIN), "plain", service=service)
        asking = start(Settled, "asking", auth=sidecar.auth_port, service=service)
        envoy = start(written(Envoy, "envoy.yaml", ENVOY, **told), "envoy", service=service)
        haproxy_folder = folder / "haproxy"
        haproxy_folder.mkdir()
        (haproxy_folder / "key.pem").write_text(tokens.key.pem(), encoding="ascii")
        haproxy = start(written(HAProxy, "haproxy.cfg", HAPROXY, **told), "haproxy", service=service)

    one = [request(tokens.make(1)[0])]
    many = [request(token) for token in tokens.make(MANY)]
    bad = [request(tokens.forge(1)[0])]
    few = count // 2  # of what is dear

    def same() -> list[bytes]:
        return one * count

    def by_turns() -> list[bytes]:
        return random.choices(many, k=count)

    pid = pid_of(sidecar)
    return [
        Row("nginx without a log", silent.port, [pid_of(silent)], same),
        Row(PLAIN_NGINX, plain.port, [pid_of(plain)], same),
        Row(BEHIND_NGINX, asking.port, [pid_of(asking), pid], same, warm=one),
        Row(CACHED, sidecar.proxy_port, [pid], same, warm=one),
        Row(CACHED_MANY, sidecar.proxy_port, [pid], by_turns, warm=many),
        Row(FROM_SOURCE, from_source.proxy_port, [pid_of(from_source)], same, warm=one),
        Row(ENVOY_CACHED, envoy.port, [pid_of(envoy)], same, warm=one),
        Row(ENVOY_CACHED_MANY, envoy.port, [pid_of(envoy)], by_turns, warm=many),
        Row("HAProxy jwt_verify", haproxy.port, [pid_of(haproxy)], lambda: one * few, warm=one),
        Row(UNCACHED, sidecar.proxy_port, [pid], lambda: [request(token) for token in tokens.make(few)]),
        Row(BAD_AGAIN, sidecar.proxy_port, [pid], lambda: bad * count, 401, warm=bad),
        Row(BAD_NEW, sidecar.proxy_port, [pid], lambda: [request(token) for token in tokens.forge(few)], 401),
    ], pid


def started(stack: contextlib.ExitStack, folder: Path, python: str, issuer: str, service: str) -> SidecarProgram:
    """A sidecar that is ready and has nothing left to compile."""
    sidecar = SidecarProgram(
        folder,
        issuer,
        service,
        AUTHIX_KEYS=f"{service}/keys",
        AUTHIX_POLICY=str(EXAMPLES / "authix.toml"),
        AUTHIX_FAILURES_PER_SECOND="0",  # what a wrong signature costs is measured, not what a refusal to look does
    )
    sidecar.command[0] = python
    stack.callback(sidecar.kill)
    # an installed one finds its modules as byte code; one that makes it keeps 5 MB more
    sidecar.env.pop("PYTHONDONTWRITEBYTECODE", None)
    sidecar.env["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    sidecar.start().ready().stop()
    return sidecar.start().ready()


PLAIN_NGINX = "nginx without auth"
BEHIND_NGINX = "nginx auth_request + /verify, 1 token"
CACHED = "sidecar, 1 token cached"
CACHED_MANY = "sidecar, 5,000 tokens cached"
FROM_SOURCE = "sidecar from source, 1 token cached"
ENVOY_CACHED = "Envoy jwt_authn, 1 token cached"
ENVOY_CACHED_MANY = "Envoy jwt_authn, 5,000 tokens cached"
UNCACHED = "sidecar, each token new"
BAD_AGAIN = "sidecar, one bad signature again"
BAD_NEW = "sidecar, each bad signature new"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=10_000, help="in a row and round; half where tokens are new")
    parser.add_argument("--docs", action="store_true", help="put what is found into docs/performance.md")
    options = parser.parse_args()
    for kind in (Nginx, HAProxy, Envoy):
        if missing := kind.missing():
            raise SystemExit(missing)
    available = sorted(os.sched_getaffinity(0))
    cores = (available[0], available[-1])
    results = Results(
        "sidecar",
        f"httptools {version('httptools')}; {versions()}; {options.rounds} rounds of {options.requests} requests; "
        f"proxy on core {cores[0]}, {CONNECTIONS} connections and the service on core {cores[1]}; access logs on",
    )
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        rows, sidecar = rows_of(stack, Path(name), options.requests, cores)
        idle = resident_mb(sidecar)
        os.sched_setaffinity(0, {cores[1]})
        found: dict[str, list[Found]] = {row.name: [] for row in rows}
        for _ in range(options.rounds):
            for row in rows:
                found[row.name].append(measure(row))
        busy = resident_mb(sidecar)
    tell(results, found)
    results.note(f"Memory of the sidecar: idle {idle:.1f} MB, after all this {busy:.1f} MB.")
    tell_goals(results, {name: middle_of(those) for name, those in found.items()}, idle)
    results.write(into_page=options.docs)


def middle_of(those: Sequence[Found]) -> float:
    return statistics.median(each.micros for each in those)


def tell(results: Results, found: dict[str, list[Found]]) -> None:
    plain = middle_of(found[PLAIN_NGINX])
    for name, those in found.items():
        micros, middle = [each.micros for each in those], middle_of(those)
        results.note(
            f"{name}: {middle:.1f} µs ({min(micros):.1f} to {max(micros):.1f}), "
            f"{middle / plain:.2f} times plain nginx; {statistics.median(each.busy for each in those):.0%} of its core."
        )
    results.plots["sidecar"] = bars(
        "CPU of a request", "µs", {shortened(name): {"median": middle_of(those)} for name, those in found.items()}
    )


def shortened(name: str) -> str:
    """For a plot, which has little room for words."""
    for word in (" jwt_authn", " jwt_verify", " auth_request", " cached"):
        name = name.replace(word, "")
    return name


def tell_goals(results: Results, micros: dict[str, float], idle: float) -> None:
    plain, envoy = micros[PLAIN_NGINX], micros[ENVOY_CACHED]
    results.goal(f"{CACHED}: CPU, times plain nginx", micros[CACHED] / plain, "x", 2.2)
    results.goal(f"{CACHED}: CPU, times Envoy's", micros[CACHED] / envoy, "x", 1)
    results.goal(f"{CACHED_MANY}: CPU, times plain nginx", micros[CACHED_MANY] / plain, "x", 2.2)
    results.goal(f"{CACHED_MANY}: CPU, times Envoy's", micros[CACHED_MANY] / micros[ENVOY_CACHED_MANY], "x", 1)
    results.goal(f"{BEHIND_NGINX}: CPU, times plain nginx", micros[BEHIND_NGINX] / plain, "x", 2.2)
    results.goal(UNCACHED, micros[UNCACHED], "µs", 130)
    results.goal(BAD_AGAIN, micros[BAD_AGAIN], "µs", 40)
    results.goal(BAD_NEW, micros[BAD_NEW], "µs", 110)
    results.goal("sidecar: memory, idle", idle, "MB", 45)


if __name__ == "__main__":
    main()
