"""Slow, cut and dead networks between the issuer and its stores, which themselves are well.

Rule: whatever the network does, an answer comes in time and is a good one or a 503 that a client may repeat; what was
acknowledged stays; once the network is back, so is the issuer.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

import httpx
import pytest

from authix import Authix, TokenRevoked
from tests.programs import DEADLINE, PASSWORD, IssuerProgram, bearer, eventually, login, register
from tests.servers.tcp_proxy import TcpProxy

HALVED = (
    "mongo.DEADLINE_MS",
    "mongo._FIND_SERVER_MS",
    "mongo._CONNECT_MS",
    "redis_pipeline.DEADLINE",
    "redis_pipeline.CONNECT_TIMEOUT",
)
ANSWER_WITHIN = 8.0
"""Seconds, where the issuer gives each of its two stores 2."""
COOKIE = "authix_refresh"
_numbers = itertools.count()


def impatient(issuer: IssuerProgram) -> IssuerProgram:
    """It waits half as long for its stores as it would, since waiting is most of what these tests do."""
    changes = "; ".join(f"{name} /= 2" for name in HALVED)
    imports = "import sys; from authix_issuer import cli; from authix_issuer.adapters import mongo, redis_pipeline"
    issuer.command = [sys.executable, "-c", f"{imports}; {changes}; sys.exit(cli.main(['serve']))"]
    return issuer


class Fleet(NamedTuple):
    issuer: IssuerProgram
    mongodb: TcpProxy
    redis: TcpProxy

    def heal(self) -> None:
        """The network is well again, and connections that it had forgotten are gone."""
        for proxy in (self.mongodb, self.redis):
            proxy.heal()
            proxy.cut()


Fault = Callable[[TcpProxy], None]
FAULTS: list[Fault] = [TcpProxy.refuse, TcpProxy.stall, TcpProxy.lose_answers]


@pytest.fixture(scope="module")
def running(mongodb_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("network")
    with ExitStack() as stack:
        mongodb, redis = (stack.enter_context(TcpProxy(httpx.URL(url).port or 0)) for url in (mongodb_url, redis_url))
        issuer = IssuerProgram(
            folder / "issuer",
            AUTHIX_USERS_URL=f"mongodb://127.0.0.1:{mongodb.port}/{secrets.token_hex(6)}",
            AUTHIX_SESSIONS_URL=f"redis://127.0.0.1:{redis.port}/0",
            AUTHIX_SECRET=secrets.token_urlsafe(32),
            AUTHIX_REFRESH_GRACE="60",
        )
        stack.callback(issuer.kill)
        impatient(issuer).start().ready()
        yield Fleet(issuer, mongodb, redis)


@pytest.fixture
def fleet(running: Fleet) -> Iterator[Fleet]:
    """An issuer that reaches MongoDB and Redis by proxies; nothing that it does in the test is a failure of its own."""
    before = len(running.issuer.output())
    yield running
    running.heal()
    running.issuer.ready()
    said = running.issuer.output()[before:]
    assert "Traceback" not in said, said
    assert "a request failed" not in said, said


@pytest.fixture
def email() -> str:
    return f"user-{next(_numbers)}@example.com"


class Ann:
    """A user with a session, and what she holds of it."""

    def __init__(self, fleet: Fleet, email: str) -> None:
        self.email = email
        self.client = fleet.issuer.client()
        self.subject = register(self.client, email)
        self.token = login(self.client, email)
        self.cookie = {"Cookie": f"{COOKIE}={self.client.cookies[COOKIE]}"}

    def log_out(self) -> httpx.Response:
        self.client.cookies.clear()
        return self.client.post("/logout", headers=self.cookie)

    def refresh(self) -> httpx.Response:
        self.client.cookies.clear()
        return self.client.post("/access_token", headers=self.cookie)

    def log_in(self) -> httpx.Response:
        return self.client.post("/login", json={"email": self.email, "password": PASSWORD})

    def register_again(self) -> httpx.Response:
        return self.client.post("/register", json={"email": self.email, "password": PASSWORD})


@pytest.fixture
def ann(fleet: Fleet, email: str) -> Iterator[Ann]:
    user = Ann(fleet, email)
    yield user
    user.client.close()


@pytest.fixture
def stranger(fleet: Fleet) -> Iterator[httpx.Client]:
    with fleet.issuer.client() as client:
        yield client


def timed(ask: Callable[[], httpx.Response]) -> httpx.Response:
    began = time.monotonic()
    answer = ask()
    assert time.monotonic() - began < ANSWER_WITHIN, answer.text
    return answer


def all_at_once(*asks: Callable[[], httpx.Response]) -> list[httpx.Response]:
    with ThreadPoolExecutor(len(asks)) as threads:
        return list(threads.map(timed, asks))


def assert_unavailable(answer: httpx.Response, code: str = "store_unavailable") -> None:
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code
    assert answer.headers["retry-after"]


def revoked_since(client: httpx.Client, subject: str) -> list[int]:
    snapshot = client.get("/revocations")
    assert snapshot.status_code == 200, snapshot.text
    return [event["since_us"] for event in snapshot.json()["revocations"] if event.get("sub") == subject]


def test_a_slow_network_makes_nothing_fail(fleet: Fleet, email: str, stranger: httpx.Client) -> None:
    for proxy in (fleet.mongodb, fleet.redis):
        proxy.cut()  # new connections have to be made over it, too
        proxy.delay(0.1)
    ann = Ann(fleet, email)
    with closing(ann.client):
        assert timed(ann.refresh).status_code == 200
        assert timed(ann.log_out).status_code == 204
        assert timed(ann.refresh).json()["code"] == "refresh_token_invalid"
        assert timed(lambda: stranger.get("/readyz")).status_code == 200
        assert len(revoked_since(stranger, ann.subject)) == 1


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_redis_out_of_reach_is_said_in_time_and_hurts_no_registration(
    fleet: Fleet, ann: Ann, stranger: httpx.Client, fault: Fault
) -> None:
    fault(fleet.redis)
    new = {"email": f"new-{ann.email}", "password": PASSWORD}
    registered, ready, *failed = all_at_once(
        lambda: stranger.post("/register", json=new),
        lambda: stranger.get("/readyz"),
        lambda: stranger.post("/login", json={"email": ann.email, "password": PASSWORD}),
        lambda: stranger.post("/access_token", headers=ann.cookie),
        lambda: stranger.post("/logout", headers=ann.cookie),
        lambda: stranger.post("/logout", headers=bearer(ann.token)),
        lambda: stranger.get("/revocations"),
    )
    assert registered.status_code == 201, registered.text
    assert_unavailable(ready, "not_ready")
    assert ready.json()["engines"] == {"sessions": "store_unavailable"}
    for answer in failed:
        assert_unavailable(answer)
    fleet.heal()
    eventually(lambda: ann.log_in().status_code == 200, "logins work again")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_mongodb_out_of_reach_is_said_in_time_and_hurts_no_session(
    fleet: Fleet, ann: Ann, stranger: httpx.Client, fault: Fault
) -> None:
    fault(fleet.mongodb)
    refreshed, ready, *failed = all_at_once(
        lambda: stranger.post("/access_token", headers=ann.cookie),
        lambda: stranger.get("/readyz"),
        lambda: stranger.post("/login", json={"email": ann.email, "password": PASSWORD}),
        lambda: stranger.post("/register", json={"email": f"new-{ann.email}", "password": PASSWORD}),
    )
    assert refreshed.status_code == 200, refreshed.text
    assert timed(ann.log_out).status_code == 204
    assert_unavailable(ready, "not_ready")
    assert ready.json()["engines"] == {"users": "store_unavailable"}
    for answer in failed:
        assert_unavailable(answer)
    fleet.heal()
    eventually(lambda: ann.log_in().status_code == 200, "logins work again")


@pytest.mark.parametrize("engine", ["mongodb", "redis"])
def test_a_start_over_a_dead_network_ends_with_a_sentence(fleet: Fleet, tmp_path: Any, engine: str) -> None:
    setting = {"mongodb": "AUTHIX_USERS_URL", "redis": "AUTHIX_SESSIONS_URL"}[engine]
    proxy: TcpProxy = getattr(fleet, engine)
    proxy.stall()
    scheme = engine
    env = {setting: f"{scheme}://127.0.0.1:{proxy.port}", "AUTHIX_SECRET": secrets.token_urlsafe(32)}
    program = impatient(IssuerProgram(tmp_path / "another", **env)).start()
    assert program.process is not None
    try:
        assert program.process.wait(DEADLINE) == 2
    finally:
        program.kill()
    assert program.output().count(f"{setting} names a") == 1
    assert "does not answer" in program.output()
    assert "Traceback" not in program.output()


async def test_an_acknowledged_logout_outlives_the_cut_that_follows_it(
    fleet: Fleet, ann: Ann, stranger: httpx.Client
) -> None:
    # What it had not read of Redis before the cut, the feed can tell only after it; meanwhile a verifier grows stale.
    async with Authix(issuer=fleet.issuer.url, audience="tests", stale_after=120) as verifier:
        await verifier.wait_ready()
        assert verifier.verify(ann.token).subject == ann.subject
        assert ann.log_out().status_code == 204
        fleet.redis.refuse()
        await asyncio.to_thread(eventually, lambda: stranger.get("/readyz").status_code == 503, "the cut is noticed")
        fleet.heal()
        with pytest.raises(TokenRevoked):
            await heard(verifier, ann.token)
    eventually(lambda: stranger.get("/readyz").status_code == 200, "it is ready again")
    assert len(revoked_since(stranger, ann.subject)) == 1
    assert ann.refresh().json()["code"] == "refresh_token_invalid"
    async with Authix(issuer=fleet.issuer.url, audience="tests") as another:
        await another.wait_ready()
        with pytest.raises(TokenRevoked):
            another.verify(ann.token)


async def heard(verifier: Authix, token: str) -> None:
    """Look until the token is refused, which raises, or the time is over."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        verifier.verify(token)
        await asyncio.sleep(0.01)


