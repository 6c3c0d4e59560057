"""A verifier that starts when a great many users have logged out, and what it made of that, as one line of JSON.

The logouts are made here too. Run as ``python -m tests.late_verifier`` with a verifier's settings, the number of those
users as ``LOGGED_OUT`` and tokens as arguments, whose verdicts it tells too. CPU seconds are of this process alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Iterator

from aiokafka import AIOKafkaProducer

from authix import Authix, AuthixError
from authix.events import UserRevoked, encode_event, keep_until

_WINDOW = 3000
"""Seconds over which the logouts go evenly."""


def subject(number: int) -> str:
    """As long and as random as an issuer's."""
    return f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}{number:016x}"


def logouts(count: int) -> Iterator[UserRevoked]:
    """Of as many users, up to a minute ago."""
    begin = time.time_ns() // 1000 - (_WINDOW + 60) * 1_000_000
    for number in range(count):
        since_us = begin + _WINDOW * 1_000_000 * number // count
        yield UserRevoked(sub=subject(number), since_us=since_us, until=keep_until(since_us))


async def fill(bootstrap: str, topic: str, count: int) -> None:
    """Write the logouts of so many users, from one partition to the next."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_batch_size=1 << 18) as producer:
        partitions = sorted(await producer.partitions_for(topic))
        batches = {partition: producer.create_batch() for partition in partitions}
        for number, event in enumerate(logouts(count)):
            partition = partitions[number % len(partitions)]
            if batches[partition].append(key=None, value=encode_event(event), timestamp=None) is None:
                await producer.send_batch(batches[partition], topic, partition=partition)
                batches[partition] = producer.create_batch()
                batches[partition].append(key=None, value=encode_event(event), timestamp=None)
        for partition, batch in batches.items():
            await producer.send_batch(batch, topic, partition=partition)
        await producer.flush()


def resident() -> int:
    """Bytes of memory in use."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - one line of procfs
        return int(file.read().split()[1]) * resource.getpagesize()


def verdict(auth: Authix, token: str) -> str:
    try:
        auth.verify(token)
    except AuthixError as error:
        return error.code
    return "accepted"


async def main() -> None:
    count = int(os.environ["LOGGED_OUT"])
    memory, began, used = resident(), time.perf_counter(), time.process_time()
    replayed = cpu = longest = 0.0
    async with Authix() as auth:
        revocations = auth.verifier.revocations
        before, known = time.thread_time(), 0
        while not auth.ready():
            await asyncio.sleep(0.001)
            now = time.thread_time()
            if len(revocations) > known > 0:  # not what it does at its start
                longest = max(longest, now - before)
            if known < count <= len(revocations):
                replayed, cpu = time.perf_counter() - began, time.process_time() - used
            before, known = now, len(revocations)
        ready = time.perf_counter() - began
        found = {
            "replayed_after": replayed,
            "ready_after": ready,
            "cpu": cpu,
            "longest_hold": longest,
            "bytes": resident() - memory,
            "refused": sum(
                revocations.revokes(subject=subject(number), session=None, issued_at_us=1) for number in range(count)
            ),
            "others_refused": sum(
                revocations.revokes(subject=subject(number), session=None, issued_at_us=1)
                for number in range(count, count + 1000)
            ),
            "verdicts": [verdict(auth, token) for token in sys.argv[1:]],
        }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
