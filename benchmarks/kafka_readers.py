"""A reader of a topic that costs next to nothing, so that one process can hold thousands.

Rule: it speaks to one broker that leads all partitions, fetches as the SDK does (whatever there is, or nothing after a
second and a half) and parses every event; it neither resumes nor follows a change of leaders.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

from aiokafka.record.memory_records import MemoryRecords

from authix.events import Heartbeat, decode_event
from tests.programs import HOST

_FETCH, _FETCH_VERSION = 1, 4
_LIST_OFFSETS, _LIST_OFFSETS_VERSION = 2, 1
_LATEST = -1
_WAIT_MS = 1500
_MOST = 1 << 20
PARTITIONS = 6


class KafkaReader:
    """Reads every partition from its end on, and tells ``heard`` when a logout came."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, topic: str, heard: Callable[[], None]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._topic = struct.pack(">h", len(topic)) + topic.encode("ascii")
        self._heard = heard
        self._next: dict[int, int] = {}
        self._task: asyncio.Task[None] | None = None
        self.received = 0

    @classmethod
    async def connect(cls, port: int, topic: str, heard: Callable[[], None]) -> KafkaReader:
        new = cls(*await asyncio.open_connection(HOST, port), topic, heard)
        await new._find_ends()
        new._task = asyncio.create_task(new._follow())
        return new

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._writer.close()

    async def _ask(self, key: int, version: int, body: bytes) -> bytes:
        head = struct.pack(">hhih", key, version, 0, -1)
        self._writer.write(struct.pack(">i", len(head) + len(body)) + head + body)
        (size,) = struct.unpack(">i", await self._reader.readexactly(4))
        answer = await self._reader.readexactly(size)
        self.received += 4 + size
        return answer

    async def _find_ends(self) -> None:
        wanted = b"".join(struct.pack(">iq", number, _LATEST) for number in range(PARTITIONS))
        body = struct.pack(">ii", -1, 1) + self._topic + struct.pack(">i", PARTITIONS) + wanted
        answer = await self._ask(_LIST_OFFSETS, _LIST_OFFSETS_VERSION, body)
        at = 4 + 4 + len(self._topic) + 4
        for number, error, _, end in struct.iter_unpack(">ihqq", answer[at:]):
            assert error == 0, error
            self._next[number] = end

    async def _follow(self) -> None:
        head = struct.pack(">iiiibi", -1, _WAIT_MS, 1, _MOST, 0, 1) + self._topic
        while True:
            places = (struct.pack(">iqi", number, offset, _MOST) for number, offset in self._next.items())
            body = head + struct.pack(">i", len(self._next)) + b"".join(places)
            self._read(await self._ask(_FETCH, _FETCH_VERSION, body))

    def _read(self, answer: bytes) -> None:
        at = 4 + 4 + 4 + len(self._topic)  # correlation, throttling, one topic
        (count,) = struct.unpack_from(">i", answer, at)
        at += 4
        for _ in range(count):
            number, error, _, _, aborted = struct.unpack_from(">ihqqi", answer, at)
            assert (error, max(aborted, 0)) == (0, 0)
            (size,) = struct.unpack_from(">i", answer, at + 26)
            at += 30
            self._take(number, answer[at : at + size])
            at += size

    def _take(self, number: int, records: bytes) -> None:
        batches = MemoryRecords(records)
        while batches.has_next():
            batch = batches.next_batch()
            for record in batch:
                self._next[number] = record.offset + 1
                if not isinstance(decode_event(record.value or b""), Heartbeat):
                    self._heard()
