"""What the tests' servers promise: they answer once started, keep what they acknowledged over a kill -9, or say why
they are missing."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.servers.kafka import KafkaServer
from tests.servers.mongodb import MongoServer, succeeded
from tests.servers.redis import RedisCluster, RedisServer


def test_redis_keeps_an_acknowledged_write_over_kill_9(redis_server: RedisServer) -> None:
    assert redis_server.cli("SET", "logout", "acknowledged") == "OK"
    redis_server.kill()
    redis_server.start()
    assert redis_server.cli("GET", "logout") == "acknowledged"


def test_redis_refuses_writes_rather_than_forget_a_session(redis_server: RedisServer) -> None:
    redis_server.cli("SET", "session-1", "open")
    redis_server.cli("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        redis_server.cli("SET", "session-2", "open")
    assert "OOM" in refused.value.stdout + refused.value.stderr
    assert redis_server.cli("GET", "session-1") == "open"


def test_a_redis_cluster_serves_every_slot_again_after_the_kill_of_a_node(redis_cluster: RedisCluster) -> None:
    first, *_, last = redis_cluster.nodes
    for key in range(12):
        assert first.cli("-c", "SET", str(key), "acknowledged") == "OK"
    last.kill()
    last.start()
    redis_cluster.wait_until_ok()
    assert {first.cli("-c", "GET", str(key)) for key in range(12)} == {"acknowledged"}
    assert all(int(node.cli("DBSIZE")) for node in redis_cluster.nodes), "each node holds a share"


def test_mongodb_keeps_an_acknowledged_write_over_kill_9(mongodb_server: MongoServer) -> None:
    _insert(mongodb_server, {"_id": "ada", "note": "acknowledged"})
    mongodb_server.kill()
    mongodb_server.start()
    assert b"acknowledged" in mongodb_server.run({"find": "users", "filter": {"_id": "ada"}, "$db": "tests"})


def test_one_of_many_compare_and_set_updates_wins_in_mongodb(mongodb_server: MongoServer) -> None:
    _insert(mongodb_server, {"_id": "ada", "hash": "old"})

    def replace(number: int) -> bool:
        change = {"q": {"_id": "ada", "hash": "old"}, "u": {"$set": {"hash": f"new {number}"}}}
        answer = mongodb_server.run({"update": "users", "updates": [change], "$db": "tests"})
        assert succeeded(answer)
        return b"\x10nModified\x00\x01" in answer

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(replace, range(64))) == 1


def test_kafka_keeps_an_acknowledged_record_over_kill_9(kafka_broker: KafkaServer) -> None:
    kafka_broker.tool("TopicCommand", "--create", "--topic", "logout")
    kafka_broker.tool("ConsoleProducer", "--topic", "logout", "--sync", stdin="acknowledged\n")
    kafka_broker.kill()
    kafka_broker.start()
    all_of_it = ["--topic", "logout", "--from-beginning", "--max-messages", "1", "--timeout-ms", "20000"]
    assert kafka_broker.tool("consumer.ConsoleConsumer", *all_of_it) == "acknowledged\n"


def test_kafka_makes_no_topic_that_nobody_created(kafka_broker: KafkaServer) -> None:
    with pytest.raises(AssertionError, match="not present in metadata"):
        kafka_broker.tool("ConsoleProducer", "--topic", "nobody", "--max-block-ms", "2000", "--sync", stdin="lost\n")
    assert "nobody" not in kafka_broker.tool("TopicCommand", "--list")


def test_kafka_sends_a_client_back_to_the_proxy_it_came_by(kafka_broker: KafkaServer) -> None:
    assert kafka_broker.advertised(kafka_broker.port) == kafka_broker.port
    kafka_broker.proxy_port = 9999
    kafka_broker.restart()
    assert kafka_broker.advertised(kafka_broker.proxied_port) == 9999
    assert kafka_broker.advertised(kafka_broker.port) == kafka_broker.port


@pytest.mark.parametrize(
    ("env", "outcome"),
    [
        ({}, "1 skipped"),
        ({"AUTHIX_TEST_SERVERS": "required"}, "1 error"),
        ({"AUTHIX_TEST_REDIS": "redis://elsewhere:1"}, "1 passed"),
    ],
    ids=["missing", "missing but required", "named in the environment"],
)
def test_a_missing_server_skips_unless_it_is_required_or_named(
    tmp_path: Path, env: dict[str, str], outcome: str
) -> None:
    test = tmp_path / "test_redis.py"
    test.write_text("def test_redis(redis_url):\n    assert redis_url == 'redis://elsewhere:1'\n")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AUTHIX_", "PYTEST_"))}
    nothing_on_path = {"PATH": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "tests.servers.fixtures", "--rootdir", str(tmp_path), str(test)],
        env=inherited | nothing_on_path | env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome in done.stdout, done.stdout + done.stderr
    assert outcome == "1 passed" or "python -m tests.servers.install" in done.stdout, done.stdout


def _insert(server: MongoServer, document: dict[str, Any]) -> None:
    concern = {"w": "majority", "j": True}
    command = {"insert": "users", "documents": [document], "writeConcern": concern, "$db": "tests"}
    assert succeeded(server.run(command))
