"""Real servers for tests: URLs of shared ones, and servers of a test's own.

Rule: a URL in the environment (``AUTHIX_TEST_MONGODB``, ``AUTHIX_TEST_REDIS``, ``AUTHIX_TEST_KAFKA``) is used as it is;
else the server is started once for the session, empty. A missing server skips the test and says why; with
``AUTHIX_TEST_SERVERS=required`` it fails the test. Tests that share a server keep apart by names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.servers.kafka import KafkaServer
from tests.servers.mongodb import MongoServer
from tests.servers.redis import RedisCluster, RedisServer
from tests.servers.server import Server

AnyServer = TypeVar("AnyServer", bound=Server | RedisCluster)


def _require(missing: str | None) -> None:
    if missing is None:
        return
    if os.environ.get("AUTHIX_TEST_SERVERS") == "required":
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


def _started(kind: type[AnyServer], folder: Path) -> Iterator[AnyServer]:
    _require(kind.missing())
    server = kind(folder)
    with server:
        yield server


@pytest.fixture(scope="session")
def engines_installed() -> None:
    """For a program that starts all three engines by itself."""
    for kind in (MongoServer, RedisServer, KafkaServer):
        _require(kind.missing())


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
