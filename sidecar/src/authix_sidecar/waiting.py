"""An exchange that waits for something before it answers.

Rule: its client's body waits with it, its client's end is its end, and whatever goes wrong ends the connection, so that
nobody waits for an answer that does not come.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from authix_sidecar.downstream import ClientConnection
from authix_sidecar.exchanges import Exchange

logger = logging.getLogger("authix.sidecar")


class WaitingExchange(Exchange):
    """One request, and the job that its answer waits for."""

    def __init__(self, client: ClientConnection) -> None:
        self._client = client
        self._task: asyncio.Task[None] | None = None

    def wait_for(self, job: Coroutine[Any, Any, None]) -> None:
        """Run ``job``, which answers or goes on."""
        self._client.hold()
        self._task = asyncio.create_task(job)
        self._task.add_done_callback(self._waited)

    def client_lost(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _waited(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a request failed", exc_info=error)
            self._client.abort()
