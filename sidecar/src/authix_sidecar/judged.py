"""An exchange that begins by a decision, as those of the proxy port and of ``/verify`` do.

Rule: deciding is synchronous; only a token under an unknown key id waits, bounded, for one fetch of the key set, and
its client's body waits with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, NamedTuple

import msgspec

from authix import Authix
from authix.claims import Claims
from authix.errors import AuthixError, KeyUnknown
from authix.freshness import WhenStale
from authix_sidecar.decide import A_TOKEN, ALLOWED, Policy, decide, every_path_needs_a_token, token_of
from authix_sidecar.downstream import ClientConnection
from authix_sidecar.errors import CrossSiteRefused, RequestRefused, SidecarError
from authix_sidecar.exchanges import Exchange
from authix_sidecar.fields import lower
from authix_sidecar.metrics import Metrics
from authix_sidecar.requests import RequestHead
from authix_sidecar.token_sources import TokenCookie

logger = logging.getLogger("authix.sidecar")


class Judge(NamedTuple):
    """What decisions are made by."""

    auth: Authix
    metrics: Metrics
    policy: Policy = every_path_needs_a_token
    cookie: TokenCookie | None = None
    """In which a token may come too."""


class JudgedExchange(Exchange):
    """Goes on with ``allow`` or ends with the refusal."""

    def __init__(self, judge: Judge, client: ClientConnection, request: RequestHead) -> None:
        self._judge = judge
        self._client = client
        self._request = request
        self._needs = A_TOKEN
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._client.attend(self)
        try:
            self._needs = self._judge.policy(self._request)
            if self._judge.cookie is not None and self._needs.token:
                self._request = self._with_cookie(self._judge.cookie)
            claims = self._decide()
        except KeyUnknown:
            self.wait_for(self._decide_after_a_fetch())
        except (AuthixError, RequestRefused, CrossSiteRefused) as error:
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

    def _with_cookie(self, cookie: TokenCookie) -> RequestHead:
        return cookie.into(self._request, scheme=self._client.scheme)

    def _decide(self) -> Claims | None:
        auth = self._judge.auth
        return decide(self._request, self._needs, auth.verify, auth.clock.now)

    async def _decide_after_a_fetch(self) -> None:
        try:
            # only for the key's sake; freshness is judged below, as this request needs it
            await self._judge.auth.authenticate(token_of(self._request), when_stale=WhenStale.ACCEPT)
            claims = self._decide()
        except AuthixError as error:
            self._refuse(error)
        else:
            self._pass(claims)

    def _pass(self, claims: Claims | None) -> None:
        self._judge.metrics.decisions[ALLOWED] += 1
        if not self._needs.passes_authorization:
            kept = [field for field in self._request.fields if lower(field[0]) != b"authorization"]
            if self._judge.cookie is not None:
                kept = self._judge.cookie.taken_out(kept)
            self._request = msgspec.structs.replace(self._request, fields=kept)
        self.allow(claims)

    def _refuse(self, error: AuthixError | SidecarError) -> None:
        self._judge.metrics.decisions[error.code] += 1
        self._client.refuse(error)

    def _waited(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a request failed", exc_info=error)
            self._client.abort()