def test_a_logout_whose_answer_was_lost_holds_and_may_be_repeated(
    fleet: Fleet, ann: Ann, stranger: httpx.Client
) -> None:
    fleet.redis.lose_answers()
    assert_unavailable(timed(ann.log_out))
    fleet.heal()
    eventually(lambda: stranger.get("/readyz").status_code == 200, "it is ready again")
    assert len(revoked_since(stranger, ann.subject)) == 1
    assert ann.log_out().status_code == 204
    assert len(revoked_since(stranger, ann.subject)) == 1
    assert ann.refresh().json()["code"] == "refresh_token_invalid"


def test_a_refresh_whose_answer_was_lost_is_no_theft_when_it_is_repeated(fleet: Fleet, ann: Ann) -> None:
    fleet.redis.lose_answers()
    assert_unavailable(timed(ann.refresh))
    fleet.heal()
    eventually(lambda: ann.refresh().status_code == 200, "the refresh works at last")


def test_a_registration_whose_answer_was_lost_is_told_as_taken_and_the_login_works(
    fleet: Fleet, ann: Ann, stranger: httpx.Client
) -> None:
    credentials = {"email": f"new-{ann.email}", "password": PASSWORD}
    fleet.mongodb.lose_answers()
    assert_unavailable(timed(lambda: stranger.post("/register", json=credentials)))
    fleet.heal()
    eventually(lambda: stranger.get("/readyz").status_code == 200, "it is ready again")
    repeated = stranger.post("/register", json=credentials)
    assert repeated.status_code == 409, repeated.text
    assert repeated.json()["code"] == "email_taken"
    assert stranger.post("/login", json=credentials).status_code == 200


