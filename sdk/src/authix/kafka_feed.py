"""Follow the logout topic in Kafka (needs the extra ``authix[kafka]``).

Rule: no consumer group. Every partition is read from the moment before which all revocations are dead. Only heartbeats
that come after everything there was read count, only the lowest of the partitions' watermarks, and one that comes late
shows how late. A gap or other partitions make everything be read again, which does no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndTimestamp

from authix import tracing
from authix.errors import SourceError
from authix.events import LOG_WINDOW, Heartbeat, Revocation, Take, decode_event
from authix.kafka_connection import refusal

logger = logging.getLogger("authix.feed")

CLOCK_SLACK = 600
"""Seconds by which this host's clock may be off when it says from when on the topic is read."""
SILENCE = 5.0
"""Seconds without a record in a partition (each has a heartbeat every second) after which the brokers are asked why."""
PAUSE = 3.0
"""Seconds between two heartbeats from which on the watermark must have gone on as far as this host's clock."""
CALM = 30.0
"""Seconds of heartbeats without a pause after which they are of now, whatever the issuers' clock did in that pause."""
AT_ONCE = 500
"""Records after which others on the event loop have their turn.

Fewer than the objects after which Python collects garbage: a replay then leads to no collection, which would hold up
everybody for longer than the records do.
"""
_CALL_WITHIN = 5.0
_GRACE = 0.5
_METADATA_EVERY_MS = 2000
_FETCH_WAIT_MS = 1500
"""How long a broker holds back an answer without a record: longer than from one heartbeat to the next, so that none is
without. An answer with a record is never held back; another question on the same connection is, so it stays well below
``_CALL_WITHIN``."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
_FORESEEN = (KafkaError, SourceError, OSError, TimeoutError)
_T = TypeVar("_T")


class KafkaFeed:
    """A ``Feed`` over Kafka. ``options`` are aiokafka's of the connection; ``take`` gets every event."""

    def __init__(self, url: str, servers: str, topic: str, *, options: Mapping[str, Any], take: Take) -> None:
        self.url = url
        self._servers = servers
        self._topic = topic
        self._options = options
        self._take = take
        self._delay = _Delay()
        self._healthy = False
        self._reported = ""

    async def follow(self) -> NoReturn:
        """Follow for ever, beginning anew after every failure."""
        _silence_aiokafka()
        pause = _FIRST_PAUSE
        while True:
            self._healthy = False
            try:
                await self._follow_once()
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                self._report(error)  # aiokafka lets out those of its own tasks
            except Exception as error:  # noqa: BLE001 - whatever went wrong, the next try may do
                self._report(error)
            if self._healthy:
                pause = _FIRST_PAUSE
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter, no secret
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _follow_once(self) -> NoReturn:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._servers,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            metadata_max_age_ms=_METADATA_EVERY_MS,
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            # Each of its calls ends by this. There is no limit over several: one server that hangs would use it up.
            request_timeout_ms=round(_CALL_WITHIN * 1000),
            **self._options,
        )
        try:
            reading = await _calmly(self._begin(consumer))
            while True:
                await self._read(consumer, reading)
                await asyncio.sleep(0)  # a consumer that has something at hand never waits
        finally:
            await _stop(consumer)

    async def _start(self, consumer: AIOKafkaConsumer) -> None:
        try:
            await consumer.start()
        except KafkaError:
            if reason := await refusal(self._servers, self._options):
                raise SourceError(reason) from None
            raise

    async def _begin(self, consumer: AIOKafkaConsumer) -> _Reading:
        """Connect, and assign every partition at the first record that can matter."""
        await self._start(consumer)
        # Asking for one topic would make a missing one; asking for all does not.
        if self._topic not in await consumer.topics():
            raise SourceError(f"the topic {self._topic} does not exist")
        # It knows the partitions no sooner; to ask for their ends would tell it too, but 100 ms later.
        await consumer._client.add_topic(self._topic)  # noqa: SLF001 - the consumer has no such call
        numbers = consumer.partitions_for_topic(self._topic)
        if not numbers:
            raise SourceError("the topic's partitions are not known")
        partitions = [TopicPartition(self._topic, number) for number in sorted(numbers)]
        # The ends first: a record that comes between these two is found or lies behind its partition's end.
        ends = await consumer.end_offsets(partitions)
        since_ms = round((time.time() - LOG_WINDOW - CLOCK_SLACK) * 1000)
        found = await consumer.offsets_for_times(dict.fromkeys(partitions, since_ms))
        starts = {
            partition: ends[partition] if (first := found[partition]) is None else first.offset
            for partition in partitions
        }
        consumer.assign(partitions)
        for partition, start in starts.items():  # without a pause, in which it would choose a position by itself
            consumer.seek(partition, start)
        return _Reading(starts, ends)

    async def _read(self, consumer: AIOKafkaConsumer, reading: _Reading) -> None:
        batches = await consumer.getmany(timeout_ms=1000, max_records=AT_ONCE)
        for partition, records in batches.items():
            reading.advance(partition, records)
            revocations: list[Revocation] = []
            try:
                for record in records:
                    event = decode_event(record.value or b"")
                    if isinstance(event, Heartbeat):
                        reading.heartbeats[partition] = event
                    elif event is not None:
                        revocations.append(event)
            finally:  # what stands before a record that can't be read counts too
                # what is replayed was traced by whoever took it when it was new
                with tracing.taking(self._topic, (record.headers for record in records if self._healthy)):
                    self._take(*revocations)
        # None: it is gone. An aiokafka that is to read a topic that is not there uses up a whole core.
        if consumer.partitions_for_topic(self._topic) != reading.numbers:
            raise SourceError("the topic's partitions changed")
        heartbeat = reading.heartbeat(consumer.highwater)
        if heartbeat is not None:
            self._take(self._delay.shown_by(heartbeat))
            if not self._healthy:
                self._healthy = True
                self._reported = ""
                logger.info("feed %s: connected, %d partitions read", self.url, len(reading.numbers))
        if reading.silence() > SILENCE:
            # The issuers' silence is no reason to read everything again; the brokers' is, or another topic of the name.
            ends = await consumer.end_offsets(list(reading.next))
            reading.compare(ends, await consumer.offsets_for_times(dict(reading.stamps)))

    def _report(self, error: BaseException) -> None:
        reason = str(error) or type(error).__name__
        trace = None if isinstance(error, _FORESEEN) else error
        level = logging.DEBUG if reason == self._reported else logging.WARNING
        self._reported = reason
        logger.log(level, "feed %s: %s; trying again", self.url, reason, exc_info=trace)


