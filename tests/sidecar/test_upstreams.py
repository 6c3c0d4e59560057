"""An upstream of several servers, over TLS, or at a Unix socket."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import ssl
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from authix_sidecar.errors import UpstreamUnreachable
from authix_sidecar.origins import Origin, origins
from authix_sidecar.pool import Pool
from authix_sidecar.upstream import Patience
from tests.programs import DEADLINE, SidecarProgram, eventually, free_port
from tests.servers.certificates import Authority

if TYPE_CHECKING:
    from tests.conftest import StartSidecar
    from tests.sidecar.conftest import Fleet, Upstream, Visit

NewUpstream = Callable[..., "Upstream"]


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A path that fits into a socket's address."""
    folder = Path(tempfile.mkdtemp(prefix="authix-"))
    yield folder
    shutil.rmtree(folder)


def counted(*upstreams: Upstream) -> list[int]:
    return [len(upstream.requests) for upstream in upstreams]


def servers_down(fleet: Fleet, sidecar: SidecarProgram) -> float:
    metrics = fleet.call(fleet.get("/metrics"), sidecar.auth_port).body.decode()
    (value,) = re.findall(r"^authix_sidecar_upstreams_down (\S+)$", metrics, re.MULTILINE)
    return float(value)


def test_one_that_is_alone_is_told_as_down_from_the_first_failure_until_it_is_reached(
    fleet: Fleet, start_sidecar: StartSidecar, new_upstream: NewUpstream
) -> None:
    port = free_port()
    sidecar = start_sidecar(fleet.issuer.url, f"http://127.0.0.1:{port}").ready()
    assert servers_down(fleet, sidecar) == 0
    for _ in range(3):
        assert fleet.call(fleet.get("/"), sidecar.proxy_port).code == "upstream_unreachable"
        assert servers_down(fleet, sidecar) == 1
    assert sidecar.output().count(f"upstream http://127.0.0.1:{port}: the upstream can't be reached") == 1
    assert "passing it over" not in sidecar.output()
    upstream = new_upstream(port=port)
    assert fleet.call(fleet.get("/"), sidecar.proxy_port).status == 200
    assert servers_down(fleet, sidecar) == 0
    assert sidecar.output().count(f"upstream {upstream.url}: reached again") == 1


@pytest.mark.parametrize("host", ["a..b", ".", ".a", f"{'a' * 64}.b"])
def test_a_host_that_is_no_name_ends_the_start_with_a_sentence(tmp_path: Path, host: str) -> None:
    sidecar = SidecarProgram(tmp_path, "http://127.0.0.1:1", f"http://{host}:1").start()
    assert sidecar.process is not None
    assert sidecar.process.wait(DEADLINE) == 2
    assert "AUTHIX_UPSTREAM must name a host with 1 to 63 characters between its dots" in sidecar.output()
    assert len(sidecar.output().strip().splitlines()) == 1


async def test_a_name_that_no_resolver_takes_is_unreachable() -> None:
    with pytest.raises(UpstreamUnreachable):
        await Pool([Origin("http", "a..b", 80)], Patience(answer=60, total=60)).connect()


class TestSeveral:
    def test_take_turns(self, fleet: Fleet, start_sidecar: StartSidecar, new_upstream: NewUpstream) -> None:
        three = [new_upstream() for _ in range(3)]
        sidecar = start_sidecar(fleet.issuer.url, ",".join(each.url for each in three)).ready()
        wire = fleet.dial(sidecar.proxy_port)
        for n in range(30):
            assert wire.send(fleet.get(f"/{n}")).answer().status == 200
        assert counted(*three) == [10, 10, 10]
        assert [len(each.visits) for each in three] == [1, 1, 1]  # and their connections are kept

    def test_one_that_is_away_is_passed_over_and_no_request_is_lost(
        self, fleet: Fleet, start_sidecar: StartSidecar, new_upstream: NewUpstream
    ) -> None:
        alive = new_upstream()
        away = f"http://127.0.0.1:{free_port()}"
        sidecar = start_sidecar(fleet.issuer.url, f"{away}, {alive.url}").ready()
        wire = fleet.dial(sidecar.proxy_port)
        answers = Counter(wire.send(fleet.get("/", method="POST")).answer().status for _ in range(20))
        assert answers == {200: 20}
        assert sidecar.output().count("passing it over") == 1
        assert servers_down(fleet, sidecar) == 1

    def test_one_that_dies_leaves_its_turns_to_the_others(
        self, fleet: Fleet, start_sidecar: StartSidecar, new_upstream: NewUpstream
    ) -> None:
        first, second = new_upstream(), new_upstream()
        sidecar = start_sidecar(fleet.issuer.url, f"{first.url},{second.url}").ready()
        wire = fleet.dial(sidecar.proxy_port)
        for _ in range(4):
            assert wire.send(fleet.get("/")).answer().status == 200
        first.end()
        for _ in range(10):
            assert wire.send(fleet.get("/")).answer().status == 200
        assert counted(first, second) == [2, 12]

    def test_all_away_is_unreachable_and_over_when_one_is_back(
        self, fleet: Fleet, start_sidecar: StartSidecar, new_upstream: NewUpstream
    ) -> None:
        ports = [free_port(), free_port()]
        sidecar = start_sidecar(fleet.issuer.url, ",".join(f"http://127.0.0.1:{port}" for port in ports)).ready()
        for _ in range(3):
            answer = fleet.dial(sidecar.proxy_port).send(fleet.get("/")).answer()
            assert (answer.status, answer.code) == (503, "upstream_unreachable")
        new_upstream(port=ports[1])
        wire = fleet.dial(sidecar.proxy_port)
        for _ in range(6):
            assert wire.send(fleet.get("/")).answer().status == 200