def test_an_answer_of_redis_that_breaks_off_is_asked_for_again(fleet: Fleet, ann: Ann, stranger: httpx.Client) -> None:
    fleet.redis.cut_in_answer(2)
    assert ann.refresh().status_code == 200
    fleet.redis.cut_in_answer(2)
    assert ann.log_out().status_code == 204
    assert len(revoked_since(stranger, ann.subject)) == 1


def test_an_answer_of_mongodb_that_breaks_off_fails_no_login(fleet: Fleet, ann: Ann) -> None:
    fleet.mongodb.cut_in_answer(20)
    assert ann.log_in().status_code == 200


def test_a_cut_of_idle_connections_is_not_felt(fleet: Fleet, ann: Ann, stranger: httpx.Client) -> None:
    all_at_once(*[lambda: stranger.post("/access_token", headers=ann.cookie)] * 8)  # every connection was in use
    fleet.redis.cut()
    answers = all_at_once(*[lambda: stranger.post("/access_token", headers=ann.cookie)] * 8)
    assert {answer.status_code for answer in answers} == {200}


def test_a_network_that_comes_and_goes_shows_as_nothing_but_503(fleet: Fleet, stranger: httpx.Client) -> None:
    end = time.monotonic() + 8

    def live(worker: int) -> list[str]:
        ended: list[str] = []
        with fleet.issuer.client() as client:
            for number in itertools.count():
                if time.monotonic() > end:
                    return ended
                credentials = {"email": f"w{worker}-{number}-{secrets.token_hex(4)}@example.com", "password": PASSWORD}
                answers = [timed(lambda: client.post("/register", json=credentials))]  # noqa: B023 - called at once
                answers.append(timed(lambda: client.post("/login", json=credentials)))  # noqa: B023 - called at once
                if answers[-1].status_code == 200:
                    answers.append(timed(lambda: client.post("/access_token")))
                    token = client.cookies[COOKIE]
                    answers.append(timed(lambda: client.post("/logout")))
                    if answers[-1].status_code == 204:
                        ended.append(token)
                client.cookies.clear()
                # 401: the registration was not acknowledged, and was not done
                assert {answer.status_code for answer in answers} <= {200, 201, 204, 401, 503}, answers
                assert all(answer.json()["code"] != "internal_error" for answer in answers if answer.is_error)
        raise AssertionError

    with ThreadPoolExecutor(4) as threads:
        workers = [threads.submit(live, worker) for worker in range(4)]
        while time.monotonic() < end - 2:
            proxy = random.choice((fleet.mongodb, fleet.redis))
            random.choice((TcpProxy.cut, TcpProxy.refuse, TcpProxy.stall, TcpProxy.lose_answers))(proxy)
            time.sleep(random.uniform(0.02, 0.3))  # how long the fault lasts
            proxy.heal()
            time.sleep(random.uniform(0.1, 0.5))  # and how long it is well
        fleet.heal()
        ended = [token for worker in workers for token in worker.result()]
    assert ended
    for token in ended:
        stranger.cookies.clear()
        answer = stranger.post("/access_token", headers={"Cookie": f"{COOKIE}={token}"})
        assert answer.json()["code"] == "refresh_token_invalid"