class _Reading:
    """Where each partition stands. Does no I/O."""

    def __init__(self, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> None:
        self.numbers = {partition.partition for partition in starts}
        self.next = dict(starts)
        self.heartbeats: dict[TopicPartition, Heartbeat] = {}
        """The last of each partition that counts."""
        self.stamps: dict[TopicPartition, int] = {}
        """The brokers' time of the last record of each partition, in ms."""
        self._ends = ends
        self._caught_up = False
        self._sent_until_us = -1
        self._heard = dict.fromkeys(starts, time.monotonic())
        self._promised = starts

    def advance(self, partition: TopicPartition, records: Sequence[ConsumerRecord[bytes, bytes]]) -> None:
        """Go on to these records of the partition. Raises ``SourceError`` when some up to their last are missing."""
        expected = self.next[partition]
        if records[0].offset != expected or records[-1].offset != expected + len(records) - 1:
            raise SourceError(f"records of partition {partition.partition} are missing from {expected} on")
        self.next[partition] += len(records)
        self.stamps[partition] = records[-1].timestamp
        self._heard[partition] = time.monotonic()

    def silence(self) -> float:
        """Seconds since the partition that is silent longest has said something."""
        return time.monotonic() - min(self._heard.values())

    def compare(
        self, ends: Mapping[TopicPartition, int], found: Mapping[TopicPartition, OffsetAndTimestamp | None]
    ) -> None:
        """Bear the silence for another while: the partitions end at ``ends``, and ``stamps`` were ``found`` in them.

        Raises ``SourceError`` when one does not send what it had the last time, or is not the one that was read.
        """
        for partition, at in self.next.items():
            if not self._promised[partition] <= at <= ends[partition]:
                raise SourceError(f"partition {partition.partition} is stuck at {at}")
        for partition, stamp in self.stamps.items():
            if (record := found[partition]) is None or record.timestamp != stamp:
                raise SourceError(f"partition {partition.partition} is another one than before")
        self._promised = ends
        self._heard = dict.fromkeys(self.next, time.monotonic())

    def heartbeat(self, highwater: Callable[[TopicPartition], int | None]) -> Heartbeat | None:
        """What all partitions together vouch for, when it is more than before."""
        if not self._caught_up:
            # Some relay's last words may be among those read so far: they tell nothing of now.
            self.heartbeats.clear()
            self._caught_up = all(at >= max(self._ends[tp], highwater(tp) or 0) for tp, at in self.next.items())
        if len(self.heartbeats) < len(self.next):
            return None
        complete = min(heartbeat.complete_until_us for heartbeat in self.heartbeats.values())
        if complete <= self._sent_until_us:
            return None
        self._sent_until_us = complete
        lag = max(heartbeat.at_us - heartbeat.complete_until_us for heartbeat in self.heartbeats.values())
        return Heartbeat(at_us=complete + max(lag, 0), complete_until_us=complete)


class _Delay:
    """How much older a heartbeat is than the silence that it ends allows, on this host's monotonic clock.

    A broker that hung appends what it had been sent before, as if it were of now. Whoever sent that could not send the
    logouts after it. A clock of the issuers that steps or stands still is no such thing: the heartbeats go on.
    """

    def __init__(self) -> None:
        self._heard: float | None = None
        self._complete_until_us = 0
        self._late = 0.0
        self._calm = 0.0

    def shown_by(self, heartbeat: Heartbeat) -> Heartbeat:
        """The heartbeat with at least this delay as its lag."""
        now, complete = time.monotonic(), heartbeat.complete_until_us
        if self._heard is not None:
            passed = now - self._heard
            missing = passed - (complete - self._complete_until_us) / 1_000_000
            self._calm = 0.0 if passed > PAUSE else self._calm + passed
            self._late = max(0.0, self._late + (missing if passed > PAUSE else min(missing, 0.0)))
            if self._calm > CALM:
                self._late = 0.0
        self._heard, self._complete_until_us = now, complete
        lag = max(heartbeat.at_us - complete, round(self._late * 1_000_000))
        return Heartbeat(at_us=complete + lag, complete_until_us=complete)


def _silence_aiokafka() -> None:
    """It says many times a second that a broker is away; the feed says it once. A level that someone has set stays."""
    noisy = logging.getLogger("aiokafka")
    if noisy.level == logging.NOTSET:
        noisy.setLevel(logging.CRITICAL)


async def _calmly(work: Coroutine[Any, Any, _T]) -> _T:
    """Do it; when cancelled, give it a moment to end by itself: aiokafka leaves open a connection that it is making."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=_GRACE)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise


async def _stop(consumer: AIOKafkaConsumer) -> None:
    async def stop() -> None:
        # It raises the CancelledError of a task that it cancels, and leaves its connections open then.
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await consumer.stop()

    stopping = asyncio.create_task(stop())
    await asyncio.wait([stopping], timeout=_CALL_WITHIN)
    stopping.cancel()
    await consumer._client.close()  # noqa: SLF001 - see above
