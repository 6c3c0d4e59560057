"""Each engine down, slow, restarted and full: what is not shown elsewhere of the table in ``docs/failures.md``.

Rule: the programs run with the fault itself. A full disk is a limit on the size of the engine's files, a full memory is
Redis' own limit. All tests on the three engines share them and one issuer; each leaves them as it found them.
"""

from __future__ import annotations

import asyncio
import itertools
import resource
import secrets
import socket
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from authix import Authix, AuthixError
from tests.conftest import StartIssuer, StartSidecar
from tests.programs import DEADLINE, HOST, PASSWORD, IssuerProgram, bearer, eventually, login, register
from tests.servers.kafka import KafkaServer
from tests.servers.mongodb import MongoServer
from tests.servers.redis import RedisServer
from tests.servers.tcp_proxy import TcpProxy

STALE_AFTER = 4
UNAVAILABLE = "503 store_unavailable"
ALL_WORK = {"register": "201", "login": "200", "refresh": "200", "logout": "204"}
TOPIC = "authix.logout"
UNLIMITED = resource.RLIM_INFINITY
_numbers = itertools.count()


class User:
    """One with a session to refresh and a session to log out of."""

    def __init__(self, issuer: IssuerProgram) -> None:
        self.issuer = issuer
        self.email = f"user{next(_numbers)}@example.com"
        self.refreshing, self.leaving = issuer.client(), issuer.client()
        register(self.refreshing, self.email)
        login(self.refreshing, self.email)
        self.token = login(self.leaving, self.email)

    def tries(self) -> dict[str, str]:
        """What each request came to, all asked at once; none takes long."""
        new = {"email": f"new-{secrets.token_hex(4)}-{self.email}", "password": PASSWORD}
        own = {"email": self.email, "password": PASSWORD}
        with self.issuer.client() as stranger, self.issuer.client() as other, ThreadPoolExecutor(4) as pool:
            asked = {
                "register": pool.submit(told, lambda: stranger.post("/register", json=new)),
                "login": pool.submit(told, lambda: other.post("/login", json=own)),
                "refresh": pool.submit(told, lambda: self.refreshing.post("/access_token")),
                "logout": pool.submit(told, lambda: self.leaving.post("/logout")),
            }
            return {what: answer.result() for what, answer in asked.items()}

    def close(self) -> None:
        self.refreshing.close()
        self.leaving.close()


def told(ask: Callable[[], httpx.Response]) -> str:
    """The status, and the code of a refusal."""
    began = time.monotonic()
    answer = ask()
    assert time.monotonic() - began < 12, answer.text
    return f"{answer.status_code} {answer.json()['code']}" if answer.is_error else str(answer.status_code)


def ready_of(issuer: IssuerProgram) -> tuple[int, list[str]]:
    """The status, and what is named."""
    answer = httpx.get(f"{issuer.url}/readyz", timeout=DEADLINE, trust_env=False)
    body = answer.json()
    return answer.status_code, list(body["degraded"] if answer.status_code == 200 else body["engines"])


def keys_of(issuer: IssuerProgram) -> int:
    """How many it tells."""
    answer = httpx.get(f"{issuer.url}/.well-known/jwks.json", timeout=DEADLINE, trust_env=False)
    return len(answer.json()["keys"])


def verdict(auth: Authix, token: str) -> str:
    try:
        auth.verify(token)
    except AuthixError as error:
        return error.code
    return "accepted"


async def soon(condition: Callable[[], bool], what: str, within: float = 40) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.01)


async def heartbeat(auth: Authix) -> None:
    """Wait for one that was sent from now on."""
    now_us = time.time_ns() // 1000
    await soon(lambda: auth.verifier.freshness.complete_until_us > now_us, "the watermark goes on")


@contextmanager
def full_disk(process: subprocess.Popen[bytes] | None) -> Iterator[None]:
    """No file of the process grows."""
    assert process is not None
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, UNLIMITED))
    try:
        yield
    finally:
        if process.poll() is None:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (UNLIMITED, UNLIMITED))


