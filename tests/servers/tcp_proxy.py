"""A TCP proxy in front of a server, for what networks do: cut, refuse, stall, delay, lose the answer.

Rule: a fault is in force when its method returns, for connections that are open and for those to come, until ``heal``.
The proxy runs in a thread of its own, so a test may block or run a loop beside it. Asyncio streams would read ahead of
a stall; plain reads behind a gate do not, so a stalled peer feels full buffers, as it would feel a dead network.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from typing import Self

from tests.programs import HOST, free_port

CHUNK = 65536


class TcpProxy:
    """Listens on ``port`` from the start and passes everything to ``upstream_port``, both on loopback."""

    def __init__(self, upstream_port: int) -> None:
        self.upstream_port = upstream_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy", daemon=True)
        self.port = free_port()
        self._listener: socket.socket | None = _listen(self.port)
        self.accepted = 0
        """How many connections there have been."""
        self._delay = 0.0
        self._cut_after: int | None = None
        self._requests_pass, self._answers_pass = asyncio.Event(), asyncio.Event()
        self._accepting = False
        self._links: set[asyncio.Task[None]] = set()

    def start(self) -> Self:
        self._thread.start()
        self.heal()
        return self

    def stop(self) -> None:
        self._do(self._refuse())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def heal(self) -> None:
        """Pass everything at once; connections that were stalled go on where they were."""
        self._do(self._heal())

    def cut(self) -> None:
        """Reset every open connection; new ones are served."""
        self._do(self._cut())

    def refuse(self) -> None:
        """Reset every open connection and refuse new ones, as a dead server does."""
        self._do(self._refuse())

    def stall(self) -> None:
        """Accept connections and pass nothing, as a network that drops every packet."""
        self._do(self._close_gates(self._requests_pass, self._answers_pass))

    def lose_answers(self) -> None:
        """Pass requests and no answer: what was asked is done, and the client does not learn it."""
        self._do(self._close_gates(self._answers_pass))

    def cut_in_answer(self, size: int) -> None:
        """Pass ``size`` bytes of the next answer and reset its connection then; this happens once."""
        self._do(self._cut_later(size))

    def delay(self, seconds: float) -> None:
        """Hold everything back so long, each way."""
        self._do(self._slow_down(seconds))

    def connections(self) -> int:
        """How many are open."""
        return len(self._links)

    def _do(self, change: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(change, self._loop).result(10)

    async def _heal(self) -> None:
        self._delay = 0.0
        self._cut_after = None
        self._requests_pass.set()
        self._answers_pass.set()
        if not self._accepting:
            self._listener = self._listener or _listen(self.port)
            # not by a task: one that is cancelled may have accepted a connection that nobody gets then
            self._loop.add_reader(self._listener, self._accept, self._listener)
            self._accepting = True

    async def _cut(self) -> None:
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._accepting = False
            self._listener.close()
            self._listener = None
        await self._cut()

    async def _close_gates(self, *gates: asyncio.Event) -> None:
        for gate in gates:
            gate.clear()

    async def _slow_down(self, seconds: float) -> None:
        self._delay = seconds

    async def _cut_later(self, size: int) -> None:
        self._cut_after = size

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it has gone already
            return
        self.accepted += 1
        link = self._loop.create_task(self._serve(client))
        self._links.add(link)
        link.add_done_callback(partial(self._let_go, client))

    def _let_go(self, client: socket.socket, link: asyncio.Task[None]) -> None:
        self._links.discard(link)
        client.close()  # again: a task may be cancelled before its first line

    async def _serve(self, client: socket.socket) -> None:
        with client, socket.socket() as server:
            client.settimeout(0)
            server.settimeout(0)
            try:
                await self._loop.sock_connect(server, (HOST, self.upstream_port))
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pass(client, server, self._requests_pass))
                    both.create_task(self._pass(server, client, self._answers_pass))
            except* (OSError, asyncio.CancelledError):
                for end in (client, server):
                    # to close with a linger of 0 s is to reset
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def _pass(self, source: socket.socket, target: socket.socket, gate: asyncio.Event) -> None:
        while True:
            await gate.wait()
            data = await self._loop.sock_recv(source, CHUNK)
            if self._delay:
                await asyncio.sleep(self._delay)
            await gate.wait()  # it may have closed since
            if not data:
                with suppress(OSError):
                    target.shutdown(socket.SHUT_WR)
                return
            if self._cut_after is not None and gate is self._answers_pass:
                passed, self._cut_after = self._cut_after, None
                await self._loop.sock_sendall(target, data[:passed])
                raise ConnectionResetError
            await self._loop.sock_sendall(target, data)


def _listen(port: int) -> socket.socket:
    listener = socket.create_server((HOST, port))
    listener.settimeout(0)
    return listener
