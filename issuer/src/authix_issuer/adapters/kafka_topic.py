"""The logout topic in Kafka.

Rule: a record is published when every replica that must have it does (acks=all, idempotent); a topic whose settings
could lose one is refused, with the sentence that mends it. After a failure nothing is handed to the producer until the
brokers answer again, since it would keep and repeat it for ever. Records go to the partitions that the topic had at the
start: verifiers notice a new partition within seconds, and nothing may stand there before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from authix.errors import SettingsError
from authix.events import LOG_WINDOW, Heartbeat, encode_event
from authix_issuer.errors import TopicUnavailable
from authix_issuer.findings import Finding, Verdict, judge
from authix_issuer.ports import Logout

logger = logging.getLogger("authix.issuer.topic")

DEADLINE = 4.0
"""Seconds within which the brokers must confirm."""
PARTITIONS = 6
"""Of a topic that is made here."""
REPLICAS = 3
MIN_IN_SYNC = 2
RETENTION_MS = 2 * LOG_WINDOW * 1000
_STOP_WITHIN = 2.0
_TOPIC_EXISTS = 36
_FAILURES = (KafkaError, OSError, TimeoutError)


class KafkaTopic:
    """A ``Topic``. ``options`` are aiokafka's of the connection."""

    def __init__(self, servers: str, topic: str, options: Mapping[str, Any]) -> None:
        self.topic = topic
        self._connection = {"bootstrap_servers": servers, "request_timeout_ms": round(DEADLINE * 1000), **options}
        self._producer: AIOKafkaProducer | None = None
        self._partitions: list[int] = []
        self._brokers = 0
        self._choose = DefaultPartitioner()
        self._failed = False
        self._connecting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Raises ``SettingsError`` for a topic that could lose records; Kafka being away is no error."""
        try:
            await self._connected()
        except TopicUnavailable as error:
            logger.warning("%s; logouts are kept and published later", error)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._producer is not None:
            await _stop(self._producer)

    async def publish(self, revocations: list[Logout]) -> None:
        producer = await self._connected()
        records = [(self._partition_of(event.sub), event.sub, encode_event(event)) for event in revocations]
        await self._send(producer, records)

    async def announce(self, heartbeat: Heartbeat) -> None:
        producer = await self._connected()
        everywhere = await self._ask(producer.partitions_for(self.topic))
        record = encode_event(heartbeat)
        await self._send(producer, [(partition, None, record) for partition in sorted(everywhere)])

    async def check(self) -> None:
        await self._connected()

    async def examine(self) -> list[Finding]:
        """Whether the topic keeps what it confirmed. Raises ``TopicUnavailable``."""
        subject = f"topic (Kafka) {self.topic}"
        try:
            partitions = await self._check_topic()
        except SettingsError as error:
            return [Finding(subject, Verdict.WRONG, sentence) for sentence in str(error).splitlines()]
        return [
            Finding(subject, Verdict.OK, f"{len(partitions)} partitions"),
            judge(
                "brokers (Kafka)",
                self._brokers >= REPLICAS,
                str(self._brokers),
                f"{self._brokers}; {REPLICAS} are needed so that a lost disk loses no logout. Fit for development.",
                bad=Verdict.WARNING,
            ),
        ]

    async def _send(self, producer: AIOKafkaProducer, records: Sequence[tuple[int, str | None, bytes]]) -> None:
        async def all_confirmed() -> None:
            confirmations = [
                await producer.send(self.topic, value, key=subject and subject.encode("ascii"), partition=partition)
                for partition, subject, value in records
            ]
            await asyncio.gather(*confirmations)

        await self._ask(all_confirmed())

    async def _connected(self) -> AIOKafkaProducer:
        async with self._connecting:
            if self._producer is None:
                self._partitions = await self._check_topic()
                producer = AIOKafkaProducer(
                    **self._connection, acks="all", enable_idempotence=True, linger_ms=0, metadata_max_age_ms=5000
                )
                try:
                    await self._ask(producer.start())
                except TopicUnavailable:
                    await _stop(producer)
                    raise
                self._producer = producer
            elif self._failed and not await self._ask(self._producer.client.force_metadata_update()):
                self._failed = True
                raise TopicUnavailable("Kafka does not answer")
        return self._producer

    async def _ask(self, call: Any) -> Any:
        try:
            async with asyncio.timeout(DEADLINE):
                answer = await call
        except _FAILURES as error:
            self._failed = True
            if isinstance(error, KafkaError) and self._producer is not None:
                # once a batch was rejected, an idempotent producer never gets another one through
                producer, self._producer = self._producer, None
                await _stop(producer)
            raise TopicUnavailable(f"Kafka does not confirm ({type(error).__name__})") from error
        self._failed = False
        return answer

    def _partition_of(self, subject: str) -> int:
        partition: int = self._choose(subject.encode("ascii"), self._partitions, self._partitions)
        return partition

    async def _check_topic(self) -> list[int]:
        """The topic's partitions; makes it where it is missing. Raises ``SettingsError`` or ``TopicUnavailable``."""
        admin = AIOKafkaAdminClient(**self._connection)
        try:
            await self._ask(admin.start())
            self._brokers = brokers = len((await self._ask(admin.describe_cluster()))["brokers"])
            if self.topic not in await self._ask(admin.list_topics()):
                await self._make(admin, brokers)
            described = (await self._ask(admin.describe_topics([self.topic])))[0]["partitions"]
            resource = ConfigResource(ConfigResourceType.TOPIC, self.topic)
            answer = (await self._ask(admin.describe_configs([resource])))[0].resources[0]
        finally:
            await admin.close()
        config = {entry[0]: entry[1] for entry in answer[4]}
        if not described or not config:
            raise TopicUnavailable(f"Kafka does not yet know the topic {self.topic}")
        replicas = min(len(partition["replicas"]) for partition in described)
        problems = lossy_settings(self.topic, config, replicas=replicas, brokers=brokers)
        if problems:
            raise SettingsError("\n".join(problems))
        if brokers < REPLICAS:
            logger.warning(
                "Kafka has %d broker(s): fit for development; %d keep a lost disk harmless", brokers, REPLICAS
            )
        return sorted(partition["partition"] for partition in described)

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
        answer = await self._ask(admin.create_topics([topic]))
        code, message = answer.topic_errors[0][1:3]
        if code not in {0, _TOPIC_EXISTS}:
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


async def _stop(producer: AIOKafkaProducer) -> None:
    try:
        async with asyncio.timeout(_STOP_WITHIN):
            await producer.stop()
    except (TimeoutError, KafkaError):
        # stop() waits for brokers that are away, and has no limit; what they did not confirm is still in the outbox
        await producer._sender.close()  # noqa: SLF001 - see above
        await producer.client.close()
