"""A verifier that starts when a million users have just logged out, on Kafka and on the issuer's feed, in one run.

Beside it aiokafka alone, which reads the same records and does nothing with them. CPU is of the verifier's process; the
longest hold is CPU time without a turn of its event loop, while it merges. Goals: ready in 5 s, 300,000 events/s, no
hold over 30 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from authix.events import encode_event
from authix.kafka_feed import AT_ONCE
from benchmarks.report import machine
from tests.late_verifier import fill, logouts
from tests.programs import IssuerProgram
from tests.servers.kafka import KafkaServer

TOPIC = "authix.logout"


async def read_bare(bootstrap: str) -> tuple[int, float, float]:
    """Records that aiokafka alone reads, in how many seconds and CPU seconds."""
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False) as consumer:
        await consumer.end_offsets([TopicPartition(TOPIC, 0)])  # it knows the others no sooner
        places = [TopicPartition(TOPIC, number) for number in consumer.partitions_for_topic(TOPIC)]
        end = sum((await consumer.end_offsets(places)).values())
        consumer.assign(places)
        for place in places:
            consumer.seek(place, 0)
        began, used, read = time.perf_counter(), time.process_time(), 0
        while read < end:
            read += sum(map(len, (await consumer.getmany(timeout_ms=1000, max_records=AT_ONCE)).values()))
        return read, time.perf_counter() - began, time.process_time() - used


def start_late(issuer: IssuerProgram, feed: str, count: int) -> dict[str, Any]:
    settings = {"AUTHIX_ISSUER": issuer.url, "AUTHIX_AUDIENCE": "tests", "AUTHIX_FEED": feed, "LOGGED_OUT": str(count)}
    run = [sys.executable, "-m", "tests.late_verifier"]
    found: dict[str, Any] = json.loads(subprocess.check_output(run, env=os.environ | settings, timeout=300))
    assert (found["refused"], found["others_refused"]) == (count, 0)
    print(
        f"  {feed.partition(':')[0]:5}  ready after {found['ready_after']:5.2f} s, replayed after"
        f" {found['replayed_after']:5.2f} s   {count / found['cpu']:9,.0f} events/s of CPU"
        f"   longest hold {found['longest_hold'] * 1000:5.1f} ms   {found['bytes'] / count:4.0f} bytes an entry"
    )
    return found


def on_kafka(folder: Path, count: int) -> None:
    with KafkaServer(folder / "kafka") as kafka:
        issuer = IssuerProgram(folder / "issuer-kafka", AUTHIX_KAFKA=kafka.bootstrap).start().ready()
        try:
            asyncio.run(fill(kafka.bootstrap, TOPIC, count))
            for _ in range(2):
                found = start_late(issuer, f"kafka://{kafka.bootstrap}/{TOPIC}", count)
                read, spent, used = asyncio.run(read_bare(kafka.bootstrap))
                print(
                    f"  aiokafka alone: {spent:5.2f} s   {read / used:9,.0f} records/s of CPU"
                    f"   CPU of the verifier / of aiokafka alone: {found['cpu'] / count / (used / read):.2f}"
                )
        finally:
            issuer.stop()


def on_http(folder: Path, count: int) -> None:
    issuer = IssuerProgram(folder / "issuer-http").start().ready()
    issuer.stop()
    (database,) = (folder / "issuer-http" / "data").glob("*sessions*.db")
    connection = sqlite3.connect(database)
    rows = ((event.since_us, encode_event(event), event.until) for event in logouts(count))
    connection.executemany("INSERT INTO revocations (since_us, event, until) VALUES (?, ?, ?)", rows)
    connection.commit()
    connection.close()
    issuer.start().ready()
    try:
        start_late(issuer, f"{issuer.url}/revocations", count)
    finally:
        issuer.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logouts", type=int, default=1_000_000)
    count = parser.parse_args().logouts
    print(f"replay: {machine()}; {count:,} live logouts; goals: ready in 5 s, 300,000 events/s, no hold over 30 ms")
    with tempfile.TemporaryDirectory() as name:
        if missing := KafkaServer.missing():
            print(f"  Kafka not measured: {missing}")
        else:
            on_kafka(Path(name), count)
        on_http(Path(name), count)


if __name__ == "__main__":
    main()
