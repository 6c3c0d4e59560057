"""Issuers that share MongoDB, Redis and Kafka, as real processes."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Self

import httpx
import jwt
import pytest

from authix import Authix, TokenError, TokenRevoked
from tests.programs import (
    DEADLINE,
    PASSWORD,
    IssuerProgram,
    Program,
    SidecarProgram,
    SkewedIssuer,
    bearer,
    eventually,
    free_port,
    login,
    register,
)
from tests.servers.kafka import KafkaServer
from tests.servers.mongodb import MongoServer
from tests.servers.redis import RedisServer

Engines = dict[str, str]
StartIssuer = Callable[..., IssuerProgram]


@pytest.fixture
def topic() -> str:
    return f"logout-{secrets.token_hex(4)}"


@pytest.fixture
def engines(mongodb_url: str, redis_url: str, kafka_bootstrap: str, topic: str) -> Engines:
    """The settings of issuers that share engines, with a database and a topic of the test's own."""
    return {
        "AUTHIX_USERS_URL": f"{mongodb_url.rstrip('/')}/{secrets.token_hex(6)}",
        "AUTHIX_SESSIONS_URL": redis_url,
        "AUTHIX_KAFKA": kafka_bootstrap,
        "AUTHIX_TOPIC": topic,
        "AUTHIX_SECRET": secrets.token_urlsafe(32),
        "AUTHIX_ISSUER": "http://127.0.0.1:1",
    }


@pytest.fixture
def start_issuer_on(tmp_path: Path, programs: Callable[[Program], Program]) -> StartIssuer:
    """``start_issuer_on(engines, AUTHIX_…="…")``: one more ready issuer of a fleet."""
    count = iter(range(100))

    def start(engines: Engines, **env: str) -> IssuerProgram:
        issuer = IssuerProgram(tmp_path / f"issuer-{next(count)}", **engines | env)
        programs(issuer)
        issuer.start()
        return issuer.ready()

    return start


def follow(issuer: IssuerProgram, engines: Engines, feed: str = "") -> Authix:
    """A verifier on the fleet's topic, or on ``feed``."""
    return Authix(
        issuer=engines["AUTHIX_ISSUER"],
        audience="tests",
        keys=f"{issuer.url}/.well-known/jwks.json",
        feed=feed or f"kafka://{engines['AUTHIX_KAFKA']}/{engines['AUTHIX_TOPIC']}",
    )


async def until(condition: Callable[[], bool], what: str, within: float = 30) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.01)


def refuses(verifier: Authix, token: str) -> bool:
    try:
        verifier.verify(token)
    except TokenRevoked:
        return True
    return False


