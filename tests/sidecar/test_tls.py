"""TLS on the sidecar's own ports."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.programs import DEADLINE, Program, SidecarProgram, bearer, eventually
from tests.servers.certificates import Authority, Certificate

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import StartSidecar
    from tests.sidecar.conftest import Fleet, Visit


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls")


def tls_settings(certificate: Certificate) -> dict[str, str]:
    return {"AUTHIX_TLS_CERT": str(certificate.certificate), "AUTHIX_TLS_KEY": str(certificate.key)}


def client_of(authority: Authority, sidecar: SidecarProgram, shown: Certificate | None = None) -> httpx.Client:
    context = ssl.create_default_context(cafile=authority.ca)
    if shown is not None:
        context.load_cert_chain(shown.certificate, shown.key)
    return httpx.Client(base_url=f"https://127.0.0.1:{sidecar.proxy_port}", verify=context, trust_env=False, timeout=20)


def connect(authority: Authority, sidecar: SidecarProgram) -> ssl.SSLSocket:
    """One that keeps little of what it has not read."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    plain.settimeout(DEADLINE)
    plain.connect(("127.0.0.1", sidecar.proxy_port))
    return ssl.create_default_context(cafile=authority.ca).wrap_socket(plain, server_hostname="127.0.0.1")


def serial_of(authority: Authority, sidecar: SidecarProgram) -> str:
    """Of the certificate that a new connection is shown."""
    context = ssl.create_default_context(cafile=authority.ca)
    with (
        socket.create_connection(("127.0.0.1", sidecar.proxy_port), 20) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as encrypted,
    ):
        return str((encrypted.getpeercert() or {})["serialNumber"])


def test_requests_come_encrypted_and_the_upstream_is_told(
    fleet: Fleet, start_sidecar: StartSidecar, authority: Authority
) -> None:
    sidecar = start_sidecar(fleet.issuer.url, fleet.upstream.url, **tls_settings(authority.issue("sidecar"))).ready()
    with client_of(authority, sidecar) as client:
        for n in range(3):
            assert client.get(f"/{n}", headers=bearer(fleet.token)).text == f"/{n}"
        big = os.urandom(2 << 20)
        assert client.post("/big", content=big, headers=bearer(fleet.token)).status_code == 200
        refused = client.get("/", headers={"Connection": "close"})
        assert (refused.status_code, refused.json()["code"]) == (401, "token_missing")
    assert fleet.upstream.requests[-1].body == big
    assert {value for request in fleet.upstream.requests for value in request.values("x-forwarded-proto")} == {"https"}


def test_a_client_that_hangs_up_while_it_waits_is_nothing_to_warn_of(
    fleet: Fleet, start_sidecar: StartSidecar, authority: Authority
) -> None:
    def silent(visit: Visit) -> None:
        visit.request()
        visit.recv()

    fleet.upstream.script = silent
    sidecar = start_sidecar(fleet.issuer.url, fleet.upstream.url, **tls_settings(authority.issue("sidecar"))).ready()
    encrypted = connect(authority, sidecar)
    encrypted.sendall(fleet.get("/waits"))
    eventually(lambda: len(fleet.upstream.requests) == 1, "the request is begun")
    encrypted.unwrap().close()
    eventually(lambda: "GET /waits 499 " in sidecar.output(), "its end is logged")
    assert "[warning" not in sidecar.output()


@pytest.mark.parametrize("how", [(16 << 20, "Accept: */*"), (2 << 20, "Connection: close")])
def test_a_client_that_reads_slowly_but_all_the_time_gets_all(
    fleet: Fleet,
    authority: Authority,
    tmp_path: Path,
    programs: Callable[[Program], Program],
    how: tuple[int, str],
) -> None:
    size, line = how

    def giving(visit: Visit) -> None:
        visit.request()
        visit.send(fleet.upstream.saying(bytes(size)))

    fleet.upstream.script = giving
    settings = tls_settings(authority.issue("sidecar"))
    sidecar = SidecarProgram(tmp_path, fleet.issuer.url, fleet.upstream.url, **settings)
    script = "import sys, authix_sidecar.downstream as d, authix_sidecar.cli as c; d.SEND_TIME = 1; sys.exit(c.main())"
    sidecar.command = [sys.executable, "-c", script, "serve"]
    programs(sidecar)
    sidecar.start().ready()
    with connect(authority, sidecar) as encrypted:
        encrypted.sendall(fleet.get("/", line))
        received, end = b"", time.monotonic() + 4
        while time.monotonic() < end:
            received += encrypted.recv(16_384)
            time.sleep(0.05)
        while not received.endswith(b"\r\n\r\n" + bytes(size)) and (more := encrypted.recv(65536)):
            received += more
    assert received.startswith(b"HTTP/1.1 200 ")
    assert len(received.partition(b"\r\n\r\n")[2]) == size


