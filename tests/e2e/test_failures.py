"""Each engine down, slow, restarted and full: what is not shown elsewhere of the table in ``docs/failures.md``.

Rule: the programs run with the fault itself. A full disk is a limit on the size of the engine's files, a full memory is
Redis' own limit. Within each fault every request is made, verifiers run and others start; what is to work is asserted
as well as what is not. All tests on the three engines share them and one issuer; each leaves them as it found them.
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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, contextmanager
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
from tests.servers.server import Server
from tests.servers.tcp_proxy import TcpProxy

STALE_AFTER = 4
UNAVAILABLE = "503 store_unavailable"
ALL_WORK = {"register": "201", "login": "200", "refresh": "200", "logout": "204"}
REGISTRATIONS = 8
"""An hour from one address."""
TOPIC = "authix.logout"
UNLIMITED = resource.RLIM_INFINITY
_numbers = itertools.count(1)


class Pair:
    """One who leaves and one who stays, both logged in, at an address of their own."""

    def __init__(self, url: str) -> None:
        self.url = url
        number = next(_numbers)
        self._address = f"127.1.{number // 250}.{number % 250 + 1}"
        self.newcomer: dict[str, str] = {}
        """Who was the last to register."""
        self.staying = {"email": f"stays{number}@example.com", "password": PASSWORD}
        self.stays, self.leaves = self.client(), self.client()
        for client, email in ((self.stays, self.staying["email"]), (self.leaves, f"leaves{number}@example.com")):
            register(client, email)
        self.stayed, self.left = login(self.stays, self.staying["email"]), login(self.leaves, email)

    def client(self) -> httpx.Client:
        transport = httpx.HTTPTransport(local_address=self._address)
        return httpx.Client(base_url=self.url, timeout=DEADLINE, transport=transport)

    def tries(self) -> dict[str, str]:
        """What each request came to, all asked at once; none takes long."""
        with self.client() as another, ThreadPoolExecutor(4) as pool:
            asked = {
                "register": pool.submit(self.register),
                "login": pool.submit(told, lambda: another.post("/login", json=self.staying)),
                "refresh": pool.submit(self.refresh),
                "logout": pool.submit(told, lambda: self.leaves.post("/logout")),
            }
            return {what: answer.result() for what, answer in asked.items()}

    def register(self) -> str:
        self.newcomer = {"email": f"new-{secrets.token_hex(8)}@example.com", "password": PASSWORD}
        with self.client() as client:
            return told(lambda: client.post("/register", json=self.newcomer))

    def log_newcomer_in(self) -> str:
        with self.client() as client:
            return told(lambda: client.post("/login", json=self.newcomer))

    def refresh(self) -> str:
        return told(lambda: self.stays.post("/access_token"))

    def close(self) -> None:
        self.stays.close()
        self.leaves.close()


def told(ask: Callable[[], httpx.Response]) -> str:
    """The status, and the code of a refusal."""
    began = time.monotonic()
    try:
        answer = ask()
    except httpx.TransportError:
        return "no answer"
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


async def hear(verifiers: Sequence[Authix], pair: Pair) -> None:
    """All of them learn of the logout, go on to accept who stays, and hear a heartbeat that was sent from now on."""
    now_us = time.time_ns() // 1000
    for verifier in verifiers:
        await soon(lambda: verdict(verifier, pair.left) == "token_revoked", "the logout is heard")  # noqa: B023 - used at once
    for verifier in verifiers:
        await soon(lambda: verifier.verifier.freshness.complete_until_us > now_us, "the watermark goes on")  # noqa: B023 - used at once
        assert verifier.problems() == []
        assert verdict(verifier, pair.stayed) == "accepted"


async def know(verifiers: Sequence[Authix], pair: Pair) -> None:
    """Once they are ready, they know of the logout, and accept who stays."""
    for verifier in verifiers:
        await soon(verifier.ready, "it is ready")
        assert verdict(verifier, pair.left) == "token_revoked"
        assert verdict(verifier, pair.stayed) == "accepted"


@asynccontextmanager
async def started(*verifiers: Authix) -> AsyncIterator[Sequence[Authix]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(verifier) for verifier in verifiers]


async def all_works(pair: Pair, running: Sequence[Authix], *starting: Authix, **refused: str) -> None:
    """The requests come to what they always do, but for those refused; so does who verifies or starts to, without."""
    assert {verdict(verifier, token) for verifier in running for token in (pair.left, pair.stayed)} == {"accepted"}
    assert await asyncio.to_thread(pair.tries) == ALL_WORK | refused
    async with started(*starting) as late:
        await know(late, pair)
        await hear(running, pair)


@asynccontextmanager
async def all_the_while(*asks: Callable[[], Awaitable[str]]) -> AsyncIterator[list[set[str]]]:
    """What each of them says, asked again and again until the block ends."""
    said: list[set[str]] = [set() for _ in asks]
    ending = asyncio.Event()

    async def go_on() -> None:
        while not ending.is_set():
            for ask, answers in zip(asks, said, strict=True):
                answers.add(await ask())
            await asyncio.sleep(0.2)  # so that the asking costs little

    going_on = asyncio.create_task(go_on())
    try:
        yield said
    finally:
        ending.set()
        await going_on


async def judge(verifiers: Sequence[Authix], token: str) -> str:
    return " ".join(sorted({verdict(verifier, token) for verifier in verifiers}))


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


@asynccontextmanager
async def away(server: Server, proxy: TcpProxy, fault: str) -> AsyncIterator[None]:
    """``down``, ``hanging``, or ``full``: a Kafka whose disk is full ends by itself, until somebody makes room."""
    try:
        match fault:
            case "down":
                server.kill()
                yield
            case "hanging":
                proxy.stall()
                yield
            case "full":
                with full_disk(server.process):
                    yield
    finally:
        if fault == "hanging":
            proxy.heal()
        else:
            server.kill()
            await asyncio.to_thread(server.start)


NewPair = Callable[[], Pair]


class Fleet(NamedTuple):
    issuer: IssuerProgram
    mongodb: MongoServer
    redis: RedisServer
    kafka: KafkaServer
    to_mongodb: TcpProxy
    to_redis: TcpProxy
    to_kafka: TcpProxy

    def follow(self, *feeds: str) -> Authix:
        """A verifier on these feeds, of ``kafka`` and ``http``."""
        urls = {"kafka": f"kafka://{HOST}:{self.to_kafka.port}/{TOPIC}", "http": f"{self.issuer.url}/revocations"}
        feed = ",".join(urls[name] for name in feeds)
        return Authix(issuer=self.issuer.url, audience="tests", feed=feed, stale_after=STALE_AFTER)

    def of_each_feed(self) -> tuple[Authix, Authix]:
        return self.follow("kafka"), self.follow("http")

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[Sequence[Authix]]:
        """By a verifier on each feed, both ready."""
        async with started(*self.of_each_feed()) as running:
            await soon(lambda: all(verifier.ready() for verifier in running), "both are ready")
            yield running


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
        to_mongodb = stack.enter_context(TcpProxy(mongodb.port))
        kafka.wait()
        issuer = IssuerProgram(
            folder / "issuer",
            AUTHIX_USERS_URL=f"mongodb://{HOST}:{to_mongodb.port}/authix",
            AUTHIX_SESSIONS_URL=f"redis://{HOST}:{to_redis.port}/0",
            AUTHIX_KAFKA=f"{HOST}:{proxy.port}",
            AUTHIX_TOPIC=TOPIC,
            AUTHIX_SECRET=secrets.token_urlsafe(32),
            # all that counts is on
            AUTHIX_LIMIT_LOGINS="1000/minute",
            AUTHIX_LIMIT_REGISTRATIONS=f"{REGISTRATIONS}/hour",
            AUTHIX_LOGIN_MAX_DELAY="900",
        )
        stack.callback(issuer.kill)
        issuer.start().ready()
        yield Fleet(issuer, mongodb, redis, kafka, to_mongodb, to_redis, proxy)


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
def new_pair(fleet: Fleet) -> Iterator[NewPair]:
    """``new_pair()``: two users of the fleet."""
    yield from pairs_at(fleet.issuer)


def pairs_at(issuer: IssuerProgram) -> Iterator[NewPair]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(Pair(issuer.url)))


def register_beyond_the_limit(pair: Pair) -> set[str]:
    return {pair.register() for _ in range(REGISTRATIONS + 1)}


async def test_a_full_redis_opens_no_session_and_all_else_goes_on(fleet: Fleet, new_pair: NewPair) -> None:
    pair = new_pair()
    async with fleet.followed() as running:
        fleet.redis.cli("config", "set", "maxmemory", "1")
        try:
            await all_works(pair, running, *fleet.of_each_feed(), login=UNAVAILABLE)
            assert ready_of(fleet.issuer) == (200, [])
            assert await asyncio.to_thread(register_beyond_the_limit, pair) == {"201"}
        finally:
            fleet.redis.cli("config", "set", "maxmemory", "0")
        await all_works(new_pair(), running)


@pytest.mark.parametrize("fault", ["down", "hanging"])
async def test_without_redis_verifiers_grow_stale_and_are_fresh_again_when_it_is_back(
    fleet: Fleet, new_pair: NewPair, fault: str
) -> None:
    before, pair, after = new_pair(), new_pair(), new_pair()
    async with fleet.followed() as running, AsyncExitStack() as stack:
        await all_works(before, running)
        async with away(fleet.redis, fleet.to_redis, fault):
            assert await judge(running, pair.stayed) == "accepted"
            assert await asyncio.to_thread(pair.tries) == dict.fromkeys(ALL_WORK, UNAVAILABLE) | {"register": "201"}
            assert ready_of(fleet.issuer) == (503, ["sessions"])
            if fault == "down":  # who hangs is waited for at each
                assert await asyncio.to_thread(register_beyond_the_limit, pair) == {"201"}
            late = await stack.enter_async_context(started(*fleet.of_each_feed()))
            for verifier in running:
                await soon(lambda: verdict(verifier, pair.stayed) == "feed_stale", "it is stale")  # noqa: B023 - used at once
                assert verdict(verifier, before.left) == "token_revoked"
            for verifier in late:
                assert "feed_replaying" in verifier.problems()
                assert verdict(verifier, pair.stayed) == "not_ready"
        await know((*running, *late), before)
        # the answer was 503: the logout has happened or not, and may be repeated
        assert told(lambda: pair.leaves.post("/logout")) == "204"
        await hear((*running, *late), pair)
        await all_works(after, (*running, *late))


async def test_a_restart_of_redis_loses_no_logout_and_is_over_before_verifiers_are_stale(
    fleet: Fleet, new_pair: NewPair
) -> None:
    before, pair = new_pair(), new_pair()

    async with fleet.followed() as running:
        assert await asyncio.to_thread(before.tries) == ALL_WORK
        async with all_the_while(partial(judge, running, pair.stayed)) as said:
            fleet.redis.kill()
            async with started(*fleet.of_each_feed()) as late:
                assert [verdict(verifier, pair.stayed) for verifier in late] == ["not_ready"] * 2
                assert await asyncio.to_thread(pair.register) == "201"
                await asyncio.to_thread(fleet.redis.start)
                await know((*running, *late), before)
                await all_works(pair, (*running, *late))
        assert said == [{"accepted"}]


async def test_a_slow_redis_makes_answers_late_and_logouts_heard_later(fleet: Fleet, new_pair: NewPair) -> None:
    pair = new_pair()
    async with fleet.followed() as running:
        fleet.to_redis.delay(0.1)  # each way
        try:
            await all_works(pair, running, *fleet.of_each_feed())
        finally:
            fleet.to_redis.heal()


async def test_a_full_mongodb_takes_no_account_and_all_else_goes_on(fleet: Fleet, new_pair: NewPair) -> None:
    pair = new_pair()
    async with fleet.followed() as running:
        with full_disk(fleet.mongodb.process):
            await all_works(pair, running, *fleet.of_each_feed(), register=UNAVAILABLE)
            assert ready_of(fleet.issuer) == (200, [])
        assert pair.log_newcomer_in() == "401 credentials_wrong"
        assert pair.register() == "201"
        assert pair.log_newcomer_in() == "200"


async def test_verifiers_do_not_notice_that_mongodb_is_away_and_accounts_outlive_its_crash(
    fleet: Fleet, new_pair: NewPair
) -> None:
    pair, after, others = new_pair(), new_pair(), new_pair()
    assert others.register() == "201"
    async with fleet.followed() as running:
        asked = partial(asyncio.to_thread, others.refresh), partial(judge, running, others.stayed)
        async with all_the_while(*asked) as said:
            fleet.mongodb.kill()
            try:
                refused = {"register": UNAVAILABLE, "login": UNAVAILABLE}
                await all_works(pair, running, *fleet.of_each_feed(), **refused)
            finally:
                await asyncio.to_thread(fleet.mongodb.start)
            await soon(lambda: others.log_newcomer_in() == "200", "the account is there")
            await all_works(after, running, *fleet.of_each_feed())
        assert said == [{"200"}, {"accepted"}]


async def test_verifiers_do_not_notice_that_mongodb_is_slow(fleet: Fleet, new_pair: NewPair) -> None:
    slow, hanging = new_pair(), new_pair()
    async with fleet.followed() as running:
        try:
            fleet.to_mongodb.delay(0.1)  # each way
            await all_works(slow, running, *fleet.of_each_feed())
            fleet.to_mongodb.stall()
            refused = {"register": UNAVAILABLE, "login": UNAVAILABLE}
            await all_works(hanging, running, *fleet.of_each_feed(), **refused)
        finally:
            fleet.to_mongodb.heal()


async def test_a_slow_kafka_makes_logouts_heard_later_and_no_request_slower(fleet: Fleet, new_pair: NewPair) -> None:
    delay = 0.2  # each way
    pair = new_pair()
    async with fleet.follow("kafka") as verifier:
        await soon(verifier.ready, "it is ready")
        assert verdict(verifier, pair.left) == "accepted"
        fleet.to_kafka.delay(delay)
        try:
            began = time.monotonic()
            assert await asyncio.to_thread(pair.tries) == ALL_WORK
            assert time.monotonic() - began < 1, "none waits for Kafka"
            await soon(lambda: verdict(verifier, pair.left) == "token_revoked", "the logout is heard")
            assert time.monotonic() - began < STALE_AFTER
            await hear([verifier], pair)
            assert ready_of(fleet.issuer) == (200, [])
            async with started(fleet.follow("kafka")) as late:
                await know(late, pair)
        finally:
            fleet.to_kafka.heal()


@pytest.mark.parametrize("fault", ["down", "hanging", "full"])
async def test_a_kafka_that_is_away_and_comes_back_fails_no_request_and_costs_no_logout(
    fleet: Fleet, new_pair: NewPair, fault: str
) -> None:
    pair, after, others = new_pair(), new_pair(), new_pair()
    async with started(fleet.follow("kafka", "http"), fleet.follow("kafka")) as running:
        with_http, alone = running
        await soon(lambda: with_http.ready() and alone.ready(), "both are ready")
        async with AsyncExitStack() as stack:
            said = await stack.enter_async_context(all_the_while(partial(asyncio.to_thread, others.refresh)))
            async with away(fleet.kafka, fleet.to_kafka, fault):
                assert await asyncio.to_thread(pair.tries) == ALL_WORK
                await soon(lambda: ready_of(fleet.issuer) == (200, ["topic"]), "the issuer says it")
                await hear([with_http], pair)
                late = await stack.enter_async_context(started(fleet.follow("kafka", "http"), fleet.follow("kafka")))
                await know(late[:1], pair)
                await soon(lambda: verdict(alone, pair.stayed) == "feed_stale", "it is stale")
                assert late[1].problems() == ["feed_replaying"]
            await know((*running, *late), pair)
            await all_works(after, (*running, *late), fleet.follow("kafka"))
        assert said == [{"200"}]


@pytest.fixture
def embedded(issuer: IssuerProgram) -> Iterator[NewPair]:
    """``embedded()``: two users of an issuer on SQLite."""
    yield from pairs_at(issuer)
    assert "Traceback" not in issuer.output()


def follower(issuer: IssuerProgram) -> Authix:
    return Authix(issuer=issuer.url, audience="tests", stale_after=STALE_AFTER)


async def grow_stale(issuer: IssuerProgram, verifier: Authix, pair: Pair) -> None:
    """The verifier, and who starts now is not ready."""
    await soon(lambda: verdict(verifier, pair.stayed) == "feed_stale", "it is stale")
    async with follower(issuer) as late:
        await soon(lambda: late.problems() == ["feed_replaying"], "who starts now is not ready")


async def test_a_full_disk_under_sqlite_is_told_and_loses_nothing(issuer: IssuerProgram, embedded: NewPair) -> None:
    pair = embedded()
    async with follower(issuer) as verifier:
        await verifier.wait_ready()
        with full_disk(issuer.process):
            assert await asyncio.to_thread(pair.tries) == dict.fromkeys(ALL_WORK, UNAVAILABLE)
            assert ready_of(issuer) == (503, ["sessions"])
            assert await asyncio.to_thread(keys_of, issuer)
            assert verdict(verifier, pair.left) == "accepted"
            await grow_stale(issuer, verifier, pair)
        await soon(verifier.ready, "it is fresh again")
        assert pair.log_newcomer_in() == "401 credentials_wrong"
        assert told(lambda: pair.leaves.post("/access_token")) == "200"
        await all_works(pair, [verifier])


@contextmanager
def locked(issuer: IssuerProgram) -> Iterator[None]:
    """Both databases take nothing that is to be written: somebody else holds them."""
    with ExitStack() as stack:
        paths = list(Path(issuer.env["AUTHIX_DATA_DIR"]).glob("*.db"))
        assert len(paths) == 2
        for path in paths:
            stack.enter_context(closing(sqlite3.connect(path))).execute("BEGIN IMMEDIATE")
        yield


async def test_a_slow_disk_under_sqlite_makes_answers_late_and_none_fail(
    issuer: IssuerProgram, embedded: NewPair
) -> None:
    pair = embedded()
    async with follower(issuer) as verifier, AsyncExitStack() as stack:
        await verifier.wait_ready()
        with locked(issuer):
            tried = asyncio.create_task(asyncio.to_thread(pair.tries))
            late = await stack.enter_async_context(follower(issuer))
            await asyncio.sleep(1.5)  # how slow it is
            assert not tried.done()
            assert verdict(verifier, pair.left) == "accepted"
        assert await tried == ALL_WORK
        await soon(late.ready, "who started meanwhile is ready")
        await hear([verifier, late], pair)


async def test_a_disk_under_sqlite_that_takes_nothing_is_told_in_time(issuer: IssuerProgram, embedded: NewPair) -> None:
    pair = embedded()
    async with follower(issuer) as verifier:
        await verifier.wait_ready()
        with locked(issuer):
            assert verdict(verifier, pair.left) == "accepted"
            assert await asyncio.to_thread(pair.tries) == dict.fromkeys(ALL_WORK, UNAVAILABLE)
            await grow_stale(issuer, verifier, pair)
        await soon(verifier.ready, "it is fresh again")
        await all_works(pair, [verifier])


async def test_a_restart_of_the_issuer_loses_nothing_and_is_over_before_verifiers_are_stale(
    issuer: IssuerProgram, embedded: NewPair
) -> None:
    before, pair = embedded(), embedded()
    async with follower(issuer) as verifier:
        await verifier.wait_ready()
        assert await asyncio.to_thread(before.tries) == ALL_WORK
        async with all_the_while(partial(judge, [verifier], pair.stayed)) as said:
            issuer.kill()
            assert await asyncio.to_thread(pair.tries) == dict.fromkeys(ALL_WORK, "no answer")
            async with follower(issuer) as late:
                assert late.problems() == ["keys_missing", "feed_replaying"]
                await asyncio.to_thread(lambda: issuer.start().ready())
                await know([verifier, late], before)
                assert before.log_newcomer_in() == "200"
                await all_works(pair, [verifier, late])
        assert said == [{"accepted"}]


async def test_a_slow_issuer_makes_no_verifier_slow(issuer: IssuerProgram, embedded: NewPair) -> None:
    with TcpProxy(issuer.port) as proxy:
        url = f"http://{HOST}:{proxy.port}"
        keys, feed = f"{url}/.well-known/jwks.json", f"{url}/revocations"
        services = [
            Authix(issuer=issuer.url, audience="tests", keys=keys, feed=feed, stale_after=STALE_AFTER) for _ in range(2)
        ]
        with closing(Pair(url)) as pair:
            proxy.delay(0.3)  # each way
            async with services[0] as verifier:
                await soon(verifier.ready, "who starts now is ready")
                began = time.monotonic()
                assert verdict(verifier, pair.left) == "accepted"
                assert time.monotonic() - began < 0.3
                assert await asyncio.to_thread(pair.tries) == ALL_WORK
                assert time.monotonic() - began > 0.6
                await hear([verifier], pair)
                proxy.stall()
                async with services[1] as late:
                    assert verdict(verifier, pair.stayed) == "accepted"
                    await soon(lambda: verdict(verifier, pair.stayed) == "feed_stale", "as when it is down")
                    assert late.problems() == ["keys_missing", "feed_replaying"]
                    proxy.heal()
                    await know([verifier, late], pair)


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

    with closing(Pair(issuer.url)) as pair, ThreadPoolExecutor(8) as pool:
        storms = [pool.submit(storm, path) for path in ("/register", "/login") * 4]
        try:
            await soon(lambda: len(refused) == 2, "registrations and logins are refused")
            before = refused.total()
            async with follower(issuer) as verifier:
                await soon(verifier.ready, "who starts now is ready")
                assert verdict(verifier, pair.left) == "accepted"
                assert await asyncio.to_thread(pair.refresh) == "200"
                assert await asyncio.to_thread(told, lambda: pair.leaves.post("/logout")) == "204"
                await hear([verifier], pair)
                assert ready_of(issuer) == (200, [])
            await soon(lambda: refused.total() > before, "the storm went on meanwhile")
        finally:
            ending.set()
        for one in storms:
            one.result()


def test_a_full_upstream_is_told_in_time_and_served_again_when_it_has_room(
    issuer: IssuerProgram, embedded: NewPair, start_sidecar: StartSidecar
) -> None:
    """Its queue of connections is full: what else comes is not even refused."""
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"
    token = embedded().stayed
    with ExitStack() as stack:
        upstream = stack.enter_context(socket.create_server((HOST, 0), backlog=0))
        place = upstream.getsockname()
        sidecar = start_sidecar(issuer.url, f"http://{HOST}:{place[1]}").ready()
        request = f"GET /events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n"
        client = stack.enter_context(socket.create_connection((HOST, sidecar.proxy_port), DEADLINE))
        client.sendall(request.encode())
        stream = stack.enter_context(upstream.accept()[0])
        stream.recv(65536)
        stream.sendall(head.encode())
        asked = stack.enter_context(socket.create_connection((HOST, sidecar.proxy_port), DEADLINE))
        asked.sendall(request.replace("/events", "/whole").encode())
        under_way = stack.enter_context(upstream.accept()[0])
        under_way.recv(65536)
        events = stack.enter_context(client.makefile("r"))
        assert any("data: 1" in line for line in events)

        waiting = stack.enter_context(socket.create_connection(place))
        ask = partial(httpx.get, f"{sidecar.proxy_url}/", headers=bearer(token), timeout=DEADLINE, trust_env=False)
        assert told(ask) == "503 upstream_unreachable"
        stream.sendall(b"data: 2\n\n")
        assert any("data: 2" in line for line in events), "a stream goes on"
        under_way.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        assert asked.recv(65536).startswith(b"HTTP/1.1 200 "), "and so does a request"
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
