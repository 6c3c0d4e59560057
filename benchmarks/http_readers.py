"""A follower of an HTTP feed that costs next to nothing, so that thousands fit into one process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Self, cast

import httptools

from authix import sse
from authix.events import Heartbeat, decode_event
from tests.programs import HOST


class HttpReader(asyncio.Protocol):
    """Reads the feed as a follower must, and tells ``heard`` when a logout came."""

    def __init__(self, request: bytes, heard: Callable[[], None]) -> None:
        self._request = request
        self._heard = heard
        self._parser = httptools.HttpResponseParser(self)
        self._events = sse.Decoder()
        self._transport: asyncio.WriteTransport | None = None
        self.live: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.received = 0

    @classmethod
    async def connect(cls, port: int, heard: Callable[[], None]) -> Self:
        """One that has had its first heartbeat."""
        request = f"GET /revocations HTTP/1.1\r\nHost: {HOST}:{port}\r\nAccept: {sse.CONTENT_TYPE}\r\n\r\n"
        make = partial(cls, request.encode("ascii"), heard)
        _, reader = await asyncio.get_running_loop().create_connection(make, HOST, port)
        await reader.live
        return reader

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's does not say so of itself
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        for received in self._events.feed(body):
            event = decode_event(received.data)
            if not isinstance(event, Heartbeat):
                self._heard()
            elif not self.live.done():
                self.live.set_result(None)

    def connection_lost(self, reason: Exception | None) -> None:
        if not self.live.done():
            self.live.set_exception(reason or ConnectionResetError("the feed ended"))
