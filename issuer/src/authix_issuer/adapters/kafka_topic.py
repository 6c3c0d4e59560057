"""The logout topic in Kafka.

Rule: a record is published when every replica that must have it does (acks=all, idempotent); a topic whose settings
could lose one is refused, with the sentence that mends it. A producer that failed once is thrown away with all it
holds: it would repeat that for ever, or never get anything through again; the outbox has it still. Records go to the
partitions that the topic had at the start: verifiers notice a new one within seconds, and nothing may stand there
before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code
from aiokafka.partitioner import DefaultPartitioner

from authix import tracing
from authix.errors import SettingsError
from authix.events import LOG_WINDOW, Heartbeat, encode_event
from authix.kafka_connection import refusal
from authix_issuer.errors import TopicUnavailable
from authix_issuer.findings import Finding, Verdict, judge
from authix_issuer.ports import Extent, Logout, Positions, Span, concerns

logger = logging.getLogger("authix.issuer.topic")

DEADLINE = 4.0
"""Seconds within which the brokers must confirm."""
PARTITIONS = 6
"""Of a topic that is made here."""
REPLICAS = 3
MIN_IN_SYNC = 2
RETENTION_MS = 2 * LOG_WINDOW * 1000
_REQUEST_WITHIN_MS = 2000
_LOOK_AGAIN = 0.1
_END_WITHIN = 1.0
_Record = tuple[int, str | None, bytes, tracing.Headers]


class _State(NamedTuple):
    """What the brokers say of the topic and of themselves."""

    cluster: str
    partitions: list[int]
    brokers: int
    problems: list[str]


class KafkaTopic:
    """A ``Topic``. ``options`` are aiokafka's of the connection."""

    def __init__(self, servers: str, topic: str, options: Mapping[str, Any]) -> None:
        self.topic = topic
        self._servers, self._options = servers, options
        self._connection = {"bootstrap_servers": servers, "request_timeout_ms": _REQUEST_WITHIN_MS, **options}
        self._producer: AIOKafkaProducer | None = None
        self._reader: AIOKafkaConsumer | None = None
        self._cluster = ""
        self._partitions: list[int] = []
        self._choose = DefaultPartitioner()
        self._connecting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Raises ``SettingsError`` for a topic that could lose records; Kafka being away is no error."""
        try:
            self._producer = await self._connect()
        except TopicUnavailable as error:
            logger.warning("%s; logouts are kept and published later", error)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._disconnect()

    async def publish(self, revocations: list[Logout], contexts: Mapping[Logout, tracing.Headers] = {}) -> Positions:
        async with self._sending() as producer:
            with tracing.sending(self.topic, contexts) as headers:
                records = [
                    (self._partition_of(concerned), concerned, encode_event(event), headers.get(event, ()))
                    for concerned, event in ((concerns(event), event) for event in revocations)
                ]
                return await self._append(producer, records)

    async def announce(self, heartbeat: Heartbeat) -> Positions:
        record = encode_event(heartbeat)
        async with self._sending() as producer:
            everywhere = await producer.partitions_for(self.topic)
            return await self._append(producer, [(partition, None, record, ()) for partition in sorted(everywhere)])

    async def extent(self) -> Extent:
        async with self._sending() as producer:
            everywhere = [TopicPartition(self.topic, number) for number in await producer.partitions_for(self.topic)]
            reader = await self._read()
            # In this order: should the topic be made anew in between, its ends are the new ones.
            firsts = await reader.beginning_offsets(everywhere)
            ends = await reader.end_offsets(everywhere)
        spans = {partition.partition: Span(firsts[partition], ends[partition]) for partition in everywhere}
        return Extent(f"{self._cluster}/{self.topic}", spans)

    async def check(self) -> None:
        await self._connected()

    async def examine(self) -> list[Finding]:
        """Whether the topic keeps what it confirmed. Raises ``TopicUnavailable``."""
        subject = f"topic (Kafka) {self.topic}"
        try:
            state = await self._look()
        except SettingsError as error:
            return [Finding(subject, Verdict.WRONG, str(error))]
        return [
            *(Finding(subject, Verdict.WRONG, problem) for problem in state.problems),
            *([] if state.problems else [Finding(subject, Verdict.OK, f"{len(state.partitions)} partitions")]),
            judge(
                "brokers (Kafka)",
                state.brokers >= REPLICAS,
                str(state.brokers),
                f"{state.brokers}; {REPLICAS} are needed so that a lost disk loses no logout. Fit for development.",
                bad=Verdict.WARNING,
            ),
        ]

    @contextlib.asynccontextmanager
    async def _sending(self) -> AsyncIterator[AIOKafkaProducer]:
        producer = await self._connected()
        try:
            with _told_as_unavailable():
                async with asyncio.timeout(DEADLINE):
                    yield producer
        except TopicUnavailable:
            if self._producer is producer:
                await self._disconnect()
            raise

    async def _append(self, producer: AIOKafkaProducer, records: Sequence[_Record]) -> Positions:
        confirmations = [
            await producer.send(
                self.topic, value, key=subject and subject.encode("ascii"), partition=partition, headers=[*headers]
            )
            for partition, subject, value, headers in records
        ]
        positions: Positions = {}
        for record in await asyncio.gather(*confirmations):
            positions[record.partition] = max(record.offset + 1, positions.get(record.partition, 0))
        return positions

    async def _connected(self) -> AIOKafkaProducer:
        async with self._connecting:
            if self._producer is None:
                try:
                    self._producer = await self._connect()
                except SettingsError as error:
                    raise TopicUnavailable(str(error)) from None
            return self._producer

    async def _connect(self) -> AIOKafkaProducer:
        """Raises ``SettingsError`` or ``TopicUnavailable``."""
        state = await self._look()
        if state.problems:
            raise SettingsError("\n".join(state.problems))
        if state.brokers < REPLICAS:
            logger.warning(
                "Kafka has %d broker(s): fit for development; %d keep a lost disk harmless", state.brokers, REPLICAS
            )
        self._cluster = state.cluster
        if not self._partitions or not set(self._partitions) <= set(state.partitions):
            self._partitions = state.partitions
        producer = AIOKafkaProducer(
            **self._connection, acks="all", enable_idempotence=True, linger_ms=0, metadata_max_age_ms=5000
        )
        try:
            with _told_as_unavailable():
                async with asyncio.timeout(DEADLINE):
                    await producer.start()
        except BaseException:
            await _discard(producer)
            raise
        return producer

    async def _read(self) -> AIOKafkaConsumer:
        if self._reader is None:
            self._reader = AIOKafkaConsumer(**self._connection, group_id=None, enable_auto_commit=False)
            await self._reader.start()
        return self._reader

    async def _disconnect(self) -> None:
        producer, self._producer = self._producer, None
        reader, self._reader = self._reader, None
        if producer is not None:
            await _discard(producer)
        if reader is not None:
            await _end(reader.stop())
            await reader._client.close()  # noqa: SLF001 - its own stop may leave that out

    def _partition_of(self, subject: str) -> int:
        partition: int = self._choose(subject.encode("ascii"), self._partitions, self._partitions)
        return partition

    async def _look(self) -> _State:
        """Look at the topic; make it where it is missing. Raises ``SettingsError`` or ``TopicUnavailable``."""
        admin = AIOKafkaAdminClient(**self._connection)
        try:
            with _told_as_unavailable():
                await self._start(admin)
                cluster = await admin.describe_cluster()
                brokers = len(cluster["brokers"])
                if self.topic not in await admin.list_topics():
                    await self._make(admin, brokers)
                described, config = await self._describe(admin)
        finally:
            await admin.close()
        replicas = min(len(partition["replicas"]) for partition in described)
        problems = lossy_settings(self.topic, config, replicas=replicas, brokers=brokers)
        numbers = sorted(partition["partition"] for partition in described)
        return _State(cluster.get("cluster_id") or "", numbers, brokers, problems)

    async def _start(self, admin: AIOKafkaAdminClient) -> None:
        try:
            await admin.start()
        except KafkaError:
            if reason := await refusal(self._servers, self._options):
                raise SettingsError(f"Kafka can't be used: {reason}.") from None
            raise

    async def _describe(self, admin: AIOKafkaAdminClient) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """The topic's partitions and settings; a broker knows a new topic some time after it was made."""
        resource = ConfigResource(ConfigResourceType.TOPIC, self.topic)
        async with asyncio.timeout(DEADLINE):
            while True:
                described = (await admin.describe_topics([self.topic]))[0]["partitions"]
                error, _, _, _, entries, *_ = (await admin.describe_configs([resource]))[0].resources[0]
                if error and not for_code(error).retriable:
                    raise for_code(error)
                if described and entries:
                    return described, {name: value for name, value, *_ in entries}
                await asyncio.sleep(_LOOK_AGAIN)

    async def _make(self, admin: AIOKafkaAdminClient, brokers: int) -> None:
        replicas = min(REPLICAS, brokers)
        config = {
            "cleanup.policy": "delete",
            "retention.ms": str(RETENTION_MS),
            "retention.bytes": "-1",
            "message.timestamp.type": "LogAppendTime",
            "min.insync.replicas": str(MIN_IN_SYNC if replicas >= REPLICAS else 1),
            "unclean.leader.election.enable": "false",
        }
        topic = NewTopic(self.topic, PARTITIONS, replicas, topic_configs=config)
        _, code, message, *_ = (await admin.create_topics([topic])).topic_errors[0]
        error = for_code(code)
        if code and error.retriable:
            raise error
        if code and error is not TopicAlreadyExistsError:
            raise SettingsError(
                f"AUTHIX_TOPIC={self.topic} can't be made ({message}): "
                "make it, or give AUTHIX_KAFKA_USERNAME the right to."
            )