class Fleet(NamedTuple):
    issuer: IssuerProgram
    mongodb: MongoServer
    redis: RedisServer
    kafka: KafkaServer
    to_redis: TcpProxy
    to_kafka: TcpProxy

    def follow(self, *feeds: str) -> Authix:
        """A verifier on these feeds, of ``kafka`` and ``http``."""
        urls = {"kafka": f"kafka://{HOST}:{self.to_kafka.port}/{TOPIC}", "http": f"{self.issuer.url}/revocations"}
        feed = ",".join(urls[name] for name in feeds)
        return Authix(issuer=self.issuer.url, audience="tests", feed=feed, stale_after=STALE_AFTER)


@pytest.fixture(scope="module")
def running(engines_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("failures")
    with ExitStack() as stack:
        kafka = KafkaServer(folder / "kafka")
        proxy = stack.enter_context(TcpProxy(kafka.proxied_port))
        kafka.proxy_port = proxy.port
        stack.callback(kafka.kill)
        kafka.launch()
        redis = stack.enter_context(RedisServer(folder / "redis"))
        to_redis = stack.enter_context(TcpProxy(redis.port))
        mongodb = stack.enter_context(MongoServer(folder / "mongodb"))
        kafka.wait()
        issuer = IssuerProgram(
            folder / "issuer",
            AUTHIX_USERS_URL=f"{mongodb.url}/authix",
            AUTHIX_SESSIONS_URL=f"redis://{HOST}:{to_redis.port}/0",
            AUTHIX_KAFKA=f"{HOST}:{proxy.port}",
            AUTHIX_TOPIC=TOPIC,
            AUTHIX_SECRET=secrets.token_urlsafe(32),
            # all that counts is on
            AUTHIX_LIMIT_LOGINS="1000/minute",
            AUTHIX_LIMIT_REGISTRATIONS="1000/minute",
            AUTHIX_LOGIN_MAX_DELAY="900",
        )
        stack.callback(issuer.kill)
        issuer.start().ready()
        yield Fleet(issuer, mongodb, redis, kafka, to_redis, proxy)


@pytest.fixture
def fleet(running: Fleet) -> Iterator[Fleet]:
    """An issuer on MongoDB, Redis and Kafka, all of them well."""
    before = len(running.issuer.output())
    yield running
    eventually(lambda: ready_of(running.issuer) == (200, []), "all is well again", 40)
    said = running.issuer.output()[before:]
    assert "Traceback" not in said, said
    assert "a request failed" not in said, said


@pytest.fixture
def user(fleet: Fleet) -> Iterator[User]:
    with closing(User(fleet.issuer)) as one:
        yield one


async def test_a_full_redis_opens_no_session_and_all_else_goes_on(fleet: Fleet, user: User) -> None:
    async with fleet.follow("kafka") as kafka, fleet.follow("http") as http:
        await soon(lambda: kafka.ready() and http.ready(), "both are ready")
        fleet.redis.cli("config", "set", "maxmemory", "1")
        try:
            tried = await asyncio.to_thread(user.tries)
            assert tried == ALL_WORK | {"login": UNAVAILABLE}
            assert ready_of(fleet.issuer) == (200, [])
            for verifier in (kafka, http):
                await soon(lambda: verdict(verifier, user.token) == "token_revoked", "the logout is heard")  # noqa: B023 - used at once
                await heartbeat(verifier)
            async with fleet.follow("kafka") as late, fleet.follow("http") as another:
                for verifier in (late, another):
                    await soon(verifier.ready, "who starts now is ready")
                    assert verdict(verifier, user.token) == "token_revoked"
        finally:
            fleet.redis.cli("config", "set", "maxmemory", "0")
        assert user.tries()["login"] == "200"


async def test_without_redis_verifiers_grow_stale_and_are_fresh_again_when_it_is_back(fleet: Fleet, user: User) -> None:
    async with fleet.follow("kafka") as kafka, fleet.follow("http") as http:
        await soon(lambda: kafka.ready() and http.ready(), "both are ready")
        fleet.redis.kill()
        try:
            tried = await asyncio.to_thread(user.tries)
            assert tried == dict.fromkeys(ALL_WORK, UNAVAILABLE) | {"register": "201"}
            assert ready_of(fleet.issuer) == (503, ["sessions"])
            async with fleet.follow("kafka") as late, fleet.follow("http") as another:
                for verifier in (kafka, http):
                    await soon(lambda: verdict(verifier, user.token) == "feed_stale", "it is stale")  # noqa: B023 - used at once
                for verifier in (late, another):
                    assert "feed_replaying" in verifier.problems()
                    assert verdict(verifier, user.token) == "not_ready"
        finally:
            await asyncio.to_thread(fleet.redis.start)
        for verifier in (kafka, http):
            await soon(lambda: verdict(verifier, user.token) == "accepted", "it is fresh again")  # noqa: B023 - used at once
        assert user.tries() == ALL_WORK
        for verifier in (kafka, http):
            await soon(lambda: verdict(verifier, user.token) == "token_revoked", "the logout is heard")  # noqa: B023 - used at once


async def test_a_slow_redis_makes_answers_late_and_logouts_heard_later(fleet: Fleet, user: User) -> None:
    async with fleet.follow("kafka") as kafka, fleet.follow("http") as http:
        await soon(lambda: kafka.ready() and http.ready(), "both are ready")
        fleet.to_redis.delay(0.1)  # each way
        try:
            async with fleet.follow("kafka") as late, fleet.follow("http") as another:
                tried = await asyncio.to_thread(user.tries)
                assert tried == ALL_WORK
                for verifier in (kafka, http, late, another):
                    await soon(verifier.ready, "it is ready")
                    await soon(lambda: verdict(verifier, user.token) == "token_revoked", "the logout is heard")  # noqa: B023 - used at once
                    await heartbeat(verifier)
                    assert verifier.ready()
        finally:
            fleet.to_redis.heal()


def test_a_full_mongodb_takes_no_account_and_all_else_goes_on(fleet: Fleet, user: User) -> None:
    new = {"email": f"new-{user.email}", "password": PASSWORD}
    with full_disk(fleet.mongodb.process), fleet.issuer.client() as client:
        assert user.tries() == ALL_WORK | {"register": UNAVAILABLE}
        assert told(lambda: client.post("/register", json=new)) == UNAVAILABLE
        assert ready_of(fleet.issuer) == (200, [])
    with fleet.issuer.client() as client:
        assert told(lambda: client.post("/login", json=new)) == "401 credentials_wrong"
        assert told(lambda: client.post("/register", json=new)) == "201"
        assert told(lambda: client.post("/login", json=new)) == "200"


async def test_verifiers_do_not_notice_that_mongodb_is_away_and_accounts_outlive_its_crash(
    fleet: Fleet, user: User
) -> None:
    fleet.mongodb.kill()
    try:
        async with fleet.follow("kafka") as late, fleet.follow("http") as another:
            for verifier in (late, another):
                await soon(verifier.ready, "who starts now is ready")
                assert verdict(verifier, user.token) == "accepted"
            tried = await asyncio.to_thread(user.tries)
            assert tried == ALL_WORK | {"register": UNAVAILABLE, "login": UNAVAILABLE}
            for verifier in (late, another):
                await soon(lambda: verdict(verifier, user.token) == "token_revoked", "the logout is heard")  # noqa: B023 - used at once
                await heartbeat(verifier)
    finally:
        fleet.mongodb.start()
    eventually(lambda: user.tries()["login"] == "200", "the account is there")


async def test_a_slow_kafka_makes_logouts_heard_later_and_no_request_slower(fleet: Fleet, user: User) -> None:
    delay = 0.2  # each way
    async with fleet.follow("kafka") as verifier:
        await soon(verifier.ready, "it is ready")
        assert verdict(verifier, user.token) == "accepted"
        fleet.to_kafka.delay(delay)
        try:
            began = time.monotonic()
            tried = await asyncio.to_thread(user.tries)
            assert tried == ALL_WORK
            assert time.monotonic() - began < 1, "none waits for Kafka"
            await soon(lambda: verdict(verifier, user.token) == "token_revoked", "the logout is heard")
            assert time.monotonic() - began < STALE_AFTER
            await heartbeat(verifier)
            assert verifier.ready()
            assert ready_of(fleet.issuer) == (200, [])
            async with fleet.follow("kafka") as late:
                await soon(late.ready, "who starts now is ready")
                assert verdict(late, user.token) == "token_revoked"
        finally:
            fleet.to_kafka.heal()


async def test_a_kafka_whose_disk_is_full_costs_no_logout(fleet: Fleet, user: User) -> None:
    """It ends by itself when it can't write, so what follows is as when it is down; until somebody makes room."""
    async with fleet.follow("kafka", "http") as verifier:
        await soon(verifier.ready, "it is ready")
        with full_disk(fleet.kafka.process):
            tried = await asyncio.to_thread(user.tries)
            assert tried == ALL_WORK
            await soon(lambda: ready_of(fleet.issuer) == (200, ["topic"]), "the issuer says it")
            await soon(lambda: verdict(verifier, user.token) == "token_revoked", "the logout is heard by HTTP")
            async with fleet.follow("kafka", "http") as late:
                await soon(late.ready, "who starts now is ready")
                assert verdict(late, user.token) == "token_revoked"
        await asyncio.to_thread(fleet.kafka.kill)
        await asyncio.to_thread(fleet.kafka.start)
        async with fleet.follow("kafka") as late:
            await soon(late.ready, "it is ready")
            assert verdict(late, user.token) == "token_revoked"


@pytest.fixture
def embedded(issuer: IssuerProgram) -> Iterator[User]:
    """A user of an issuer on SQLite."""
    with closing(User(issuer)) as one:
        yield one


async def test_a_full_disk_under_sqlite_is_told_and_loses_nothing(issuer: IssuerProgram, embedded: User) -> None:
    async with Authix(issuer=issuer.url, audience="tests", stale_after=STALE_AFTER) as verifier:
        await verifier.wait_ready()
        with full_disk(issuer.process):
            tried = await asyncio.to_thread(embedded.tries)
            assert tried == dict.fromkeys(ALL_WORK, UNAVAILABLE)
            assert ready_of(issuer) == (503, ["sessions"])
            assert await asyncio.to_thread(keys_of, issuer)
            assert verdict(verifier, embedded.token) == "accepted"
            await soon(lambda: verdict(verifier, embedded.token) == "feed_stale", "it is stale")
            async with Authix(issuer=issuer.url, audience="tests") as late:
                await soon(lambda: late.problems() == ["feed_replaying"], "who starts now is not ready")
        await soon(lambda: verdict(verifier, embedded.token) == "accepted", "it is fresh again")
        assert embedded.tries() == ALL_WORK
        await soon(lambda: verdict(verifier, embedded.token) == "token_revoked", "the logout is heard")
    assert "Traceback" not in issuer.output()


@contextmanager
def locked(issuer: IssuerProgram) -> Iterator[None]:
    """Both databases take nothing that is to be written: somebody else holds them."""
    with ExitStack() as stack:
        paths = list(Path(issuer.env["AUTHIX_DATA_DIR"]).glob("*.db"))
        assert len(paths) == 2
        for path in paths:
            stack.enter_context(closing(sqlite3.connect(path))).execute("BEGIN IMMEDIATE")
        yield


async def test_a_slow_disk_under_sqlite_makes_answers_late_and_none_fail(issuer: IssuerProgram, embedded: User) -> None:
    async with Authix(issuer=issuer.url, audience="tests", stale_after=STALE_AFTER) as verifier:
        await verifier.wait_ready()
        with locked(issuer):
            tried = asyncio.create_task(asyncio.to_thread(embedded.tries))
            await asyncio.sleep(1.5)  # how slow it is
            assert not tried.done()
            assert verdict(verifier, embedded.token) == "accepted"
        assert await tried == ALL_WORK
        await soon(lambda: verdict(verifier, embedded.token) == "token_revoked", "the logout is heard")
        assert verifier.ready()
    assert "Traceback" not in issuer.output()


def test_a_disk_under_sqlite_that_takes_nothing_is_told_in_time(issuer: IssuerProgram, embedded: User) -> None:
    with locked(issuer):
        assert embedded.tries() == dict.fromkeys(ALL_WORK, UNAVAILABLE)
    assert embedded.tries() == ALL_WORK
    assert "Traceback" not in issuer.output()


async def test_a_slow_issuer_makes_no_verifier_slow(issuer: IssuerProgram, embedded: User) -> None:
    with TcpProxy(issuer.port) as proxy:
        proxy.delay(0.3)  # each way
        url = f"http://{HOST}:{proxy.port}"
        keys, feed = f"{url}/.well-known/jwks.json", f"{url}/revocations"
        async with Authix(
            issuer=issuer.url, audience="tests", keys=keys, feed=feed, stale_after=STALE_AFTER
        ) as verifier:
            await soon(verifier.ready, "who starts now is ready")
            began = time.monotonic()
            assert verdict(verifier, embedded.token) == "accepted"
            assert time.monotonic() - began < 0.3
            assert embedded.tries() == ALL_WORK
            await soon(lambda: verdict(verifier, embedded.token) == "token_revoked", "the logout is heard")
            await heartbeat(verifier)
            assert verifier.ready()


async def test_an_issuer_with_more_passwords_than_it_can_hash_refuses_those_and_verifiers_do_not_notice(
    start_issuer: StartIssuer,
) -> None:
    issuer = start_issuer(AUTHIX_HASH_PROFILE="rfc9106-low-memory", AUTHIX_HASH_THREADS="1", AUTHIX_HASH_QUEUE="1")
    refused: Counter[str] = Counter()
    ending = threading.Event()

    def storm(path: str) -> None:
        with issuer.client() as client:
            while not ending.wait(0.02):
                new = {"email": f"{secrets.token_hex(8)}@example.com", "password": PASSWORD}
                if (answer := client.post(path, json=new)).status_code == 503:
                    assert answer.json()["code"] == "overloaded"
                    refused[path] += 1

    with closing(User(issuer)) as user, ThreadPoolExecutor(8) as pool:
        storms = [pool.submit(storm, path) for path in ("/register", "/login") * 4]
        try:
            await soon(lambda: len(refused) == 2, "registrations and logins are refused")
            before = refused.total()
            async with Authix(issuer=issuer.url, audience="tests", stale_after=STALE_AFTER) as late:
                await soon(late.ready, "who starts now is ready")
                assert verdict(late, user.token) == "accepted"
                assert await asyncio.to_thread(told, lambda: user.refreshing.post("/access_token")) == "200"
                assert await asyncio.to_thread(told, lambda: user.leaving.post("/logout")) == "204"
                await soon(lambda: verdict(late, user.token) == "token_revoked", "the logout is heard")
                assert ready_of(issuer) == (200, [])
            await soon(lambda: refused.total() > before, "the storm went on meanwhile")
        finally:
            ending.set()
        for one in storms:
            one.result()


def test_a_full_upstream_is_told_in_time_and_served_again_when_it_has_room(
    issuer: IssuerProgram, embedded: User, start_sidecar: StartSidecar
) -> None:
    """Its queue of connections is full: what else comes is not even refused."""
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"
    with ExitStack() as stack:
        upstream = stack.enter_context(socket.create_server((HOST, 0), backlog=0))
        place = upstream.getsockname()
        sidecar = start_sidecar(issuer.url, f"http://{HOST}:{place[1]}").ready()
        request = f"GET /events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {embedded.token}\r\n\r\n"
        client = stack.enter_context(socket.create_connection((HOST, sidecar.proxy_port), DEADLINE))
        client.sendall(request.encode())
        stream = stack.enter_context(upstream.accept()[0])
        stream.recv(65536)
        stream.sendall(head.encode())
        events = stack.enter_context(client.makefile("r"))
        assert any("data: 1" in line for line in events)

        waiting = stack.enter_context(socket.create_connection(place))
        ask = partial(
            httpx.get, f"{sidecar.proxy_url}/", headers=bearer(embedded.token), timeout=DEADLINE, trust_env=False
        )
        assert told(ask) == "503 upstream_unreachable"
        stream.sendall(b"data: 2\n\n")
        assert any("data: 2" in line for line in events), "a stream goes on"
        assert httpx.get(f"{sidecar.auth_url}/readyz", timeout=DEADLINE, trust_env=False).status_code == 200
        waiting.close()

        def serve() -> None:
            while True:
                with upstream.accept()[0] as connection:
                    if connection.recv(65536):
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                        return

        serving = threading.Thread(target=serve)
        serving.start()
        eventually(lambda: told(ask) == "200", "the request is served", 30)
        serving.join()
