"""What does a request cost at the sidecar, and at the proxies that others would put there? CPU time in one run.

A row is the CPU time (user and system) of the row's proxy for each request; behind nginx's ``auth_request`` that of
nginx and the sidecar together. The proxy is alone on one core; the service behind (nginx, 1 KiB) and the clients, 16
connections that are kept and send one request at a time, share another. All rows take turns in each round; a figure is
the median of the rounds, with the least and the greatest beside it.

Every proxy writes an access log, because the sidecar has no way to leave its own out: one line a request into a file,
written many at once, but by HAProxy one by one. One more row is nginx without it; nothing is compared with that.

Goals: with the token cached at most 2.2x plain nginx and no more than Envoy with its cache; nginx and ``/verify`` at
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
import select
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, NamedTuple, cast

from cryptography.hazmat.primitives.asymmetric import ec

from authix.keys import KeySet, VerificationKey
from authix.tokens import base64url_encode
from authix_issuer.access_tokens import AccessTokens
from authix_issuer.keys import SigningKeys
from benchmarks.report import cpu_seconds, machine
from tests.programs import HOST, IssuerProgram, SidecarProgram
from tests.servers.proxies import EXAMPLES, Envoy, HAProxy, Nginx, Proxy

CONNECTIONS = 16
MANY = 5000
"""Tokens in use at once."""
AUDIENCE = "tests"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

PLAIN = """
upstream service { server 127.0.0.1:<service>; keepalive 16; }
server {
    listen <port>;
    location / { proxy_http_version 1.1; proxy_set_header Connection ""; proxy_pass http://service; }
}
"""
SERVICE = """
server {
    listen <port>;
    default_type application/json;
    location / { return 200 '<body>'; }
    location = /keys { return 200 '<keys>'; }
}
"""
ENVOY = """
static_resources:
  listeners:
    - address: {socket_address: {address: 127.0.0.1, port_value: <port>}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: clients
                access_log:
                  - name: envoy.access_loggers.file
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
                      path: access.log
                route_config:
                  virtual_hosts:
                    - {name: service, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: service}}]}
                http_filters:
                  - name: envoy.filters.http.jwt_authn
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
                      providers:
                        authix:
                          issuer: <issuer>
                          audiences: [<audience>]
                          local_jwks: {inline_string: '<keys>'}
                          forward: true
                          claim_to_headers:
                            - {header_name: x-authix-subject, claim_name: sub}
                            - {header_name: x-authix-session, claim_name: sid}
                          jwt_cache_config: {jwt_cache_size: 8192}
                      rules:
                        - {match: {prefix: /public/}}
                        - {match: {prefix: /}, requires: {provider_name: authix}}
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
    - name: service
      type: STATIC
      load_assignment:
        cluster_name: service
        endpoints:
          - lb_endpoints:
              - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: <service>}}}
"""  # noqa: E501 - its own names are that long
HAPROXY = """
global
    nbthread 1
    log stdout format raw local0 info

defaults
    mode http
    log global
    option httplog
    timeout connect 2s
    timeout client 60s
    timeout server 60s

frontend clients
    bind 127.0.0.1:<port>
    http-request set-var(txn.token) http_auth_bearer
    http-request set-var(txn.alg) var(txn.token),jwt_header_query('$.alg')
    http-request set-var(txn.iss) var(txn.token),jwt_payload_query('$.iss')
    http-request set-var(txn.exp) var(txn.token),jwt_payload_query('$.exp','int')
    http-request set-var(txn.now) date()
    acl public path_beg /public/
    http-request deny deny_status 401 if !public !{ var(txn.alg) -m str ES256 }
    http-request deny deny_status 401 if !public !{ var(txn.iss) -m str <issuer> }
    http-request deny deny_status 401 if !public { var(txn.exp),sub(txn.now) -m int lt 0 }
    http-request deny deny_status 401 if !public !{ var(txn.token),jwt_verify(txn.alg,"key.pem") -m int 1 }
    http-request set-header X-Authix-Subject %[var(txn.token),jwt_payload_query('$.sub')]
    http-request set-header X-Authix-Session %[var(txn.token),jwt_payload_query('$.sid')]
    default_backend service