def lossy_settings(topic: str, config: Mapping[str, str], *, replicas: int, brokers: int) -> list[str]:
    """A sentence for each setting of the topic with which a logout could be lost."""
    wanted = {
        "cleanup.policy": (config.get("cleanup.policy") == "delete", "delete", "compaction drops logouts"),
        "retention.ms": (
            _at_least(config.get("retention.ms"), LOG_WINDOW * 1000),
            str(RETENTION_MS),
            "a verifier that starts must find every live logout",
        ),
        "retention.bytes": (config.get("retention.bytes") == "-1", "-1", "a full partition would drop live logouts"),
        "message.timestamp.type": (
            config.get("message.timestamp.type") == "LogAppendTime",
            "LogAppendTime",
            "verifiers seek by the brokers' time",
        ),
        "unclean.leader.election.enable": (
            config.get("unclean.leader.election.enable") == "false",
            "false",
            "a broker that fell behind could become leader and lose logouts",
        ),
        "min.insync.replicas": (
            replicas < REPLICAS or _at_least(config.get("min.insync.replicas"), MIN_IN_SYNC),
            str(MIN_IN_SYNC),
            "one broker's word is not enough",
        ),
    }
    problems = [
        f"The topic {topic} has {name}={config.get(name)}, but {why}: set it to {value} with kafka-configs."
        for name, (good, value, why) in wanted.items()
        if not good
    ]
    if replicas < min(REPLICAS, brokers):
        problems.append(
            f"The topic {topic} has {replicas} replica(s) on {brokers} brokers, so one lost disk loses logouts: "
            f"reassign it to {min(REPLICAS, brokers)} with kafka-reassign-partitions."
        )
    return problems


def _at_least(value: str | None, least: int) -> bool:
    return value is not None and (int(value) == -1 or int(value) >= least)


@contextlib.contextmanager
def _told_as_unavailable() -> Iterator[None]:
    try:
        yield
    except (SettingsError, TopicUnavailable):
        raise
    except Exception as error:  # besides its own errors, aiokafka lets out what a cluster in pieces does to its insides
        raise TopicUnavailable(f"Kafka does not confirm ({type(error).__name__})") from error


async def _discard(producer: AIOKafkaProducer) -> None:
    """End it. Its own ``stop`` waits for brokers that are away, and has no limit."""
    producer._closed = True  # noqa: SLF001 - see above
    await _end(producer._sender.close())  # noqa: SLF001 - see above
    await producer.client.close()


async def _end(closing: Coroutine[Any, Any, None]) -> None:
    async def end() -> None:
        # It raises what a task of its own died of, or the CancelledError of the task that it cancels.
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await closing

    ending = asyncio.create_task(end())
    await asyncio.wait([ending], timeout=_END_WITHIN)
    ending.cancel()
