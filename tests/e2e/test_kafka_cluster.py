"""The logout topic on three brokers: what the death of one and of two of them does to logouts and to verifiers."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from authix import Authix, TokenRevoked
from tests.programs import IssuerProgram, login, register
from tests.servers.kafka import KafkaCluster, KafkaServer

HEARD_WITHIN = 40.0
"""Seconds in which a cluster of three on a busy machine has chosen its leaders anew, or come back."""


@pytest.fixture
def cluster(kafka_cluster: KafkaCluster) -> Iterator[KafkaCluster]:
    yield kafka_cluster
    kafka_cluster.start()


@pytest.fixture
def topic() -> str:
    return f"logout-{secrets.token_hex(4)}"


@pytest.fixture
def issuer(cluster: KafkaCluster, topic: str, start_issuer: Callable[..., IssuerProgram]) -> IssuerProgram:
    return start_issuer(AUTHIX_KAFKA=cluster.bootstrap, AUTHIX_TOPIC=topic)


@pytest.fixture
async def verifier(issuer: IssuerProgram, cluster: KafkaCluster, topic: str) -> AsyncIterator[Authix]:
    feed = f"kafka://{cluster.bootstrap}/{topic}"
    async with Authix(issuer=issuer.url, audience="tests", feed=feed) as running:
        await running.wait_ready(HEARD_WITHIN)
        yield running


@pytest.fixture
def client(issuer: IssuerProgram) -> Iterator[httpx.Client]:
    with issuer.client() as running:
        yield running


class Users:
    """Users who log in, and log out one after the other."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self.ended: list[str] = []
        """The access tokens whose logout was acknowledged."""

    def come_and_go(self, count: int) -> None:
        for _ in range(count):
            email = f"{secrets.token_hex(6)}@example.com"
            register(self._client, email)
            token = login(self._client, email)
            assert self._client.post("/logout").status_code == 204
            self.ended.append(token)


async def until(condition: Callable[[], bool], what: Callable[[], object]) -> None:
    end = time.monotonic() + HEARD_WITHIN
    while not condition():
        assert time.monotonic() < end, what()
        await asyncio.sleep(0.02)


def knows(verifier: Authix, token: str) -> bool:
    try:
        verifier.verify(token)
    except TokenRevoked:
        return True
    except Exception:  # noqa: BLE001 - stale or not ready: it does not know, and that is the question here
        return False
    return False


async def describe(bootstrap: str, topic: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=5000)
    await admin.start()
    try:
        partitions = (await admin.describe_topics([topic]))[0]["partitions"]
        answer = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        return partitions, {name: value for name, value, *_ in answer[0].resources[0][4]}
    finally:
        await admin.close()


def test_a_topic_made_on_three_brokers_bears_the_loss_of_one(
    issuer: IssuerProgram, cluster: KafkaCluster, topic: str
) -> None:
    partitions, config = asyncio.run(describe(cluster.bootstrap, topic))
    assert {len(partition["replicas"]) for partition in partitions} == {3}
    assert config["min.insync.replicas"] == "2"
    assert config["unclean.leader.election.enable"] == "false"
    assert "fit for development" not in issuer.output()


async def test_no_logout_is_lost_when_a_leader_dies_and_comes_back(
    cluster: KafkaCluster, topic: str, verifier: Authix, client: httpx.Client
) -> None:
    users = Users(client)
    await asyncio.to_thread(users.come_and_go, 12)
    partitions, _ = await describe(cluster.bootstrap, topic)
    leads = [partition["leader"] for partition in partitions]
    victim = cluster.nodes[max(set(leads), key=leads.count) - 1]
    victim.kill()
    await asyncio.to_thread(users.come_and_go, 12)  # keys of every partition
    await until(lambda: all(knows(verifier, token) for token in users.ended), verifier.problems)
    assert verifier.ready()
    await asyncio.to_thread(lambda: victim.launch().wait())
    await asyncio.to_thread(users.come_and_go, 12)
    await until(lambda: all(knows(verifier, token) for token in users.ended), verifier.problems)
    async with Authix(settings=verifier.settings) as another:
        await another.wait_ready(HEARD_WITHIN)
        assert all(knows(another, token) for token in users.ended)


async def test_logouts_while_two_of_three_brokers_are_down_are_published_when_they_return(
    cluster: KafkaCluster, verifier: Authix, client: httpx.Client
) -> None:
    users = Users(client)
    lost: list[KafkaServer] = cluster.nodes[:2]
    for node in lost:
        node.kill()
    await asyncio.to_thread(users.come_and_go, 6)
    await until(lambda: topic_is_away(client), lambda: "the issuer says that it is degraded")
    assert (await asyncio.to_thread(client.get, "/readyz")).status_code == 200
    await asyncio.to_thread(cluster.start)
    await until(lambda: all(knows(verifier, token) for token in users.ended), verifier.problems)
    await until(verifier.ready, verifier.problems)
    await until(lambda: not topic_is_away(client), lambda: client.get("/readyz").text)


def topic_is_away(client: httpx.Client) -> bool:
    return "topic" in client.get("/readyz").json()["degraded"]