def children(pid: int) -> list[int]:
    """Its worker processes, the oldest first."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [int(child) for child in found if "spawn_main" in command_line(child)]


def command_line(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return ""


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_user_of_one_issuer_is_a_user_of_all(start_issuer_on: StartIssuer, engines: Engines) -> None:
    one, two = start_issuer_on(engines), start_issuer_on(engines)
    async with follow(one, engines) as kafka, follow(two, engines, f"{one.url}/revocations") as feed:
        await until(lambda: kafka.ready() and feed.ready(), "both verifiers are ready")
        with one.client() as at_one, two.client() as at_two:
            assert at_one.get("/public_key").text == at_two.get("/public_key").text
            register(at_one, "ann@example.com")
            assert at_two.post("/register", json={"email": "ANN@example.com", "password": PASSWORD}).status_code == 409
            first = login(at_two, "ann@example.com")
            cookie = {"Cookie": "; ".join(f"{name}={value}" for name, value in at_two.cookies.items())}
            refreshed = at_one.post("/access_token", headers=cookie)
            assert refreshed.status_code == 200
            tokens = [first, refreshed.json()["access_token"]]
            assert all(verifier.verify(token) for verifier in (kafka, feed) for token in tokens)
            # the feed of issuer one tells of a logout at issuer two
            assert at_two.post("/logout").status_code == 204
            for token in tokens:
                for verifier in (kafka, feed):
                    await until(partial(refuses, verifier, token), "refused")
            again = login(at_one, "ann@example.com")
            assert all(verifier.verify(again) for verifier in (kafka, feed))


async def test_clocks_of_issuers_that_differ_by_minutes_change_no_verdict(
    start_issuer_on: StartIssuer, engines: Engines, tmp_path: Path, programs: Callable[[Program], Program]
) -> None:
    fleet = [start_issuer_on(engines)]
    for skew in (-420, 600):
        issuer = SkewedIssuer(tmp_path / f"skewed{skew}", skew, **engines)
        programs(issuer)
        issuer.start()
        fleet.append(issuer.ready())
    rng = random.Random(7)
    async with follow(fleet[0], engines) as verifier:
        await until(verifier.ready, "the verifier is ready")
        with ExitStack() as stack:
            clients = [stack.enter_context(issuer.client()) for issuer in fleet]
            register(clients[0], "ann@example.com")
            for at_login, at_logout, by_cookie in itertools.product(clients, clients, (True, False)):
                token = login(at_login, "ann@example.com")
                verifier.verify(token)
                cookie = {"Cookie": "; ".join(f"{n}={v}" for n, v in at_login.cookies.items())}
                for client in clients:
                    client.cookies.clear()
                assert at_logout.post("/logout", headers=cookie if by_cookie else bearer(token)).status_code == 204
                await until(partial(refuses, verifier, token), "refused after the logout")
                verifier.verify(login(rng.choice(clients), "ann@example.com"))


class Load:
    """Users who log in, refresh and log out without pause, at whichever issuer answers."""

    def __init__(self, fleet: list[IssuerProgram], users: int) -> None:
        self.fleet = fleet
        self.stop = threading.Event()
        self.logged_out: list[tuple[str, str]] = []
        """Access token and refresh cookie of each logout that was answered."""
        self._emails = [f"{secrets.token_hex(6)}@example.com" for _ in range(users)]
        for email in self._emails:
            with fleet[0].client() as client:
                register(client, email)

    def run(self, email: str) -> None:
        rng = random.Random(email)
        while not self.stop.wait(0.02):  # else who starts again gets no turn beside the users
            with suppress(httpx.TransportError, AssertionError, KeyError), rng.choice(self.fleet).client() as client:
                token = login(client, email)
                if rng.random() < 0.5:
                    token = client.post("/access_token").json()["access_token"]
                cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
                url = rng.choice(self.fleet).url
                answer = client.post(f"{url}/logout", headers={"Cookie": cookie})
                if answer.status_code == 204:
                    self.logged_out.append((token, cookie))

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(len(self._emails))
        self._running = [self._pool.submit(self.run, email) for email in self._emails]
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._pool.shutdown()
        for running in self._running:
            running.result()


async def check_no_logout_is_lost(
    fleet: list[IssuerProgram], load: Load, engines: Engines, hurt: Iterator[None]
) -> None:
    with load:
        for _ in hurt:
            before = len(load.logged_out)
            await until(lambda: len(load.logged_out) > before + 3, "logouts go on between two crashes")  # noqa: B023 - used at once
    assert load.logged_out
    with fleet[0].client() as client:
        for _, cookie in load.logged_out:
            assert client.post("/access_token", headers={"Cookie": cookie}).status_code == 401
        live = login(client, load._emails[0])
    async with follow(fleet[0], engines) as late:
        await until(late.ready, "a verifier that starts now is ready", within=60)
        # a watermark beyond the last login: all that came before stands on the topic
        claims = late.verify(live)
        await until(
            lambda: late.verifier.freshness.complete_until_us > claims.issued_at_us, "the watermark goes on", 60
        )
        for token, _ in load.logged_out:
            issued_at = jwt.decode(token, options={"verify_signature": False})["iat"]  # a long run outlives its tokens
            with pytest.raises(TokenError) as refusal:
                late.verifier.verify(token, now=issued_at + 1, monotonic=time.monotonic())
            assert refusal.value.code == "token_revoked"


class Fleet:
    """An issuer of one process and an issuer of two workers, which crash at random moments."""

    def __init__(self, start_issuer_on: StartIssuer, engines: Engines) -> None:
        self.one = start_issuer_on(engines)
        self.two = start_issuer_on(engines, AUTHIX_WORKERS="2", AUTHIX_HASH_THREADS="2")
        self.issuers = [self.one, self.two]

    def crashes(self, rounds: int) -> Iterator[None]:
        """Six in each round: the one, a worker of the two, the parent of the two, in random order."""
        rng = random.Random(rounds)
        each = [self._kill_one] * 3 + [self._kill_a_worker] * 2 + [self._kill_two]
        for _ in range(rounds):
            for crash in rng.sample(each, len(each)):
                time.sleep(rng.random() * 0.2)  # a crash may come at any moment
                crash()
                yield

    def _kill_one(self) -> None:
        self.one.kill()
        self._come_back(self.one)

    def _kill_two(self) -> None:
        workers = self._workers()
        self.two.kill()
        eventually(lambda: not any(is_alive(worker) for worker in workers), "the workers end too", 120)
        self._come_back(self.two)

    def _kill_a_worker(self) -> None:
        before = self._workers()
        os.kill(before[0], signal.SIGKILL)
        eventually(lambda: len(set(self._workers()) - set(before)) == 1, "another worker is started", 120)

    def _come_back(self, issuer: IssuerProgram) -> None:
        # whoever starts competes with the load, and a long run with whatever else the machine does
        issuer.start().wait_for(f"{issuer.url}/readyz", within=120)

    def _workers(self) -> list[int]:
        assert self.two.process is not None
        return children(self.two.process.pid)


async def test_no_logout_is_lost_when_issuers_and_their_workers_crash(
    start_issuer_on: StartIssuer, engines: Engines
) -> None:
    fleet = Fleet(start_issuer_on, engines)
    await check_no_logout_is_lost(fleet.issuers, Load(fleet.issuers, 4), engines, fleet.crashes(1))


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_no_logout_is_lost_in_two_hundred_crashes(start_issuer_on: StartIssuer, engines: Engines) -> None:
    fleet = Fleet(start_issuer_on, engines)
    await check_no_logout_is_lost(fleet.issuers, Load(fleet.issuers, 6), engines, fleet.crashes(34))


async def test_a_logout_between_closed_and_published_survives_the_crash(
    start_issuer_on: StartIssuer, engines: Engines, kafka_server: KafkaServer
) -> None:
    engines = engines | {"AUTHIX_KAFKA": kafka_server.bootstrap}
    issuer = start_issuer_on(engines)
    with issuer.client() as client:
        register(client, "ann@example.com")
        token = login(client, "ann@example.com")
        kafka_server.pause()
        assert client.post("/logout").status_code == 204
    issuer.kill()
    kafka_server.resume()
    issuer.start().ready()
    async with follow(issuer, engines) as verifier:
        await until(verifier.ready, "the verifier is ready", within=60)
        await until(lambda: refuses(verifier, token), "the logout arrives", within=60)


async def test_no_logout_is_lost_when_redis_crashes(
    start_issuer_on: StartIssuer, engines: Engines, redis_server: RedisServer
) -> None:
    engines = engines | {"AUTHIX_SESSIONS_URL": redis_server.url}
    fleet = [start_issuer_on(engines)]

    def redis_crashes() -> Iterator[None]:
        for _ in range(4):
            redis_server.kill()
            redis_server.start()
            yield

    await check_no_logout_is_lost(fleet, Load(fleet, 4), engines, redis_crashes())


def test_readiness_names_the_engine_that_is_away(
    start_issuer_on: StartIssuer, engines: Engines, redis_server: RedisServer, mongodb_server: MongoServer
) -> None:
    engines = engines | {"AUTHIX_SESSIONS_URL": redis_server.url, "AUTHIX_USERS_URL": f"{mongodb_server.url}/authix"}
    issuer = start_issuer_on(engines)
    with issuer.client() as client:
        register(client, "ann@example.com")
        login(client, "ann@example.com")
        for name, server in (("sessions", redis_server), ("users", mongodb_server)):
            server.kill()
            answer = client.get("/readyz")
            assert (answer.status_code, list(answer.json()["engines"])) == (503, [name])
            refused = client.post("/login", json={"email": "ann@example.com", "password": PASSWORD})
            assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
            assert refused.headers["retry-after"]
            server.start()
            issuer.ready()
        # MongoDB away: who is logged in stays so
        mongodb_server.kill()
        assert client.post("/access_token").status_code == 200
        assert client.post("/logout").status_code == 204


def test_a_crashed_worker_is_replaced_and_one_signal_ends_all(start_issuer_on: StartIssuer, engines: Engines) -> None:
    issuer = start_issuer_on(engines, AUTHIX_WORKERS="2", AUTHIX_HASH_THREADS="2")
    assert issuer.process is not None
    pid = issuer.process.pid
    first = children(pid)
    assert len(first) == 2
    os.kill(first[0], signal.SIGKILL)
    eventually(lambda: len(set(children(pid)) - set(first)) == 1, "another worker is started")
    with issuer.client() as client:
        assert client.get("/readyz").status_code == 200
    workers = children(pid)
    assert issuer.stop() == 0
    assert not any(is_alive(worker) for worker in workers)
    assert "Traceback" not in issuer.output()


def test_the_metrics_of_several_workers_are_one_sum_that_outlives_them(
    start_issuer_on: StartIssuer, engines: Engines
) -> None:
    port = free_port()
    issuer = start_issuer_on(engines, AUTHIX_WORKERS="2", AUTHIX_HASH_THREADS="2", AUTHIX_METRICS_PORT=str(port))
    assert issuer.process is not None
    pid = issuer.process.pid

    def told(name: str, labels: str = "") -> float:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).raise_for_status().text
        found = re.findall(rf"^authix_issuer_{name}{re.escape(labels)} (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))

    def alive() -> float:
        return told("requests_total", '{code="ok",method="GET",route="/livez",status="2xx"}')

    def ask(times: int) -> None:
        for _ in range(times):  # each by a connection of its own, so that both workers get some
            httpx.get(f"{issuer.url}/livez", trust_env=False).raise_for_status()

    with issuer.client() as client:
        register(client, "ada@example.com")
        client.post("/logout", headers=bearer(login(client, "ada@example.com")))
    eventually(lambda: told("workers") == 2, "both workers tell")
    ask(20)
    assert alive() == 20
    assert told("hashing_limit") == 2 * (1 + 64)
    assert (told("revocations_total", '{kind="user"}'), told("events_total", LOGOUT)) == (1, 1)
    eventually(lambda: told("relay_leads") == 1, "one of them leads")
    eventually(lambda: told("outbox_entries") == 0, "the logout is published")
    assert (told("relay_lag_seconds"), told("topic_problem")) == (0, 0)
    killed = set(children(pid))
    for worker in killed:
        os.kill(worker, signal.SIGKILL)
    eventually(lambda: len(set(children(pid)) - killed) == 2 and told("workers") == 2, "others take their place")
    assert alive() == 20
    ask(10)
    assert alive() == 30
    assert told("events_total", LOGOUT) == 1


LOGOUT = '{event="logout",outcome="ok",scope="user"}'


def test_no_worker_outlives_its_parent(start_issuer_on: StartIssuer, engines: Engines) -> None:
    issuer = start_issuer_on(engines, AUTHIX_WORKERS="2", AUTHIX_HASH_THREADS="2")
    assert issuer.process is not None
    workers = children(issuer.process.pid)
    issuer.kill()
    eventually(lambda: not any(is_alive(worker) for worker in workers), "the workers end")


def test_the_sidecar_follows_kafka_and_says_so(
    start_issuer_on: StartIssuer, engines: Engines, tmp_path: Path, programs: Callable[[Program], Program]
) -> None:
    issuer = start_issuer_on(engines)
    sidecar = SidecarProgram(
        tmp_path / "sidecar",
        engines["AUTHIX_ISSUER"],
        "http://127.0.0.1:9",
        AUTHIX_KEYS=f"{issuer.url}/.well-known/jwks.json",
        AUTHIX_FEED=f"kafka://{engines['AUTHIX_KAFKA']}/{engines['AUTHIX_TOPIC']},{issuer.url}/revocations",
    )
    programs(sidecar)
    sidecar.start()
    sidecar.ready()
    with issuer.client() as client:
        register(client, "ann@example.com")
        token = login(client, "ann@example.com")
        verify = f"{sidecar.auth_url}/verify"
        assert httpx.get(verify, headers=bearer(token)).status_code == 200
        assert client.post("/logout").status_code == 204
        eventually(lambda: httpx.get(verify, headers=bearer(token)).status_code == 401, "refused")
    assert f"feed kafka://{engines['AUTHIX_KAFKA']}/{engines['AUTHIX_TOPIC']}: connected" in sidecar.output()


def doctor(tmp_path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    program = IssuerProgram(tmp_path / "doctor", **env)
    command = [*program.command[:-1], "doctor"]
    return subprocess.run(command, env=program.env, capture_output=True, text=True, timeout=60, check=False)


def test_the_doctor_finds_nothing_wrong_with_good_engines(tmp_path: Path, engines: Engines) -> None:
    done = doctor(tmp_path, **engines, AUTHIX_HASH_PROFILE="owasp")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert not [line for line in lines if line.startswith("wrong")]
    assert any(line.startswith("ok") and "maxmemory-policy" in line for line in lines)
    assert any("brokers (Kafka): 1; 3 are needed" in line for line in lines)


def test_the_doctor_names_each_thing_that_is_wrong_and_no_secret(tmp_path: Path, engines: Engines) -> None:
    done = doctor(
        tmp_path,
        **engines
        | {
            "AUTHIX_USERS_URL": "mongodb://ann:very-secret@127.0.0.1:1/x",
            "AUTHIX_SESSIONS_URL": "redis://:very-secret@127.0.0.1:1",
            "AUTHIX_KAFKA": "127.0.0.1:1",
            "AUTHIX_ISSUER": "http://auth.example.com",
            "AUTHIX_SECRET": "a" * 40,
        },
    )
    wrong = [line for line in done.stdout.splitlines() if line.startswith("wrong")]
    assert done.returncode == 1
    for name in (
        "AUTHIX_ISSUER",
        "AUTHIX_COOKIE_PROFILE",
        "AUTHIX_HASH_PROFILE",
        "AUTHIX_SECRET",
        "users (MongoDB)",
        "sessions (Redis)",
        "topic (Kafka)",
    ):
        assert any(name in line for line in wrong), name
    assert "very-secret" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_the_doctor_finds_a_redis_that_forgets(tmp_path: Path, engines: Engines, redis_server: RedisServer) -> None:
    redis_server.cli("config", "set", "appendonly", "no")
    redis_server.cli("config", "set", "maxmemory-policy", "allkeys-lru")
    done = doctor(tmp_path, **engines | {"AUTHIX_SESSIONS_URL": redis_server.url})
    assert done.returncode == 1
    assert "append-only file: off" in done.stdout
    assert "allkeys-lru" in done.stdout


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"AUTHIX_USERS_URL": "mongodb://127.0.0.1:1/x"}, "AUTHIX_USERS_URL names a MongoDB that does not answer"),
        ({"AUTHIX_SESSIONS_URL": "redis://127.0.0.1:1"}, "AUTHIX_SESSIONS_URL names a Redis that does not answer"),
        ({"AUTHIX_WORKERS": "2"}, "AUTHIX_WORKERS=2 needs stores that processes share"),
        ({"AUTHIX_REFRESH_GRACE": "4"}, "AUTHIX_REFRESH_GRACE=4 is too short with Redis"),
    ],
)
def test_an_engine_that_is_away_stops_the_start_with_a_sentence(
    tmp_path: Path, engines: Engines, setting: Engines, sentence: str
) -> None:
    given = engines if "AUTHIX_WORKERS" not in setting else {}
    programs = [
        IssuerProgram(
            tmp_path / workers, **given | {"AUTHIX_HASH_THREADS": "2", "AUTHIX_WORKERS": workers} | setting
        ).start()
        for workers in ("1", "2")
    ]
    for program in programs:
        assert program.process is not None
        assert program.process.wait(DEADLINE) == 2
        assert program.output().count(sentence) == 1
        assert "Traceback" not in program.output()
