"""A sidecar whose Kafka goes away: what it tells its operator, and what it does with requests meanwhile."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.programs import DEADLINE, IssuerProgram, SidecarProgram, bearer, eventually, login, register
from tests.servers.kafka import KafkaServer

StartIssuer = Callable[..., IssuerProgram]
StartSidecar = Callable[..., SidecarProgram]

KAFKA, HTTP = ("1", "kafka"), ("2", "http")
STALE_AFTER = 6
AWAY = "http://127.0.0.1:9"
"""An upstream that no test asks."""


class Said(NamedTuple):
    status: int
    reasons: list[str]
    degraded: list[str]
    followed: list[str]
    """The kinds of the feeds."""


def readiness(sidecar: SidecarProgram) -> Said:
    answer = httpx.get(f"{sidecar.auth_url}/readyz", timeout=DEADLINE, trust_env=False)
    told = answer.json()
    followed = [feed["kind"] for feed in told["feeds"] if feed["followed"]]
    return Said(answer.status_code, told.get("reasons", []), told["degraded"], followed)


def says(sidecar: SidecarProgram, what: Said) -> bool:
    return readiness(sidecar) == what


def metric(sidecar: SidecarProgram, name: str) -> dict[tuple[str, str], float]:
    """By position and kind."""
    text = httpx.get(f"{sidecar.auth_url}/metrics", timeout=DEADLINE, trust_env=False).text
    return {
        (sample.labels["position"], sample.labels["kind"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def judged(sidecar: SidecarProgram, token: str) -> str:
    """``accepted`` or the code of the refusal."""
    answer = httpx.get(f"{sidecar.auth_url}/verify", headers=bearer(token), timeout=DEADLINE, trust_env=False)
    return "accepted" if answer.status_code == 200 else str(answer.json()["code"])


def refused_after_logout(issuer: IssuerProgram, sidecar: SidecarProgram, email: str) -> str:
    """A token that the sidecar accepted and, after the logout, refuses."""
    with issuer.client() as client:
        register(client, email)
        token = login(client, email)
        assert judged(sidecar, token) == "accepted"
        assert client.post("/logout").status_code == 204
    eventually(lambda: judged(sidecar, token) == "token_revoked", "the token is refused")
    return token


@pytest.fixture
def broker(kafka_broker: KafkaServer) -> Iterator[KafkaServer]:
    """One that the test may stop and kill."""
    yield kafka_broker
    assert kafka_broker.process is not None
    if kafka_broker.process.poll() is not None:
        kafka_broker.start()


@pytest.fixture
def topic() -> str:
    return f"logout-{secrets.token_hex(4)}"


@pytest.fixture
def issuer(start_issuer: StartIssuer, broker: KafkaServer, topic: str) -> IssuerProgram:
    return start_issuer(AUTHIX_KAFKA=broker.bootstrap, AUTHIX_TOPIC=topic)


@pytest.fixture
def start(start_sidecar: StartSidecar, broker: KafkaServer, topic: str, issuer: IssuerProgram) -> Callable[..., Any]:
    """``start(and_http, AUTHIX_…="…")``: a sidecar on the topic, and on the HTTP feed behind that or not."""

    def start_one(*, and_http: bool, **env: str) -> SidecarProgram:
        feeds = [f"kafka://{broker.bootstrap}/{topic}", f"{issuer.url}/revocations"]
        feed = ",".join(feeds if and_http else feeds[:1])
        return start_sidecar(issuer.url, AWAY, AUTHIX_FEED=feed, AUTHIX_STALE_AFTER=str(STALE_AFTER), **env)

    return start_one


def test_while_kafka_is_away_it_serves_by_the_http_feed_and_says_so(
    issuer: IssuerProgram, broker: KafkaServer, start: Callable[..., SidecarProgram]
) -> None:
    sidecar = start(and_http=True).ready()
    by_kafka, by_http = Said(200, [], [], ["kafka"]), Said(200, [], ["kafka_feed_stale"], ["kafka", "http"])
    eventually(lambda: readiness(sidecar) == by_kafka, "it follows Kafka alone")
    assert metric(sidecar, "authix_feed_followed") == {KAFKA: 1, HTTP: 0}
    assert metric(sidecar, "authix_feed_stale") == {KAFKA: 0, HTTP: 0}
    assert metric(sidecar, "authix_followed_feed_age_seconds").keys() == {KAFKA}
    dead = [refused_after_logout(issuer, sidecar, "ann@example.com")]

    broker.kill()
    eventually(lambda: readiness(sidecar) == by_http, "it says that it serves by the HTTP feed")
    assert metric(sidecar, "authix_feed_followed") == {KAFKA: 1, HTTP: 1}
    assert metric(sidecar, "authix_feed_stale") == {KAFKA: 1, HTTP: 0}
    eventually(lambda: HTTP in metric(sidecar, "authix_followed_feed_age_seconds"), "it has heard of the HTTP feed")
    ages = metric(sidecar, "authix_followed_feed_age_seconds")
    assert ages[HTTP] < ages[KAFKA]
    dead.append(refused_after_logout(issuer, sidecar, "bob@example.com"))
    eventually(lambda: metric(sidecar, "authix_followed_feed_age_seconds")[KAFKA] > STALE_AFTER, "Kafka stays away")
    assert readiness(sidecar) == by_http

    broker.start()
    eventually(lambda: readiness(sidecar) == by_kafka, "it follows Kafka alone again", 40)
    assert metric(sidecar, "authix_feed_followed") == {KAFKA: 1, HTTP: 0}
    assert metric(sidecar, "authix_feed_stale") == {KAFKA: 0, HTTP: 0}
    dead.append(refused_after_logout(issuer, sidecar, "cy@example.com"))
    assert {judged(sidecar, token) for token in dead} == {"token_revoked"}


def test_without_another_feed_it_is_not_ready_and_does_as_its_policy_says(
    issuer: IssuerProgram, broker: KafkaServer, start: Callable[..., SidecarProgram]
) -> None:
    verdicts = {"reject": "feed_stale", "accept": "accepted"}
    sidecars = {policy: start(and_http=False, AUTHIX_WHEN_STALE=policy) for policy in verdicts}
    with issuer.client() as ann:
        register(ann, "ann@example.com")
        token = login(ann, "ann@example.com")
    for sidecar in sidecars.values():
        assert judged(sidecar.ready(), token) == "accepted"
    broker.kill()
    not_ready = Said(503, ["feed_stale"], ["kafka_feed_stale"], ["kafka"])
    for policy, sidecar in sidecars.items():
        eventually(partial(says, sidecar, not_ready), "it says why it is not ready")
        assert metric(sidecar, "authix_feed_stale") == {KAFKA: 1}
        assert metric(sidecar, "authix_followed_feed_age_seconds")[KAFKA] > STALE_AFTER
        assert judged(sidecar, token) == verdicts[policy]
    broker.start()
    for sidecar in sidecars.values():
        eventually(partial(says, sidecar, Said(200, [], [], ["kafka"])), "it is ready again", 40)
        assert judged(sidecar, token) == "accepted"


@pytest.mark.parametrize(
    ("and_http", "said"),
    [
        (True, Said(200, [], ["kafka_feed_stale"], ["kafka", "http"])),
        (False, Said(503, ["feed_replaying"], ["kafka_feed_stale"], ["kafka"])),
    ],
    ids=["with the HTTP feed behind it", "on Kafka alone"],
)
def test_one_that_starts_while_kafka_is_away_says_so(
    broker: KafkaServer, start: Callable[..., SidecarProgram], *, and_http: bool, said: Said
) -> None:
    broker.stop()
    sidecar = start(and_http=and_http)
    sidecar.wait_for(f"{sidecar.auth_url}/livez")
    eventually(lambda: readiness(sidecar) == said, "it says how it stands")
    for path in ("/readyz", "/metrics"):
        told = httpx.get(f"{sidecar.auth_url}{path}", timeout=DEADLINE, trust_env=False).text
        assert broker.bootstrap not in told, "addresses are nobody's business"
