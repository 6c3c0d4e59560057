"""Several workers that listen on the same ports, and one feed for all.

Rule: this process judges nothing. It follows the feed and passes it on to the workers, each an ordinary sidecar that
follows nothing else; heartbeats say how old the knowledge here is, so when this process hangs the workers go stale, and
when it ends they end. Whatever is wrong at the start is said here, once, before there is a worker.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from time import monotonic

from authix import Authix, tracing
from authix.errors import SettingsError
from authix.log_level import LiveLevel
from authix.workers import Workers
from authix_sidecar import gauges, logs, loops
from authix_sidecar.downstream import ClientConnection
from authix_sidecar.listeners import bind
from authix_sidecar.metrics import Metrics
from authix_sidecar.onward import OnwardFeed
from authix_sidecar.ports import Port
from authix_sidecar.server import serve, try_out
from authix_sidecar.settings import SidecarSettings
from authix_sidecar.siblings import PARENT, Siblings

logger = logging.getLogger("authix.sidecar")

_TICK_EVERY = 0.25
_END_WITHIN = 10.0
"""Seconds that a worker has after its drain, to close what is open."""
_LOOPBACK = "127.0.0.1"


def serve_by_workers(settings: SidecarSettings, read_level: Callable[[], str]) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code. Raises ``SettingsError``.

    ``read_level`` tells what AUTHIX_LOG_LEVEL is now; it is sent to the workers.
    """
    access = logs.set_up(settings.log, settings.log_level)
    try_out(settings, access)
    held = [bind(settings.host, port, name) for name, port in settings.ports]
    for sock in held:  # held, so that the ports stay ours; set once bound, since before it would share with a stranger
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    proxy_port, auth_port = (sock.getsockname()[1] for sock in held)
    settings = dataclasses.replace(settings, proxy_port=proxy_port, auth_port=auth_port)
    feed_listener = _listener()
    siblings = Siblings(
        feed="http://{}:{}/revocations".format(*feed_listener.getsockname()),
        feed_token=secrets.token_urlsafe(32),
        listeners={name: _listener() for name in (PARENT, *map(str, range(1, settings.workers + 1)))},
    )
    feed = _SharedFeed(settings, siblings, feed_listener)
    with tracing.set_up("authix-sidecar"):
        feed.start()
        logger.info("%d workers, one feed for all", settings.workers)
        code = Workers(
            partial(_work, settings, siblings, read_level),
            settings.workers,
            pass_on=(signal.SIGHUP,),
            look=LiveLevel(settings.log_level, read_level).tick,
            kill_after=settings.drain_time + _END_WITHIN,
        ).run()
        feed.stopping.set()
        feed.join()
    return 1 if feed.failed else code


class _SharedFeed(threading.Thread):
    """The feed, in a thread of its own, because the main one minds the workers."""

    def __init__(self, settings: SidecarSettings, siblings: Siblings, listener: socket.socket) -> None:
        super().__init__(name="feed", daemon=True)
        self.stopping = threading.Event()
        self.failed = False
        self._settings = settings
        self._siblings = siblings
        self._listener = listener

    def run(self) -> None:
        try:
            loops.run(self._serve())
        except Exception:
            logger.exception("the feed can't go on; ending the workers")
            self.failed = True
            os.kill(os.getpid(), signal.SIGTERM)

    async def _serve(self) -> None:
        # twice what a worker remembers: it is the workers that go coarse first, while this can still tell them all
        settings = dataclasses.replace(self._settings, max_revocations=2 * self._settings.max_revocations)
        auth, metrics = Authix(settings=settings), Metrics()
        gauges.tell_feeds(metrics, auth)
        onward = OnwardFeed(auth, token=self._siblings.feed_token)
        port: Port[ClientConnection] = Port(
            begin=lambda client, request, _: onward.begin(client, request), report=lambda *_: None
        )
        async with auth, await self._siblings.tell(PARENT, metrics.text):
            server = await asyncio.get_running_loop().create_server(
                partial(ClientConnection, port), sock=self._listener
            )
            while not self.stopping.is_set():
                port.sweep(monotonic())
                onward.tick()
                await asyncio.sleep(_TICK_EVERY)
            server.close()
            for connection in tuple(port.connections):
                connection.abort()


def _work(settings: SidecarSettings, siblings: Siblings, read_level: Callable[[], str], number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent says when
    access = logs.set_up(settings.log, settings.log_level)
    level = LiveLevel(settings.log_level, read_level)
    try:
        loops.run(serve(settings, access, level, siblings, worker=str(number)))
    except SettingsError as error:  # what was right at the start is wrong now
        logger.error("%s", error)  # noqa: TRY400 - the sentence says all
        sys.exit(2)


def _listener() -> socket.socket:
    return socket.create_server((_LOOPBACK, 0))
