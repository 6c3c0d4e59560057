"""TLS in front of a server that has none of its own, as a service mesh or a load balancer puts it there."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Self

from tests.programs import HOST, free_port
from tests.servers.certificates import Certificate

_CHUNK = 65536


class TlsFront:
    """Listens on ``port`` with ``certificate`` and passes everything to ``upstream_port`` in clear."""

    def __init__(self, upstream_port: int, certificate: Certificate) -> None:
        self.port = free_port()
        self._upstream_port = upstream_port
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(certificate.certificate, certificate.key)
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda *_: None)  # a client that breaks off its handshake is the test's wish
        self._thread = threading.Thread(target=self._loop.run_forever, name="tls-front", daemon=True)
        self._serving: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, change: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(change, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, HOST, self.port, ssl=self._tls)

    async def _end(self) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            with suppress(OSError, asyncio.CancelledError):
                upstream_reader, upstream_writer = await asyncio.open_connection(HOST, self._upstream_port)
                await asyncio.gather(_pass(reader, upstream_writer), _pass(upstream_reader, writer))
        finally:
            self._serving.discard(task)
            writer.transport.abort()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
