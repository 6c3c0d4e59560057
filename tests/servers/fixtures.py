"""Real servers for tests: URLs of shared ones, and servers of a test's own.

Rule: a URL in the environment (``AUTHIX_TEST_MONGODB``, ``AUTHIX_TEST_REDIS``, ``AUTHIX_TEST_KAFKA``) is used as it is;
else the server is started once for the session, empty. A missing server skips the test and says why; with
``AUTHIX_TEST_SERVERS=required`` it fails the test. Tests that share a server keep apart by names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest

from tests.servers.certificates import Authority
from tests.servers.kafka import KafkaCluster, KafkaServer
from tests.servers.mongodb import MongoServer
from tests.servers.redis import RedisCluster, RedisServer
from tests.servers.server import Server
from tests.servers.tls_front import TlsFront

AnyServer = TypeVar("AnyServer", bound=Server | RedisCluster | KafkaCluster)


class SecureEngines(NamedTuple):
    """The three engines, each with a port for TLS and one without; ``ca`` is what they are trusted by."""

    ca: Path
    other_ca: Path
    password: str
    mongodb: MongoServer
    mongodb_tls_port: int
    redis: RedisServer
    kafka: KafkaServer


def require(missing: str | None) -> None:
    """Skip the test, or fail it where servers are required, when something is missing."""
    if missing is None:
        return
    if os.environ.get("AUTHIX_TEST_SERVERS") == "required":
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


def _started(kind: type[AnyServer], folder: Path) -> Iterator[AnyServer]:
    require(kind.missing())
    server = kind(folder)
    with server:
        yield server


@pytest.fixture(scope="session")
def engines_installed() -> None:
    """For a program that starts all three engines by itself."""
    for kind in (MongoServer, RedisServer, KafkaServer):
        require(kind.missing())


@pytest.fixture(scope="session")
def mongodb_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``mongodb://…`` of a server that the whole session shares."""
    if url := os.environ.get("AUTHIX_TEST_MONGODB"):
        yield url
    else:
        for server in _started(MongoServer, tmp_path_factory.mktemp("mongodb")):
            yield server.url


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``redis://…`` of a single server that the whole session shares."""
    if url := os.environ.get("AUTHIX_TEST_REDIS"):
        yield url
    else:
        for server in _started(RedisServer, tmp_path_factory.mktemp("redis")):
            yield server.url


@pytest.fixture(scope="session")
def redis_cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``redis://…`` of one of three nodes of a cluster that the whole session shares."""
    for cluster in _started(RedisCluster, tmp_path_factory.mktemp("redis-cluster")):
        yield cluster.url


@pytest.fixture(scope="session")
def kafka_bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``host:port`` of a broker that the whole session shares."""
    if bootstrap := os.environ.get("AUTHIX_TEST_KAFKA"):
        yield bootstrap
    else:
        for server in _started(KafkaServer, tmp_path_factory.mktemp("kafka")):
            yield server.bootstrap


@pytest.fixture
def mongodb_server(tmp_path: Path) -> Iterator[MongoServer]:
    """A server of the test's own, which it may kill."""
    yield from _started(MongoServer, tmp_path / "mongodb")


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own, which it may kill."""
    yield from _started(RedisServer, tmp_path / "redis")


@pytest.fixture
def redis_cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    """A cluster of the test's own, whose nodes it may kill."""
    yield from _started(RedisCluster, tmp_path / "redis-cluster")


@pytest.fixture
def kafka_server(tmp_path: Path) -> Iterator[KafkaServer]:
    """A broker of the test's own, which it may kill."""
    yield from _started(KafkaServer, tmp_path / "kafka")


@pytest.fixture(scope="module")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A broker of the module's own, which it may kill and has to bring back."""
    yield from _started(KafkaServer, tmp_path_factory.mktemp("kafka-broker"))


@pytest.fixture(scope="module")
def kafka_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """Three brokers of the module's own, which it may kill and has to bring back."""
    yield from _started(KafkaCluster, tmp_path_factory.mktemp("kafka-cluster"))


@pytest.fixture(scope="module")
def secure_engines(engines_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureEngines]:
    """Engines that want TLS (and, but for MongoDB, a password) on one of their ports."""
    folder = tmp_path_factory.mktemp("secure")
    authority, other = Authority(folder / "ca"), Authority(folder / "other-ca")
    certificate = authority.issue("server")
    password = "open-sesame-7Kq"
    with ExitStack() as stack:
        kafka = KafkaServer(folder / "kafka", certificate=certificate, password=password).launch()
        stack.callback(kafka.kill)
        redis = stack.enter_context(RedisServer(folder / "redis", password=password, certificate=certificate))
        mongodb = stack.enter_context(MongoServer(folder / "mongodb"))
        front = stack.enter_context(TlsFront(mongodb.port, certificate))
        kafka.wait()
        yield SecureEngines(authority.ca, other.ca, password, mongodb, front.port, redis, kafka)