class TestUnixSocket:
    def test_is_reached(
        self, fleet: Fleet, start_sidecar: StartSidecar, new_upstream: NewUpstream, short_folder: Path
    ) -> None:
        upstream = new_upstream(path=str(short_folder / "orders.sock"))
        sidecar = start_sidecar(fleet.issuer.url, upstream.url).ready()
        wire = fleet.dial(sidecar.proxy_port)
        assert wire.send(fleet.get("/1")).answer().body == b"/1"
        old = fleet.get("/old", version="HTTP/1.0").replace(b"Host: orders.example\r\n", b"")
        assert fleet.dial(sidecar.proxy_port).send(old).answer().status == 200
        assert upstream.requests[-1].values("host") == ["localhost"]

    def test_that_is_not_there_is_unreachable(
        self, fleet: Fleet, start_sidecar: StartSidecar, short_folder: Path
    ) -> None:
        sidecar = start_sidecar(fleet.issuer.url, f"unix:{short_folder}/none.sock").ready()
        answer = fleet.dial(sidecar.proxy_port).send(fleet.get("/")).answer()
        assert (answer.status, answer.code) == (503, "upstream_unreachable")


class TestTls:
    @pytest.fixture
    def authority(self, tmp_path: Path) -> Authority:
        return Authority(tmp_path / "tls")

    @pytest.fixture
    def encrypted(self, authority: Authority, new_upstream: NewUpstream) -> Upstream:
        server = authority.issue("orders")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(server.certificate, server.key)
        return new_upstream(tls=context)

    def test_is_trusted_by_the_certificates_named(
        self, fleet: Fleet, start_sidecar: StartSidecar, authority: Authority, encrypted: Upstream
    ) -> None:
        sidecar = start_sidecar(fleet.issuer.url, encrypted.url, AUTHIX_UPSTREAM_CA=str(authority.ca)).ready()
        wire = fleet.dial(sidecar.proxy_port)
        body = b"x" * 300_000
        for n in range(3):
            request = fleet.get(f"/{n}", f"Content-Length: {len(body)}", method="POST") + body
            assert wire.send(request).answer("POST").body == f"/{n}".encode()
        assert [request.body for request in encrypted.requests] == [body] * 3
        assert len(encrypted.visits) == 1

    def test_of_a_stranger_gets_nothing(
        self, fleet: Fleet, start_sidecar: StartSidecar, tmp_path: Path, encrypted: Upstream
    ) -> None:
        stranger = Authority(tmp_path / "stranger")
        sidecar = start_sidecar(fleet.issuer.url, encrypted.url, AUTHIX_UPSTREAM_CA=str(stranger.ca)).ready()
        answer = fleet.dial(sidecar.proxy_port).send(fleet.get("/")).answer()
        assert (answer.status, answer.code) == (503, "upstream_unreachable")
        assert encrypted.requests == []

    def test_carries_tunnels(
        self, fleet: Fleet, start_sidecar: StartSidecar, authority: Authority, encrypted: Upstream
    ) -> None:
        def echo(visit: Visit) -> None:
            visit.head()
            visit.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n")
            while data := visit.recv():
                visit.send(data)

        encrypted.script = echo
        sidecar = start_sidecar(fleet.issuer.url, encrypted.url, AUTHIX_UPSTREAM_CA=str(authority.ca)).ready()
        wire = fleet.dial(sidecar.proxy_port).send(fleet.get("/", "Connection: Upgrade", "Upgrade: chat"))
        assert wire.answer().status == 101
        assert wire.send(b"hello").recv_exactly(5) == b"hello"
        wire.close()
        eventually(lambda: encrypted.visits[0].ended, "the upstream's side ends too")


async def test_one_that_is_passed_over_no_longer_is_told_as_down_until_it_is_reached(
    monkeypatch: pytest.MonkeyPatch, new_upstream: NewUpstream
) -> None:
    """However few the requests are that could find out."""
    monkeypatch.setattr("authix_sidecar.pool.PASS_OVER", 0.0)
    port = free_port()
    pool = Pool(origins(f"http://127.0.0.1:{port},{new_upstream().url}"), Patience(answer=60, total=60))
    assert pool.servers_down == 0
    await pool.connect()
    await asyncio.sleep(0.01)
    assert pool.servers_down == 1
    new_upstream(port=port)
    for _ in range(2):
        await pool.connect()
    assert pool.servers_down == 0
    pool.close()


async def test_a_name_is_resolved_anew_for_each_new_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the moving of a service to another address."""
    moved = iter(["127.0.0.1", "127.0.0.2"])
    resolve = socket.getaddrinfo

    def resolved(host: str, *how: Any, **more: Any) -> Any:
        return resolve(next(moved) if host == "orders.test" else host, *how, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    reached: list[str] = []

    async def reach(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.append(writer.get_extra_info("sockname")[0])
        writer.close()

    async with await asyncio.start_server(reach, "0.0.0.0", 0) as server:
        port = server.sockets[0].getsockname()[1]
        pool = Pool(origins(f"http://orders.test:{port}"), Patience(answer=60, total=60))
        for n in (1, 2):
            await pool.connect()
            while len(reached) < n or pool.connections:
                await asyncio.sleep(0.01)
    assert reached == ["127.0.0.1", "127.0.0.2"]
