"""A sidecar of several workers: one feed, one policy and one end for all."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from authix_sidecar.auth_port import Scrape
from authix_sidecar.downstream import ClientConnection
from authix_sidecar.ports import Port
from authix_sidecar.siblings import Siblings
from tests.programs import DEADLINE, SidecarProgram, eventually
from tests.sidecar.conftest import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sidecar.conftest import Fleets, Visit


def workers_of(fleet: Fleet) -> list[int]:
    """The process ids, the oldest first."""
    assert fleet.sidecar.process is not None
    pid = fleet.sidecar.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [int(child) for child in children if "spawn_main" in _command_line(child)]


def _command_line(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def metrics(fleet: Fleet) -> str:
    return fleet.call(fleet.get("/metrics"), fleet.sidecar.auth_port).body.decode()


def by_worker(fleet: Fleet, name: str, label: str = "") -> dict[str, float]:
    """The values of a metric, added up where ``label`` is among its own, by worker."""
    lines = re.findall(rf'^{name}\{{(.*)worker="(\w+)"(.*)\}} (\S+)$', metrics(fleet), re.MULTILINE)
    found: dict[str, float] = {}
    for before, worker, after, value in lines:
        if label in before + after:
            found[worker] = found.get(worker, 0) + float(value)
    return found


def until_all_serve(fleet: Fleet) -> None:
    eventually(
        lambda: {worker for worker, ready in by_worker(fleet, "authix_ready").items() if ready} == {"1", "2"},
        "both workers are ready",
    )


def ask_until_both_answer(fleet: Fleet, code: str, token: str = "") -> Counter[int]:
    """The statuses of requests on new connections, until each worker has decided ``code``."""
    statuses: Counter[int] = Counter()

    def both() -> bool:
        for _ in range(8):
            wire = fleet.dial()
            statuses[wire.send(fleet.get("/", token=token)).answer().status] += 1
            wire.close()
        counted = by_worker(fleet, "authix_sidecar_decisions_total", f'code="{code}"')
        return set(counted) == {"1", "2"}

    eventually(both, lambda: f"both workers answer {code}; so far {statuses}")
    return statuses


@contextmanager
def paused(fleet: Fleet) -> Iterator[None]:
    fleet.sidecar.pause()
    try:
        yield
    finally:
        fleet.sidecar.resume()


@pytest.fixture(scope="module")
def _pair(_fleets: Fleets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Started once for the tests that end no more of it than a worker."""
    issuer, single, upstream = _fleets.patient.issuer, _fleets.patient.sidecar, _fleets.patient.upstream
    feed = f"{single.auth_url}/revocations"
    folder = tmp_path_factory.mktemp("pair")
    sidecar = SidecarProgram(folder, issuer.url, upstream.url, AUTHIX_WORKERS="2", AUTHIX_FEED=feed)
    try:
        sidecar.start().ready()
        yield Fleet(issuer, sidecar, upstream, _fleets.patient.token)
    finally:
        sidecar.stop()


@pytest.fixture
def pair(_pair: Fleet) -> Iterator[Fleet]:
    """A sidecar of two workers, both at work, that follows the single one of ``fleet``."""
    _pair.upstream.forget()
    until_all_serve(_pair)
    yield _pair
    _pair.hang_up()
    assert "Traceback" not in _pair.sidecar.output()


def test_a_logout_is_refused_by_every_worker_and_one_feed_serves_all(pair: Fleet, fleet: Fleet) -> None:
    client, _, token = pair.new_user()
    ask_until_both_answer(pair, "allowed", token)

    def known() -> dict[str, float]:
        return by_worker(pair, "authix_revocations")

    before = max(known().values())
    assert client.post("/logout").status_code == 204
    eventually(lambda: min(known().values()) > before, "every worker knows")
    assert set(ask_until_both_answer(pair, "token_revoked", token)) == {401}
    assert "\nauthix_sidecar_feed_followers 1.0\n" in metrics(fleet)
    assert by_worker(pair, "authix_feed_followed") == {"parent": 1.0}


def test_a_worker_that_is_killed_is_replaced_by_one_that_knows_all_logouts_before_it_serves(pair: Fleet) -> None:
    client, _, token = pair.new_user()
    assert client.post("/logout").status_code == 204
    pair.until_refused(token)
    first = workers_of(pair)
    os.kill(first[0], signal.SIGKILL)
    eventually(lambda: not is_alive(first[0]), "it is dead")
    statuses: Counter[int] = Counter()

    def replaced() -> bool:
        wire = pair.dial().send(pair.get("/", token=token))
        statuses[wire.answer().status] += 1
        wire.close()
        return len(by_worker(pair, "authix_ready")) == 2

    eventually(replaced, "another worker is started")
    until_all_serve(pair)
    statuses += ask_until_both_answer(pair, "token_revoked", token)
    assert set(statuses) <= {401, 503}
    assert first[1] in workers_of(pair)


def test_the_numbers_of_all_workers_are_told_by_whichever_is_asked(pair: Fleet) -> None:
    def totals() -> list[float]:
        names = ("requests_total", "request_seconds_count")
        return [sum(by_worker(pair, f"authix_sidecar_{name}", 'port="proxy"').values()) for name in names]

    before = totals()
    asked = ask_until_both_answer(pair, "allowed").total()
    for _ in range(8):
        assert totals() == [count + asked for count in before]
    without_bound = 'le="+Inf",port="proxy"'
    assert sum(by_worker(pair, "authix_sidecar_request_seconds_bucket", without_bound).values()) == totals()[1]


