"""Follow the logout topic in Kafka (needs the extra ``authix[kafka]``).

Rule: no consumer group. Every partition is read from the moment before which all revocations are dead; heartbeats count
only once all that stood in the topic at the start was read, and only the lowest of the partitions' watermarks. A gap, a
new partition or a silence makes everything be read again, which does no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from authix.errors import SourceError
from authix.events import LOG_WINDOW, Event, Heartbeat, decode_event

logger = logging.getLogger("authix.feed")

CLOCK_SLACK = 600
"""Seconds by which this host's clock may be off when it says from when on the topic is read."""
SILENCE = 10.0
"""Seconds without any record (each partition has a heartbeat every second) after which everything is begun anew."""
BACKLOG = 10_000
"""Records of a partition that may be waiting at the brokers while its heartbeats still count as news."""
_CALL_WITHIN = 10.0
_LOOK_AGAIN = 0.01
_METADATA_EVERY_MS = 2000
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0


class KafkaFeed:
    """A ``Feed`` over Kafka. ``options`` are aiokafka's of the connection; ``take`` gets every event."""

    def __init__(
        self, url: str, servers: str, topic: str, *, options: Mapping[str, Any], take: Callable[[Event], None]
    ) -> None:
        self.url = url
        self._servers = servers
        self._topic = topic
        self._options = options
        self._take = take
        self._healthy = False

    async def follow(self) -> None:
        """Follow for ever, beginning anew after every failure."""
        pause = _FIRST_PAUSE
        while True:
            self._healthy = False
            try:
                await self._follow_once()
            except (KafkaError, SourceError, OSError, TimeoutError) as error:
                reason = str(error) or type(error).__name__
            if self._healthy:
                pause = _FIRST_PAUSE
            logger.warning("feed %s: %s; trying again", self.url, reason)
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter, no secret
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _follow_once(self) -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._servers,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            metadata_max_age_ms=_METADATA_EVERY_MS,
            request_timeout_ms=round(_CALL_WITHIN * 1000),
            **self._options,
        )
        try:
            async with asyncio.timeout(_CALL_WITHIN):
                await consumer.start()
                reading = await self._begin(consumer)
            await self._read_for_ever(consumer, reading)
        finally:
            with contextlib.suppress(TimeoutError, KafkaError):
                async with asyncio.timeout(_CALL_WITHIN):
                    await consumer.stop()

    async def _begin(self, consumer: AIOKafkaConsumer) -> _Reading:
        """Assign every partition at the first record that can matter."""
        # Asking for one topic would make a missing one; asking for all does not.
        if self._topic not in await consumer.topics():
            raise SourceError(f"the topic {self._topic} does not exist")
        partitions = await self._partitions(consumer)
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        since_ms = round((time.time() - LOG_WINDOW - CLOCK_SLACK) * 1000)
        found = await consumer.offsets_for_times(dict.fromkeys(partitions, since_ms))
        starts = {}
        for partition in partitions:
            first = found.get(partition)
            # None: nothing is that young, so everything before the end seen above is dead.
            starts[partition] = ends[partition] if first is None else first.offset
            consumer.seek(partition, starts[partition])
        return _Reading(starts, ends)

    async def _partitions(self, consumer: AIOKafkaConsumer) -> list[TopicPartition]:
        # A consumer learns a topic's partitions some time after it was told to read one of them; none known yet must
        # never be taken for none there.
        consumer.assign([TopicPartition(self._topic, 0)])
        while not (numbers := consumer.partitions_for_topic(self._topic)):
            await asyncio.sleep(_LOOK_AGAIN)
        return [TopicPartition(self._topic, number) for number in sorted(numbers)]

    async def _read_for_ever(self, consumer: AIOKafkaConsumer, reading: _Reading) -> None:
        last_record = time.monotonic()
        while True:
            async with asyncio.timeout(_CALL_WITHIN):
                batches = await consumer.getmany(timeout_ms=1000)
            for partition, records in batches.items():
                for record in records:
                    event = reading.next_event(partition, record)
                    if event is not None:
                        self._take(event)
            if batches:
                last_record = time.monotonic()
            elif time.monotonic() - last_record > SILENCE:
                raise SourceError(f"no record for {SILENCE:.0f} s")
            numbers = consumer.partitions_for_topic(self._topic)
            if numbers is not None and numbers != reading.numbers:
                raise SourceError("the topic's partitions changed")
            heartbeat = reading.heartbeat(consumer.highwater)
            if heartbeat is not None:
                self._take(heartbeat)
                if not self._healthy:
                    self._healthy = True
                    logger.info("feed %s: connected, %d partitions read", self.url, len(reading.numbers))


class _Reading:
    """Where each partition stands. Does no I/O."""

    def __init__(self, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> None:
        self.numbers = frozenset(partition.partition for partition in starts)
        self._next = dict(starts)
        self._ends = ends
        self._caught_up = False
        self._heartbeats: dict[TopicPartition, Heartbeat] = {}
        self._sent_until_us = -1

    def next_event(self, partition: TopicPartition, record: ConsumerRecord[bytes, bytes]) -> Event | None:
        """The revocation in the partition's next record. Raises ``SourceError`` when records are missing."""
        if record.offset != self._next[partition]:
            raise SourceError(
                f"partition {partition.partition} goes on at {record.offset}, not {self._next[partition]}"
            )
        self._next[partition] += 1
        event = decode_event(record.value or b"")
        if isinstance(event, Heartbeat):
            self._heartbeats[partition] = event
            return None
        return event

    def heartbeat(self, highwater: Callable[[TopicPartition], int | None]) -> Heartbeat | None:
        """What all partitions together vouch for, when it is more than before."""
        if not self._caught_up:
            self._caught_up = all(self._next[partition] >= end for partition, end in self._ends.items())
        if not self._caught_up or len(self._heartbeats) < len(self._next):
            return None
        if any((highwater(partition) or 0) - at > BACKLOG for partition, at in self._next.items()):
            return None
        complete = min(heartbeat.complete_until_us for heartbeat in self._heartbeats.values())
        if complete <= self._sent_until_us:
            return None
        self._sent_until_us = complete
        lag = max(heartbeat.at_us - heartbeat.complete_until_us for heartbeat in self._heartbeats.values())
        return Heartbeat(at_us=complete + max(lag, 0), complete_until_us=complete)
