"""An exchange that begins by a decision, as those of the proxy port and of ``/verify`` do.

Rule: deciding is synchronous; only a token under an unknown key id waits, bounded, for one fetch of the key set, and
its client's body waits with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, NamedTuple

from authix import Authix
from authix.claims import Claims
from authix.errors import AuthixError, KeyUnknown
from authix_sidecar.decide import ALLOWED, Policy, decide, every_path_needs_a_token, token_of
from authix_sidecar.downstream import ClientConnection
from authix_sidecar.exchanges import Exchange
from authix_sidecar.metrics import Metrics
from authix_sidecar.requests import RequestHead

logger = logging.getLogger("authix.sidecar")


class Judge(NamedTuple):
    """What decisions are made by."""

    auth: Authix
    metrics: Metrics
    policy: Policy = every_path_needs_a_token


class JudgedExchange(Exchange):
    """Goes on with ``allow`` or ends with the refusal."""

    def __init__(self, judge: Judge, client: ClientConnection, request: RequestHead) -> None:
        self._judge = judge
        self._client = client
        self._request = request
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._client.attend(self)
        try:
            claims = self._decide()
        except KeyUnknown:
            self.wait_for(self._decide_after_a_fetch())
        except AuthixError as error:
            self._refuse(error)
        else:
            self._pass(claims)

    def allow(self, claims: Claims | None) -> None:
        """The request may pass; None: whoever sent it."""
        raise NotImplementedError

    def wait_for(self, job: Coroutine[Any, Any, None]) -> None:
        """Run ``job`` while the client's body waits."""
        self._client.hold()
        self._task = asyncio.create_task(job)
        self._task.add_done_callback(self._waited)

    def client_lost(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _decide(self) -> Claims | None:
        return decide(self._request, self._judge.policy, self._judge.auth.verify)

    async def _decide_after_a_fetch(self) -> None:
        try:
            await self._judge.auth.authenticate(token_of(self._request))
            claims = self._decide()
        except AuthixError as error:
            self._refuse(error)
        else:
            self._pass(claims)

    def _pass(self, claims: Claims | None) -> None:
        self._judge.metrics.decisions[ALLOWED] += 1
        self.allow(claims)

    def _refuse(self, error: AuthixError) -> None:
        self._judge.metrics.decisions[error.code] += 1
        self._client.refuse(error)

    def _waited(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a request failed", exc_info=error)
            self._client.abort()
