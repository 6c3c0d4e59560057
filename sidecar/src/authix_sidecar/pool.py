"""The connections to the upstream that wait for their next request, and new ones.

Rule: the one used last is used first, so those that nobody needs grow old and end. A name is resolved anew for each new
connection.
"""

from __future__ import annotations

import asyncio
from collections import deque

from authix_sidecar.errors import UpstreamUnreachable
from authix_sidecar.upstream import UpstreamConnection

CONNECT_TIME = 5.0
"""Seconds to make a connection."""
MAX_IDLE = 256


class Pool:
    """Connections to one upstream."""

    def __init__(self, host: str, port: int) -> None:
        self.connections: set[UpstreamConnection] = set()
        """All of them, at work or waiting."""
        self._host = host
        self._port = port
        self._idle: deque[UpstreamConnection] = deque()

    def take(self) -> UpstreamConnection | None:
        """A connection that waits."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closing:
                return connection
        return None

    def put(self, connection: UpstreamConnection) -> None:
        if len(self._idle) == MAX_IDLE:
            self._idle.popleft().abort()
        self._idle.append(connection)

    async def connect(self) -> UpstreamConnection:
        """A new connection. Raises ``UpstreamUnreachable``."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIME):
                _, connection = await loop.create_connection(lambda: UpstreamConnection(self), self._host, self._port)
        except TimeoutError:
            raise UpstreamUnreachable("the upstream did not take the connection in time") from None
        except OSError as error:
            raise UpstreamUnreachable(f"the upstream can't be reached ({type(error).__name__})") from None
        return connection

    def sweep(self, now: float) -> None:
        """End what is past its deadline; ``now`` on the monotonic clock."""
        for connection in tuple(self.connections):
            if connection.deadline < now:
                connection.expire()

    def close(self) -> None:
        for connection in tuple(self.connections):
            connection.abort()