def test_the_feed_is_passed_on_by_every_worker_and_the_one_between_them_to_nobody(pair: Fleet, fleet: Fleet) -> None:
    client, subject, token = pair.new_user()
    assert client.post("/logout").status_code == 204
    pair.until_refused(token)
    url = f"{pair.sidecar.auth_url}/revocations"
    eventually(
        lambda: all(subject in httpx.get(url, timeout=DEADLINE, trust_env=False).text for _ in range(8)),
        "every worker tells it",
    )
    followed = set(re.findall(r"feed (http://\S+): connected", pair.sidecar.output()))
    (private,) = followed - {f"{fleet.sidecar.auth_url}/revocations"}
    assert httpx.get(private, trust_env=False).status_code == 403


def test_an_answer_in_progress_is_finished_at_the_end_and_a_second_signal_hurries(
    start_fleet: Callable[..., Fleet],
) -> None:
    fleet = start_fleet(AUTHIX_WORKERS="2")
    until_all_serve(fleet)
    go, begun = threading.Event(), threading.Semaphore(0)

    def slow(visit: Visit) -> None:
        request = visit.request()
        assert request is not None
        begun.release()
        if request.target == "/never":
            visit.recv()
            return
        assert go.wait(DEADLINE)
        visit.send(fleet.upstream.saying(b"whole"))

    fleet.upstream.script = slow
    wires = [fleet.dial().send(fleet.get("/slow")) for _ in range(6)]
    never = fleet.dial().send(fleet.get("/never"))
    for _ in range(7):
        assert begun.acquire(timeout=DEADLINE)
    workers = workers_of(fleet)
    assert fleet.sidecar.process is not None
    fleet.sidecar.process.send_signal(signal.SIGTERM)
    eventually(lambda: fleet.sidecar.output().count("stopping") == 2, "both workers begin to end")
    go.set()
    assert [wire.answer().body for wire in wires] == [b"whole"] * 6
    assert fleet.sidecar.stop(within=8) == 0  # the second signal; without it /never is waited for 10 s
    assert never.rest() == b""
    assert not any(map(is_alive, workers))
    assert "Traceback" not in fleet.sidecar.output()


def test_workers_are_stale_while_their_parent_hangs_and_do_not_outlive_it(start_fleet: Callable[..., Fleet]) -> None:
    fleet = start_fleet(AUTHIX_WORKERS="2", AUTHIX_STALE_AFTER="2")
    until_all_serve(fleet)
    with paused(fleet):
        eventually(lambda: set(_codes(fleet)) == {"feed_stale"}, "both refuse")
    fleet.sidecar.ready()
    eventually(lambda: set(_codes(fleet)) == {"allowed"}, "both serve again")
    workers = workers_of(fleet)
    fleet.sidecar.kill()
    eventually(lambda: not any(map(is_alive, workers)), "the workers end")


def _codes(fleet: Fleet) -> list[str]:
    """Of answers to eight new connections, which both workers get, nearly always."""
    answers = [fleet.call(fleet.get("/")) for _ in range(8)]
    return ["allowed" if answer.status == 200 else answer.code for answer in answers]


def test_one_signal_makes_every_worker_read_the_policy(start_fleet: Callable[..., Fleet], tmp_path: Path) -> None:
    policy = tmp_path / "authix.toml"
    policy.write_text('[[route]]\npath = "/a"\npublic = true\n', encoding="utf-8")
    fleet = start_fleet(AUTHIX_WORKERS="2", AUTHIX_POLICY=str(policy))
    until_all_serve(fleet)
    policy.write_text("broken", encoding="utf-8")
    assert fleet.sidecar.process is not None
    fleet.sidecar.process.send_signal(signal.SIGHUP)
    eventually(
        lambda: set(by_worker(fleet, "authix_sidecar_policy_errors_total").values()) == {1.0}, "both have looked at it"
    )
    # a worker that can't start with it is no reason to end the one that still serves by the old one
    victim, other = workers_of(fleet)
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: fleet.sidecar.output().count("exit code 2") >= 1, "its replacement says so")
    assert fleet.call(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
    policy.write_text('[[route]]\npath = "/b"\npublic = true\n', encoding="utf-8")
    eventually(lambda: set(by_worker(fleet, "authix_ready")) == {"1", "2"}, "and starts once it is mended")
    assert is_alive(other)
    assert "Traceback" not in fleet.sidecar.output()


@pytest.mark.parametrize(("name", "shares"), [("AUTHIX_PROXY_PORT", False), ("AUTHIX_AUTH_PORT", True)])
def test_a_port_in_use_ends_the_start_with_one_sentence(tmp_path: Path, name: str, *, shares: bool) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=shares) as taken:
        port = str(taken.getsockname()[1])
        sidecar = SidecarProgram(
            tmp_path, "http://127.0.0.1:1", "http://127.0.0.1:2", AUTHIX_WORKERS="2", **{name: port}
        ).start()
        assert sidecar.process is not None
        assert sidecar.process.wait(DEADLINE) == 2
    (line,) = sidecar.output().splitlines()
    assert line.endswith(f"{name}={port} can't be listened on (Address already in use): choose another.")


async def test_whoever_asks_for_numbers_that_can_not_be_read_is_not_left_waiting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    siblings = Siblings(feed="", feed_token="", listeners={"1": socket.create_server(("127.0.0.1", 0))})
    port: Port[ClientConnection] = Port(
        begin=lambda client, *_: Scrape(siblings, client).begin(), report=lambda *_: None
    )
    server = await asyncio.get_running_loop().create_server(lambda: ClientConnection(port), "127.0.0.1", 0)
    async with server, await siblings.tell("1", lambda: b'a{b="c} 1\n'):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await asyncio.wait_for(reader.read(), DEADLINE) == b""
        writer.close()
        await writer.wait_closed()
    assert "a request failed" in caplog.text