backend service
    http-reuse always
    server service 127.0.0.1:<service>
"""


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


class Settled(Nginx):
    """The example, with an access log, and connections that are not closed after their thousandth request."""

    access_log: ClassVar[str] = "access_log access.log combined buffer=64k flush=50ms;"

    def prepare(self) -> None:
        super().prepare()
        main = self.folder / "main.conf"
        more = f"{self.access_log} keepalive_requests 1000000000;"
        main.write_text(main.read_text(encoding="utf-8").replace("access_log off;", more), encoding="utf-8")


def written(kind: type[Proxy], file: str, text: str, **values: str) -> type[Proxy]:
    """As ``kind``, but run by ``text``, in which ``<name>`` stands for a value, instead of its example."""

    class Written(kind):  # type: ignore[valid-type,misc]  # a base that is an argument
        files = ()

        def prepare(self) -> None:
            super().prepare()
            found = {**values, "port": str(self._ports["8080"]), "service": str(self._ports["8003"])}
            own = re.sub(r"<(\w+)>", lambda match: found[match[1]], text)
            (self.folder / file).write_text(own, encoding="utf-8")

    Written.__name__ = kind.__name__
    return Written


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


def request(token: str) -> bytes:
    lines = (
        "GET /orders/7?page=2 HTTP/1.1",
        "Host: orders.example",
        "User-Agent: benchmark",
        "Accept: application/json",
        "Accept-Encoding: gzip",
        f"Authorization: Bearer {token}",
    )
    return "\r\n".join((*lines, "", "")).encode("ascii")


def is_whole(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    length = _LENGTH.search(head)
    assert length is not None, head
    return len(body) >= int(length[1])


class Clients:
    """Connections to ``port`` that are kept, each with one request under way."""

    def __init__(self, port: int) -> None:
        self._sockets = {}
        for _ in range(CONNECTIONS):
            connection = socket.create_connection((HOST, port), timeout=10)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets[connection.fileno()] = connection

    def send(self, requests: Sequence[bytes], status: int) -> None:
        """Send all and wait for the answers, which must be of ``status``."""
        begins = b"HTTP/1.1 %d " % status
        waiting = iter(requests)
        partly: dict[int, bytes] = {}
        open_requests = 0
        with select.epoll() as poll:
            for number, connection in self._sockets.items():
                poll.register(number, select.EPOLLIN)
                if first := next(waiting, None):
                    connection.send(first)
                    open_requests += 1
            while open_requests:
                events = poll.poll(10)
                assert events, "no answer within 10 s"
                for number, _ in events:
                    connection = self._sockets[number]
                    data = connection.recv(65536)
                    assert data, "the proxy has closed a connection"
                    if number in partly:
                        data = partly.pop(number) + data
                    if not is_whole(data):
                        partly[number] = data
                        continue
                    assert data.startswith(begins), data
                    following = next(waiting, None)
                    if following is None:
                        open_requests -= 1
                    else:
                        connection.send(following)

    def close(self) -> None:
        for connection in self._sockets.values():
            connection.close()


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
        sidecar = SidecarProgram(
            folder / "sidecar",
            issuer.url,
            f"http://{HOST}:{service}",
            AUTHIX_KEYS=f"http://{HOST}:{service}/keys",
            AUTHIX_POLICY=str(EXAMPLES / "authix.toml"),
            AUTHIX_FAILURES_PER_SECOND="0",  # what a wrong signature costs is measured, not what a refusal to look does
        )
        stack.callback(sidecar.kill)
        # an installed one finds its modules compiled; one that compiles them keeps 5 MB more
        sidecar.env.pop("PYTHONDONTWRITEBYTECODE", None)
        sidecar.env["PYTHONPYCACHEPREFIX"] = str(folder / "compiled")
        sidecar.start().ready().stop()
        sidecar.start().ready()
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
        Row(ENVOY_CACHED, envoy.port, [pid_of(envoy)], same, warm=one),
        Row("Envoy jwt_authn, 5,000 tokens cached", envoy.port, [pid_of(envoy)], by_turns, warm=many),
        Row("HAProxy jwt_verify", haproxy.port, [pid_of(haproxy)], lambda: one * few, warm=one),
        Row(UNCACHED, sidecar.proxy_port, [pid], lambda: [request(token) for token in tokens.make(few)]),
        Row(BAD_AGAIN, sidecar.proxy_port, [pid], lambda: bad * count, 401, warm=bad),
        Row(BAD_NEW, sidecar.proxy_port, [pid], lambda: [request(token) for token in tokens.forge(few)], 401),
    ], pid


class Silent(Settled):
    """Without an access log."""

    access_log = "access_log off;"


PLAIN_NGINX = "nginx without auth"
BEHIND_NGINX = "nginx auth_request + /verify, 1 token"
CACHED = "sidecar, 1 token cached"
CACHED_MANY = "sidecar, 5,000 tokens cached"
ENVOY_CACHED = "Envoy jwt_authn, 1 token cached"
UNCACHED = "sidecar, each token new"
BAD_AGAIN = "sidecar, one bad signature again"
BAD_NEW = "sidecar, each bad signature new"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=10_000, help="in a row and round; half where tokens are new")
    options = parser.parse_args()
    for kind in (Nginx, HAProxy, Envoy):
        if missing := kind.missing():
            raise SystemExit(missing)
    available = sorted(os.sched_getaffinity(0))
    cores = (available[0], available[-1])
    print(f"sidecar: {machine()}, httptools {version('httptools')}; {versions()}")
    print(
        f"  medians of {options.rounds} rounds of {options.requests} requests; proxy on core {cores[0]}, "
        f"{CONNECTIONS} connections and the service on core {cores[1]}; access logs on"
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
    tell(found)
    print(f"  memory of the sidecar: idle {idle:.1f} MB, after all this {busy:.1f} MB")
    tell_goals({name: statistics.median(each.micros for each in those) for name, those in found.items()}, idle)


def versions() -> str:
    nginx = subprocess.run([str(Nginx.program()), "-v"], capture_output=True, text=True, check=True).stderr
    haproxy = subprocess.run([str(HAProxy.program()), "-v"], capture_output=True, text=True, check=True).stdout
    envoy = subprocess.run([str(Envoy.program()), "--version"], capture_output=True, text=True, check=True).stdout
    numbers = [re.search(r"\d+\.\d+\.\d+", text) for text in (nginx, haproxy, envoy)]
    return ", ".join(
        f"{name} {it[0] if it else '?'}" for name, it in zip(("nginx", "HAProxy", "Envoy"), numbers, strict=True)
    )


def tell(found: dict[str, list[Found]]) -> None:
    plain = statistics.median(each.micros for each in found[PLAIN_NGINX])
    print(f"  {'CPU of a request':38}   median     least  greatest  x plain nginx  of its core")
    for name, those in found.items():
        micros = [each.micros for each in those]
        middle = statistics.median(micros)
        print(
            f"  {name:38} {middle:6.1f} µs {min(micros):6.1f} µs {max(micros):6.1f} µs {middle / plain:13.2f}x "
            f"{statistics.median(each.busy for each in those):11.0%}"
        )


def tell_goals(micros: dict[str, float], idle: float) -> None:
    plain, envoy = micros[PLAIN_NGINX], micros[ENVOY_CACHED]
    goals = [
        (f"{CACHED}, times plain nginx", micros[CACHED] / plain, 2.2),
        (f"{CACHED}, times Envoy's", micros[CACHED] / envoy, 1),
        (f"{CACHED_MANY}, times plain nginx", micros[CACHED_MANY] / plain, 2.2),
        (f"{BEHIND_NGINX}, times plain nginx", micros[BEHIND_NGINX] / plain, 2.2),
        (f"{UNCACHED}, µs", micros[UNCACHED], 130),
        (f"{BAD_AGAIN}, µs", micros[BAD_AGAIN], 40),
        (f"{BAD_NEW}, µs", micros[BAD_NEW], 110),
        ("idle memory, MB", idle, 45),
    ]
    for what, value, bound in goals:
        print(f"    {what}: {value:.2f} (goal <= {bound:g}: {'met' if value <= bound else 'MISSED'})")


if __name__ == "__main__":
    main()