def test_plain_http_gets_no_answer_and_harms_nobody(
    fleet: Fleet, start_sidecar: StartSidecar, authority: Authority
) -> None:
    sidecar = start_sidecar(fleet.issuer.url, fleet.upstream.url, **tls_settings(authority.issue("sidecar"))).ready()
    assert not fleet.dial(sidecar.proxy_port).send(fleet.get("/")).recv().startswith(b"HTTP")
    with client_of(authority, sidecar) as client:
        assert client.get("/", headers=bearer(fleet.token)).status_code == 200
    assert fleet.upstream.requests[-1].target == "/"
    assert len(fleet.upstream.requests) == 1
    assert "Traceback" not in sidecar.output()


def test_a_new_certificate_is_taken_up_and_a_broken_one_is_not(
    fleet: Fleet, start_sidecar: StartSidecar, authority: Authority, tmp_path: Path
) -> None:
    first, second = authority.issue("first"), authority.issue("second")
    live = Certificate(tmp_path / "live.pem", tmp_path / "live.key", tmp_path / "none")

    def put(certificate: Path, key: Path) -> None:
        for source, target in ((certificate, live.certificate), (key, live.key)):
            shutil.copy(source, f"{target}.new")
            Path(f"{target}.new").replace(target)

    put(first.certificate, first.key)
    sidecar = start_sidecar(fleet.issuer.url, fleet.upstream.url, **tls_settings(live)).ready()
    before = serial_of(authority, sidecar)
    put(second.certificate, first.key)
    eventually(lambda: "keeping the old one" in sidecar.output(), "the pair that does not fit is noticed")
    assert serial_of(authority, sidecar) == before
    with client_of(authority, sidecar) as client:
        assert client.get("/", headers=bearer(fleet.token)).status_code == 200
        put(second.certificate, second.key)
        eventually(lambda: serial_of(authority, sidecar) != before, "the new certificate is shown")
        assert client.get("/", headers=bearer(fleet.token)).status_code == 200  # over the old connection


def test_clients_must_show_a_certificate_where_that_is_asked(
    fleet: Fleet, start_sidecar: StartSidecar, authority: Authority, tmp_path: Path
) -> None:
    settings = tls_settings(authority.issue("sidecar")) | {"AUTHIX_TLS_CLIENT_CA": str(authority.ca)}
    sidecar = start_sidecar(fleet.issuer.url, fleet.upstream.url, **settings).ready()
    stranger = Authority(tmp_path / "stranger").issue("stranger")
    for shown in (None, stranger):
        with client_of(authority, sidecar, shown) as client, pytest.raises(httpx.TransportError):
            client.get("/", headers=bearer(fleet.token))
    with client_of(authority, sidecar, authority.issue("client")) as client:
        assert client.get("/", headers=bearer(fleet.token)).status_code == 200


def test_the_auth_port_is_encrypted_only_when_asked_to(
    fleet: Fleet, start_sidecar: StartSidecar, authority: Authority
) -> None:
    settings = tls_settings(authority.issue("sidecar")) | {"AUTHIX_TLS_AUTH_PORT": "yes"}
    sidecar = start_sidecar(fleet.issuer.url, fleet.upstream.url, **settings)
    context = ssl.create_default_context(cafile=authority.ca)

    def ready() -> bool:
        try:
            url = f"https://127.0.0.1:{sidecar.auth_port}/readyz"
            return httpx.get(url, verify=context, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    eventually(ready, "the auth port answers over TLS")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"AUTHIX_TLS_CERT": "cert"}, "AUTHIX_TLS_KEY"),
        ({"AUTHIX_TLS_CERT": "cert", "AUTHIX_TLS_KEY": "cert"}, "AUTHIX_TLS_KEY"),
        ({"AUTHIX_TLS_CLIENT_CA": "cert"}, "AUTHIX_TLS_CERT"),
        ({"AUTHIX_TLS_CERT": "cert", "AUTHIX_TLS_KEY": "key", "AUTHIX_TLS_CLIENT_CA": "key"}, "AUTHIX_TLS_CLIENT_CA"),
        ({"AUTHIX_UPSTREAM": "https://127.0.0.1:1", "AUTHIX_UPSTREAM_CA": "key"}, "AUTHIX_UPSTREAM_CA"),
    ],
)
def test_what_can_not_be_used_stops_the_start_with_a_sentence(
    fleet: Fleet, start_sidecar: StartSidecar, authority: Authority, wrong: dict[str, str], named: str
) -> None:
    files = authority.issue("sidecar")
    names = {"cert": str(files.certificate), "key": str(files.key)}
    settings = {name: names.get(value, value) for name, value in wrong.items()}
    sidecar = start_sidecar(fleet.issuer.url, fleet.upstream.url, **settings)
    assert sidecar.process is not None
    assert sidecar.process.wait(20) == 2
    assert named in sidecar.output()
    assert "Traceback" not in sidecar.output()
