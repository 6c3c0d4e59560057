"""Issuers and sidecars are restarted one after the other under load, and no client sees a request fail.

Rule: as Kubernetes does it. An instance leaves the balancer, goes on for a moment for whoever has not heard of that yet
(``preStop``), gets SIGTERM, ends, starts anew and takes part again once it is ready. Neither the balancer nor a client
tries anything twice; streams may end, with a word or an end that a client can tell from a breakdown.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple, Self

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from authix import Authix
from tests.conftest import StartSidecar
from tests.programs import (
    DEADLINE,
    HOST,
    PASSWORD,
    IssuerProgram,
    Program,
    SidecarProgram,
    bearer,
    eventually,
    free_port,
    register,
)
from tests.servers.balancer import Balancer, Instance
from tests.servers.fixtures import require

PRE_STOP = 0.3
"""Seconds; a balancer of one process has heard at once, one of many nodes needs ten."""
GOING_AWAY = 1001
NAMES = ("one", "two")


class Fleet(NamedTuple):
    issuers: Mapping[str, IssuerProgram]
    sidecars: Mapping[str, SidecarProgram]
    balancer: Balancer

    def roll(self, fleet: str) -> None:
        """Restart each of a fleet, one after the other."""
        programs: Mapping[str, IssuerProgram | SidecarProgram] = getattr(self, fleet)
        for name, program in programs.items():
            self.balancer.leaves(fleet, name)
            time.sleep(PRE_STOP)
            assert program.stop() == 0
            assert "Traceback" not in program.output()
            program.start().ready()
            self.balancer.enters(fleet, name)


@pytest.fixture
def fleet(
    mongodb_url: str,
    redis_url: str,
    kafka_bootstrap: str,
    tmp_path: Path,
    programs: Callable[[Program], Program],
) -> Iterator[Fleet]:
    """Two issuers on one MongoDB, Redis and Kafka, and two sidecars before one service."""
    require(Balancer.missing())
    topic, service_port = f"logout-{secrets.token_hex(4)}", free_port()
    shared = {
        "AUTHIX_USERS_URL": f"{mongodb_url.rstrip('/')}/{secrets.token_hex(6)}",
        "AUTHIX_SESSIONS_URL": redis_url,
        "AUTHIX_KAFKA": kafka_bootstrap,
        "AUTHIX_TOPIC": topic,
        "AUTHIX_SECRET": secrets.token_urlsafe(32),
    }
    issuers = {name: IssuerProgram(tmp_path / name, **shared) for name in NAMES}
    service = Program(
        str(Path(__file__).with_name("rolling_service.py")), [], {"PORT": str(service_port)}, tmp_path / "service.log"
    )
    sidecars = {name: SidecarProgram(tmp_path / name, "", f"http://{HOST}:{service_port}") for name in NAMES}
    balancer = Balancer(
        tmp_path / "balancer",
        {
            "issuers": {name: Instance(issuer.port, issuer.port) for name, issuer in issuers.items()},
            "sidecars": {name: Instance(one.proxy_port, one.auth_port) for name, one in sidecars.items()},
        },
    )
    url = balancer.url("issuers")
    for issuer in issuers.values():
        issuer.env["AUTHIX_ISSUER"] = url
    for sidecar in sidecars.values():
        sidecar.env |= {
            "AUTHIX_ISSUER": url,
            "AUTHIX_FEED": f"kafka://{kafka_bootstrap}/{topic},{url}/revocations",
        }
    for program in (service, *issuers.values(), *sidecars.values()):
        programs(program).start()
    with balancer:
        service.wait_for(f"http://{HOST}:{service_port}/hello")
        for name in NAMES:
            issuers[name].ready()
            sidecars[name].ready()
        for name in NAMES:
            eventually(partial(balancer.takes_part, "issuers", name), "both issuers take part")
            eventually(partial(balancer.takes_part, "sidecars", name), "both sidecars take part")
        yield Fleet(issuers, sidecars, balancer)


class Load:
    """Clients without patience: each answer must be the right one the first time."""

    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []
        self.failures: list[str] = []
        self.done: Counter[str] = Counter()
        self.logged_out: deque[tuple[float, str]] = deque(maxlen=1000)
        """When, and the access token."""
        self.ends: Counter[str] = Counter()
        """How streams ended."""

    def __enter__(self) -> Self:
        kinds = itertools.cycle(("service", "ingress"))
        works = [self._come_and_go] * 2 + [self._ask] * 6 + [self._listen] * 2
        for work, kind in zip(works, kinds, strict=False):
            self._threads.append(threading.Thread(target=self._run, args=(work, kind)))
        self._threads += [threading.Thread(target=self._run, args=(self._talk, kind)) for kind in ("service",) * 2]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _run(self, work: Callable[[str], None], kind: str) -> None:
        while not self._ending.is_set():
            try:
                work(kind)
            except (httpx.TransportError, OSError, AssertionError, KeyError) as error:
                self.failures.append(f"{time.monotonic():.3f} {work.__name__} by {kind}: {error!r}")
                time.sleep(0.1)

    def _client(self, fleet: str, kind: str) -> httpx.Client:
        return httpx.Client(base_url=self._balancer.url(fleet, kind), timeout=DEADLINE, trust_env=False)

    def _expect(self, what: str, answer: httpx.Response, *statuses: int) -> httpx.Response:
        assert answer.status_code in statuses, f"{what}: {answer.status_code} {answer.text}"
        self.done[what] += 1
        return answer

    def _log_in(self, client: httpx.Client, email: str) -> str:
        answer = client.post("/login", json={"email": email, "password": PASSWORD})
        return str(self._expect("login", answer, 200).json()["access_token"])

    def _come_and_go(self, kind: str) -> None:
        """Register, log in, ask, refresh, ask, log out, be refused; with connections that are kept."""
        with self._client("issuers", kind) as issuer, self._client("sidecars", kind) as service:
            while not self._ending.is_set():
                email = f"{secrets.token_hex(8)}@example.com"
                subject = register(issuer, email)
                self._ask_as(subject, self._log_in(issuer, email), service)
                self._expect("key set", issuer.get("/.well-known/jwks.json"), 200)
                token = str(self._expect("refresh", issuer.post("/access_token"), 200).json()["access_token"])
                self._ask_as(subject, token, service)
                self._expect("logout", issuer.post("/logout"), 204)
                self._until_refused(service, token)
                self.logged_out.append((time.monotonic(), token))
                time.sleep(random.uniform(0, 0.2))  # a user's pause

    def _ask_as(self, subject: str, token: str, service: httpx.Client) -> None:
        body = secrets.token_hex(8)
        answer = service.post("/hello", headers=bearer(token), content=body)
        assert self._expect("protected call", answer, 200).json() == {"subject": subject, "body": body}

    def _until_refused(self, service: httpx.Client, token: str) -> None:
        end = time.monotonic() + DEADLINE
        while (answer := service.get("/hello", headers=bearer(token))).status_code != 401:
            self._expect("call after the logout", answer, 200)
            assert time.monotonic() < end, "a logout is heard"
        assert answer.json()["code"] == "token_revoked", answer.text
        self.done["refusal"] += 1

    def _ask(self, kind: str) -> None:
        """Call the service again and again, on a connection that is kept."""
        email = f"{secrets.token_hex(8)}@example.com"
        with self._client("issuers", kind) as issuer, self._client("sidecars", kind) as service:
            subject, most = register(issuer, email), random.choice((0.1, 0.3, 1))
            while not self._ending.is_set():
                token, until = self._log_in(issuer, email), time.monotonic() + 60
                while not self._ending.is_set() and time.monotonic() < until:
                    self._ask_as(subject, token, service)
                    self._expect("key set", issuer.get("/.well-known/jwks.json"), 200)
                    time.sleep(random.uniform(0, most))  # a client's pause, in which its connections are idle

    def _listen(self, kind: str) -> None:
        """Follow an event stream, and come again when it ends."""
        email = f"{secrets.token_hex(8)}@example.com"
        with self._client("issuers", kind) as issuer, self._client("sidecars", kind) as service:
            register(issuer, email)
            while not self._ending.is_set():
                headers = bearer(self._log_in(issuer, email))
                with service.stream("GET", "/events", headers=headers) as events:
                    assert events.status_code == 200, events.read()
                    self.done["event stream"] += 1
                    try:
                        for _ in events.iter_raw():
                            if self._ending.is_set():
                                return
                        self.ends["whole"] += 1
                    except httpx.RemoteProtocolError:  # closed; to be reset is another error
                        self.ends["closed"] += 1

    def _talk(self, kind: str) -> None:
        """Talk over a WebSocket, and come again when it is closed with a word."""
        email = f"{secrets.token_hex(8)}@example.com"
        url = self._balancer.url("sidecars", kind).replace("http:", "ws:")
        with self._client("issuers", kind) as issuer:
            register(issuer, email)
            while not self._ending.is_set():
                headers = bearer(self._log_in(issuer, email))
                with connect(f"{url}/echo", additional_headers=headers, proxy=None, open_timeout=DEADLINE) as socket:
                    self.done["WebSocket"] += 1
                    with suppress(ConnectionClosed):
                        for number in itertools.count():
                            if self._ending.is_set():
                                return
                            socket.send(str(number))
                            assert socket.recv(DEADLINE) == str(number)
                            time.sleep(0.05)  # between two messages
                    assert socket.close_code == GOING_AWAY, "it ends with a word"
                    self.ends["going away"] += 1


async def check_that_nobody_notices(fleet: Fleet, rounds: int) -> None:
    url = fleet.balancer.url("issuers")
    unready: list[str] = []
    async with Authix(issuer=url, audience="tests", feed=f"{url}/revocations") as verifier:
        await verifier.wait_ready(DEADLINE)

        async def watch() -> None:
            while True:
                unready.extend(verifier.problems())
                await asyncio.sleep(0.05)

        watching = asyncio.create_task(watch())
        with Load(fleet.balancer) as load:
            for _ in range(rounds):
                await asyncio.to_thread(fleet.roll, "issuers")
                await asyncio.to_thread(fleet.roll, "sidecars")
                assert load.failures == []
        watching.cancel()
        assert load.failures == []
        assert unready == [], "who follows the feed by the Service is fresh all the while"
        refuse_the_logged_out(fleet, load)
    for what in ("login", "refresh", "logout", "key set", "protected call", "refusal", "event stream", "WebSocket"):
        assert load.done[what], what
    assert load.ends["going away"], "a restart closes WebSockets"


def refuse_the_logged_out(fleet: Fleet, load: Load) -> None:
    """Each sidecar, which is younger than some of these logouts, knows them all."""
    with ExitStack() as stack:
        for sidecar in fleet.sidecars.values():
            client = stack.enter_context(httpx.Client(timeout=DEADLINE, trust_env=False))
            for when, token in load.logged_out:
                answer = client.get(f"{sidecar.auth_url}/verify", headers=bearer(token))
                expired = time.monotonic() - when > 240
                assert answer.json()["code"] in ({"token_revoked", "token_expired"} if expired else {"token_revoked"})


@pytest.mark.parametrize("which", ["issuer", "sidecar"])
def test_who_asks_on_a_kept_connection_while_the_end_begins_is_answered(
    issuer: IssuerProgram, start_sidecar: StartSidecar, which: str
) -> None:
    program: Program = issuer
    port = issuer.port
    if which == "sidecar":
        sidecar = start_sidecar(issuer.url, issuer.url).ready()
        program, port = sidecar, sidecar.auth_port
    asking = threading.Barrier(21)

    def ask_until_told_that_it_was_the_last() -> None:
        with closing(HTTPConnection(HOST, port, timeout=DEADLINE)) as client:
            for number in itertools.count():
                client.request("GET", "/livez")
                with client.getresponse() as answer:
                    assert (answer.status, json.load(answer)["status"]) == (200, "alive")
                if answer.will_close:
                    return
                if not number:
                    asking.wait(DEADLINE)
                time.sleep(0.02)  # in which the connection is idle

    with ThreadPoolExecutor(20) as pool:
        clients = [pool.submit(ask_until_told_that_it_was_the_last) for _ in range(20)]
        asking.wait(DEADLINE)
        assert program.stop() == 0
        for client in clients:
            client.result()


async def test_a_restart_of_all_issuers_and_sidecars_in_turn_fails_no_request(fleet: Fleet) -> None:
    await check_that_nobody_notices(fleet, 1)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_twenty_restarts_of_all_fail_no_request(fleet: Fleet) -> None:
    await check_that_nobody_notices(fleet, 20)
