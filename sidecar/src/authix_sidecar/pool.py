"""The connections to the upstream's servers that wait for their next request, and new ones.

Rule: requests take the servers in turn. One that can't be reached is passed over for a while, unless none can, and a
request that it was meant for goes to the next, because nothing of it was sent. Of a server's connections the one used
last is used first, so those that nobody needs grow old and end. A name is resolved anew for each new connection.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Sequence
from math import inf
from time import monotonic

from authix_sidecar.errors import UpstreamUnreachable
from authix_sidecar.origins import Origin
from authix_sidecar.upstream import Patience, UpstreamConnection

logger = logging.getLogger("authix.sidecar.upstream")

CONNECT_TIME = 5.0
"""Seconds to make a connection."""
PASS_OVER = 10.0
"""Seconds for which a server that could not be reached is passed over."""
MAX_IDLE = 256
"""Connections that wait, for each server."""


class Server:
    """Connections to one origin."""

    def __init__(self, origin: Origin, tls: ssl.SSLContext | None, patience: Patience) -> None:
        self.origin = origin
        self._patience = patience
        self.connections: set[UpstreamConnection] = set()
        """All of them, at work or waiting."""
        self.is_down = False
        """From a connection that failed until one is made."""
        self.down_until = -inf
        """Until when it is passed over."""
        self._tls = tls if origin.scheme == "https" else None
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
        try:
            async with asyncio.timeout(CONNECT_TIME):
                connection = await self._open()
        except TimeoutError:
            raise UpstreamUnreachable("the upstream did not take the connection in time") from None
        except ssl.SSLError as error:
            raise UpstreamUnreachable(f"TLS to the upstream failed ({error.reason or type(error).__name__})") from None
        except (OSError, UnicodeError) as error:  # UnicodeError: its name can't be resolved
            raise UpstreamUnreachable(f"the upstream can't be reached ({type(error).__name__})") from None
        return connection

    async def _open(self) -> UpstreamConnection:
        loop, origin = asyncio.get_running_loop(), self.origin
        if origin.scheme == "unix":
            return (await loop.create_unix_connection(lambda: UpstreamConnection(self, self._patience), origin.path))[1]
        _, connection = await loop.create_connection(
            lambda: UpstreamConnection(self, self._patience),
            origin.host,
            origin.port,
            ssl=self._tls,
            server_hostname=origin.host if self._tls else None,
        )
        return connection


class Pool:
    """Connections to the servers of one upstream."""

    def __init__(self, origins: Sequence[Origin], patience: Patience, tls: ssl.SSLContext | None = None) -> None:
        """``tls`` is for the origins of ``https``."""
        self._servers = deque(Server(origin, tls, patience) for origin in origins)

    @property
    def connections(self) -> list[UpstreamConnection]:
        """All of them, at work or waiting."""
        return [connection for server in self._servers for connection in server.connections]

    @property
    def servers_down(self) -> int:
        """How many could not be reached when that was last tried."""
        return sum(server.is_down for server in self._servers)

    def take(self) -> UpstreamConnection | None:
        """A connection that waits to the server whose turn it is; None: ``connect`` to it."""
        servers = self._servers
        if len(servers) == 1:
            return servers[0].take()
        self._pass_over()
        connection = servers[0].take()
        if connection is not None:
            servers.rotate(-1)
        return connection

    async def connect(self) -> UpstreamConnection:
        """A new connection to the server whose turn it is, or to the next. Raises ``UpstreamUnreachable``."""
        self._pass_over()
        in_turn = tuple(self._servers)
        self._servers.rotate(-1)
        now = monotonic()
        for n, server in enumerate(in_turn):
            if n and server.down_until > now:
                continue
            try:
                connection = await server.connect()
            except UpstreamUnreachable as error:
                unreachable = error
                self._note_down(server, error)
            else:
                self._note_up(server)
                return connection
        raise unreachable

    def sweep(self, now: float) -> None:
        """End what is past its deadline; ``now`` on the monotonic clock."""
        for connection in self.connections:
            if connection.deadline < now:
                connection.expire()

    def close(self) -> None:
        for connection in self.connections:
            connection.abort()

    def _pass_over(self) -> None:
        """Let the turn be a server's that can be reached, where there is one."""
        now = monotonic()
        for _ in range(len(self._servers)):
            if self._servers[0].down_until <= now:
                return
            self._servers.rotate(-1)

    def _note_down(self, server: Server, error: UpstreamUnreachable) -> None:
        several = len(self._servers) > 1
        if not server.is_down:
            server.is_down = True
            logger.warning("upstream %s: %s%s", server.origin, error.reason, "; passing it over" if several else "")
        if several:
            server.down_until = monotonic() + PASS_OVER

    def _note_up(self, server: Server) -> None:
        if server.is_down:
            logger.info("upstream %s: reached again", server.origin)
            server.is_down = False
            server.down_until = -inf
